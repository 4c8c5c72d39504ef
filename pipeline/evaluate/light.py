"""How dark videos are. Luma is Y of ITU-R BT.601, 0 to 255, of full-range RGB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.core.progress import Progress, no_progress
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import Frame, Levels, expanded
from pipeline.enhance.classical import count_luma, mean_level

# Eight frames tell a video's mean to 0.1 of a level, 0.4 at worst; the middle one alone to 3 (docs/evaluation.md)
FRAMES_OF_A_VIDEO = 8
LUMA_C = (0.299, 0.587, 0.114)  # ITU-R BT.601


def video_luma(store: FrameStore, video_ids: Sequence[str], *, progress: Progress = no_progress) -> dict[str, float]:
    """Mean luma of each video by its id: of eight frames spread evenly over it, or of all where it has fewer.

    Raises StaleArtifactError where the store lacks a video, or a frame that is read is damaged.
    """
    means = {}
    with progress("luma", len(video_ids), "videos") as advance:
        for name in video_ids:
            places = spread_places(store.shape(name)[0], FRAMES_OF_A_VIDEO)
            lumas = [mean_luma(frame, store.levels) for frame in store.read(name, places)]
            means[name] = round(float(np.mean(lumas)), 3)
            advance(1, "")
    return means


def mean_luma(frame: Frame, levels: Levels) -> float:
    """Mean luma of the display values of a frame (H, W, C); those of codes are not rounded."""
    if levels == "linear":
        return mean_level(count_luma(frame))
    return float(expanded(frame, levels).mean(axis=(0, 1), dtype=np.float64) @ LUMA_C)


def spread_places(length: int, count: int) -> list[int]:
    """Up to `count` places from the first to the last of `length`, at equal steps."""
    places: list[int] = np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()
    return places


def spread_videos(luma: Mapping[str, float], count: int) -> list[str]:
    """Up to `count` ids, from the darkest to the brightest, at equal steps of rank."""
    by_luma = sorted(luma, key=lambda name: (luma[name], name))
    return [by_luma[place] for place in spread_places(len(by_luma), count)]
