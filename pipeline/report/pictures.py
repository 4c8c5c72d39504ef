"""Dark and enhanced frames side by side, as pictures inside the page: moving ones, and stills.

Both halves are in one picture, so that they stay in step. Axes: T frames, H rows, W columns, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.core.errors import StaleArtifactError
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import Frame, Frames
from pipeline.report.svg import data_uri

MOST_FRAMES = 24
FRAME_MILLISECONDS = 80
SHORT_SIDE, LONG_SIDE = 128, 228  # pixels of a frame at most
QUALITY = 75  # of WebP: six videos of pure noise are 2 MB then
UNKNOWN_FPS = 25.0
GAP = 2  # columns between the halves


@dataclass(frozen=True)
class Picture:
    """A still as data URI with its size in pixels, and an animation of the same size where there is one."""

    still: str
    width: int
    height: int
    moving: str = ""


def moving_pair(dark: FrameStore, enhanced: FrameStore | None, video_id: str, fps: float) -> Picture:
    """About two seconds from the middle of a video at its own pace; the dark half alone where enhanced is None.

    Raises StaleArtifactError where a frame is damaged or the stores differ in size.
    """
    pairs_THWC = _pairs(dark, enhanced, video_id, shown_frames(dark.shape(video_id)[0], fps))
    animation = cv2.Animation()
    animation.frames = [np.ascontiguousarray(pair_HWC[..., ::-1]) for pair_HWC in pairs_THWC]
    animation.durations = [FRAME_MILLISECONDS] * len(pairs_THWC)
    animation.loop_count = 0  # for ever
    encoded, content = cv2.imencodeanimation(".webp", animation, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    assert encoded
    return replace(_picture(pairs_THWC[len(pairs_THWC) // 2]), moving=data_uri("webp", content.tobytes()))


def still_pair(dark: FrameStore, enhanced: FrameStore | None, video_id: str) -> Picture:
    """The middle frame of a video; raises like `moving_pair`."""
    (pair_HWC,) = _pairs(dark, enhanced, video_id, [dark.shape(video_id)[0] // 2])
    return _picture(pair_HWC)


def shown_frames(num_frames: int, fps: float) -> list[int]:
    """Numbers of up to MOST_FRAMES frames around the middle, FRAME_MILLISECONDS apart."""
    step = max(1, round((fps or UNKNOWN_FPS) * FRAME_MILLISECONDS / 1000))
    count = min(MOST_FRAMES, -(-num_frames // step))
    first = (num_frames - 1 - step * (count - 1)) // 2
    return [first + step * number for number in range(count)]


def _pairs(dark: FrameStore, enhanced: FrameStore | None, video_id: str, numbers: Sequence[int]) -> Frames:
    """(T, H, W or 2 W + GAP, C)."""
    halves = [_shrunk(dark.read_shown(video_id, numbers))]
    if enhanced is not None:
        if enhanced.shape(video_id) != dark.shape(video_id):
            raise StaleArtifactError(
                f"{enhanced.path}: {video_id} has other frames than in {dark.path}",
                remedy="`dvc repro enhance` makes it again",
            )
        halves.append(_shrunk(enhanced.read_shown(video_id, numbers)))
        gap_THWC = np.full((*halves[0].shape[:2], GAP, 3), 128, np.uint8)
        halves.insert(1, gap_THWC)
    return np.concatenate(halves, axis=2)


def _shrunk(frames_THWC: Frames) -> Frames:
    height, width = frames_THWC.shape[1:3]
    share = min(1.0, SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    if size == (width, height):
        return frames_THWC
    return np.stack([cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA) for frame_HWC in frames_THWC])


def _picture(pair_HWC: Frame) -> Picture:
    encoded, content = cv2.imencode(
        ".webp", np.ascontiguousarray(pair_HWC[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, QUALITY]
    )
    assert encoded
    return Picture(data_uri("webp", content.tobytes()), width=pair_HWC.shape[1], height=pair_HWC.shape[0])
