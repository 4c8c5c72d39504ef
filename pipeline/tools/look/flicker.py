"""Flicker: how much an enhancer makes the light jump, and the grain grow, where nothing moves.

Axes: T frames, H rows, W columns, C the channels red, green, blue. Luma is Y of ITU-R BT.601, in levels of 0 to 255.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.frames import Frames

LUMA = np.array([0.299, 0.587, 0.114], np.float32)

# A pixel is background where its dark luma varies by no more than grain does: FACTS of real dark clips give 0.3 levels
# of noise below level 16, 1.5 at 32 to 64 and 3 at 64 to 128
STILL_LEVELS = 1.0
STILL_SHARE = 0.04  # of the pixel's own mean


@dataclass(frozen=True)
class Flicker:
    """Mean absolute changes from one frame to the next, in levels, over the background.

    light: of the background's mean, the light as a whole. grain: of single pixels. background: the background's share
    of the frame; 0 where everything moves, and light and grain are not a number then.
    """

    light: float
    grain: float
    background: float


def measure_flicker(dark_THWC: Frames, enhanced_THWC: Frames) -> Flicker:
    """The flicker of enhanced frames over the background that their dark frames show.

    Raises ValueError on other shapes, and on fewer than two frames.
    """
    if dark_THWC.shape != enhanced_THWC.shape or len(dark_THWC) < 2:
        raise ValueError(
            f"flicker is measured on two frames and more of one shape, not {dark_THWC.shape} and {enhanced_THWC.shape}"
        )
    still_HW = background(dark_THWC)
    if not still_HW.any():
        return Flicker(float("nan"), float("nan"), 0.0)
    luma_TP = (enhanced_THWC[:, still_HW] @ LUMA).astype(np.float64)  # P pixels of the background
    light = np.abs(np.diff(luma_TP.mean(axis=1))).mean()
    grain = np.abs(np.diff(luma_TP, axis=0)).mean()
    return Flicker(float(light), float(grain), float(still_HW.mean()))


def mean_flicker(found: Iterable[Flicker]) -> Flicker | None:
    """The mean over the videos that have a background; None where none has."""
    still = [flicker for flicker in found if flicker.background > 0]
    if not still:
        return None
    return Flicker(
        light=float(np.mean([flicker.light for flicker in still])),
        grain=float(np.mean([flicker.grain for flicker in still])),
        background=float(np.mean([flicker.background for flicker in still])),
    )


def flicker_text(found: Iterable[Flicker]) -> str:
    """For a person: `flicker 0.12, grain 1.6`, the mean of some videos in levels; empty where none has a background."""
    mean = mean_flicker(found)
    return "" if mean is None else f"flicker {mean.light:.2f}, grain {mean.grain:.1f}"


def background(dark_THWC: Frames) -> NDArray[np.bool_]:
    """(H, W): the pixels whose luma has a standard deviation over time of at most 1 level plus 4 % of its mean."""
    luma_THW = dark_THWC @ LUMA
    still_HW: NDArray[np.bool_] = luma_THW.std(axis=0) <= STILL_LEVELS + STILL_SHARE * luma_THW.mean(axis=0)
    return still_HW
