"""The comparison of teacher, student and baseline from their predictions on test; no model runs here."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.digest import with_digest
from pipeline.core.errors import StaleArtifactError
from pipeline.core.files import write_text_whole, written_whole
from pipeline.data.manifest import Manifest
from pipeline.evaluate.calibration import NUM_BINS, expected_calibration_error, reliability
from pipeline.evaluate.metrics import (
    accuracy_interval,
    mcnemar_p,
    mean_class_accuracy,
    mean_kl,
    paired_interval,
    top_k_accuracy,
)
from pipeline.evaluate.score.predictions import DIGITS, Predictions

# Predictions are kept to DIGITS digits: what was rounded to nothing counts as half of the last one
LEAST_PROBABILITY = 0.5 * 10**-DIGITS


@dataclass(frozen=True)
class ScoringProtocol:
    """What the models were asked: the views of which videos. `manifest` is the digest of the table of videos."""

    split: str
    num_clips: int
    num_crops: int
    manifest: str


def check_predictions(predictions: Mapping[str, Predictions], manifest: Manifest, *, views: str | None = None) -> None:
    """Raise StaleArtifactError where predictions are not of exactly the test videos and classes of the manifest.

    views: as `views_text` names them, where they must be these.
    """
    wanted = {row.video_id: manifest.class_index(row) for row in manifest.rows_of("test")}
    findings = []
    for name, found in predictions.items():
        for field, said, here in (
            ("manifest", found.origin.manifest, manifest.digest),
            ("views", found.origin.views, views),
        ):
            if said and here not in (None, said):
                findings.append(f"{name}: its {field} is {said}, this run's {here}")
        if found.class_names != manifest.class_names:
            findings.append(f"{name}: classes {list(found.class_names)}, the manifest has {list(manifest.class_names)}")
            continue
        labels = dict(zip(found.video_ids, found.labels_N.tolist(), strict=True))
        missing, unknown = wanted.keys() - labels.keys(), labels.keys() - wanted.keys()
        repeated = len(found.video_ids) - len(labels)
        if missing or unknown or repeated:
            findings.append(
                f"{name}: {len(missing)} test videos missing, {len(unknown)} not of the test split, {repeated} twice"
            )
        elif labels != wanted:
            findings.append(f"{name}: labels differ from the manifest's")
    if findings:
        raise StaleArtifactError(
            "predictions do not fit the manifest", findings=findings, remedy="`dvc repro` scores the models again"
        )


def compare(
    predictions: Mapping[str, Predictions], *, protocol: ScoringProtocol, num_bootstraps: int, seed: int
) -> dict[str, Any]:
    """Metrics of `teacher`, `student` and `baseline`, which must be of the same videos in the same order.

    docs/evaluation.md has the formula of each.
    """
    metrics: dict[str, Any] = {
        name: describe(found, num_bootstraps=num_bootstraps, seed=seed) for name, found in predictions.items()
    }
    teacher, student, baseline = (predictions[name] for name in ("teacher", "student", "baseline"))
    low, high = paired_interval(student.correct_N, baseline.correct_N, num_bootstraps=num_bootstraps, seed=seed)
    metrics["student_minus_baseline"] = {
        "top1": metrics["student"]["top1"] - metrics["baseline"]["top1"],
        "top1_low": low,
        "top1_high": high,
        "mcnemar_p": mcnemar_p(student.correct_N, baseline.correct_N),
    }
    pupils = {"student": student, "baseline": baseline}
    metrics["agreement_with_teacher"] = {
        name: float((found.predicted_N == teacher.predicted_N).mean()) for name, found in pupils.items()
    }
    metrics["kl_from_teacher"] = {
        name: mean_kl(teacher.probs_NK, found.probs_NK, least=LEAST_PROBABILITY) for name, found in pupils.items()
    }
    metrics["num_test_videos"] = len(student.video_ids)
    metrics["protocol"] = asdict(protocol)
    metrics["models"] = {name: found.origin.model for name, found in predictions.items() if found.origin.model}
    return metrics


def describe(found: Predictions, *, num_bootstraps: int, seed: int) -> dict[str, float]:
    """Metrics of one model alone; docs/evaluation.md has the formula of each."""
    low, high = accuracy_interval(found.correct_N, num_bootstraps=num_bootstraps, seed=seed)
    return {
        "top1": top_k_accuracy(found.probs_NK, found.labels_N, 1),
        "top1_low": low,
        "top1_high": high,
        "top5": top_k_accuracy(found.probs_NK, found.labels_N, 5),
        "mean_class_top1": mean_class_accuracy(found.predicted_N, found.labels_N),
        "ece": expected_calibration_error(reliability(found.confidence_N, found.correct_N, num_bins=NUM_BINS)),
    }


def aligned(found: Predictions, video_ids: tuple[str, ...]) -> Predictions:
    """The same predictions in another order of the videos."""
    position = {video_id: index for index, video_id in enumerate(found.video_ids)}
    order = np.array([position[video_id] for video_id in video_ids])
    return Predictions(video_ids, found.labels_N[order], found.probs_NK[order], found.class_names, found.origin)


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """JSON for `dvc metrics`, rounded to six digits, with a digest of all of it."""
    rounded = json.loads(json.dumps(metrics), parse_float=lambda text: round(float(text), 6))
    write_text_whole(path, json.dumps(with_digest(rounded), indent=2) + "\n")


def write_confusion(path: Path, found: Predictions) -> None:
    """CSV with a row for every video, as `dvc plots` counts its confusion matrices from.

    DVC writes the names into a script of its page as they are: `</script>` in one would end it there.
    """
    names = [name.replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}") for name in found.class_names]
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["actual", "predicted"])
        for label, predicted in zip(found.labels_N, found.predicted_N, strict=True):
            writer.writerow([names[label], names[predicted]])
