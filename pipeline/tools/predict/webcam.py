"""Frames of a camera that is attached to this machine, through OpenCV."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from cv2.utils import logging

from pipeline.core.errors import EnvironmentProblem
from pipeline.data.frames import Frame


@dataclass(frozen=True)
class Webcam:
    """An open camera. `fps`: frames a second as its driver states them, 0.0 where it states none."""

    number: int
    fps: float
    capture: Any

    def frames(self) -> Iterator[tuple[Frame, float]]:
        """Frames RGB uint8 (H, W, 3), each with the seconds of a clock that only rises when it came.

        They have no end; raises EnvironmentProblem when the camera gives no more.
        """
        num_frames = 0
        while True:
            there, frame_bgr = self.capture.read()
            if not there:
                raise EnvironmentProblem(
                    f"webcam:{self.number}: it gave no more frames after {num_frames}",
                    remedy="look at its cable, and whether another program took it",
                )
            yield cast(Frame, cv2.cvtColor(frame_bgr, cv2.COLOR_BGR2RGB)), time.monotonic()
            num_frames += 1


@contextmanager
def opened_webcam(number: int) -> Iterator[Webcam]:
    """Open the camera of that number; raises EnvironmentProblem where there is none, or another program has it."""
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # OpenCV would print what fails, backend by backend
    capture = cv2.VideoCapture(number)
    logging.setLogLevel(level)
    try:
        if not capture.isOpened():
            raise EnvironmentProblem(
                f"webcam:{number}: there is no such camera, or it cannot be opened",
                remedy="look at /dev/video* for what there is, and whether another program uses it",
            )
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        yield Webcam(number, fps if np.isfinite(fps) and fps > 0 else 0.0, capture)
    finally:
        capture.release()
