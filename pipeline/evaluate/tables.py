"""Where models are right and wrong: by class, by light, by length, by confidence, and video by video.

A table is a list of rows, dicts of one set of columns. Models are given by name, with predictions of the same videos in
the same order; what holds for a group of videos is the share of them that a model recognises. Axis: N videos.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.digest import digest_file, digest_json
from pipeline.core.errors import StaleArtifactError
from pipeline.core.files import written_whole
from pipeline.data.manifest import ManifestRow
from pipeline.evaluate.metrics import reliability
from pipeline.evaluate.score.predictions import DIGITS, Predictions

Row = dict[str, str | int | float]
Table = list[Row]


def make_tables(
    predictions: Mapping[str, Predictions], rows: Sequence[ManifestRow], luma: Mapping[str, float]
) -> dict[str, Table]:
    """All tables by name; `rows` are those of the manifest, in the order of the predictions, `luma` is by video id.

    Raises StaleArtifactError where the light of a video is not known.
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
    """A row for each quarter of the videos by a value, from its least to its highest; equal values are in one quarter.

    Where many values are equal, there are fewer than four.
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
        {"model": name, **asdict(found_bin)}
        for name, found in predictions.items()
        for found_bin in reliability(found.confidence_N, found.correct_N)
    ]


def per_video(
    predictions: Mapping[str, Predictions], luma_N: NDArray[np.float64], num_frames_N: NDArray[np.int64]
) -> Table:
    """A row for each video: what it is, what each model took it for, and the probability that it gave to the truth."""
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
        with written_whole(folder / f"{name}.csv") as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rounded(row) for row in table)


def digest_tables(folder: Path) -> str:
    """Digest of the tables of `evaluate` with their names."""
    return digest_json({path.name: digest_file(path) for path in sorted(folder.glob("*.csv"))})


def rounded(row: Row) -> Row:
    """The row with its numbers rounded to six digits after the point."""
    return {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in row.items()}


def _recognised(predictions: Mapping[str, Predictions], inside_N: NDArray[np.bool_]) -> Row:
    shares = {name: float(found.correct_N[inside_N].mean()) for name, found in predictions.items()}
    return {"num_videos": int(inside_N.sum()), **shares}
