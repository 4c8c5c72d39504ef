"""Enhancing a video whose frames are an array in memory, for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.frames import Frames, Levels
from pipeline.enhance.classical import Enhancer, enhanced_batches


@dataclass(frozen=True)
class FramesInMemory:
    """A video whose frames are an array (T, H, W, C)."""

    frames_THWC: Frames
    levels: Levels = "linear"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, H, W)."""
        num_frames, height, width, _ = self.frames_THWC.shape
        return num_frames, height, width

    def read(self, numbers: Sequence[int]) -> Frames:
        """The frames with these numbers."""
        return self.frames_THWC[list(numbers)]


def enhance_frames(enhancer: Enhancer, dark_THWC: Frames, levels: Levels = "linear") -> Frames:
    """Enhance a video in memory: (T, H, W, C)."""
    return np.concatenate(list(enhanced_batches(enhancer, FramesInMemory(dark_THWC, levels))))
