"""Windows of a video, and their clips, from frames that come once and in order.

A window is cut into clips as `score` cuts a whole video (views.uniform_view). Memory holds the frames that unfinished
clips need, however long the video is.

Axes: T frames, H rows, W columns, C the channels red, green, blue; uint8.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
from torch import Tensor

from pipeline.core.params import ClipParams
from pipeline.data.frames import Frame
from pipeline.data.views import View, clip_of_box, frame_numbers, uniform_view

ROUNDING_SECONDS = 0.001  # of time stamps


@dataclass(frozen=True)
class Window:
    """Consecutive frames of a video: the number of the first, and how many.

    seconds: from the video's start to the window's start and end, where it follows time stamps.
    """

    first_frame: int
    num_frames: int
    seconds: tuple[float, float] | None = None

    @property
    def end(self) -> int:
        """The number of the frame behind the last."""
        return self.first_frame + self.num_frames


@dataclass(frozen=True)
class WindowClip:
    """One clip of a window. `weight`: how many of the window's clips it stands for; in short windows some are equal."""

    window: Window
    weight: int
    clip_THWC: Tensor


def windows_of(num_frames: int, *, length: int, hop: int) -> Iterator[Window]:
    """Windows of `length` frames, `hop` frames from one to the next; the last one ends with the video.

    A video no longer than a window is one window.
    """
    last = max(num_frames - length, 0)
    for first in range(0, last, hop):
        yield Window(first, length)
    yield Window(last, min(length, num_frames))


def windows_in_time(times: Sequence[float], *, length: float, hop: float) -> Iterator[Window]:
    """Windows of `length` seconds, `hop` seconds from one to the next, each of the frames that are shown in it.

    times: in seconds, those of the frames and of the end of the last one. The last window ends with the video.
    """
    last = max(times[-1] - times[0] - length, 0.0)
    before = math.ceil(max(last - ROUNDING_SECONDS, 0) / hop)
    for start in chain((number * hop for number in range(before)), [last]):
        stop = min(start + length, times[-1] - times[0])
        first = bisect_right(times, times[0] + start + ROUNDING_SECONDS) - 1
        end = bisect_left(times, times[0] + stop - ROUNDING_SECONDS)
        yield Window(first, max(end - first, 1), (start, stop))


def endless_windows(*, length: int, hop: int) -> Iterator[Window]:
    """Windows of `length` frames, `hop` frames from one to the next, of a video without end."""
    for number in count():
        yield Window(number * hop, length)


def read_clips(
    frames: Iterable[Frame], windows: Iterator[Window], clip: ClipParams, *, num_clips: int, num_crops: int
) -> Iterator[WindowClip]:
    """`num_clips` × `num_crops` views of each window, each as soon as its last frame has come, until the frames end.

    frames: (H, W, C), all of one size. windows: sorted; those of one length are completed in order. Views that the
    frames do not reach are omitted.
    """
    upcoming = next(windows, None)
    waiting: list[_Awaited] = []
    kept: dict[int, Frame] = {}
    for number, frame in enumerate(frames):
        while upcoming is not None and upcoming.first_frame <= number:
            waiting += _awaited(upcoming, frame.shape[:2], clip, num_clips, num_crops)
            upcoming = next(windows, None)
        if any(number in awaited.needed for awaited in waiting):
            kept[number] = frame.copy()
        for awaited in [awaited for awaited in waiting if awaited.last == number]:
            yield awaited.made_of(kept, clip)
            waiting.remove(awaited)
        first = min((awaited.first for awaited in waiting), default=number + 1)
        for old in [old for old in kept if old < first]:
            del kept[old]


@dataclass(frozen=True, eq=False)
class _Awaited:
    """A clip whose frames have not all come yet; `view` is relative to the window."""

    window: Window
    view: View
    weight: int
    numbers: tuple[int, ...]  # of frames of the video, in the clip's order
    needed: frozenset[int]

    @property
    def first(self) -> int:
        return min(self.needed)

    @property
    def last(self) -> int:
        return max(self.needed)

    def made_of(self, kept: dict[int, Frame], clip: ClipParams) -> WindowClip:
        view = self.view
        rows, columns = slice(view.top, view.top + view.height), slice(view.left, view.left + view.width)
        box_THWC = np.stack([kept[number][rows, columns] for number in self.numbers])
        return WindowClip(self.window, self.weight, clip_of_box(box_THWC, view, clip))


def _awaited(
    window: Window, size_HW: tuple[int, ...], clip: ClipParams, num_clips: int, num_crops: int
) -> Iterator[_Awaited]:
    height, width = size_HW
    shape = (window.num_frames, height, width)
    views = Counter(
        uniform_view(shape, clip, index=index, num_clips=num_clips, crop=crop, num_crops=num_crops)
        for index in range(num_clips)
        for crop in range(num_crops)
    )
    for view, weight in views.items():
        numbers = tuple((window.first_frame + frame_numbers(view, clip, window.num_frames)).tolist())
        yield _Awaited(window, view, weight, numbers, frozenset(numbers))
