"""What a report is made from: the files of `results/`, and what stores and model files record about themselves.

What a colleague who was given the soft targets alone does not have (enhanced frames, the files of enhancer, teacher and
baseline) may be missing, and is then None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import StaleArtifactError
from pipeline.core.tables import Curve, Reader, number, whole_number
from pipeline.core.weights import read_attributes, whole_digest
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import Manifest, QuarantineRow, read_manifest, read_quarantine
from pipeline.distill.store.attributes import is_imported
from pipeline.distill.store.store import SoftTargetStore
from pipeline.evaluate.metrics_file import MODELS, Metrics, read_evaluation
from pipeline.evaluate.tables import Table, digest_tables, read_rows, read_tables

# losses of a training that diverged are not finite
_CURVE_COLUMNS: dict[str, Reader] = {
    "epoch": whole_number,
    "learning_rate": number,
    **dict.fromkeys(("train_loss", "train_top1", "val_loss", "val_top1"), float),
}


@dataclass(frozen=True)
class ReportPaths:
    """Where everything is; `models` and `curves` by the models' names, the enhancer's file among the models.

    studies: any may be missing; the first that is of the run's videos and parameters is shown.
    """

    params: Path
    manifest: Path
    quarantine: Path
    dark: Path
    enhanced: Path
    soft_targets: Path
    models: Mapping[str, Path]
    curves: Mapping[str, Path]
    evaluation: Path
    tables: Path
    studies: tuple[Path, ...]


@dataclass(frozen=True)
class Results:
    """Everything below `results/`: the metrics, each model's curve, and the tables of `evaluate` by name."""

    metrics: Metrics
    curves: Mapping[str, Curve]
    tables: Mapping[str, Table]


@dataclass(frozen=True)
class ModelFacts:
    """What a model file records about itself."""

    digest: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Artifacts:
    """The chain's artifacts, opened; None where an optional one is missing."""

    manifest: Manifest
    quarantine: tuple[QuarantineRow, ...]
    dark: FrameStore
    enhanced: FrameStore | None
    soft_targets: SoftTargetStore
    models: Mapping[str, ModelFacts | None]  # the enhancer and MODELS


def read_results(paths: ReportPaths) -> Results:
    """Read the tables and the metrics; raises StaleArtifactError for the first that is missing or damaged."""
    return Results(
        read_evaluation(paths.evaluation),
        {name: read_rows(path, _CURVE_COLUMNS) for name, path in paths.curves.items()},
        read_tables(paths.tables),
    )


def read_artifacts(paths: ReportPaths) -> Artifacts:
    """Open stores and model files; raises DataError or StaleArtifactError where a needed one is missing or damaged."""
    return Artifacts(
        read_manifest(paths.manifest),
        read_quarantine(paths.quarantine),
        FrameStore(paths.dark),
        FrameStore(paths.enhanced) if paths.enhanced.exists() else None,
        SoftTargetStore(paths.soft_targets),
        {
            name: ModelFacts(whole_digest(path), read_attributes(path)) if name == "student" or path.exists() else None
            for name, path in paths.models.items()
        },
    )


def check_fit(paths: ReportPaths, found: Artifacts, results: Results) -> None:
    """Raise StaleArtifactError with every artifact that was not made from the others."""
    findings = []

    def compare(what: Path, field: str, named: object, present: str) -> None:
        if named != present:
            findings.append(f"{what}: its {field} is {named}, here is {present}")

    manifest, dark, store = found.manifest.digest, found.dark.digest, found.soft_targets
    compare(paths.soft_targets, "manifest", store.attributes["digests"].get("manifest"), manifest)
    for name in MODELS:
        facts = found.models[name]
        if facts is None:
            continue
        compare(paths.evaluation, f"{name}'s file", results.metrics.models.get(name, facts.digest), facts.digest)
        digests = facts.attributes["trained_on"]["digests"]
        compare(paths.models[name], "manifest", digests.get("manifest"), manifest)
        if name != "teacher":
            compare(paths.models[name], "dark store", digests.get("frames"), dark)
        if name == "student":
            compare(paths.models[name], "soft-target store", digests.get("soft_targets"), store.digest)
    enhancer = found.models["enhancer"]
    if found.enhanced is not None:
        compare(paths.enhanced, "dark store", found.enhanced.origin.get("dark"), dark)
        first = store.attributes["teachers"][0]
        if not is_imported(first):  # it saw no frames of this run
            compare(paths.soft_targets, "enhanced store", first["frames"], found.enhanced.digest)
        if enhancer is not None:
            compare(paths.enhanced, "enhancer", found.enhanced.origin.get("enhancer"), enhancer.digest)
    compare(paths.evaluation, "manifest", results.metrics.protocol.manifest, manifest)
    tables = digest_tables(paths.tables)
    compare(paths.evaluation, "tables", results.metrics.tables or tables, tables)
    test = [row.video_id for row in found.manifest.rows_of("test")]
    videos = results.tables["videos"]
    if sorted(video["video_id"] for video in videos) != test:
        findings.append(f"{paths.tables / 'videos.csv'}: its videos are not the {len(test)} test videos")
    classes = set(found.manifest.class_names)
    named = ("class_name", *(f"{name}_predicted" for name in MODELS))
    unknown = {video[column] for video in videos for column in named} - classes
    if unknown:
        findings.append(f"{paths.tables / 'videos.csv'}: the manifest has no class {', '.join(sorted(unknown))}")
    if findings:
        raise StaleArtifactError(
            "the artifacts do not belong to one run", findings=findings, remedy="`dvc repro` brings them together"
        )
