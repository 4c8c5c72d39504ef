"""The comparison of teacher, student and baseline from their predictions on test; no model runs here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.core.errors import StaleArtifactError
from pipeline.core.tables import write_table
from pipeline.data.manifest import Manifest
from pipeline.evaluate.metrics import (
    accuracy_interval,
    expected_calibration_error,
    mcnemar_p,
    mean_class_accuracy,
    mean_kl,
    paired_interval,
    reliability,
    top_k_accuracy,
)
from pipeline.evaluate.metrics_file import Gain, Metrics, ModelMetrics, Pair, Protocol
from pipeline.evaluate.score.predictions import DIGITS, Predictions

# Predictions are rounded to DIGITS digits: a probability of zero counts as half of the last one
LEAST_PROBABILITY = 0.5 * 10**-DIGITS


def check_predictions(predictions: Mapping[str, Predictions], manifest: Manifest, *, views: str | None = None) -> None:
    """Raise StaleArtifactError where predictions are not of exactly the test videos and classes of the manifest.

    views: the views that they must be of, as `views_text` names them; None allows any.
    """
    wanted = {row.video_id: manifest.class_index(row) for row in manifest.rows_of("test")}
    findings = []
    for name, found in predictions.items():
        for field, recorded, here in (
            ("manifest", found.origin.manifest, manifest.digest),
            ("views", found.origin.views, views),
        ):
            if recorded and here not in (None, recorded):
                findings.append(f"{name}: its {field} is {recorded}, this run's {here}")
        if found.class_names != manifest.class_names:
            findings.append(f"{name}: classes {list(found.class_names)}, the manifest has {list(manifest.class_names)}")
            continue
        labels = dict(zip(found.video_ids, found.labels_N.tolist(), strict=True))
        missing, unknown = wanted.keys() - labels.keys(), labels.keys() - wanted.keys()
        if missing or unknown:
            findings.append(f"{name}: {len(missing)} test videos missing, {len(unknown)} not of the test split")
        elif labels != wanted:
            findings.append(f"{name}: labels differ from the manifest's")
    if findings:
        raise StaleArtifactError(
            "predictions do not fit the manifest", findings=findings, remedy="`dvc repro` scores the models again"
        )


def compare(
    predictions: Mapping[str, Predictions],
    *,
    protocol: Protocol,
    num_bootstraps: int,
    seed: int,
    tables: str | None = None,
) -> Metrics:
    """Metrics of `teacher`, `student` and `baseline`, which must be of the same videos in the same order.

    tables: digest of the tables of the same predictions. docs/evaluation.md has the formula of each number.
    """
    teacher, student, baseline = (predictions[name] for name in ("teacher", "student", "baseline"))
    alone = {name: describe(found, num_bootstraps=num_bootstraps, seed=seed) for name, found in predictions.items()}
    low, high = paired_interval(student.correct_N, baseline.correct_N, num_bootstraps=num_bootstraps, seed=seed)

    def agreement(found: Predictions) -> float:
        return float((found.predicted_N == teacher.predicted_N).mean())

    def kl(found: Predictions) -> float:
        return mean_kl(teacher.probs_NK, found.probs_NK, least=LEAST_PROBABILITY)

    return Metrics(
        **alone,
        student_minus_baseline=Gain(
            top1=alone["student"].top1 - alone["baseline"].top1,
            top1_low=low,
            top1_high=high,
            mcnemar_p=mcnemar_p(student.correct_N, baseline.correct_N),
        ),
        agreement_with_teacher=Pair(student=agreement(student), baseline=agreement(baseline)),
        kl_from_teacher=Pair(student=kl(student), baseline=kl(baseline)),
        num_test_videos=len(student.video_ids),
        protocol=protocol,
        models={name: found.origin.model for name, found in predictions.items() if found.origin.model},
        tables=tables,
    )


def describe(found: Predictions, *, num_bootstraps: int, seed: int) -> ModelMetrics:
    """Metrics of one model alone; docs/evaluation.md has the formula of each."""
    low, high = accuracy_interval(found.correct_N, num_bootstraps=num_bootstraps, seed=seed)
    return ModelMetrics(
        top1=top_k_accuracy(found.probs_NK, found.labels_N, 1),
        top1_low=low,
        top1_high=high,
        top5=top_k_accuracy(found.probs_NK, found.labels_N, 5),
        mean_class_top1=mean_class_accuracy(found.predicted_N, found.labels_N),
        ece=expected_calibration_error(reliability(found.confidence_N, found.correct_N)),
    )


def aligned(found: Predictions, video_ids: tuple[str, ...]) -> Predictions:
    """The same predictions in another order of the videos."""
    position = {video_id: index for index, video_id in enumerate(found.video_ids)}
    order = np.array([position[video_id] for video_id in video_ids])
    return Predictions(video_ids, found.labels_N[order], found.probs_NK[order], found.class_names, found.origin)


def write_confusion(path: Path, found: Predictions) -> None:
    """CSV with a row for every video, as `dvc plots` counts its confusion matrices from.

    DVC writes the names into a script of its page unescaped, where `</script>` would end it.
    """
    names = [name.replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}") for name in found.class_names]
    labels = zip(found.labels_N, found.predicted_N, strict=True)
    write_table(path, ["actual", "predicted"], ((names[label], names[predicted]) for label, predicted in labels))
