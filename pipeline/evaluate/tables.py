"""Where models are right and wrong: by class, by light, by length, by confidence, and video by video.

A table is a list of rows, dicts with the same columns. Models are given by name, with predictions of the same videos in
the same order; for a group of videos a table has the share that each model recognises. Axis: N videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.digest import digest_file, digest_json
from pipeline.core.errors import StaleArtifactError
from pipeline.core.tables import Reader, TableError, number, read_table, whole_number, write_table
from pipeline.data.manifest import ManifestRow
from pipeline.evaluate.metrics import reliability
from pipeline.evaluate.metrics_file import MODELS
from pipeline.evaluate.score.predictions import DIGITS, Predictions

Row = dict[str, Any]  # of texts, whole numbers and numbers
Table = list[Row]

_SHARES: dict[str, Reader] = {"num_videos": whole_number, **dict.fromkeys(MODELS, number)}
_BAND: dict[str, Reader] = {"low": number, "high": number}
_COLUMNS: dict[str, dict[str, Reader]] = {
    "per_class": {"class_name": str, **_SHARES},
    "by_light": _BAND | _SHARES,
    "by_length": _BAND | _SHARES,
    "reliability": {"model": str, **_BAND, "num_videos": whole_number, "confidence": number, "accuracy": number},
    "videos": {
        "video_id": str,
        "class_name": str,
        "mean_luma": number,
        "num_frames": whole_number,
        **{f"{name}_{what}": read for name in MODELS for what, read in (("predicted", str), ("p_true", number))},
    },
}


def make_tables(
    predictions: Mapping[str, Predictions], rows: Sequence[ManifestRow], luma: Mapping[str, float]
) -> dict[str, Table]:
    """All tables by name; `rows` are those of the manifest, in the order of the predictions, `luma` is by video id.

    Raises StaleArtifactError where the light of a video is unknown.
    """
    missing = [row.video_id for row in rows if row.video_id not in luma]
    if missing:
        raise StaleArtifactError(
            f"the table of mean lumas lacks {len(missing)} of {len(rows)} videos, the first is {missing[0]}",
            remedy="`dvc repro measure_light` makes it again from the frames",
        )
    luma_N = np.array([luma[row.video_id] for row in rows])
    num_frames_N = np.array([row.num_frames for row in rows])
    return {
        "per_class": per_class(predictions),
        "by_light": by_quartile(luma_N, predictions),
        "by_length": by_quartile(num_frames_N, predictions),
        "reliability": by_confidence(predictions),
        "videos": per_video(predictions, luma_N, num_frames_N),
    }


def per_class(predictions: Mapping[str, Predictions]) -> Table:
    """A row for each class that has videos, in the order of the classes."""
    any_of = next(iter(predictions.values()))
    return [
        {"class_name": any_of.class_names[label], **_recognised(predictions, any_of.labels_N == label)}
        for label in np.unique(any_of.labels_N).tolist()
    ]


def by_quartile(values_N: NDArray[np.number], predictions: Mapping[str, Predictions]) -> Table:
    """A row for each quarter of the videos by a value, in ascending order; equal values are in one quarter.

    Where many values are equal there are fewer than four.
    """
    group_N = np.searchsorted(np.quantile(values_N, (0.25, 0.5, 0.75)), values_N, side="left")
    table: Table = []
    for group in np.unique(group_N).tolist():
        inside_N = group_N == group
        bounds = {"low": values_N[inside_N].min().item(), "high": values_N[inside_N].max().item()}
        table.append({**bounds, **_recognised(predictions, inside_N)})
    return table


def by_confidence(predictions: Mapping[str, Predictions]) -> Table:
    """For each model a row for each bin of confidence that has videos."""
    return [
        {"model": name, **found_bin}
        for name, found in predictions.items()
        for found_bin in reliability(found.confidence_N, found.correct_N)
    ]


def per_video(
    predictions: Mapping[str, Predictions], luma_N: NDArray[np.float64], num_frames_N: NDArray[np.int64]
) -> Table:
    """A row for each video: what it is, each model's prediction and its probability of the true class."""
    any_of = next(iter(predictions.values()))
    predicted = {name: found.predicted_N.tolist() for name, found in predictions.items()}
    table: Table = []
    for index, (video_id, label) in enumerate(zip(any_of.video_ids, any_of.labels_N.tolist(), strict=True)):
        row: Row = {
            "video_id": video_id,
            "class_name": any_of.class_names[label],
            "mean_luma": float(luma_N[index]),
            "num_frames": int(num_frames_N[index]),
        }
        for name, found in predictions.items():
            row[f"{name}_predicted"] = found.class_names[predicted[name][index]]
            row[f"{name}_p_true"] = float(found.probs_NK[index, label])
        table.append(row)
    return table


def write_tables(folder: Path, tables: Mapping[str, Table]) -> None:
    """A CSV file for each table, `<folder>/<name>.csv`, with numbers to six digits after the point."""
    for name, table in tables.items():
        write_table(folder / f"{name}.csv", table[0], (rounded(row).values() for row in table))


def read_tables(folder: Path) -> dict[str, Table]:
    """What `write_tables` wrote of teacher, student and baseline; raises like `read_rows`."""
    return {name: read_rows(folder / f"{name}.csv", columns) for name, columns in _COLUMNS.items()}


def read_rows(path: Path, columns: Mapping[str, Reader]) -> Table:
    """The rows of a table with exactly these columns, at least one; raises StaleArtifactError with the line."""
    try:
        rows = read_table(path, columns)
        if not rows:
            raise ValueError("no rows")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StaleArtifactError(f"{path}: cannot be used: {reason}", remedy="`dvc repro` makes it again") from None
    return rows


def digest_tables(folder: Path) -> str:
    """Digest of the tables of `evaluate` with their names."""
    return digest_json({path.name: digest_file(path) for path in sorted(folder.glob("*.csv"))})


def rounded(row: Row) -> Row:
    """The row with its numbers rounded to six digits after the point."""
    return {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in row.items()}


def _recognised(predictions: Mapping[str, Predictions], inside_N: NDArray[np.bool_]) -> Row:
    shares = {name: float(found.correct_N[inside_N].mean()) for name, found in predictions.items()}
    return {"num_videos": int(inside_N.sum()), **shares}


def write_light(path: Path, luma: Mapping[str, float]) -> None:
    """CSV with a row for every video, in the order of `luma`: its id and its mean luma, 0 to 255."""
    write_table(path, _LIGHT_COLUMNS, luma.items())


def read_light(path: Path) -> dict[str, float]:
    """Mean luma by video id; raises StaleArtifactError with the line where the file is not what `write_light` wrote."""
    luma: dict[str, float] = {}
    try:
        for line, row in enumerate(read_table(path, _LIGHT_COLUMNS), start=2):
            if row["video_id"] in luma:
                raise TableError([(line, f"{row['video_id']} occurs twice")])
            luma[row["video_id"]] = row["mean_luma"]
    except (OSError, ValueError) as error:
        raise StaleArtifactError(
            f"{path}: not a table of mean lumas: {error}", remedy="`dvc repro measure_light` makes it again"
        ) from None
    return luma


def _level(text: str) -> float:
    value = number(text)
    if not 0 <= value <= 255:
        raise ValueError(f"expected a number from 0 to 255, not {text}")
    return value


_LIGHT_COLUMNS: dict[str, Reader] = {"video_id": str, "mean_luma": _level}
