"""A trained network's probabilities for videos from outside: files, folders of frames, a camera.

A video is read once, resized as `prepare` does and cut into clips as `score` does, so that its probabilities are those
of the scoring stages. Memory holds a batch of clips and the frames that the next ones need, however long a video is.

Axes: B batch, T frames, H, W, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.errors import DataError
from pipeline.core.params import ClipParams
from pipeline.core.progress import StopCheck
from pipeline.data.frames import Frame
from pipeline.evaluate.score.predictions import DIGITS
from pipeline.models.recognizer import Recognizer
from pipeline.tools.predict.windows import (
    Window,
    WindowClip,
    endless_windows,
    read_clips,
    windows_in_time,
    windows_of,
)
from pipeline.videos.decoder import probe, read_frames, read_times
from pipeline.videos.reader import VideoInfo, resize_frames

Probs = NDArray[np.float64]
Watch = Callable[[Path, int], None]  # called now and then with the video and the number of the frame that is read
_WATCH_FRAMES = 32
_T = TypeVar("_T")


@dataclass(frozen=True)
class Sampling:
    """How a video becomes clips.

    short_side: pixels that the frames' shorter side is resized to. num_clips: clips of the whole video or of each
    window, num_crops: crops of each clip; the mean of all is its prediction. window_seconds: None takes the whole
    video; hop_seconds: from the start of one window to that of the next. unstated_fps: for videos that state none.
    """

    short_side: int
    num_clips: int
    num_crops: int
    window_seconds: float | None
    hop_seconds: float | None
    unstated_fps: float

    @property
    def num_views(self) -> int:
        """Views of the video, or of each window."""
        return self.num_clips * self.num_crops

    @property
    def views(self) -> dict[str, int]:
        """The same by name."""
        return {"num_clips": self.num_clips, "num_crops": self.num_crops}

    def windows(
        self, num_frames: int | None, fps: float, clip: ClipParams, times: Sequence[float] = ()
    ) -> Iterator[Window]:
        """The windows of a video, or those of a camera, which has no number of frames: by default of one clip each.

        times: of the frames and of the last one's end, where they do not come at a steady rate.
        """
        if self.window_seconds is not None and times and all(after > before for before, after in pairwise(times)):
            return windows_in_time(times, length=self.window_seconds, hop=self.hop_seconds or self.window_seconds)

        def frames(seconds: float) -> int:
            return max(1, round(seconds * fps))

        whole = (clip.num_frames - 1) * clip.frame_stride + 1 if num_frames is None else num_frames
        length = whole if self.window_seconds is None else frames(self.window_seconds)
        hop = length if self.hop_seconds is None else frames(self.hop_seconds)
        if num_frames is None:
            return endless_windows(length=length, hop=hop)
        return windows_of(num_frames, length=length, hop=hop)


@dataclass(frozen=True)
class WindowPrediction:
    """Probabilities of one window, the mean over its clips; seconds from the video's start to its first and last."""

    window: Window
    start_seconds: float
    end_seconds: float
    probs_K: Probs


@dataclass(frozen=True)
class VideoPrediction:
    """Probabilities of one video: the mean over its windows.

    fps: on average, of videos that state none Sampling.unstated_fps. info: what was seen when it was opened.
    """

    path: Path
    num_frames: int
    fps: float
    windows: tuple[WindowPrediction, ...]
    info: VideoInfo | None = None

    @property
    def probs_K(self) -> Probs:
        """Mean of the windows' probabilities."""
        return np.asarray(np.mean([window.probs_K for window in self.windows], axis=0))


@dataclass(frozen=True)
class BrokenVideo:
    """A video that cannot be used, and why."""

    path: Path
    reason: str


def ranking(probs_K: Probs, top_k: int) -> list[int]:
    """Classes of the highest probabilities, to the digits that prediction files keep: of equals, the first."""
    order: list[int] = np.argsort(-probs_K.round(DIGITS), kind="stable").tolist()
    return order[:top_k]


def predict_videos(
    recognizer: Recognizer,
    paths: Iterable[Path],
    sampling: Sampling,
    *,
    batch_size: int,
    device: torch.device,
    watch: Watch,
) -> Iterator[VideoPrediction | BrokenVideo]:
    """A result for each video, in order; a broken one stops no other. Batches span videos.

    watch: may raise to stop.
    """
    events = (event for path in paths for event in _video_events(path, sampling, recognizer, watch))
    opened: _Opened | None = None
    windows: list[WindowPrediction] = []
    gathered = _Gathered("", sampling.num_views)
    for event in _with_outputs(recognizer, events, batch_size=batch_size, device=device):
        match event:
            case _Opened():
                opened, windows, gathered = event, [], _Gathered(str(event.path), sampling.num_views)
            case _Output():
                assert opened is not None
                if (probs_K := gathered.add(event)) is not None:
                    window = event.window
                    seconds = window.seconds or (window.first_frame / opened.fps, window.end / opened.fps)
                    windows.append(WindowPrediction(window, *seconds, probs_K))
            case _Ended():
                assert opened is not None
                windows.sort(key=lambda window: window.start_seconds)
                yield VideoPrediction(opened.path, opened.num_frames, opened.fps, tuple(windows), opened.info)
            case BrokenVideo():
                yield event


def predict_live(
    recognizer: Recognizer,
    frames: Iterable[tuple[Frame, float]],
    sampling: Sampling,
    *,
    fps: float,
    device: torch.device,
    stop: StopCheck,
) -> Iterator[WindowPrediction]:
    """Predictions for the windows of an endless stream of frames, each as soon as its last clip is complete.

    frames: (H, W, C) of any size, each with its time of arrival in seconds; the times of windows start at the first
    frame. fps: turns the sampling's seconds into frames.
    """
    clip = recognizer.architecture.clip
    arrivals = _Arrivals(stop)
    resized = resize_frames(arrivals.noted(frames), short_side=sampling.short_side, levels=recognizer.levels)
    clips = read_clips(resized, sampling.windows(None, fps, clip), clip, **sampling.views)
    gathered = _Gathered("the camera", sampling.num_views)
    for output in _with_outputs(recognizer, clips, batch_size=1, device=device):
        assert isinstance(output, _Output)
        if (probs_K := gathered.add(output)) is not None:
            yield WindowPrediction(output.window, *arrivals.seconds(output.window), probs_K)


@dataclass(frozen=True)
class _Opened:
    """A video begins. One with fewer frames than it states begins a second time, and what came before is void."""

    path: Path
    num_frames: int
    fps: float
    info: VideoInfo


@dataclass(frozen=True)
class _Ended:
    """A video ended, and all its clips were complete."""


@dataclass(frozen=True)
class _Output:
    """The network's probabilities for a clip."""

    window: Window
    weight: int
    probs_K: Probs


_Event = _Opened | WindowClip | _Ended | BrokenVideo


def _video_events(path: Path, sampling: Sampling, recognizer: Recognizer, watch: Watch) -> Iterator[_Event]:
    """The clips of a video between its opening and its end; BrokenVideo ends it early."""

    clip, num_read = recognizer.architecture.clip, 0

    def watched(items: Iterator[_T]) -> Iterator[_T]:
        nonlocal num_read
        num_read = 0
        for item in items:
            if num_read % _WATCH_FRAMES == 0:
                watch(path, num_read)
            num_read += 1
            yield item

    def frames() -> Iterator[Frame]:
        return watched(read_frames(path, short_side=sampling.short_side, levels=recognizer.levels))

    try:
        info = probe(path)
        fps = info.fps or sampling.unstated_fps
        # where the packets do not tell all, it takes a pass to know what lies in the middle, or at which time
        times: tuple[float, ...] = ()
        if sampling.window_seconds is not None and not info.is_steady:
            times = tuple(watched(read_times(path)))
            num_frames = len(times) - 1
        else:
            num_frames = sum(1 for _ in frames()) if info.num_frames is None else info.num_frames
        while True:
            yield _Opened(path, num_frames, fps, info)
            windows = sampling.windows(num_frames, fps, clip, times)
            yield from read_clips(frames(), windows, clip, **sampling.views)
            if num_read == num_frames:
                break
            num_frames = num_read  # MPEG-4 states frames that only repeat others: once more with those that exist
        yield _Ended()
    except (DataError, OSError) as error:
        yield BrokenVideo(path, " ".join(str(error).removeprefix(f"{path}: ").split()))


def _with_outputs(
    recognizer: Recognizer, events: Iterable[_Event], *, batch_size: int, device: torch.device
) -> Iterator[_Event | _Output]:
    """The same events in the same order, with the model's output in place of each clip; clips are run in batches."""
    recognizer = recognizer.to(device).eval()
    held: list[_Event] = []
    num_clips = 0
    for event in events:
        held.append(event)
        num_clips += isinstance(event, WindowClip)
        if num_clips == batch_size:
            yield from _run_held(recognizer, held, device)
            held, num_clips = [], 0
    yield from _run_held(recognizer, held, device)


def _run_held(recognizer: Recognizer, held: Sequence[_Event], device: torch.device) -> Iterator[_Event | _Output]:
    clips = [event.clip_THWC for event in held if isinstance(event, WindowClip)]
    if clips:
        with torch.inference_mode():
            logits_BK = recognizer(torch.stack(clips).to(device))
            probs = iter(logits_BK.double().softmax(dim=1).cpu().numpy())
    for event in held:
        yield _Output(event.window, event.weight, next(probs)) if isinstance(event, WindowClip) else event


@dataclass
class _Gathered:
    """The outputs of windows that are not complete yet; `name`: of the video, for messages."""

    name: str
    num_views: int
    outputs: dict[Window, list[_Output]] = field(default_factory=dict)

    def add(self, output: _Output) -> Probs | None:
        """The mean over the clips of the output's window, if this was the last of them."""
        if not np.isfinite(output.probs_K).all():
            raise DataError(
                f"{self.name}: the model's logits are not finite on frames {output.window.first_frame} to "
                f"{output.window.end - 1}",
                remedy="train it again with a lower learning_rate",
            )
        mine = self.outputs.setdefault(output.window, [])
        mine.append(output)
        weights = [one.weight for one in mine]
        if sum(weights) < self.num_views:
            return None
        del self.outputs[output.window]
        return np.asarray(np.average([one.probs_K for one in mine], axis=0, weights=weights))


class _Arrivals:
    """When frames arrived; times that no later window needs are dropped."""

    def __init__(self, stop: StopCheck) -> None:
        self._stop = stop
        self._seconds: dict[int, float] = {}
        self._start = 0.0

    def noted(self, frames: Iterable[tuple[Frame, float]]) -> Iterator[Frame]:
        """The frames alone."""
        for number, (frame, seconds) in enumerate(frames):
            self._stop()
            if number == 0:
                self._start = seconds
            self._seconds[number] = seconds - self._start
            yield frame

    def seconds(self, window: Window) -> tuple[float, float]:
        """When a window's first frame arrived, and its newest."""
        newest = max(self._seconds)
        found = self._seconds[window.first_frame], self._seconds[min(window.end - 1, newest)]
        for old in [number for number in self._seconds if number <= window.first_frame]:
            del self._seconds[old]
        return found
