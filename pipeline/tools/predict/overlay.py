"""Predictions drawn on the frames of their video, for people: the highest classes with bars, at the picture's foot.

The frames are those of the file at its display size, small ones enlarged; beside them, on request, the frames of an
enhancer. The network sees neither: it gets the dark frames at the size of its clips.

Axes: T frames, H rows, W columns, C the channels red, green, blue; uint8. Lengths are pixels.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from pipeline.core.errors import ParamsError
from pipeline.data.frames import Frame, Frames, Levels
from pipeline.data.names import without_suffix
from pipeline.enhance.classical import frame_batches
from pipeline.enhance.file import Classical
from pipeline.tools.lettering import Colour, cut, text_width, write
from pipeline.tools.predict.inference import VideoPrediction, Watch, ranking
from pipeline.tools.predict.inputs import VideoInput
from pipeline.videos.decoder import read_frames
from pipeline.videos.reader import write_video

MIN_WIDTH = 320  # smaller frames are enlarged by a whole number to at least this
SHOWN_CLASSES = 3
CRF = 18  # x264's quality

SHADE = 0.72  # how much of the picture the panel hides
BACKGROUND: Colour = (20, 21, 23)
TRACK: Colour = (58, 60, 64)
FIRST: Colour = (240, 173, 78)
OTHER: Colour = (139, 152, 168)
TEXT: Colour = (240, 241, 243)


def plan_overlays(videos: Sequence[VideoInput], out: Path, *, force: bool) -> dict[Path, Path]:
    """The file of each video's overlay, by the video's path: `out` for one, or in the folder `out` by their names.

    Raises ParamsError, with all findings, where files exist and are not to be replaced, where two videos would get the
    same one, and where one is itself a video to predict.
    """
    if out.suffix.lower() != ".mp4" or out.is_dir():
        files = _in_folder(videos, out)
    elif len(videos) == 1:
        files = {videos[0].path: out}
    else:
        raise ParamsError(f"--overlay {out}: {len(videos)} videos need a folder, not one file")
    predicted = {path.resolve() for path in files}
    counts = Counter(files.values())
    findings = []
    for path, file in files.items():
        if file.resolve() in predicted:
            findings.append(f"{file}: is itself to be predicted")
        elif file.exists() and not force:
            findings.append(f"{file}: already exists; --force replaces it")
        elif counts[file] > 1:
            findings.append(f"{file}: would be that of {path} and of another video")
    if findings:
        raise ParamsError(
            f"--overlay {out}: cannot be written there",
            findings=findings,
            remedy="name another folder, or predict videos of the same name one after the other",
        )
    return files


def _in_folder(videos: Sequence[VideoInput], folder: Path) -> dict[Path, Path]:
    """By name without suffix; where two videos differ in that alone, with it."""
    stems = Counter(without_suffix(video.name) for video in videos)
    names = {video.path: without_suffix(video.name) for video in videos}
    names |= {video.path: video.name for video in videos if stems[names[video.path]] > 1}
    return {path: folder / f"{name}.mp4" for path, name in names.items()}


def write_overlay(
    prediction: VideoPrediction,
    out: Path,
    *,
    class_names: Sequence[str],
    top_k: int,
    beside: Classical | None,
    watch: Watch,
) -> None:
    """Write a video's frames with its predictions as an H.264 file, whole or not at all, without sound.

    Every frame shows the newest window that has begun, and at most three classes. beside: an enhancer whose frames are
    shown to the right of the dark ones. watch: may raise to stop.
    """

    def frames() -> Iterator[Frame]:
        starts = [window.window.first_frame for window in prediction.windows]
        for number, picture in enumerate(_pictures(prediction, beside)):
            watch(prediction.path, number)
            window = prediction.windows[bisect_right(starts, number) - 1]  # in a gap between windows the one before
            best = ranking(window.probs_K, min(top_k, SHOWN_CLASSES))
            size = max(10, min(picture.shape[0] // 24, picture.shape[1] // 40))  # of capitals
            _draw_classes(picture, [(class_names[k], float(window.probs_K[k])) for k in best], size)
            if beside is not None:
                _draw_names(picture, ("dark", beside.name), size)
            yield picture

    write_video(out, frames(), fps=prediction.fps, crf=CRF)


def _pictures(prediction: VideoPrediction, beside: Classical | None) -> Iterator[Frame]:
    """Each frame as it is shown, of even size, and the enhanced one to its right on request; writable."""
    if beside is None:
        for frame in read_frames(prediction.path):
            yield _enlarged(frame)
        return
    # an enhancer that smooths statistics over frames reads ahead of those that it is given
    video = StreamedVideo(prediction.path, prediction.num_frames, kept=getattr(beside, "smoothing", 1))
    enhance = beside.for_video(video)
    for numbers in frame_batches(video.shape):
        dark_THWC = video.read(numbers)
        for dark, enhanced in zip(dark_THWC, enhance(dark_THWC, numbers.start), strict=True):
            yield np.concatenate([_enlarged(dark), _enlarged(enhanced)], axis=1)


def _enlarged(frame: Frame) -> Frame:
    """A copy, pixels of small frames as squares; an odd last row or column is doubled, since H.264 needs even sizes."""
    factor = -(-MIN_WIDTH // frame.shape[1])
    if factor > 1:
        frame = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")


class StreamedVideo:
    """A video's file as enhancers read it: frames in rising order are streamed, others start over.

    kept: how many of the newest frames are held.
    """

    levels: Levels = "linear"

    def __init__(self, path: Path, num_frames: int, *, kept: int) -> None:
        self._path = path
        self._num_frames = num_frames
        self._num_kept = kept
        self._stream = read_frames(path)
        self._next = 0
        self._kept: dict[int, Frame] = {}

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(T, H, W)."""
        height, width, _ = self._frame(0).shape
        return self._num_frames, height, width

    def read(self, numbers: Sequence[int]) -> Frames:
        """The frames with these numbers: (T, H, W, C)."""
        return np.stack([self._frame(number) for number in numbers])

    def _frame(self, number: int) -> Frame:
        if number not in self._kept and number < self._next:
            self._stream, self._next, self._kept = read_frames(self._path), 0, {}
        while number not in self._kept:
            self._kept[self._next] = next(self._stream)
            self._kept.pop(self._next - self._num_kept, None)
            self._next += 1
        return self._kept[number]


def _draw_classes(picture_HWC: Frame, shown: Sequence[tuple[str, float]], size: int) -> None:
    """At the foot a line for each class: its name, a bar as long as its probability, and that in percent."""
    part_HWC = picture_HWC[-(2 * size * len(shown) + size) :]
    _shade(part_HWC)
    width = part_HWC.shape[1]
    percents = [f"{100 * probability:.0f} %" for _, probability in shown]
    right = width - size - max(text_width("100 %", size), 1)
    names = [cut(name, size, width // 3) for name, _ in shown]
    left = 2 * size + max(text_width(name, size) for name in names)
    for row, ((_, probability), name, percent) in enumerate(zip(shown, names, percents, strict=True)):
        baseline = size // 2 + 2 * size * row + size + size // 2
        write(part_HWC, name, size, baseline, size, TEXT)
        bar = part_HWC[baseline - size : baseline, left : right - size]
        bar[:] = TRACK
        bar[:, : round(bar.shape[1] * probability)] = FIRST if row == 0 else OTHER
        write(part_HWC, percent, width - size - text_width(percent, size), baseline, size, TEXT)


def _draw_names(picture_HWC: Frame, names: Sequence[str], size: int) -> None:
    """At the head the names of the picture's halves."""
    part_HWC = picture_HWC[: 2 * size]
    half = part_HWC.shape[1] // len(names)
    _shade(part_HWC)
    for number, name in enumerate(names):
        write(part_HWC, cut(name, size, half - 2 * size), half * number + size, size + size // 2, size, TEXT)


def _shade(part_HWC: Frame) -> None:
    part_HWC[:] = cv2.addWeighted(part_HWC, 1 - SHADE, np.full_like(part_HWC, BACKGROUND), SHADE, 0)
