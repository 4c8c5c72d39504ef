"""Draws docs/images/dark_and_enhanced.webp: five videos of the demo's test list, dark above, enhanced below.

dvc repro enhance && python docs/draw_light.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # this checkout's pipeline, not one that is installed

from pipeline.data.frame_store import FrameStore  # noqa: E402
from pipeline.data.frames import Frames  # noqa: E402

VIDEOS = ("Drink/Drink_10_1", "Jump/Jump_10_1", "Pick/Pick_10_1", "Push/Push_10_1", "Wave/Wave_10_1")
NUM_FRAMES, MILLISECONDS = 24, 100
ZOOM, GAP = 2, 4


def strip(store: FrameStore) -> Frames:
    """(T, H, W, C): the videos side by side, each pixel ZOOM pixels wide and high."""
    videos = [store.read_shown(video_id, range(NUM_FRAMES)) for video_id in VIDEOS]
    large = [video_THWC.repeat(ZOOM, axis=1).repeat(ZOOM, axis=2) for video_THWC in videos]
    return np.concatenate([np.pad(each, ((0, 0), (GAP, 0), (GAP, 0), (0, 0))) for each in large], axis=2)


def main(dark: str = "data/dark", enhanced: str = "data/enhanced") -> None:
    """Write the animation from two frame stores."""
    shown_THWC = np.concatenate([strip(FrameStore(Path(dark))), strip(FrameStore(Path(enhanced)))], axis=1)
    animation = cv2.Animation()
    animation.frames = [np.ascontiguousarray(frame_HWC[..., ::-1]) for frame_HWC in shown_THWC]
    animation.durations = [MILLISECONDS] * NUM_FRAMES
    encoded, content = cv2.imencodeanimation(".webp", animation, [cv2.IMWRITE_WEBP_QUALITY, 70])
    assert encoded
    (ROOT / "docs/images/dark_and_enhanced.webp").write_bytes(content.tobytes())


if __name__ == "__main__":
    main(*sys.argv[1:])
