"""What a report is made from: the tables of `results/`, and what stores and model files say about themselves.

Tables that do not fit are StaleArtifactErrors with their line. What a colleague with soft targets alone does not have
(enhanced frames, the enhancer's, the teacher's and the baseline's files) may be missing, and is then None.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.digest import has_valid_digest
from pipeline.core.errors import StaleArtifactError
from pipeline.core.files import read_text_whole
from pipeline.core.weights import read_attributes, read_shapes, whole_digest
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import Manifest, QuarantineRow, read_manifest, read_quarantine
from pipeline.distill.store.store import SoftTargetStore
from pipeline.evaluate.calibration import Bin
from pipeline.evaluate.tables import digest_tables

MODELS = ("teacher", "student", "baseline")
REMEDY = "`dvc repro` makes it again"

Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class ReportPaths:
    """Where everything is; `models` and `curves` by the models' names, the enhancer's file among the models."""

    params: Path
    manifest: Path
    quarantine: Path
    dark: Path
    enhanced: Path
    soft_targets: Path
    models: Mapping[str, Path]
    curves: Mapping[str, Path]
    metrics: Path
    tables: Path


class Values(BaseModel):
    """A part of metrics.json; keys that the report does not show may be there."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ModelMetrics(Values):
    """One model on test; shares from 0 to 1, with 95 % intervals over the videos."""

    top1: Share
    top1_low: Share
    top1_high: Share
    top5: Share
    mean_class_top1: Share
    ece: Share


class Gain(Values):
    """The student against the baseline."""

    top1: Number
    top1_low: Number
    top1_high: Number
    mcnemar_p: Share


class Pair(Values):
    """A number for each model that is compared with the teacher."""

    student: Number
    baseline: Number


class Protocol(Values):
    """What each model was asked about a test video."""

    num_clips: Annotated[int, Field(ge=1)]
    num_crops: Annotated[int, Field(ge=1)]
    manifest: str


class Metrics(Values):
    """metrics.json."""

    teacher: ModelMetrics
    student: ModelMetrics
    baseline: ModelMetrics
    student_minus_baseline: Gain
    agreement_with_teacher: Pair
    kl_from_teacher: Pair
    num_test_videos: Annotated[int, Field(ge=1)]
    protocol: Protocol
    models: dict[str, str] = {}  # digests of the models' files
    tables: str | None = None  # digest of the tables' files

    def of(self, model: str) -> ModelMetrics:
        """The metrics of one of MODELS."""
        found: ModelMetrics = getattr(self, model)
        return found


@dataclass(frozen=True)
class Epoch:
    """One line of a training curve."""

    epoch: int
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float


@dataclass(frozen=True)
class ClassShares:
    """Of a class's test videos the share that each model recognises."""

    class_name: str
    num_videos: int
    top1: Mapping[str, float]


@dataclass(frozen=True)
class Band:
    """Test videos from low to high (mean luma, or number of frames), and the share that each model recognises."""

    low: float
    high: float
    num_videos: int
    top1: Mapping[str, float]


@dataclass(frozen=True)
class ScoredVideo:
    """A test video: what each model took it for, and the probability that it gave to the true class."""

    video_id: str
    class_name: str
    mean_luma: float
    num_frames: int
    predicted: Mapping[str, str]
    p_true: Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """Everything below `results/`."""

    metrics: Metrics
    curves: Mapping[str, tuple[Epoch, ...]]
    per_class: tuple[ClassShares, ...]
    by_light: tuple[Band, ...]
    by_length: tuple[Band, ...]
    reliability: Mapping[str, tuple[Bin, ...]]
    videos: tuple[ScoredVideo, ...]


@dataclass(frozen=True)
class ModelFacts:
    """What a model file says about itself; `num_parameters` are its trained numbers."""

    digest: str
    attributes: Mapping[str, Any]
    num_parameters: int


@dataclass(frozen=True)
class Artifacts:
    """The chain's artifacts, opened; None where an optional one is not there."""

    manifest: Manifest
    quarantine: tuple[QuarantineRow, ...]
    dark: FrameStore
    enhanced: FrameStore | None
    soft_targets: SoftTargetStore
    models: Mapping[str, ModelFacts | None]  # the enhancer and MODELS


def read_results(paths: ReportPaths) -> Results:
    """Read the tables and the metrics; raises StaleArtifactError for the first that is missing or does not fit."""
    names = MODELS
    per_class = [
        ClassShares(row["class_name"], row["num_videos"], {name: row[name] for name in names})
        for row in read_table(
            paths.tables / "per_class.csv",
            {"class_name": str, "num_videos": int, **dict.fromkeys(names, _number)},
        )
    ]
    columns: dict[str, Reader] = {"video_id": str, "class_name": str, "mean_luma": _number, "num_frames": int}
    for name in names:
        columns |= {f"{name}_predicted": str, f"{name}_p_true": _number}
    videos = [
        ScoredVideo(
            row["video_id"],
            row["class_name"],
            row["mean_luma"],
            row["num_frames"],
            {name: row[f"{name}_predicted"] for name in names},
            {name: row[f"{name}_p_true"] for name in names},
        )
        for row in read_table(paths.tables / "videos.csv", columns)
    ]
    return Results(
        _read_metrics(paths.metrics),
        {name: _read_curve(path) for name, path in paths.curves.items()},
        tuple(per_class),
        _read_bands(paths.tables / "by_light.csv"),
        _read_bands(paths.tables / "by_length.csv"),
        _read_reliability(paths.tables / "reliability.csv"),
        tuple(videos),
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
            name: _model_facts(path) if name == "student" or path.exists() else None
            for name, path in paths.models.items()
        },
    )


def check_fit(paths: ReportPaths, found: Artifacts, results: Results) -> None:
    """Raise StaleArtifactError with everything that was not made from what lies beside it."""
    findings = []

    def compare(what: str, field: str, named: object, present: str) -> None:
        if named != present:
            findings.append(f"{what}: its {field} is {named}, here is {present}")

    manifest, dark, store = found.manifest.digest, found.dark.digest, found.soft_targets
    compare(str(paths.soft_targets), "manifest", store.attributes["digests"].get("manifest"), manifest)
    for name in MODELS:
        facts = found.models[name]
        if facts is None:
            continue
        compare(str(paths.metrics), f"{name}'s file", results.metrics.models.get(name, facts.digest), facts.digest)
        digests = facts.attributes["trained_on"]["digests"]
        compare(str(paths.models[name]), "manifest", digests.get("manifest"), manifest)
        if name != "teacher":
            compare(str(paths.models[name]), "dark store", digests.get("frames"), dark)
        if name == "student":
            compare(str(paths.models[name]), "soft-target store", digests.get("soft_targets"), store.digest)
    enhancer = found.models["enhancer"]
    if found.enhanced is not None:
        compare(str(paths.enhanced), "dark store", found.enhanced.origin.get("dark"), dark)
        compare(
            str(paths.soft_targets), "enhanced store", store.attributes["digests"].get("frames"), found.enhanced.digest
        )
        if enhancer is not None:
            compare(str(paths.enhanced), "enhancer", found.enhanced.origin.get("enhancer"), enhancer.digest)
    compare(str(paths.metrics), "manifest", results.metrics.protocol.manifest, manifest)
    tables = digest_tables(paths.tables)
    compare(str(paths.metrics), "tables", results.metrics.tables or tables, tables)
    test = [row.video_id for row in found.manifest.rows_of("test")]
    if sorted(video.video_id for video in results.videos) != test:
        findings.append(f"{paths.tables / 'videos.csv'}: its videos are not the {len(test)} test videos")
    classes = set(found.manifest.class_names)
    unknown = {name for video in results.videos for name in (video.class_name, *video.predicted.values())} - classes
    if unknown:
        findings.append(f"{paths.tables / 'videos.csv'}: the manifest has no class {', '.join(sorted(unknown))}")
    if findings:
        raise StaleArtifactError(
            "the artifacts do not belong to one run", findings=findings, remedy="`dvc repro` brings them together"
        )


def _model_facts(path: Path) -> ModelFacts:
    digest = whole_digest(path)
    return ModelFacts(digest, read_attributes(path), count_parameters(read_shapes(path)))


def count_parameters(shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    """Numbers of the weights among a model file's tensors, of type and shape: statistics and tables do not count."""
    return sum(
        math.prod(shape)
        for name, (kind, shape) in shapes.items()
        if kind.startswith(("F", "BF")) and name.rpartition(".")[2] not in _STATISTICS
    )


_STATISTICS = ("running_mean", "running_var", "mean_C", "std_C")


def _read_metrics(path: Path) -> Metrics:
    try:
        found = json.loads(path.read_bytes())
        if "digest" in found and not has_valid_digest(found):
            raise ValueError("it does not have the digest that was written with it")
        return Metrics.model_validate(found)
    except ValidationError as error:
        findings = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()]
        raise StaleArtifactError(
            f"{path}: not the metrics that `evaluate` writes", findings=findings, remedy=REMEDY
        ) from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _unreadable(path, error) from None


def _read_curve(path: Path) -> tuple[Epoch, ...]:
    columns: dict[str, Reader] = {"epoch": int, "learning_rate": _number, "train_loss": float, "train_top1": float}
    rows = read_table(path, columns | {"val_loss": float, "val_top1": float})
    return tuple(Epoch(**{name: value for name, value in row.items() if name != "learning_rate"}) for row in rows)


def _read_bands(path: Path) -> tuple[Band, ...]:
    columns: dict[str, Reader] = {"low": _number, "high": _number, "num_videos": int}
    rows = read_table(path, columns | dict.fromkeys(MODELS, _number))
    return tuple(Band(row["low"], row["high"], row["num_videos"], {name: row[name] for name in MODELS}) for row in rows)


def _read_reliability(path: Path) -> dict[str, tuple[Bin, ...]]:
    columns: dict[str, Reader] = {"model": str, "low": _number, "high": _number, "num_videos": int}
    rows = read_table(path, columns | {"confidence": _number, "accuracy": _number})
    return {
        name: tuple(
            Bin(**{key: value for key, value in row.items() if key != "model"}) for row in rows if row["model"] == name
        )
        for name in MODELS
    }


Reader = Callable[[str], Any]


def read_table(path: Path, columns: Mapping[str, Reader]) -> list[dict[str, Any]]:
    """The rows of a CSV file with exactly these columns, converted; raises StaleArtifactError with the line."""
    try:
        return _rows(read_text_whole(path), columns)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _rows(text: str, columns: Mapping[str, Reader]) -> list[dict[str, Any]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if header != list(columns):
            raise ValueError(f"the columns are {','.join(header) or 'none'}, expected {','.join(columns)}")
        rows = [_converted(row, columns) for row in reader]
        if not rows:
            raise ValueError("no rows")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"line {max(reader.line_num, 1)}: {error}") from None
    return rows


def _converted(row: Sequence[str], columns: Mapping[str, Reader]) -> dict[str, Any]:
    if len(row) != len(columns):
        raise ValueError(f"{len(row)} fields, expected {len(columns)}")
    return {name: convert(value) for (name, convert), value in zip(columns.items(), row, strict=True)}


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"expected a number, not {text!r}")
    return value


def _unreadable(path: Path, error: Exception) -> StaleArtifactError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return StaleArtifactError(f"{path}: cannot be used: {reason}", remedy=REMEDY)
