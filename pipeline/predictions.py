"""Predictions: a model's probabilities for every video of a split, and the CSV file they are kept in.

Axes: N videos, K classes.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StaleArtifactError
from pipeline.work import written_whole

ID_COLUMNS = ("video_id", "class_name", "predicted")
PROBABILITY_PREFIX = "p:"


@dataclass(frozen=True)
class Predictions:
    """Probabilities of the videos of one split; labels are class indices into class_names."""

    video_ids: tuple[str, ...]
    labels_N: NDArray[np.int64]
    probs_NK: NDArray[np.float64]
    class_names: tuple[str, ...]

    @property
    def predicted_N(self) -> NDArray[np.int64]:
        """Class indices of the highest probability."""
        return np.asarray(self.probs_NK.argmax(axis=1), dtype=np.int64)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """CSV with a row for every video: its class, the predicted one, and a column of probabilities for each class."""
    names = predictions.class_names
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*ID_COLUMNS, *(f"{PROBABILITY_PREFIX}{name}" for name in names)])
        rows = zip(
            predictions.video_ids, predictions.labels_N, predictions.predicted_N, predictions.probs_NK, strict=True
        )
        for video_id, label, predicted, probs_K in rows:
            writer.writerow([video_id, names[label], names[predicted], *(f"{p:.6f}" for p in probs_K)])


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote; raises StaleArtifactError with the line where it is not that."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file))
        class_names = tuple(name.removeprefix(PROBABILITY_PREFIX) for name in header[len(ID_COLUMNS) :])
        if tuple(header[: len(ID_COLUMNS)]) != ID_COLUMNS or not class_names:
            raise ValueError(f"line 1: expected the columns {', '.join(ID_COLUMNS)} and a probability for each class")
        index_of = {name: index for index, name in enumerate(class_names)}
        labels, probs = [], []
        for line, row in enumerate(rows, start=2):
            if len(row) != len(header) or row[1] not in index_of:
                raise ValueError(f"line {line}: expected {len(header)} fields and a known class name")
            labels.append(index_of[row[1]])
            probs.append([float(value) for value in row[len(ID_COLUMNS) :]])
    except (OSError, ValueError) as error:
        raise StaleArtifactError(
            f"{path}: not a predictions file: {error}", remedy="`dvc repro` makes it again"
        ) from None
    return Predictions(
        tuple(row[0] for row in rows),
        np.array(labels, dtype=np.int64),
        np.array(probs).reshape(len(rows), -1),
        class_names,
    )
