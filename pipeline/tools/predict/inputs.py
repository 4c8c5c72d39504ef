"""What a user names on the command line → videos (files, folders, patterns, folders of frames), or a camera."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from cv2.utils import logging

from pipeline.core.errors import DataError, EnvironmentProblem
from pipeline.data.frames import Frame
from pipeline.data.names import VIDEO_SUFFIXES, is_image, is_litter, is_video
from pipeline.videos.locate import walk


@dataclass(frozen=True)
class VideoInput:
    """One video: its file or folder of frames, and its path relative to the folder that the user named."""

    path: Path
    name: str


def webcam_number(text: str) -> int | None:
    """The camera's number of `webcam` or `webcam:N`; None for anything else. A file of that name is ./webcam."""
    match = re.fullmatch(r"webcam(?::([0-9]+))?", text)
    return None if match is None else int(match[1] or 0)


def find_videos(inputs: Sequence[str]) -> list[VideoInput]:
    """The videos of all inputs, in their order, each once.

    A file is a video whatever its suffix. A folder stands for the files with a video's suffix and the folders of
    frames at any depth; it is itself a folder of frames where it holds images, and neither folders nor videos.
    Whatever does not exist is a pattern: `*`, `?`, `[…]`, and `**` for folders at any depth. What is not
    data, such as hidden files, is skipped; links are followed. Raises DataError with every input that stands for no
    video.
    """
    found: dict[Path, VideoInput] = {}
    findings = []
    for text in inputs:
        try:
            videos = [video for path in _matches(text) for video in _videos(path)]
        except OSError as error:
            findings.append(f"{text}: {error.filename}: {error.strerror}")
            continue
        if not videos:
            findings.append(f"{text}: {'no video in it' if os.path.lexists(text) else 'no such file or folder'}")
        for video in videos:
            found.setdefault(video.path.absolute(), video)
    if findings:
        raise DataError(
            "no video to predict",
            findings=findings,
            remedy="name a video, a folder of videos, a folder of numbered images, or a pattern in quotes; "
            f"a folder's videos end in {', '.join(VIDEO_SUFFIXES)}",
        )
    return list(found.values())


def _matches(text: str) -> list[Path]:
    if os.path.lexists(text):
        return [Path(text)]
    return [Path(path) for path in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207  Path.glob takes no absolute ones


def _videos(path: Path) -> Iterator[VideoInput]:
    if not path.is_dir():
        if path.is_file():
            yield VideoInput(path, path.name)
        return
    if _is_frame_folder(path):
        yield VideoInput(path, path.resolve().name)
        return
    for here, folders, files in walk(path):
        inside = [here / name for name in files if is_video(name) and (here / name).is_file()]
        inside += [here / name for name in folders if _is_frame_folder(here / name)]
        folders[:] = [name for name in folders if here / name not in inside]
        for video in inside:
            yield VideoInput(video, video.relative_to(path).as_posix())


def _is_frame_folder(folder: Path) -> bool:
    names = [entry.name for entry in os.scandir(folder) if not is_litter(entry.name)]
    images = any(map(is_image, names))
    return images and not any(is_video(name) or (folder / name).is_dir() for name in names)


@dataclass(frozen=True)
class Webcam:
    """An open camera of this machine, through OpenCV. `fps`: as its driver states it, 0.0 where it states none."""

    number: int
    fps: float
    capture: Any

    def frames(self) -> Iterator[tuple[Frame, float]]:
        """Frames without end, each with its time of arrival in seconds of a monotonic clock.

        Raises EnvironmentProblem when the camera gives no more.
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
