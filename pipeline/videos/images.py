"""A folder of images as a video: its images in the order of their numbers, and the decoding of each."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import simplejpeg

from pipeline.core.errors import BrokenVideoError
from pipeline.data.frames import Frame
from pipeline.data.names import is_image, is_litter

_CHOICE = "; prepare.frames chooses by name, such as img_*"
MAX_PIXELS = 2**26  # of a frame, as coded and as resized: twice 8K


def check_pixels(width: int, height: int) -> None:
    """Raise BrokenVideoError on a size that is too large, before memory is allocated for it."""
    if width * height > MAX_PIXELS:
        raise BrokenVideoError(f"frames of {width}x{height} exceed the limit of {MAX_PIXELS} pixels")


def list_images(folder: Path, pattern: str | None = None) -> list[Path]:
    """Images of a frame folder in the order of their numbers: of those with names like `pattern`, or of all.

    Raises BrokenVideoError on gaps and mixed names.
    """
    kinds: dict[str, dict[int, Path]] = defaultdict(dict)
    for image in _named(folder, pattern):
        if not is_image(image.name):
            continue
        if image.is_symlink() and not image.exists():
            raise BrokenVideoError(f"{image.name} is a link to {image.readlink()}, which is not there")
        match = re.fullmatch(r"(.*?)([0-9]+)", image.stem)
        if match is None:
            raise BrokenVideoError(f"{image.name} has no frame number{_CHOICE}")
        same = kinds[f"{match[1]}*{image.suffix}"].setdefault(int(match[2]), image)
        if same is not image:
            raise BrokenVideoError(f"{same.name} and {image.name} have the same frame number")
    if not kinds:
        raise BrokenVideoError(f"the folder has no images{f' named {pattern}' if pattern else ''}")
    if len(kinds) > 1:
        raise BrokenVideoError(f"the folder mixes images of different names: {', '.join(sorted(kinds))}{_CHOICE}")
    (numbered,) = kinds.values()
    first, last = min(*numbered, 1), max(numbered)
    num_missing = last + 1 - first - len(numbered)
    if num_missing:  # where names have times, more than memory holds
        missing = next(number for number in range(first, last) if number not in numbered)
        raise BrokenVideoError(f"{num_missing} frame(s) are missing, the first is number {missing}")
    return [numbered[number] for number in sorted(numbered)]


def video_files(path: Path, pattern: str | None = None) -> list[Path]:
    """The files whose bytes are a video: its file, or those of a folder of images, less what is not data."""
    return [file for file in _named(path, pattern) if file.is_file()] if path.is_dir() else [path]


def _named(folder: Path, pattern: str | None) -> list[Path]:
    files = (file for file in folder.iterdir() if not is_litter(file.name))
    return sorted(file for file in files if pattern is None or fnmatchcase(file.name, pattern))


def read_image(path: Path) -> Frame:
    """Decode one JPEG or PNG to RGB; an EXIF orientation is not applied, as extracted frames have none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:  # it was there when the folder was listed
        raise BrokenVideoError(f"{path.name}: {error.strerror}") from error
    if path.suffix.lower() != ".png":
        try:
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
            check_pixels(width, height)
            jpeg: Frame = simplejpeg.decode_jpeg(data, colorspace="RGB")
        except ValueError as error:
            raise BrokenVideoError(f"{path.name}: {error}") from error
        return jpeg
    if data[12:16] == b"IHDR":
        check_pixels(int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))
    # OpenCV fills what a truncated PNG lacks with black
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if b"IEND" in data[-12:] else None
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise BrokenVideoError(f"{path.name}: OpenCV: {error.err}") from error
    if decoded is None:
        raise BrokenVideoError(f"{path.name} is not a whole PNG image")
    return cast(Frame, decoded)


def read_images(folder: Path, pattern: str | None = None) -> Iterator[Frame]:
    """The images of a frame folder in order. Raises BrokenVideoError also where their size changes."""
    size: tuple[int, int] | None = None
    for path in list_images(folder, pattern):
        image = read_image(path)
        height, width = image.shape[:2]
        size = size or (width, height)
        if (width, height) != size:
            raise BrokenVideoError(f"its size changes from {size[0]}x{size[1]} to {width}x{height} at {path.name}")
        yield image
