"""Windows of long footage: which frames of a video without a label are stored, each window as a video of its own.

A camera that ran all night is hours of one video. A window has the video's id, and behind it the number of its first
frame; the manifest has a row for each, with the path and the digest of the whole file.
"""

from __future__ import annotations

import re

_WINDOW = re.compile(r"(.*)@([0-9]{8})", re.DOTALL)


def window_id(video_id: str, first_frame: int) -> str:
    """The id of a window; windows of a video sort by their first frames."""
    return f"{video_id}@{first_frame:08d}"


def source_id(window: str) -> str:
    """The id of the video that an id is a window of; the id itself where it is not of a window."""
    match = _WINDOW.fullmatch(window)
    return match[1] if match else window


def first_frame_of(window: str) -> int:
    """Which frame of its file a window begins with; 0 where the id is not of a window."""
    match = _WINDOW.fullmatch(window)
    return int(match[2]) if match else 0


def window_starts(num_frames: int, window: int, most: int | None) -> list[int]:
    """First frames of the windows of a video, which do not overlap and are spread evenly from its start to its end.

    As many as fit, or `most`; of one window that in the middle. None where the video is not longer than a window: then
    it is stored as it is.
    """
    if num_frames <= window:
        return []
    count = min(num_frames // window, most or num_frames)
    rest = num_frames - window
    return [rest // 2] if count == 1 else [rest * number // (count - 1) for number in range(count)]
