"""Predictions: a model's probabilities for every video of a split, and the CSV file they are kept in.

Axes: N videos, K classes.
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.digest import digest_json
from pipeline.core.errors import StaleArtifactError, shortened
from pipeline.core.files import read_text_whole
from pipeline.core.tables import TableError, parse_table, writing_table

ID_COLUMNS = ("video_id", "class_name", "predicted")
PROBABILITY_PREFIX = "p:"
DIGITS = 6  # after the point: float32 networks give no more that is meaningful
PROBABILITY = re.compile(r"0(\.[0-9]{1,20})?|1(\.0{1,20})?")


@dataclass(frozen=True)
class Origin:
    """Where predictions come from, empty where not recorded: digests of model file and manifest, and `views_text`."""

    model: str = ""
    manifest: str = ""
    views: str = ""


# after the probabilities: every row states its origin and has a digest of its own
LAST_COLUMNS = (*(field.name for field in fields(Origin)), "digest")


def views_text(num_clips: int, num_crops: int) -> str:
    """The views of a video as one word: clips × crops."""
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
        """Class indices of the highest probability, rounded as in the file; of equals, the first."""
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

    After them come the origin, the same in all rows, and the row's digest.
    """
    names = predictions.class_names
    columns = [*ID_COLUMNS, *(f"{PROBABILITY_PREFIX}{name}" for name in names), *LAST_COLUMNS]
    rows = zip(predictions.video_ids, predictions.labels_N, predictions.predicted_N, predictions.probs_NK, strict=True)
    with writing_table(path, columns) as add_row:
        for video_id, label, predicted, probs_K in rows:
            row = [video_id, names[label], names[predicted], *(f"{p:.{DIGITS}f}" for p in probs_K)]
            row += astuple(predictions.origin)
            add_row([*row, digest_json(row)])


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote; raises StaleArtifactError with the line where it is not that."""
    labels: list[int] = []
    probs: dict[str, list[float]] = {}
    origins: set[Origin] = set()
    line = 1
    try:
        (_, header), *rows = parse_table(read_text_whole(path))
        try:
            class_names = _read_header(header)
            for line, row in rows:  # noqa: B007 - the message below names it
                label, probs_K = _read_row(row, class_names)
                if row[0] in probs:
                    raise ValueError(f"video_id {row[0]!r} occurs twice")
                labels.append(label)
                probs[row[0]] = probs_K
                origins.add(Origin(*row[-len(LAST_COLUMNS) : -1]))
        except ValueError as error:
            raise TableError([(line, str(error))]) from None
        if len(origins) != 1:
            raise ValueError("its rows are of several models, manifests or views" if origins else "no videos")
    except (OSError, ValueError) as error:
        raise StaleArtifactError(
            f"{path}: not a predictions file: {shortened(str(error))}", remedy="`dvc repro` makes it again"
        ) from None
    labels_N, probs_NK = np.array(labels, dtype=np.int64), np.array([*probs.values()])
    return Predictions(tuple(probs), labels_N, probs_NK, class_names, origins.pop())


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
    if len(row) != expected:
        raise ValueError(f"{len(row)} fields, expected {expected}")
    if row[-1] != digest_json(row[:-1]):
        raise ValueError("it does not have the digest that was written with it")
    for column, value in zip(ID_COLUMNS[1:], row[1:], strict=False):
        if value not in class_names:
            raise ValueError(f"{column}: no class has the name {value!r}")
    probs_K = []
    for name, text in zip(class_names, row[len(ID_COLUMNS) : -len(LAST_COLUMNS)], strict=True):
        if not PROBABILITY.fullmatch(text):
            raise ValueError(f"{PROBABILITY_PREFIX}{name}: expected a number from 0 to 1, not {text!r}")
        probs_K.append(float(text))
    total = sum(probs_K)
    if abs(total - 1) > len(probs_K) * 10**-DIGITS:  # each was rounded by half of the last digit at most
        raise ValueError(f"its probabilities sum to {total:.{DIGITS}f}, not to 1")
    if probs_K[class_names.index(row[2])] < max(probs_K) - 2 * 10**-DIGITS:
        raise ValueError(f"predicted: {row[2]!r} does not have the highest probability")
    return class_names.index(row[1]), probs_K
