"""The teachers of a run: opened with the frames that each sees, and checked against the run and against each other.

Axes: N videos, M teachers, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.params import ClipParams
from pipeline.data.dataset import Sample, samples_of
from pipeline.data.frame_store import FrameStore
from pipeline.data.listing import TAUGHT
from pipeline.data.manifest import Manifest
from pipeline.data.views import Partners
from pipeline.distill.store.rows import NO_FOLD
from pipeline.distill.teacher.precompute import VAL, CachedTeacher, Part, TeacherInference, parts_of
from pipeline.distill.teacher.weights import on_val
from pipeline.models.folds import NO_FOLDS, TeacherFolds, require_same_run
from pipeline.models.recognizer import ModelFile, load_model


@dataclass(frozen=True)
class Teacher:
    """A teacher and the frames that it sees, opened; `name` is for messages."""

    name: str
    path: Path
    frames_path: Path
    model: ModelFile
    frames: FrameStore
    folds: TeacherFolds = NO_FOLDS

    @property
    def digests(self) -> list[str]:
        """Of its own file, and of those of its folds."""
        return [self.model.digest, *(model.digest for model in self.folds.models)]

    def fold_of(self, samples: Sequence[Sample], manifest: Manifest) -> dict[str, int]:
        """The fold whose model gives a video's logits, for those that are not of the teacher itself.

        They are the videos of a group that it was trained on; it has not seen any other.
        """
        groups = {sample.video_id: manifest.by_id[sample.video_id].group for sample in samples}
        return {name: self.folds.groups[group] for name, group in groups.items() if group in self.folds.groups}

    @property
    def dark_digest(self) -> str | None:
        """Of the dark frames that its own were made from, or are; None where they do not say."""
        origin = self.frames.origin
        return self.frames.digest if "enhancer" not in origin and "videos" in origin else origin.get("dark")

    def parts(self, cached: CachedTeacher, partners: Partners, how: Mapping[str, Any]) -> list[Part]:
        """What is to be computed, of it and of its folds, in any process: `how` is the same for all teachers."""
        return [
            part
            for fold in range(NO_FOLD, len(self.folds.models))
            for part in parts_of(
                cached.missing(fold), self._inference(fold, cached.cache_of(fold).folder, how), partners
            )
        ]

    def val_parts(self, cached_val: CachedTeacher, how: Mapping[str, Any]) -> list[Part]:
        """What is to be computed of it for val, in one view of each video; a fold's model has no part there."""
        inference = self._inference(NO_FOLD, cached_val.cache.folder, {**how, "views": None})
        return parts_of(cached_val.missing(), inference)

    def _inference(self, fold: int, folder: Path, how: Mapping[str, Any]) -> TeacherInference:
        path = self.path if fold == NO_FOLD else self.folds.path_of(fold)
        return TeacherInference(
            name=self.name if fold == NO_FOLD else f"{self.name}, fold {fold}",
            teacher=(path.absolute(), self.digests[fold - NO_FOLD]),
            frames=(self.frames_path.absolute(), self.frames.digest),
            folder=folder.absolute(),
            **how,
        )

    def attributes(self) -> dict[str, object]:
        """What the store records of it."""
        architecture = self.model.recognizer.architecture
        return {
            "name": architecture.name,
            "digest": self.model.digest,
            "light": self.frames.origin.get("light"),
            "enhancer": self.frames.origin.get("enhancer"),
            "frames": self.frames.digest,
            "clip": architecture.clip.model_dump(),
            **({"folds": self.digests[1:]} if self.folds.models else {}),
        }


def open_teacher(name: str, path: Path, frames_path: Path, folds: TeacherFolds = NO_FOLDS) -> Teacher:
    """A teacher by its files."""
    return Teacher(name, path, frames_path, load_model(path), FrameStore(frames_path), folds)


def open_more_teachers(names: Sequence[str], folder: Path | None) -> list[Teacher]:
    """The further teachers; raises StaleArtifactError where one is not that of its record, on which DVC relies."""
    if names and folder is None:
        raise ParamsError(
            f"more_teachers has {', '.join(names)}, and --more-teachers, the folder that holds them, is not given",
            remedy="`dvc repro precompute_soft_targets` gives it, or set more_teachers to {}",
        )
    teachers, findings = [], []
    for name in names if folder else ():
        assert folder is not None
        record_path, made = folder / "records" / f"{name}.json", folder / "made" / name
        missing = [path for path in (record_path, made / "model.safetensors", made / "frames") if not path.exists()]
        findings += [f"{path} does not exist" for path in missing]
        if not missing:
            teachers.append(open_teacher(name, made / "model.safetensors", made / "frames"))
            found = {"model": teachers[-1].model.digest, "frames": teachers[-1].frames.digest}
            try:
                record = dict(json.loads(record_path.read_bytes()))
            except (ValueError, TypeError) as error:  # git keeps it, and may leave a conflict in it
                findings.append(f"{record_path}: cannot be read: {error}")
                continue
            findings += [
                f"{record_path}: names the {what} {record.get(what)}, here is {digest}"
                for what, digest in found.items()
                if record.get(what) != digest
            ]
    if findings:
        raise StaleArtifactError(
            "teachers that more_teachers names are not here",
            findings=findings,
            remedy="`dvc repro precompute_soft_targets` makes them first; `dvc checkout` brings back what was made",
        )
    return teachers


def _check_teacher(teacher: Teacher, manifest: Manifest, clip: ClipParams) -> str | None:
    """Refuse a teacher of other classes or clips than this run's; a sentence where it was trained on other frames."""
    path, model, found = teacher.path, teacher.model, teacher.model.recognizer.architecture.clip
    findings = []
    if model.class_names != manifest.class_names:
        findings.append(
            f"class names: the teacher has {list(model.class_names)}, the manifest {list(manifest.class_names)}"
        )
    if found != clip:
        findings.append(f"clip: the teacher takes {found.model_dump()}, the parameters say {clip.model_dump()}")
    if model.recognizer.levels != teacher.frames.levels:
        findings.append(
            f"levels: the teacher takes {model.recognizer.levels} frames, these are {teacher.frames.levels}"
        )
    if findings:
        raise StaleArtifactError(
            f"{path}: does not fit this run", findings=findings, remedy="`dvc repro train_teacher` trains one that fits"
        )
    require_same_run(teacher.folds, model, path)
    trained_on = model.trained_on.get("digests", {}).get("frames")
    if trained_on in (None, teacher.frames.digest):
        return None
    return (
        f"{path} was trained on frames {trained_on}, these are {teacher.frames.digest}: expected only if videos were "
        "added or removed since"
    )


def common_samples(
    teachers: Sequence[Teacher], manifest: Manifest, clips: Sequence[ClipParams], *, say: Callable[[str], None]
) -> list[Sample]:
    """The videos to learn from; raises StaleArtifactError for teachers that do not fit this run, or each other.

    A view is one for all of them, so their videos must have one geometry. `say` is told of teachers that were trained
    on other frames.
    """
    for teacher, clip in zip(teachers, clips, strict=True):
        if warning := _check_teacher(teacher, manifest, clip):
            say(warning)
    first, *others = teachers
    samples = samples_of(manifest, first.frames, *TAUGHT)
    findings = [
        f"{teacher.path}: the same teacher as {before.path}"
        for number, teacher in enumerate(teachers)
        for before in teachers[:number]
        if teacher.model.digest == before.model.digest
    ]
    for other in others:
        samples_of(manifest, other.frames, *TAUGHT, VAL)
        dark = (first.dark_digest, other.dark_digest)
        if None not in dark and dark[0] != dark[1]:
            findings.append(
                f"{other.frames_path}: made from the dark frames {dark[1]}, {first.frames_path} from {dark[0]}"
            )
        findings += [
            f"{sample.video_id}: {other.frames_path} has frames, height, width {shape}, {first.frames_path} {expected}"
            for sample in samples
            if (shape := other.frames.shape(sample.video_id)) != (expected := first.frames.shape(sample.video_id))
        ]
    if findings:
        raise StaleArtifactError(
            "these teachers do not fit each other",
            findings=findings,
            remedy="each of more_teachers differs from the others in enhancer, network or seed, and all see the dark "
            "frames of one run: `dvc repro precompute_soft_targets`",
        )
    return samples


def store_attributes(
    teachers: Sequence[Teacher], cached_val: Sequence[CachedTeacher], val: Sequence[Sample]
) -> list[dict[str, object]]:
    """What the store records of the teachers; with their weights where there are val videos to choose them by."""
    attributes = [teacher.attributes() for teacher in teachers]
    if not val:
        return attributes
    logits_NMK = np.stack([each.logits() for each in cached_val], axis=1)
    chosen = on_val(logits_NMK, [sample.label for sample in val])
    return [{**one, **other} for one, other in zip(attributes, chosen, strict=True)]
