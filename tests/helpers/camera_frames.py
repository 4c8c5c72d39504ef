"""Frames that move smoothly, and a camera that gives frames of a test."""

from __future__ import annotations

import numpy as np


def smooth(num_frames, height, width):
    t, y, x = np.mgrid[:num_frames, :height, :width]
    return np.stack([(t + (y + x * channel) // 4) % 60 for channel in (0, 1, 2)], -1).astype(np.uint8)


class FakeCapture:
    """What OpenCV's VideoCapture does, with frames that a test gives."""

    def __init__(self, frames, fps=30.0, opened=True):
        self.frames, self.fps, self.opened, self.released = iter(frames), fps, opened, False

    def isOpened(self):
        return self.opened

    def get(self, _property):
        return self.fps

    def read(self):
        frame = next(self.frames, None)
        return frame is not None, frame

    def release(self):
        self.released = True
