"""Names of files, classes and groups: which are data, and which cannot be."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath

VIDEO_SUFFIXES = (".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4000  # of file systems; the root takes some of a path's 4,096


def is_litter(name: str) -> bool:
    """Whether a file or folder is not data, whatever it holds."""
    return name.startswith(".")


def is_video(name: str) -> bool:
    """Whether a file that no list names is a video, by its name."""
    return name.lower().endswith(VIDEO_SUFFIXES) and not is_litter(name)


def is_image(name: str) -> bool:
    """Whether a file may be a frame, by its name."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_litter(name)


def without_suffix(path: str) -> str:
    """A path less the suffix of a video file; folders of frames keep their dots."""
    lowered = path.lower()
    suffix = next((suffix for suffix in VIDEO_SUFFIXES if lowered.endswith(suffix)), "")
    return path[: len(path) - len(suffix)]


def name_stem(path: str) -> str:
    """The source's part of a clip's file name: yt-LMhhb of yt-LMhhb_393.mp4, Q2Ea0 of Q2Ea0_000057_000067.mp4."""
    stem = without_suffix(PurePosixPath(path).name)
    return re.sub(r"(_[0-9]{6}_[0-9]{6}|_[0-9]+)$", "", stem) or stem


def path_problem(path: str) -> str | None:
    """Why a listed path cannot be one below the root, or None."""
    parts = PurePosixPath(path).parts
    if not parts:
        return "the path is empty"
    if "\\" in path:
        return f"{path!r} has backslashes; paths are written with /"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path) or ".." in parts:
        return f"{path!r} leads out of the root"
    longest = max(len(part.encode("utf-8", "surrogatepass")) for part in parts)
    if longest > MAX_NAME_BYTES or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        return f"{path!r} is longer than the names of files can be"
    return text_problem(path)


def text_problem(text: str) -> str | None:
    """Why a text cannot name a video, a class or a group, or None: line ends and control characters, and surrogates,
    which stand for bytes that are not UTF-8."""
    wrong = next((char for char in text if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")), None)
    return None if wrong is None else f"{text!r} has {wrong!r}: names have no control characters and are UTF-8"
