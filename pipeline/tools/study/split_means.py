"""The mean of a data set's splits, which is what ARID's papers report.

ARID has three official splits into train and test; an accuracy on it is the mean of the three (Xu et al., "ARID: a new
dataset for recognizing action in the dark", 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import StaleArtifactError
from pipeline.evaluate.metrics_file import MODELS, read_metrics

# The numbers of metrics.json that have a mean: intervals and p-values have none
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

    Raises StaleArtifactError where a file is none, two are of the same videos, or their videos were scored in different
    ways.
    """
    metrics = [read_metrics(path) for path in paths]
    findings = []
    ways = [found.protocol.model_dump(exclude={"manifest"}) for found in metrics]
    for number, (path, found) in enumerate(zip(paths, metrics, strict=True)):
        for earlier_path, earlier in zip(paths[:number], metrics, strict=False):
            if found.protocol.manifest == earlier.protocol.manifest:
                findings.append(f"{earlier_path} and {path} are of the same split: their manifests are equal")
        if ways[number] != ways[0]:
            findings.append(f"{path} was made with {_words(ways[number])}, {paths[0]} with {_words(ways[0])}")
    if findings:
        raise StaleArtifactError(
            "these metrics have no mean",
            findings=findings,
            remedy="make each with the same parameters but for prepare.split: docs/evaluation.md has the commands",
        )
    return [SplitMean(of, name, tuple(getattr(getattr(found, of), name) for found in metrics)) for of, name in NUMBERS]


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
