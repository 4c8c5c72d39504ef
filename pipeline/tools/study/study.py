"""A study: teacher, baseline and several variants of the student, each over the same seeds, and its steps.

Nothing runs here. A step is one command of the chain; it waits for the steps whose outs it reads.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import ParamsError
from pipeline.core.params import Params, overridden, read_override

# The parameters that each stage uses, as dvc.yaml has them (tests/tools/study/test_study.py compares).
USES: Mapping[str, tuple[str, ...]] = {
    "train_teacher": ("seed", "teacher", "clip", "views", "train_teacher"),
    "precompute_soft_targets": ("seed", "clip", "views", "precompute_soft_targets"),
    "train_student": (
        *("seed", "teacher", "student", "soft_loss", "temperature", "soft_weight"),
        *("clip", "soft_targets", "distillation", "train_student"),
    ),
    "train_baseline": ("seed", "student", "clip", "views", "train_student"),
    "score_teacher": ("score",),
    "score_student": ("score",),
    "score_baseline": ("score",),
}


def _others(key: str) -> list[str]:
    """The stages besides the student's training that use a parameter."""
    return [stage for stage, used in USES.items() if key in used and stage != "train_student"]


STUDENT_ALONE = tuple(key for key in USES["train_student"] if not _others(key))


@dataclass(frozen=True)
class Variant:
    """One way to distil: a name, what it overrides, as it was written, and all parameters with that."""

    name: str
    overrides: str
    params: Params = field(repr=False)

    @property
    def folder_name(self) -> str:
        """The name without characters that are special to a file system or a shell."""
        return re.sub(r"[^\w.=+-]+", "_", self.name).strip(".") or "_"


def read_variants(texts: Sequence[str], params: Params) -> tuple[Variant, ...]:
    """Variants from lines `key=value section.key=value …`, each optionally after a `name:`.

    Raises ParamsError with all findings of all variants: keys that are unknown or that stages other than the student's
    use, values out of range, a name twice, and two variants that would train the same student.
    """
    found: list[Variant] = []
    findings: list[str] = []
    for text in texts:
        name, overrides = _split_name(text)
        try:
            variant = Variant(name, overrides, _apply(overrides, params))
        except ParamsError as error:
            findings += [f"{name}: {finding}" for finding in error.findings]
            continue
        for other in found:
            if other.folder_name == variant.folder_name:
                findings.append(f"{name}: a variant has this name already")
            elif other.params == variant.params:
                findings.append(f"{name}: has the same parameters as {other.name}")
        found.append(variant)
    if findings:
        raise ParamsError(
            "variants of a study must differ in what the student alone uses",
            findings=findings,
            remedy=f"the student alone uses {', '.join(STUDENT_ALONE)}; other parameters are set in the parameter file",
        )
    return tuple(found)


def _split_name(text: str) -> tuple[str, str]:
    """`name: overrides`, or overrides that are their own name; without any it is the file's `default`."""
    named = re.match(r"\s*([^=:]*[^=:\s])\s*:(.*)", text, re.DOTALL)
    if named:
        return named[1], named[2].strip()
    return text.strip() or "default", text.strip()


def _apply(overrides: str, params: Params) -> Params:
    """The parameters of a variant; raises ParamsError with findings."""
    findings, values = [], {}
    try:
        words = shlex.split(overrides)
    except ValueError as error:  # a quotation mark without its other half
        raise ParamsError("", findings=[f"{overrides!r}: {error}"]) from None
    for word in words:
        try:
            key, value = read_override(word)
        except ParamsError as error:
            findings.append(str(error))
            continue
        if key in values:
            findings.append(f"{key}: is set twice")
        values[key] = value
        if reason := _refusal(key):
            findings.append(f"{key}: {reason}")
    try:
        changed = overridden(params, values, name="")
    except ParamsError as error:
        raise ParamsError("", findings=[*findings, *error.findings]) from None
    if findings:
        raise ParamsError("", findings=findings)
    return changed


def _refusal(key: str) -> str | None:
    """Why a variant may not set the parameter, or None; unknown ones are found by the check of all parameters."""
    dial = key.partition(".")[0]
    if dial == "seed":
        return "a study sets the seeds itself (--seeds, --first-seed)"
    if others := _others(dial):
        return f"{' and '.join(others)} would have to run again with it"
    if dial in Params.model_fields and dial not in STUDENT_ALONE:
        return "is used before the study begins, or after it"
    return None


@dataclass(frozen=True)
class Step:
    """A command of the chain: `inputs` and `outs` are its paths by the option that takes them."""

    name: str
    stage: str
    folder: Path  # of its seed
    params: Params = field(repr=False)
    params_path: Path
    inputs: Mapping[str, Path]
    outs: Mapping[str, Path]

    @property
    def arguments(self) -> tuple[str, ...]:
        """As they follow `python -m stages`."""
        paths = {**self.inputs, **self.outs, "--params": self.params_path}
        return (self.stage, *(word for option, path in paths.items() for word in (option, str(path))))

    @property
    def values(self) -> dict[str, object]:
        """The parameters that the stage uses, on which its outs depend."""
        values = self.params.model_dump()
        return {key: values[key] for key in USES[self.stage]}


@dataclass(frozen=True)
class ModelFiles:
    """Where a model of a study lies with its curve and predictions; only students have a variant."""

    model: str
    variant: Variant | None
    folder: Path

    @property
    def weights(self) -> Path:
        """The model file."""
        return self.folder / "model.safetensors"

    @property
    def curve(self) -> Path:
        """Its table of epochs."""
        return self.folder / "curve.csv"

    @property
    def predictions(self) -> Path:
        """Its probabilities of the test videos."""
        return self.folder / "predictions.csv"


@dataclass(frozen=True)
class Study:
    """What is compared, on which data, and where everything goes; without `with_test` no model sees a test video."""

    manifest: Path
    dark: Path
    enhanced: Path
    out: Path
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    params: Params = field(repr=False)
    with_test: bool

    def models(self, seed: int) -> list[ModelFiles]:
        """Teacher, baseline and students of a seed."""
        folder = self.seed_folder(seed)
        students = [ModelFiles("student", each, folder / "students" / each.folder_name) for each in self.variants]
        return [*(ModelFiles(name, None, folder / name) for name in ("teacher", "baseline")), *students]

    def seed_folder(self, seed: int) -> Path:
        """Where everything of a seed lies."""
        return self.out / f"seed{seed}"

    def steps(self) -> list[Step]:
        """All steps, in an order in which they could run one after the other."""
        return [step for seed in self.seeds for step in self._steps_of(seed)]

    def training_step(self, seed: int, files: ModelFiles) -> str:
        """Name of the step that trains the model."""
        return _step_name(seed, f"train_{files.model}", files.variant)

    def precompute_step(self, seed: int) -> str:
        """Name of the step that computes the soft targets of the seed's teacher."""
        return _step_name(seed, "precompute_soft_targets", None)

    def _steps_of(self, seed: int) -> Iterator[Step]:
        teacher, baseline, *students = self.models(seed)
        soft_targets = self.seed_folder(seed) / "soft_targets.zarr"
        data = {"--manifest": self.manifest}
        enhanced, dark = {**data, "--frames": self.enhanced}, {**data, "--frames": self.dark}
        soft = {"--soft-targets": soft_targets, "--teacher": teacher.weights, "--enhanced": self.enhanced}
        yield self._step(seed, "train_teacher", teacher, enhanced, _trained(teacher))
        yield self._step(seed, "train_baseline", baseline, dark, _trained(baseline))
        yield self._step(
            seed,
            "precompute_soft_targets",
            teacher,
            {**enhanced, "--teacher": teacher.weights},
            {"--out": soft_targets},
        )
        for student in students:
            yield self._step(seed, "train_student", student, {**dark, **soft}, _trained(student))
        if self.with_test:
            for files in (teacher, baseline, *students):
                inputs = {**(enhanced if files is teacher else dark), "--model": files.weights}
                yield self._step(seed, f"score_{files.model}", files, inputs, {"--out": files.predictions})

    def _step(
        self, seed: int, stage: str, files: ModelFiles, inputs: Mapping[str, Path], outs: Mapping[str, Path]
    ) -> Step:
        variant, folder = files.variant, self.seed_folder(seed)
        params = overridden(variant.params if variant else self.params, {"seed": seed}, name=f"seed {seed}")
        params_path = (files.folder if variant else folder) / "params.yaml"
        return Step(_step_name(seed, stage, variant), stage, folder, params, params_path, inputs, outs)


def _trained(files: ModelFiles) -> dict[str, Path]:
    return {"--out": files.weights, "--curve": files.curve}


def _step_name(seed: int, stage: str, variant: Variant | None) -> str:
    return f"seed{seed}/{stage}" + (f"/{variant.folder_name}" if variant else "")
