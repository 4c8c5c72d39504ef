"""The parameters: params.yaml read, checked and frozen. The file is the only home of defaults; this module has none."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from pipeline.core.errors import ParamsError, shortened
from pipeline.core.yaml import Place, dotted, read_text, read_yaml, yaml_text

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _no_bool(value: object) -> object:
    """Python takes True for 1, and so does Literal."""
    if isinstance(value, bool):
        raise ValueError(f"a number is wanted, not {str(value).lower()}")  # noqa: TRY004 - as pydantic wants it
    return value


ModelName = Literal[
    "r2plus1d_slim",
    "r2plus1d_18",
    "r3d_18",
    "mc3_18",
    "r2plus1d_34",
    "r2plus1d_34_bert",
    "s3d",
    "mvit_v1_b",
    "mvit_v2_s",
    "swin3d_t",
    "swin3d_s",
    "swin3d_b",
    "x3d_xs",
    "x3d_s",
    "x3d_m",
    "x3d_l",
    "slow_r50",
    "csn_r101",
    "r2plus1d_r50",
    "slowfast_r50",
]

EnhancerName = Literal["none", "gamma", "gamma_auto", "equalize", "clahe", "zero_dce", "zero_dce_pp", "sci"]


class Section(BaseModel):
    """Frozen, refuses unknown keys, and takes no string for a number nor a float for a count."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PrepareParams(Section):
    """Videos and annotation lists → manifest and dark frames."""

    root: str
    layout: Literal["arid_v1", "arid_v1_5", "arid_ug2", "dark48", "frame_folders", "class_folders", "csv"]
    lists: str | None
    frames: Annotated[str, Field(min_length=1)] | None
    split: Annotated[int, Field(ge=0)]
    val_share: Annotated[float, Field(gt=0, lt=1)]
    test_share: Annotated[float, Field(gt=0, lt=1)]
    unlabelled: Annotated[str, Field(min_length=1)] | None
    unlabelled_share: Annotated[float, Field(ge=0, lt=1)]
    footage_window: Count | None
    footage_windows: Count | None
    damaged: Literal["quarantine", "take"]
    max_quarantined: Share
    min_frames: Count
    short_side: Annotated[int, Field(ge=16)]
    levels: Literal["linear", "companded"]
    codec: Literal["raw", "jpeg"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    num_shards: Annotated[int, Field(ge=1, le=200)]

    @model_validator(mode="after")
    def _windows_are_long_enough(self) -> PrepareParams:
        if self.footage_window is None and self.footage_windows is not None:
            raise ValueError(f"footage_windows ({self.footage_windows}) takes a footage_window, which is null")
        if self.footage_window is not None and self.footage_window < self.min_frames:
            raise ValueError(f"footage_window ({self.footage_window}) must not be below min_frames ({self.min_frames})")
        return self


class FitEnhancerParams(Section):
    """Parameters of the enhancers."""

    gamma: Positive
    target_mean: Annotated[float, Field(gt=0, lt=1)]
    clahe_clip_limit: Positive
    clahe_grid: Count
    statistics: Literal["video", "frame"]
    smoothing: Count
    weights: str | None
    exposure: Annotated[float, Field(gt=0, lt=1)]
    steps: Count
    batch_size: Count
    learning_rate: Positive
    size: Annotated[int, Field(ge=16)]
    curve_reduction: Count
    precision: Literal["float32", "bfloat16"]


class ClipParams(Section):
    """Geometry of a clip: frames, frames between them, pixels of its side."""

    num_frames: Count
    frame_stride: Count
    size: Annotated[int, Field(ge=16)]

    def shows_all_of(self, clip: ClipParams) -> bool:
        """Whether this is that clip in time, or the same with further frames between its own."""
        times, rest = divmod(self.num_frames, clip.num_frames)
        return rest == 0 and times * self.frame_stride == clip.frame_stride


class ViewsParams(Section):
    """The bank of views, how a view is drawn, and how many of them are blends of two videos."""

    num_views: Count
    min_scale: Annotated[float, Field(gt=0, le=1)]
    max_aspect: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    flip: bool
    mix: Literal["none", "mixup", "cutmix"]
    mix_share: Annotated[float, Field(gt=0, le=1)]
    mix_alpha: Positive

    def policy(self) -> dict[str, object]:
        """What draws the views, for artifacts to name; without blends it says nothing of them."""
        unused = {"mix", "mix_share", "mix_alpha"} if self.mix == "none" else set()
        return self.model_dump(exclude=unused)

    def enough_for(self, num_clips: int, num_videos: int) -> ViewsParams:
        """The same for epochs of more clips than videos: each pass over the videos has views of its own."""
        passes = -(-num_clips // num_videos)
        return self.model_copy(update={"num_views": self.num_views * passes})

    @classmethod
    def of_policy(cls, policy: Mapping[str, object]) -> ViewsParams:
        """The parameters that a policy names; raises ValidationError for what is none."""
        unused = {"mix": "none", "mix_share": 1.0, "mix_alpha": 1.0}
        return cls.model_validate({**({} if "mix" in policy else unused), **policy})


class TrainParams(Section):
    """One network's training; the baseline takes the student's."""

    epochs: Count
    patience: Count | None
    batch_size: Count
    accumulate: Count
    optimizer: Literal["adamw", "sgd"]
    learning_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    weight_decay: NotNegative
    warmup_epochs: NotNegative
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    clip_grad_norm: Positive
    max_skipped: Annotated[int, Field(ge=0)]
    ema: Annotated[float, Field(ge=0, lt=1)]
    class_weights: Literal["none", "balanced"]
    mixup: NotNegative
    cutmix: NotNegative
    gain: NotNegative
    noise: NotNegative
    darken: Share
    width: Count | None
    dropout: Annotated[float, Field(ge=0, lt=1)]
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    weights: Annotated[str, Field(min_length=1)] | None
    input_statistics: Literal["train", "clip", "kinetics", "imagenet", "pytorchvideo"]
    frozen_stages: Annotated[int, Field(ge=0)]
    precision: Literal["float32", "bfloat16", "float16"]
    compile: bool
    checkpoint_activations: bool
    num_workers: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _warmup_ends(self) -> TrainParams:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs})")
        return self

    @model_validator(mode="after")
    def _parts_are_not_empty(self) -> TrainParams:
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate ({self.accumulate}) must not be above batch_size ({self.batch_size})")
        return self


class MoreTeacherParams(Section):
    """A teacher beside the dials' one; `training` has what differs from train_teacher."""

    enhancer: EnhancerName
    network: ModelName
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    clip: ClipParams | None
    training: dict[str, Any]

    def training_params(self, train_teacher: TrainParams) -> TrainParams:
        """The parameters of its training."""
        return TrainParams.model_validate({**train_teacher.model_dump(), **self.training})


# it is the name of a folder and, to DVC, a part of a stage's name
TeacherName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class PrecomputeSoftTargetsParams(Section):
    """Teacher inference over the bank of views, and how its logits are packed."""

    codec: Literal["float16", "float32", "topk"]
    top_k: Count
    max_kl: Positive
    batch_size: Count
    num_workers: Annotated[int, Field(ge=0)]


class SoftTargetsParams(Section):
    """Where the student's soft targets come from."""

    source: Literal["cache", "online"]
    teachers: Literal["mean", "draw", "weighted"]
    min_agreement: Share | None


class DistillationParams(Section):
    """Options of the soft loss, and the schedule of soft_weight."""

    standardize: bool
    extra_temperatures: Annotated[list[Positive], Field(min_length=1)] | None
    dkd_alpha: NotNegative
    dkd_beta: NotNegative
    dist_inter: NotNegative
    dist_intra: NotNegative
    schedule: Literal["constant", "warmup", "decay"]
    schedule_epochs: NotNegative


class ScoreParams(Section):
    """Test views of every model."""

    num_clips: Count
    num_crops: Annotated[Literal[1, 3], BeforeValidator(_no_bool)]
    batch_size: Count


class EvaluateParams(Section):
    """The comparison of the models."""

    num_bootstraps: Annotated[int, Field(ge=100)]


class Params(Section):
    """All of params.yaml. A stage uses just the fields that dvc.yaml lists for it (tests/test_wiring.py compares)."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    enhancer: EnhancerName
    teacher: ModelName
    student: ModelName
    soft_loss: Literal["kl", "dkd", "dist", "wttm", "mse"]
    temperature: Positive
    soft_weight: Share
    render: list[Literal["demo", "smoke"]]  # demo/dvc.yaml has a stage for each
    prepare: PrepareParams
    fit_enhancer: FitEnhancerParams
    clip: ClipParams
    teacher_clip: ClipParams | None
    teacher_folds: Annotated[int, Field(ge=2)] | None
    views: ViewsParams
    train_teacher: TrainParams
    more_teachers: dict[TeacherName, MoreTeacherParams]  # teachers/dvc.yaml has stages for each
    precompute_soft_targets: PrecomputeSoftTargetsParams
    soft_targets: SoftTargetsParams
    distillation: DistillationParams
    train_student: TrainParams
    score: ScoreParams
    evaluate: EvaluateParams

    def clips(self) -> dict[str, ClipParams]:
        """The clips of every training, by the same names as `trainings`."""
        more = {f"more_teachers.{name}": teacher.clip or self.clip for name, teacher in self.more_teachers.items()}
        return {"train_teacher": self.teacher_clip or self.clip, **more, "train_student": self.clip}

    def trainings(self) -> dict[str, TrainParams]:
        """Every training's parameters by where they are in the file; the baseline takes the student's."""
        more = {f"more_teachers.{n}": t.training_params(self.train_teacher) for n, t in self.more_teachers.items()}
        return {"train_teacher": self.train_teacher, **more, "train_student": self.train_student}

    @model_validator(mode="after")
    def _teachers_see_the_views_of_the_student(self) -> Params:
        asked = {"teacher_clip": self.teacher_clip}
        asked |= {f"more_teachers.{name}.clip": teacher.clip for name, teacher in self.more_teachers.items()}
        for name, clip in asked.items():
            if clip is not None and not clip.shows_all_of(self.clip):
                raise ValueError(
                    f"{name} has {clip.num_frames} frames, {clip.frame_stride} apart, for views of "
                    f"{self.clip.num_frames}, {self.clip.frame_stride} apart: it must have k times as many, the k-th "
                    "part as far apart, for a whole k"
                )
        return self

    @model_validator(mode="after")
    def _more_teachers_can_be_trained(self) -> Params:
        for name, teacher in self.more_teachers.items():
            try:
                teacher.training_params(self.train_teacher)
            except ValidationError as error:
                place = ("more_teachers", name, "training")
                findings = [_finding(detail, {}, TrainParams, place) for detail in error.errors()]
                raise ValueError("; ".join(findings)) from None
        return self

    @model_validator(mode="after")
    def _blends_go_with_the_rest(self) -> Params:
        if self.views.mix == "none":
            return self
        for name, options in self.trainings().items():
            if options.mixup or options.cutmix:
                raise ValueError(
                    f"views.mix is {self.views.mix}, and {name} has mixup {options.mixup:g}, cutmix "
                    f"{options.cutmix:g}: clips are blended in their views or in their batches, not in both"
                )
        if self.soft_loss == "dkd":
            raise ValueError(
                f"views.mix is {self.views.mix}, and soft_loss dkd looks at the label of each clip: a blend has two"
            )
        if self.teacher_folds is not None:
            raise ValueError(
                f"views.mix is {self.views.mix}, and teacher_folds {self.teacher_folds}: a fold's teacher would have "
                "seen the videos that others are blended with"
            )
        return self

    @model_validator(mode="after")
    def _schedule_ends(self) -> Params:
        chosen, epochs = self.distillation, self.train_student.epochs
        if chosen.schedule != "constant" and chosen.schedule_epochs > epochs:
            raise ValueError(
                f"distillation.schedule_epochs ({chosen.schedule_epochs:g}) must not be above "
                f"train_student.epochs ({epochs})"
            )
        return self


def load_params(path: Path) -> Params:
    """Read and check a parameter file.

    Raises ParamsError with every finding at once, each with its line where YAML knows it.
    """
    values, lines = read_yaml(read_text(path), str(path))
    return _validated(Params, values, lines, path, ())


def params_text(params: Params) -> str:
    """The parameters as a file that `load_params` reads, without comments."""
    return yaml_text(params.model_dump())


def read_override(text: str) -> tuple[str, object]:
    """A `key=value` or `section.key=value`, the value as in a parameter file; raises ParamsError."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ParamsError(f"{text!r} is not key=value")
    try:
        return key, read_yaml(value, key)[0]
    except ParamsError as error:
        raise ParamsError(f"{text!r}: the value is not YAML: {', '.join(error.findings)}") from None


def overridden(params: Params, overrides: Mapping[str, object], *, name: str) -> Params:
    """The parameters with other values under dotted keys, checked like a file; `name` is what an error calls them."""
    values = params.model_dump()
    for name_of, value in overrides.items():
        *sections, key = name_of.split(".")
        inner = values
        for section in sections:
            if not isinstance(inner.get(section), dict):
                inner[section] = {}
            inner = inner[section]
        inner[key] = value
    return _validated(Params, values, {}, name, ())


SectionT = TypeVar("SectionT", bound=Section)


def load_section(path: Path, name: str, model: type[SectionT]) -> SectionT:
    """Read and check one section of a file that is made of sections, as demo/params.yaml; raises ParamsError."""
    values, lines = read_yaml(read_text(path), str(path))
    if not isinstance(values, dict) or name not in values:
        present = ", ".join(map(str, values)) if isinstance(values, dict) else "none"
        raise ParamsError(f"{path}: there is no section {name}; there are: {present}")
    return _validated(model, values[name], lines, path, (name,))


def _validated(
    model: type[SectionT], values: object, lines: dict[Place, int], path: Path | str, section: Place
) -> SectionT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # what is missing last: what is there and wrong may say why
        details = sorted(error.errors(), key=lambda detail: detail["type"] == "missing")
        findings = [_finding(detail, lines, model, section) for detail in details]
        raise ParamsError(
            f"{path}: {len(details)} wrong parameter{'s' * (len(details) != 1)}",
            findings=findings,
            remedy="`dlkdd recipe show demo` prints a complete file" if model is Params else None,
        ) from None


def stage_values(*sections: Section, **dials: object) -> dict[str, object]:
    """Plain values of what a stage uses, for its fingerprint: dials by name, sections by the name of their class."""
    return {**{type(section).__name__: section.model_dump() for section in sections}, **dials}


def _finding(detail: ErrorDetails, lines: dict[Place, int], model: type[BaseModel], section: Place) -> str:
    place = (*section, *detail["loc"])
    where = f"line {lines[place]}: " if place in lines else ""
    name = shortened(dotted(place)) or "the file"
    if detail["type"] == "missing":
        return f"{name} is missing"
    if detail["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(str(place[-1]), _known_keys(model, detail["loc"][:-1]), n=1, cutoff=0.5)
        hint = f"; did you mean {dotted((*place[:-1], nearest[0]))}?" if nearest else ""
        return f"{where}{name} is not a parameter{hint}"
    message = detail["msg"].removeprefix("Value error, ")
    if not place:  # about several sections: the message has their values; or there are none
        return message if detail["type"] == "value_error" else "expected lines `key: value`"
    wanted = " (true or false)" if detail["type"].startswith("bool") else ""  # yes and on are texts in YAML 1.2
    return f"{where}{name}: {message[0].lower()}{message[1:]}{wanted}, not {shortened(repr(detail['input']))}"


def _known_keys(model: type[BaseModel], place: Place) -> list[str]:
    for key in place:
        field = model.model_fields.get(str(key))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)
