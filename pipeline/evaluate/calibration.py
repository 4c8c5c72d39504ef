"""How far a model's confidence can be believed.

Confidence is the probability of the predicted class. Guo et al., "On calibration of modern neural networks", ICML 2017,
section 2: bins of equal width, each with its mean confidence and accuracy. Axis: N videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15  # as in the paper's tables


@dataclass(frozen=True)
class Bin:
    """Videos whose confidence is above `low` and at most `high`: how many, their mean confidence and their accuracy.

    The first bin has those of confidence 0 as well.
    """

    low: float
    high: float
    num_videos: int
    confidence: float
    accuracy: float


def reliability(confidence_N: NDArray[np.float64], correct_N: NDArray[np.bool_], *, num_bins: int) -> list[Bin]:
    """The bins that have videos, from the least confidence to the highest."""
    edges = np.linspace(0, 1, num_bins + 1)
    index_N = np.maximum(np.searchsorted(edges, confidence_N, side="left") - 1, 0)
    bins = []
    for index in np.unique(index_N).tolist():
        inside_N = index_N == index
        bins.append(
            Bin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                num_videos=int(inside_N.sum()),
                confidence=float(confidence_N[inside_N].mean()),
                accuracy=float(correct_N[inside_N].mean()),
            )
        )
    return bins


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean over the videos of |accuracy − confidence| of their bin: 0 where every bin keeps what it promises."""
    num_videos = sum(found.num_videos for found in bins)
    return sum(found.num_videos * abs(found.accuracy - found.confidence) for found in bins) / num_videos
