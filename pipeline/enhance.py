"""Enhancers: dark frames → enhanced frames of the same shape, and the model file that a fitted one is.

Axes: T frames, H rows, W columns, C the channels red, green, blue; uint8 throughout. An enhancer treats each frame by
itself, so that frames may come in batches of any size. Histogram methods work on luma (Y of ITU-R BT.601's YCbCr) and
keep the colour differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import StaleArtifactError
from pipeline.weights import read_attributes, save_weights

FORMAT = "dlkdd enhancer"
FORMAT_VERSION = 1

Frames = NDArray[np.uint8]


class Enhancer(Protocol):
    """A function of frames; it does not change what it is given."""

    def __call__(self, frames_THWC: Frames) -> Frames:
        """(T, H, W, C) uint8 → the same shape and type."""


@dataclass(frozen=True)
class Unchanged:
    """The frames as they are: a teacher that sees the dark too."""

    name: ClassVar[str] = "none"

    def __call__(self, frames_THWC: Frames) -> Frames:
        """Return the frames themselves."""
        return frames_THWC


@dataclass(frozen=True)
class Gamma:
    """255 · (x / 255) ^ (1 / gamma), rounded; above 1 it lifts the dark (gamma intensity correction)."""

    name: ClassVar[str] = "gamma"
    gamma: float

    def __post_init__(self) -> None:
        _check_positive("gamma", self.gamma)

    def __call__(self, frames_THWC: Frames) -> Frames:
        """Look each value up."""
        table = np.rint(255.0 * (np.arange(256) / 255.0) ** (1.0 / self.gamma)).astype(np.uint8)
        return np.asarray(cv2.LUT(frames_THWC.reshape(1, -1), table), np.uint8).reshape(frames_THWC.shape)


@dataclass(frozen=True)
class Equalize:
    """Histogram equalisation of each frame's luma."""

    name: ClassVar[str] = "equalize"

    def __call__(self, frames_THWC: Frames) -> Frames:
        """Equalise frame by frame."""
        return _map_luma(lambda luma_HW: cv2.equalizeHist(luma_HW), frames_THWC)


@dataclass(frozen=True)
class Clahe:
    """Contrast-limited adaptive histogram equalisation of each frame's luma (Zuiderveld 1994), by OpenCV.

    clip_limit: in multiples of a tile's mean histogram count. grid: tiles along either side.
    """

    name: ClassVar[str] = "clahe"
    clip_limit: float
    grid: int

    def __post_init__(self) -> None:
        _check_positive("clip_limit", self.clip_limit)
        if isinstance(self.grid, bool) or not isinstance(self.grid, int) or self.grid < 1:
            raise ValueError(f"grid is a whole number from 1, not {self.grid!r}")

    def __call__(self, frames_THWC: Frames) -> Frames:
        """Equalise frame by frame, tile by tile."""
        clahe = cv2.createCLAHE(clipLimit=self.clip_limit, tileGridSize=(self.grid, self.grid))
        return _map_luma(lambda luma_HW: clahe.apply(luma_HW), frames_THWC)


ENHANCERS: dict[str, type[Unchanged | Gamma | Equalize | Clahe]] = {
    kind.name: kind for kind in (Unchanged, Gamma, Equalize, Clahe)
}


def make_enhancer(name: str, parameters: Mapping[str, Any]) -> Unchanged | Gamma | Equalize | Clahe:
    """The enhancer of that name. Raises ValueError for an unknown one, or for other parameters than it takes."""
    if name not in ENHANCERS:
        raise ValueError(f"{name!r} is none of {', '.join(ENHANCERS)}")
    try:
        return ENHANCERS[name](**parameters)
    except TypeError as error:
        raise ValueError(str(error)) from None


def save_enhancer(path: Path, enhancer: Unchanged | Gamma | Equalize | Clahe) -> None:
    """Write an enhancer's model file; classical enhancers have parameters and no tensors."""
    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "enhancer": enhancer.name,
        "parameters": asdict(enhancer),
    }
    save_weights(path, {}, attributes)


def load_enhancer(path: Path) -> Enhancer:
    """Read an enhancer's model file. Raises StaleArtifactError where it is damaged or of another format."""
    attributes = read_attributes(path)
    found = attributes.get("format"), attributes.get("format_version")
    if found != (FORMAT, FORMAT_VERSION):
        raise StaleArtifactError(
            f"{path}: {found[0]} of version {found[1]} where a {FORMAT} of version {FORMAT_VERSION} is expected",
            remedy="make it again with `dvc repro`",
        )
    try:
        return make_enhancer(attributes["enhancer"], attributes["parameters"])
    except (KeyError, ValueError) as error:
        raise StaleArtifactError(
            f"{path}: no usable enhancer: {error}", remedy="make it again with `dvc repro`"
        ) from None


def _check_positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, float | int) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is a number above 0, not {value!r}")


def _map_luma(function: Callable[[NDArray[np.uint8]], ArrayLike], frames_THWC: Frames) -> Frames:
    enhanced_THWC = np.empty_like(frames_THWC)
    for frame, enhanced in zip(frames_THWC, enhanced_THWC, strict=True):
        luma_HWC = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)
        luma_HWC[..., 0] = function(np.ascontiguousarray(luma_HWC[..., 0]))
        cv2.cvtColor(luma_HWC, cv2.COLOR_YCrCb2RGB, dst=enhanced)
    return enhanced_THWC
