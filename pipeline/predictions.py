"""Predictions: a model's probabilities for every video of a split, and the CSV file they are kept in.

Axes: N videos, K classes.
"""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.digest import digest_json
from pipeline.errors import StaleArtifactError
from pipeline.work import read_text_whole, written_whole

ID_COLUMNS = ("video_id", "class_name", "predicted")
PROBABILITY_PREFIX = "p:"
DIGITS = 6  # after the point: float32 networks give no more that is meaningful


@dataclass(frozen=True)
class Origin:
    """Where predictions come from, empty where nobody said: digests of model file and manifest, and `views_text`."""

    model: str = ""
    manifest: str = ""
    views: str = ""


# behind the probabilities: every row says where it comes from, and has a digest of itself
LAST_COLUMNS = (*(field.name for field in fields(Origin)), "digest")


def views_text(num_clips: int, num_crops: int) -> str:
    """Views of a video in a word: clips × crops."""
    return f"{num_clips}x{num_crops}"


@dataclass(frozen=True)
class Predictions:
    """Probabilities of the videos of one split; labels are class indices into class_names."""

    video_ids: tuple[str, ...]
    labels_N: NDArray[np.int64]
    probs_NK: NDArray[np.float64]
    class_names: tuple[str, ...]
    origin: Origin = Origin()

    @property
    def predicted_N(self) -> NDArray[np.int64]:
        """Class indices of the highest probability, to the digits that the file keeps: of equals, the first."""
        return np.asarray(self.probs_NK.round(DIGITS).argmax(axis=1), dtype=np.int64)

    @property
    def correct_N(self) -> NDArray[np.bool_]:
        """Whether the predicted class is the video's."""
        return np.asarray(self.predicted_N == self.labels_N)

    @property
    def confidence_N(self) -> NDArray[np.float64]:
        """Probability of the predicted class."""
        return np.asarray(self.probs_NK[np.arange(len(self.labels_N)), self.predicted_N])


def write_predictions(path: Path, predictions: Predictions) -> None:
    """CSV with a row for every video: its class, the predicted one, and a column of probabilities for each class.

    Behind them are the origin, the same in all rows, and the row's digest.
    """
    names = predictions.class_names
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*ID_COLUMNS, *(f"{PROBABILITY_PREFIX}{name}" for name in names), *LAST_COLUMNS])
        rows = zip(
            predictions.video_ids, predictions.labels_N, predictions.predicted_N, predictions.probs_NK, strict=True
        )
        for video_id, label, predicted, probs_K in rows:
            row = [video_id, names[label], names[predicted], *(f"{p:.{DIGITS}f}" for p in probs_K)]
            row += astuple(predictions.origin)
            writer.writerow([*row, digest_json(row)])


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote; raises StaleArtifactError with the line where it is not that."""
    labels, probs, video_ids = [], [], []
    origins: set[Origin] = set()
    try:
        reader = csv.reader(io.StringIO(read_text_whole(path), newline=""), strict=True)
        try:
            class_names = _read_header(next(reader, []))
            for row in reader:
                label, probs_K = _read_row(row, class_names)
                video_ids.append(row[0])
                labels.append(label)
                probs.append(probs_K)
                origins.add(Origin(*row[-len(LAST_COLUMNS) : -1]))
        except (ValueError, csv.Error) as error:
            raise ValueError(f"line {max(reader.line_num, 1)}: {error}") from None
        if len(origins) != 1:
            raise ValueError("its rows are of several models, manifests or views" if origins else "no videos")
    except (OSError, ValueError) as error:
        raise StaleArtifactError(
            f"{path}: not a predictions file: {error}", remedy="`dvc repro` makes it again"
        ) from None
    return Predictions(tuple(video_ids), np.array(labels, dtype=np.int64), np.array(probs), class_names, origins.pop())


def _read_header(header: list[str]) -> tuple[str, ...]:
    columns = header[len(ID_COLUMNS) : -len(LAST_COLUMNS)]
    class_names = tuple(name.removeprefix(PROBABILITY_PREFIX) for name in columns)
    fits = all(name.startswith(PROBABILITY_PREFIX) for name in columns) and len(set(columns)) == len(columns)
    around = (tuple(header[: len(ID_COLUMNS)]), tuple(header[-len(LAST_COLUMNS) :]))
    if around != (ID_COLUMNS, LAST_COLUMNS) or not columns or not fits:
        raise ValueError(
            f"expected the columns {', '.join(ID_COLUMNS)}, {PROBABILITY_PREFIX}NAME for each class, and "
            f"{', '.join(LAST_COLUMNS)}"
        )
    return class_names


def _read_row(row: list[str], class_names: tuple[str, ...]) -> tuple[int, list[float]]:
    expected = len(ID_COLUMNS) + len(class_names) + len(LAST_COLUMNS)
    if len(row) != expected or row[1] not in class_names:
        raise ValueError(f"expected {expected} fields and a known class name")
    if row[-1] != digest_json(row[:-1]):
        raise ValueError("it does not have the digest that was written with it")
    probs_K = [float(value) for value in row[len(ID_COLUMNS) : -len(LAST_COLUMNS)]]
    if not all(0 <= value <= 1 for value in probs_K):
        raise ValueError("a probability is not between 0 and 1")
    total = sum(probs_K)
    if abs(total - 1) > len(probs_K) * 10**-DIGITS:  # each was rounded by half of the last digit at most
        raise ValueError(f"its probabilities sum to {total:.{DIGITS}f}, not to 1")
    return class_names.index(row[1]), probs_K
