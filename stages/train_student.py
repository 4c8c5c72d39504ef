"""Train the student on the dark videos and the cached soft targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from pipeline.core.device import world_size
from pipeline.core.errors import ParamsError
from pipeline.core.params import SoftTargetsParams, TrainParams, load_params
from pipeline.core.weights import whole_digest
from pipeline.data.dataset import Batch, EpochPlan
from pipeline.data.frame_store import FrameStore
from pipeline.distill.store.attributes import imported_alone
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.student.cached_targets import CachedTargets, differences, load_targets
from pipeline.distill.student.footage import agreed_on
from pipeline.distill.student.loss import distillation_loss, require_labels, soft_weight_at
from pipeline.models.inference import infer
from pipeline.models.recognizer import Recognizer, load_model, require_levels
from pipeline.train.execution import check_dist_columns
from pipeline.train.run import Run, Training, read_inputs, train_network
from stages._shell import (
    CHECKPOINT_SECONDS,
    PARAMS_PATH,
    CheckpointOption,
    CurveOption,
    CurvesOption,
    DeviceOption,
    LiveOption,
    ManifestOption,
    ModelOutOption,
    ParamsOption,
    TensorboardOption,
    TrainFramesOption,
    progress,
    say,
    warn_of_weak_teacher,
)

TeacherOption = Annotated[
    Path | None,
    typer.Option("--teacher", help="The teacher's model file. If it exists, the store must be of this teacher."),
]
EnhancedOption = Annotated[Path | None, typer.Option("--enhanced", help="The frames that an online teacher sees.")]
MemoryOption = Annotated[
    int,
    typer.Option(
        "--soft-targets-memory-mib", min=0, help="Above it soft targets are mapped from files in the work folder."
    ),
]
MEMORY_MIB = 4096


def main(
    *,
    manifest_path: ManifestOption,
    frames_path: TrainFramesOption,
    soft_targets: Annotated[str, typer.Option("--soft-targets", help="The soft-target store: a path or a URL.")],
    out: ModelOutOption,
    curve_path: CurveOption,
    teacher_path: TeacherOption = None,
    enhanced_path: EnhancedOption = None,
    curves: CurvesOption = None,
    memory_mib: MemoryOption = MEMORY_MIB,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
    checkpoint_seconds: CheckpointOption = CHECKPOINT_SECONDS,
    tensorboard: TensorboardOption = None,
    live: LiveOption = None,
) -> None:
    """Train the student on the dark videos and the cached soft targets.

    From videos without a label it learns by their soft targets alone, where these agree as far as
    soft_targets.min_agreement asks. Views come from the store, each with the teacher's logits for exactly that crop.
    The teacher never runs here, unless soft_targets.source is online: then it sees the same views at every step.
    """
    params = load_params(params_path)
    inputs, store = read_inputs(manifest_path, frames_path), SoftTargetStore(soft_targets)
    online = None
    if params.soft_targets.source == "online":
        online = _online_teacher(store, teacher_path, enhanced_path)
    wanted: dict[str, object] = {
        "class_names": list(inputs.manifest.class_names),
        "clip": params.clip.model_dump(),
        "digests.manifest": inputs.manifest.digest,
    }
    imported = imported_alone(store.attributes)
    if imported:
        names = ", ".join(teacher["name"] for teacher in store.attributes["teachers"])
        say(f"train_student: the soft targets are of {names}, of another program, and not of the run's own teacher")
    else:
        wanted["teachers.name"] = params.teacher
        if teacher_path is not None and teacher_path.exists():
            wanted["teachers.digest"] = whole_digest(teacher_path)
    if online is not None:
        wanted["teachers.frames"] = online.frames.digest
    findings = differences(store, wanted)
    soft_loss, temperature, soft_weight = params.soft_loss, params.temperature, params.soft_weight
    options, distillation, seed = params.train_student, params.distillation, params.seed
    teachers, weights_K = params.soft_targets.teachers, inputs.class_weights(options)
    if soft_loss == "dist" and distillation.dist_intra > 0:
        check_dist_columns(EpochPlan(len(inputs.taught), options.batch_size, seed=0), options, world_size())
    samples = inputs.taught if findings else agreed_on(store, inputs.taught, params.soft_targets.min_agreement)
    require_labels(soft_loss, len(samples) - len(inputs.train), mixed=store.has_blends)
    if store.has_blends:
        _refuse_other_blends(store, options, params.soft_targets)
    if num_left_out := len(inputs.taught) - len(samples):
        say(f"train_student: {num_left_out} of the {inputs.num_footage} videos without a label are left out")

    def source(work: Path) -> CachedTargets:
        return load_targets(
            store,
            [sample.video_id for sample in samples],
            memory_bytes=memory_mib * 2**20,
            folder=work / "soft_targets",
            teachers=teachers,
            seed=seed,
            frames=inputs.frames,
            findings=findings,
        )

    def loss(logits_BK: Tensor, batch: Batch, epoch: float) -> Tensor:
        teacher_BK = batch.teacher_BK if online is None else online.logits(batch)
        assert teacher_BK is not None
        return distillation_loss(
            logits_BK,
            batch.labels_B,
            teacher_BK,
            soft_loss=soft_loss,
            temperature=temperature,
            soft_weight=soft_weight_at(epoch, soft_weight=soft_weight, epochs=options.epochs, options=distillation),
            options=distillation,
            label_smoothing=options.label_smoothing,
            class_weights_K=weights_K,
            labelled_share=batch.labelled_share,
            second=batch.second,
        )

    training = Training(
        "train_student",
        params.student,
        inputs,
        samples,
        len(inputs.taught),  # an epoch has as many clips as the baseline's, whatever is left out
        params.clip,
        options,
        params.seed,
        source=source,
        loss=loss,
        values={
            "soft_loss": soft_loss,
            "temperature": temperature,
            "soft_weight": soft_weight,
            "soft_targets": params.soft_targets.model_dump(),
            "distillation": distillation.model_dump(),
        },
        run=Run(device, checkpoint_seconds, out, curve_path, tensorboard, progress, say, live),
        input_digests={
            "soft_targets": store.digest,
            "teacher": ",".join(teacher["digest"] for teacher in store.attributes["teachers"]),
        },
        teacher_frames=None if online is None else online.frames,
        teacher_clip=None if online is None else online.recognizer.architecture.clip,
    )
    train_network(training)
    warn_of_weak_teacher("train_student", None if imported else curves)


@dataclass(frozen=True)
class OnlineTeacher:
    """The store's teacher and the frames that it saw, for inference at every step."""

    recognizer: Recognizer
    frames: FrameStore
    batch_size: int

    def logits(self, batch: Batch) -> Tensor:
        """teacher_BK of a batch, the same bits as when the store was made (on the same kind of device)."""
        clip_BTHWC = batch.teacher_clip_BTHWC
        assert clip_BTHWC is not None
        # which GPU is a rank's own is not known before its first batch
        return infer(self.recognizer.to(clip_BTHWC.device), clip_BTHWC, batch_size=self.batch_size)


def _online_teacher(store: SoftTargetStore, teacher_path: Path | None, enhanced_path: Path | None) -> OnlineTeacher:
    findings = [
        f"{option}: {path or 'not given'}{'' if path is None else ' does not exist'}"
        for option, path in (("--teacher", teacher_path), ("--enhanced", enhanced_path))
        if path is None or not path.exists()
    ]
    if store.num_teachers != 1:
        findings.append(f"{store.location} holds the logits of {store.num_teachers} teachers")
    if any(teacher.get("folds") for teacher in store.attributes["teachers"]):
        findings.append(f"{store.location} holds the logits of a teacher in folds: each video has a model of its own")
    if imported_alone(store.attributes):
        findings.append(f"{store.location} holds the logits of a teacher of another program, which cannot be run here")
    if findings or teacher_path is None or enhanced_path is None:
        raise ParamsError(
            "soft_targets.source is online: one teacher sees the enhanced frames at every step",
            findings=findings,
            remedy="`dvc repro train_teacher` or `dvc pull` brings both, or set soft_targets.source to cache",
        )
    recognizer, frames = load_model(teacher_path).recognizer, FrameStore(enhanced_path)
    require_levels(recognizer, enhanced_path, frames.levels)
    return OnlineTeacher(recognizer, frames, int(store.attributes["batch_size"]))


def _refuse_other_blends(store: SoftTargetStore, options: TrainParams, soft_targets: SoftTargetsParams) -> None:
    """Raise ParamsError for what does not go with views that are blends of two videos."""
    if options.mixup or options.cutmix:
        raise ParamsError(
            f"{store.location} has views that are blends of two videos, and train_student has mixup {options.mixup:g}, "
            f"cutmix {options.cutmix:g}: clips are blended once",
            remedy="set both to 0, or make a store with views.mix none",
        )
    if soft_targets.min_agreement:
        raise ParamsError(
            f"{store.location} has views that are blends of two videos, and soft_targets.min_agreement "
            f"{soft_targets.min_agreement:g} would leave out videos that others are blended with",
            remedy="set it to 0 or null, or make a store with views.mix none",
        )
