"""The mean of a data set's splits, which is what ARID's papers report.

ARID has three official splits into train and test; an accuracy on it is the mean of the three (Xu et al., "ARID: a new
dataset for recognizing action in the dark", 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.core.errors import StaleArtifactError
from pipeline.evaluate.metrics_file import MODELS, read_evaluation


def mean_of_splits(paths: Sequence[Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """Of several evaluation.json, one a split: each number's `mean`, and the `splits` in the order of the files.

    They are those of each model that have a mean, which intervals and p-values have not, and the student's gain.
    Raises StaleArtifactError where a file is none, two are of the same videos, or their videos were scored in different
    ways.
    """
    metrics = [read_evaluation(path) for path in paths]
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
    single = ("top1", "top5", "mean_class_top1", "ece")
    names = {**dict.fromkeys(MODELS, single), "student_minus_baseline": ("top1",)}
    values = [found.model_dump() for found in metrics]
    return {of: {name: _mean([found[of][name] for found in values]) for name in names[of]} for of in names}


def _mean(splits: list[float]) -> dict[str, Any]:
    return {"mean": round(fmean(splits), 6), "splits": splits}


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
