"""A study: teacher, baseline and several variants of the student, each over the same seeds, as jobs.

Nothing runs here. A job is one command of the chain, a process of its own.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import ParamsError
from pipeline.core.files import write_text_whole
from pipeline.core.params import Params, overridden, params_text, read_override
from pipeline.tools.study.jobs import Job

# The parameters that each stage uses, as dvc.yaml has them (tests/tools/study/test_study.py compares).
USES: Mapping[str, tuple[str, ...]] = {
    "train_teacher": ("seed", "teacher", "clip", "teacher_clip", "views", "train_teacher"),
    "precompute_soft_targets": (
        *("seed", "clip", "teacher_clip", "teacher_folds", "views", "more_teachers"),
        "precompute_soft_targets",
    ),
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
        # `name: overrides`, or overrides that are their own name; without any it is the file's `default`
        named = re.match(r"\s*([^=:]*[^=:\s])\s*:(.*)", text, re.DOTALL)
        name, overrides = (named[1], named[2].strip()) if named else (text.strip() or "default", text.strip())
        values, wrong = _read(overrides)
        try:
            changed = overridden(params, values, name="")
        except ParamsError as error:
            wrong += error.findings
        if not wrong:
            variant = Variant(name, overrides, changed)
            for other in found:
                if other.folder_name == variant.folder_name:
                    wrong.append("a variant has this name already")
                elif other.params == variant.params:
                    wrong.append(f"has the same parameters as {other.name}")
            found.append(variant)
        findings += [f"{name}: {finding}" for finding in wrong]
    if findings:
        raise ParamsError(
            "variants of a study must differ in what the student alone uses",
            findings=findings,
            remedy=f"the student alone uses {', '.join(STUDENT_ALONE)}; other parameters are set in the parameter file",
        )
    return tuple(found)


def _read(overrides: str) -> tuple[dict[str, Any], list[str]]:
    """The values of the overrides, and what is wrong with them."""
    values: dict[str, Any] = {}
    try:
        words = shlex.split(overrides)
    except ValueError as error:  # a quotation mark without its other half
        return {}, [f"{overrides!r}: {error}"]
    findings = []
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
    return values, findings


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
class ModelFiles:
    """Where a model of a study lies with its curve and its predictions of test; only students have a variant."""

    seed: int
    model: str
    variant: Variant | None
    folder: Path
    weights: Path
    curve: Path
    predictions: Path


def job_name(seed: int, stage: str, variant: Variant | None = None) -> str:
    """The name of the job that runs a stage."""
    return f"seed{seed}/{stage}" + (f"/{variant.folder_name}" if variant else "")


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
    threads: int  # CPU threads of a job
    device: str

    def models(self, seed: int) -> list[ModelFiles]:
        """Teacher, baseline and students of a seed."""
        folder = self.out / f"seed{seed}"
        models: list[tuple[str, Variant | None, Path]] = [
            (name, None, folder / name) for name in ("teacher", "baseline")
        ]
        models += [("student", each, folder / "students" / each.folder_name) for each in self.variants]
        names = ("model.safetensors", "curve.csv", "predictions.csv")
        return [ModelFiles(seed, *model, *(model[-1] / name for name in names)) for model in models]

    def jobs(self) -> Iterator[Job]:
        """All jobs, in an order in which they could run one after the other; writes their parameter files."""
        enhanced, dark = ({"--manifest": self.manifest, "--frames": each} for each in (self.enhanced, self.dark))
        for seed in self.seeds:
            teacher, *others = self.models(seed)
            made_by = {"--teacher": teacher.weights}
            soft = {"--soft-targets": self.out / f"seed{seed}" / "soft_targets.zarr"}
            for files in (teacher, *others):
                frames = enhanced if files is teacher else dark
                taught = {**soft, **made_by, "--enhanced": self.enhanced} if files.variant else {}
                outs = {"--out": files.weights, "--curve": files.curve}
                yield self._job(f"train_{files.model}", files, {**frames, **taught}, outs)
                if files is teacher:
                    outs = {"--out": soft["--soft-targets"]}
                    yield self._job("precompute_soft_targets", teacher, {**enhanced, **made_by}, outs)
                if self.with_test:
                    inputs = {**frames, "--model": files.weights}
                    yield self._job(f"score_{files.model}", files, inputs, {"--out": files.predictions})

    def _job(self, stage: str, files: ModelFiles, inputs: Mapping[str, Path], outs: Mapping[str, Path]) -> Job:
        """A stage as a job. Its work folder lies in its seed's: so it shares no lock with `dvc repro` or others."""
        variant, folder = files.variant, self.out / f"seed{files.seed}"
        params = overridden(variant.params if variant else self.params, {"seed": files.seed}, name=f"seed {files.seed}")
        params_path = (files.folder if variant else folder) / "params.yaml"
        write_text_whole(params_path, params_text(params))
        paths = {**inputs, **outs, "--params": params_path}
        words = [stage, *(word for option, path in paths.items() for word in (option, str(path)))]
        if stage == "precompute_soft_targets":
            words += ["--workers", "1"]  # the number of processes is that of jobs at a time
        name, values = job_name(files.seed, stage, variant), params.model_dump()
        used = {key: values[key] for key in USES[stage]}
        return Job(
            name,
            (sys.executable, "-m", "stages", *words, "--device", self.device),
            identity={"stage": stage, "params": used, "threads": self.threads, "device": self.device},
            inputs=inputs,
            outs=tuple(outs.values()),
            folder=folder / "steps" / name.partition("/")[2],
            environment={"OMP_NUM_THREADS": str(self.threads), "DVC_ROOT": str(folder)},
        )
