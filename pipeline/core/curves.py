"""Curves of trainings and fits: a row of numbers for each epoch or point, and the CSV that `dvc plots` reads."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.files import written_whole

Curve = list[dict[str, float]]


def write_curve(path: Path, curve: Curve, *, if_empty: Sequence[str] = ()) -> None:
    """Six digits of every number, under the names of the first row; of an empty curve the heading `if_empty` alone."""
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(curve[0]) if curve else if_empty, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in curve)


def read_curve(path: Path) -> Curve:
    """What `write_curve` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
