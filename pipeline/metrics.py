"""Metrics of predictions. Axes: N videos, K classes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

import pipeline.torchvision_compat  # noqa: F401 - before torchmetrics, which imports torchvision

# isort: split
from torchmetrics.functional.classification import multiclass_accuracy


def top_k_accuracy(probs_NK: NDArray[np.float64], labels_N: NDArray[np.int64], k: int) -> float:
    """Share of the videos whose class is among the k most probable ones."""
    num_classes = probs_NK.shape[1]
    accuracy = multiclass_accuracy(
        torch.from_numpy(probs_NK),
        torch.from_numpy(labels_N),
        num_classes=num_classes,
        top_k=min(k, num_classes),
        average="micro",
    )
    return float(accuracy)


def mean_class_accuracy(predicted_N: NDArray[np.int64], labels_N: NDArray[np.int64], num_classes: int) -> float:
    """Mean over the classes of the share of their videos that is recognised."""
    return float(
        multiclass_accuracy(
            torch.from_numpy(predicted_N), torch.from_numpy(labels_N), num_classes=num_classes, average="macro"
        )
    )


def paired_interval(
    correct_a_N: NDArray[np.bool_], correct_b_N: NDArray[np.bool_], *, num_bootstraps: int, seed: int
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of accuracy a − accuracy b, resampling videos, which both models saw.

    Efron and Tibshirani, "An introduction to the bootstrap", 1993, section 13.3.
    """
    difference_N = correct_a_N.astype(np.int64) - correct_b_N.astype(np.int64)
    # a resample's sum depends only on how often each of −1, 0 and 1 is drawn: one multinomial instead of N indices
    shares = np.array([(difference_N == value).mean() for value in (-1, 0, 1)])
    counts = np.random.default_rng([seed, num_bootstraps]).multinomial(len(difference_N), shares, size=num_bootstraps)
    means = (counts[:, 2] - counts[:, 0]) / len(difference_N)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
