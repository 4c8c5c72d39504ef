"""Metrics of predictions. Axes: N videos, K classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top_k_accuracy(probs_NK: NDArray[np.float64], labels_N: NDArray[np.int64], k: int) -> float:
    """Share of the videos whose class is among the k most probable ones; of equals, the first class counts as more."""
    best_NK = np.argsort(-probs_NK, axis=1, kind="stable")[:, :k]
    return float((best_NK == labels_N[:, None]).any(axis=1).mean())


def mean_class_accuracy(predicted_N: NDArray[np.int64], labels_N: NDArray[np.int64]) -> float:
    """Mean over the classes that occur of the share of their videos that is recognised."""
    return float(np.mean([(predicted_N[labels_N == label] == label).mean() for label in np.unique(labels_N)]))


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
