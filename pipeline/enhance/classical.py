"""Enhancers: the dark frames of a video → enhanced frames of the same shape; the classical ones.

Axes: T frames, H rows, W columns, C the channels red, green, blue; uint8 throughout. The bytes of dark frames may be
codes (pipeline/data/frames.py), those of enhanced frames are display values, rounded once. Histogram methods work on
luma (Y of ITU-R BT.601's YCbCr) of the bytes, whatever these mean, and keep the colour differences. Statistics are
estimated once for a video, or for each frame from a window of frames around it, so that the light does not jump from
frame to frame. The size of batches changes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, ClassVar, Literal, Protocol

import cv2
import numpy as np
import pydantic.dataclasses
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict, Field

from pipeline.core.params import Count, Positive
from pipeline.data.frames import Frame, Frames, Levels, display_values

Table = NDArray[np.uint8]  # (256,): a value for each level
Counts = NDArray[np.int64]  # (256,): how often each level occurs
Statistics = Literal["video", "frame"]

STRICT = ConfigDict(strict=True, extra="forbid")
SAMPLED_FRAMES = 32  # evenly spread over a video, for statistics of the whole of it
MAX_GAMMA = 10.0  # of gamma_auto: no gamma lifts black frames to any mean
_BATCH_PIXELS = 1 << 22  # of frames in memory at a time
_BATCH_FRAMES = 32
_EXACT_COUNT = 1 << 24  # whole numbers that float32 holds


class Video(Protocol):
    """The dark frames of one video, read on demand."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, H, W)."""

    @property
    def levels(self) -> Levels:
        """What the bytes of its frames mean."""

    def read(self, numbers: Sequence[int]) -> Frames:
        """The frames with these numbers: (T, H, W, C) uint8."""


FrameFunction = Callable[[Frames, int], Frames]
"""Consecutive dark frames (T, H, W, C) of a video and the number of the first → the enhanced ones."""


class Enhancer(Protocol):
    """Makes a function of a video's frames, which does not change its input."""

    def for_video(self, video: Video) -> FrameFunction:
        """The function for this video, with its statistics of the whole of it."""


def enhanced_batches(enhancer: Enhancer, video: Video) -> Iterator[Frames]:
    """The enhanced frames of a video, in order, in batches (T, H, W, C) that fit in memory however long it is."""
    enhance = enhancer.for_video(video)
    for numbers in frame_batches(video.shape):
        dark_THWC = video.read(numbers)
        enhanced_THWC = enhance(dark_THWC, numbers.start)
        assert enhanced_THWC.shape == dark_THWC.shape, (enhanced_THWC.shape, dark_THWC.shape)
        yield enhanced_THWC


def frame_batches(shape: tuple[int, int, int]) -> Iterator[range]:
    """The frame numbers of a video of that (T, H, W), in order, in batches of at most 32 frames and 4 megapixels."""
    num_frames, height, width = shape
    step = min(_BATCH_FRAMES, max(1, _BATCH_PIXELS // (height * width)))
    for start in range(0, num_frames, step):
        yield range(start, min(start + step, num_frames))


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Unchanged:
    """The frames as they are, codes as codes: a teacher that sees the dark too."""

    name: ClassVar[str] = "none"

    def for_video(self, video: Video) -> FrameFunction:
        """The identity."""
        return lambda frames_THWC, first: frames_THWC


def levels_after(enhancer: object, dark: Levels) -> Levels:
    """What the bytes of enhanced frames mean: display values, but where the dark frames stay as they are."""
    return dark if isinstance(enhancer, Unchanged) else "linear"


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Gamma:
    """255 · (x / 255) ^ (1 / gamma), rounded; above 1 it lifts the dark (gamma intensity correction)."""

    name: ClassVar[str] = "gamma"
    gamma: Positive

    def for_video(self, video: Video) -> FrameFunction:
        """One table for all frames."""
        table = gamma_table(self.gamma, video.levels)
        return lambda frames_THWC, first: _look_up(table, frames_THWC)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class GammaAuto:
    """The gamma between 1 and 10 that lifts the mean of all values to `target_mean`, a share of white.

    statistics: "video" takes one gamma for a video, from 32 of its frames; "frame" one for each frame, from the
    `smoothing` frames around it.
    """

    name: ClassVar[str] = "gamma_auto"
    target_mean: Annotated[float, Field(gt=0, lt=1)]
    statistics: Statistics
    smoothing: Count

    def for_video(self, video: Video) -> FrameFunction:
        """A table of the video, or of the frames around each."""

        def make_table(counts: Counts) -> Table:
            return gamma_table(gamma_to_mean(counts, self.target_mean, video.levels), video.levels)

        return _by_counts(video, self.statistics, self.smoothing, _count_values, make_table, _look_up)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Equalize:
    """Histogram equalisation of luma: each level goes to its share of the pixels that are as dark or darker.

    statistics: "video" counts 32 frames of the video and maps all frames alike; "frame" counts the `smoothing` frames
    around each, and with a smoothing of 1 is OpenCV's equalizeHist of every frame.
    """

    name: ClassVar[str] = "equalize"
    statistics: Statistics
    smoothing: Count

    def for_video(self, video: Video) -> FrameFunction:
        """A table of the video, or of the frames around each."""

        def apply(table: Table, frames_THWC: Frames) -> Frames:
            return _map_luma(lambda luma_HW: cv2.LUT(luma_HW, table), frames_THWC)

        return _by_counts(video, self.statistics, self.smoothing, count_luma, equalization_table, apply)


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Clahe:
    """Contrast-limited adaptive histogram equalisation of each frame's luma (Zuiderveld 1994), by OpenCV.

    clip_limit: in multiples of a tile's mean histogram count. grid: tiles along either side. Every frame by itself:
    its statistics are those of small tiles through which things move.
    """

    name: ClassVar[str] = "clahe"
    clip_limit: Positive
    grid: Count

    def for_video(self, video: Video) -> FrameFunction:
        """Equalises frame by frame, tile by tile."""
        clahe = cv2.createCLAHE(clipLimit=self.clip_limit, tileGridSize=(self.grid, self.grid))
        return lambda frames_THWC, first: _map_luma(lambda luma_HW: clahe.apply(luma_HW), frames_THWC)


def gamma_table(gamma: float, levels: Levels = "linear") -> Table:
    """255 · (value / 255) ^ (1 / gamma) of each byte's value, rounded."""
    shares = display_values(levels).astype(np.float64) / 255.0
    table: Table = np.rint(255.0 * shares ** (1.0 / gamma)).astype(np.uint8)
    return table


def gamma_to_mean(counts: Counts, target_mean: float, levels: Levels = "linear") -> float:
    """The gamma from 1 to 10 at which bytes with these counts have this mean, as a share of white, or the nearest."""
    shares = counts / counts.sum()
    values = display_values(levels).astype(np.float64) / 255.0

    def mean(gamma: float) -> float:
        return float(shares @ values ** (1.0 / gamma))

    low, high = 1.0, MAX_GAMMA
    if mean(low) >= target_mean:
        return low
    if mean(high) <= target_mean:
        return high
    for _ in range(40):  # the mean rises with gamma; 2^-40 of the range is far below what a table shows
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < target_mean else (low, middle)
    return low


def equalization_table(counts: Counts) -> Table:
    """255 · the share of pixels that are as dark or darker; pixels of the darkest level count nowhere and become 0."""
    darkest = int(counts.nonzero()[0][0])
    others = int(counts.sum() - counts[darkest])
    if others == 0:  # one level alone stays what it is
        return np.arange(256, dtype=np.uint8)
    above = np.maximum(counts.cumsum() - counts[darkest], 0)
    table: Table = np.rint(above * (255.0 / others)).astype(np.uint8)
    return table


def _by_counts(
    video: Video,
    statistics: Statistics,
    smoothing: int,
    count: Callable[[Frame], Counts],
    make_table: Callable[[Counts], Table],
    apply: Callable[[Table, Frames], Frames],
) -> FrameFunction:
    """A function that applies the table of the video's counts, or to each frame that of the counts around it."""
    num_frames = video.shape[0]
    if statistics == "video":
        numbers = np.unique(np.linspace(0, num_frames - 1, SAMPLED_FRAMES).round().astype(int))
        # one at a time: 32 frames of a large video are a lot of memory
        table = make_table(_sum(count(video.read([number])[0]) for number in numbers.tolist()))
        return lambda frames_THWC, first: apply(table, frames_THWC)

    reach = smoothing // 2
    counted: dict[int, Counts] = {}

    def around(number: int) -> Counts:
        window = range(max(0, number - reach), min(num_frames, number + reach + 1))
        for old in [frame for frame in counted if frame < window.start]:
            del counted[old]
        for frame in window:
            if frame not in counted:
                counted[frame] = count(video.read([frame])[0])
        return _sum(counted[frame] for frame in window)

    def enhance(frames_THWC: Frames, first: int) -> Frames:
        counted.update(zip(range(first, first + len(frames_THWC)), map(count, frames_THWC), strict=True))
        tables = [make_table(around(number)) for number in range(first, first + len(frames_THWC))]
        return np.concatenate([apply(table, frames_THWC[k : k + 1]) for k, table in enumerate(tables)])

    return enhance


def _sum(counts: Iterable[Counts]) -> Counts:
    return functools.reduce(np.add, counts)


def _count_values(frame: Frame) -> Counts:
    return _count(frame.reshape(len(frame), -1))


def count_luma(frame: Frame) -> Counts:
    """How many pixels of a frame (H, W, C) have each luma, 0 to 255: (256,)."""
    return _count(np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)[..., 0], np.uint8))


def mean_level(counts: Counts) -> float:
    """The mean of the levels that were counted."""
    return float(counts @ np.arange(256) / counts.sum())


def _count(values_HW: NDArray[np.uint8]) -> Counts:
    """How often each level occurs: ten times faster than bincount, which turns each value into 8 bytes."""
    rows = max(1, _EXACT_COUNT // values_HW.shape[1])  # OpenCV counts in float32
    blocks = (np.ascontiguousarray(values_HW[start : start + rows]) for start in range(0, len(values_HW), rows))
    return _sum(cv2.calcHist([block], [0], None, [256], [0, 256]).ravel().astype(np.int64) for block in blocks)


def _look_up(table: Table, frames_THWC: Frames) -> Frames:
    return np.asarray(cv2.LUT(frames_THWC.reshape(1, -1), table), np.uint8).reshape(frames_THWC.shape)


def _map_luma(function: Callable[[NDArray[np.uint8]], ArrayLike], frames_THWC: Frames) -> Frames:
    enhanced_THWC = np.empty_like(frames_THWC)
    for frame, enhanced in zip(frames_THWC, enhanced_THWC, strict=True):
        luma_HWC = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)
        luma_HWC[..., 0] = function(np.ascontiguousarray(luma_HWC[..., 0]))
        cv2.cvtColor(luma_HWC, cv2.COLOR_YCrCb2RGB, dst=enhanced)
    return enhanced_THWC
