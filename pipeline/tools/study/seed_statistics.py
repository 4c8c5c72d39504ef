"""Means over seeds with their 95 % intervals, by Student's t: for the few runs that one can afford."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; the interval is mean ± half, and half is None where there is but one seed."""

    mean: float
    half: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of one value a seed, with the interval in which the mean over all seeds lies at 95 %."""
    if len(values) < 2:
        return Estimate(fmean(values), None)
    return Estimate(fmean(values), student_t(CONFIDENCE, len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def student_t(confidence: float, degrees: int) -> float:
    """The t that |T| exceeds with probability 1 − confidence, for a whole number of degrees of freedom."""
    low, high = 0.0, 1.0
    while _share_within(high, degrees) < confidence:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):  # to the last bit
        low, high = (middle, high) if _share_within(middle, degrees) < confidence else (low, middle)
    return high


def _share_within(t: float, degrees: int) -> float:
    """P(|T| ≤ t), a finite series. Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(degrees))
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for step in range(2 + odd, degrees + 1, 2):
        total += term
        term *= (step - 1) / step * math.cos(angle) ** 2
    share = math.sin(angle) * total
    return 2 / math.pi * (angle + share) if odd else share
