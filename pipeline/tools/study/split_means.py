"""The mean of a data set's splits, which is what ARID's papers report.

ARID has three official splits into train and test; an accuracy on it is the mean of the three (Xu et al., "ARID: a new
dataset for recognizing action in the dark", 2020).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.digest import has_valid_digest
from pipeline.core.errors import StaleArtifactError

# Where in metrics.json the numbers are whose mean says something; intervals and p-values have none
MODELS = ("teacher", "student", "baseline")
NUMBERS = (
    *((model, name) for model in MODELS for name in ("top1", "top5", "mean_class_top1", "ece")),
    ("student_minus_baseline", "top1"),
)


@dataclass(frozen=True)
class SplitMean:
    """A number of the splits, in the order of their files, and its mean."""

    of: str
    name: str
    splits: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the splits, each with the same weight."""
        return sum(self.splits) / len(self.splits)


def mean_of_splits(paths: Sequence[Path]) -> list[SplitMean]:
    """Means of the numbers of several metrics.json, one a split.

    Raises StaleArtifactError where a file is no such, two are of the same videos, or they were made in different ways.
    """
    metrics = [_read(path) for path in paths]
    findings = []
    for number, (path, found) in enumerate(zip(paths, metrics, strict=True)):
        for earlier_path, earlier in zip(paths[:number], metrics, strict=False):
            if found["protocol"]["manifest"] == earlier["protocol"]["manifest"]:
                findings.append(f"{earlier_path} and {path} are of the same split: their manifests are equal")
        ways = {name: value for name, value in found["protocol"].items() if name != "manifest"}
        first = {name: value for name, value in metrics[0]["protocol"].items() if name != "manifest"}
        if ways != first:
            findings.append(f"{path} was made with {_words(ways)}, {paths[0]} with {_words(first)}")
    if findings:
        raise StaleArtifactError(
            "these metrics have no mean",
            findings=findings,
            remedy="make each with the same parameters but for prepare.split: docs/evaluation.md has the commands",
        )
    return [SplitMean(of, name, tuple(found[of][name] for found in metrics)) for of, name in NUMBERS]


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "digest" in found and not has_valid_digest(found):
            raise ValueError("it does not have the digest that was written with it")
        for of, name in NUMBERS:
            if not isinstance(found[of][name], int | float):
                raise TypeError(f"{of}.{name} is not a number")
        found["protocol"]["manifest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise StaleArtifactError(
            f"{path}: not the metrics of three models: {reason}",
            remedy="`dlkdd evaluate` writes them, results/metrics.json",
        ) from None
    return found


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
