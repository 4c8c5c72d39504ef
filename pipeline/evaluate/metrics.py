"""Metrics of predictions: accuracy and its intervals, KL, calibration. Axes: N videos, K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15  # of confidence, as in the paper's tables


def top_k_accuracy(probs_NK: NDArray[np.float64], labels_N: NDArray[np.int64], k: int) -> float:
    """Share of the videos whose class is among the k most probable ones; of equals, the first class ranks higher."""
    best_NK = np.argsort(-probs_NK, axis=1, kind="stable")[:, :k]
    return float((best_NK == labels_N[:, None]).any(axis=1).mean())


def mean_class_accuracy(predicted_N: NDArray[np.int64], labels_N: NDArray[np.int64]) -> float:
    """Mean over the classes that occur of the share of each class's videos that is recognised."""
    return float(np.mean([(predicted_N[labels_N == label] == label).mean() for label in np.unique(labels_N)]))


def accuracy_interval(correct_N: NDArray[np.bool_], *, num_bootstraps: int, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the accuracy, resampling videos, as in `paired_interval`."""
    # only the number of correct videos in a resample matters, and it is binomial
    counts = np.random.default_rng([seed, num_bootstraps]).binomial(len(correct_N), correct_N.mean(), num_bootstraps)
    low, high = np.percentile(counts / len(correct_N), [2.5, 97.5])
    return float(low), float(high)


def paired_interval(
    correct_a_N: NDArray[np.bool_], correct_b_N: NDArray[np.bool_], *, num_bootstraps: int, seed: int
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of accuracy a − accuracy b, resampling the videos, which both models saw.

    Efron and Tibshirani, "An introduction to the bootstrap", 1993, section 13.3.
    """
    difference_N = correct_a_N.astype(np.int64) - correct_b_N.astype(np.int64)
    # a resample's sum depends only on how often −1, 0 and 1 are drawn: one multinomial instead of N indices
    shares = np.array([(difference_N == value).mean() for value in (-1, 0, 1)])
    counts = np.random.default_rng([seed, num_bootstraps]).multinomial(len(difference_N), shares, size=num_bootstraps)
    means = (counts[:, 2] - counts[:, 0]) / len(difference_N)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mcnemar_p(correct_a_N: NDArray[np.bool_], correct_b_N: NDArray[np.bool_]) -> float:
    """Two-sided p-value of McNemar's exact test of two models that saw the same videos (Psychometrika 12, 1947).

    Only videos that exactly one of the two recognises count: if both were equally good, each of these would be a fair
    coin. 1 where there is no such video.
    """
    only_a, only_b = int((correct_a_N & ~correct_b_N).sum()), int((correct_b_N & ~correct_a_N).sum())
    num_coins, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(comb(num_coins, heads) for heads in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**num_coins))


def mean_kl(probs_a_NK: NDArray[np.float64], probs_b_NK: NDArray[np.float64], *, least: float) -> float:
    """Mean over the videos of KL(a ‖ b) in nats; probabilities below `least` count as `least`, and rows sum to 1."""
    a_NK, b_NK = (np.maximum(probs_NK, least) for probs_NK in (probs_a_NK, probs_b_NK))
    a_NK, b_NK = (probs_NK / probs_NK.sum(axis=1, keepdims=True) for probs_NK in (a_NK, b_NK))
    return float((a_NK * np.log(a_NK / b_NK)).sum(axis=1).mean())


def reliability(
    confidence_N: NDArray[np.float64], correct_N: NDArray[np.bool_], *, num_bins: int = NUM_BINS
) -> list[dict[str, float]]:
    """The bins that have videos, from the least confidence to the highest: how many, mean confidence, and accuracy.

    Their confidence is above `low` and at most `high`; the first bin also holds those of confidence 0.
    Confidence is the probability of the predicted class. Guo et al., "On calibration of modern neural networks", ICML
    2017, section 2.
    """
    edges = np.linspace(0, 1, num_bins + 1)
    index_N = np.maximum(np.searchsorted(edges, confidence_N, side="left") - 1, 0)
    bins = []
    for index in np.unique(index_N).tolist():
        inside_N = index_N == index
        bins.append(
            {
                "low": float(edges[index]),
                "high": float(edges[index + 1]),
                "num_videos": int(inside_N.sum()),
                "confidence": float(confidence_N[inside_N].mean()),
                "accuracy": float(correct_N[inside_N].mean()),
            }
        )
    return bins


def expected_calibration_error(bins: Sequence[Mapping[str, float]]) -> float:
    """Mean over the videos of |accuracy − confidence| of their bin: 0 where each is as accurate as confident."""
    num_videos = sum(found["num_videos"] for found in bins)
    return sum(found["num_videos"] * abs(found["accuracy"] - found["confidence"]) for found in bins) / num_videos
