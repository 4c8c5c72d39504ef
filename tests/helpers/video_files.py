"""Videos and frame folders made by a writer that is not ours, and damage done to them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from pipeline.core.errors import BrokenVideoError
from pipeline.videos.reader import read_frames

WIDTH, HEIGHT = 64, 48
Frame = NDArray[np.uint8]

# a red patch in the first corner, then green, blue, white: shows turns and mirror images
CORNERS = {"first": (200, 40, 40), "right": (40, 200, 40), "below": (40, 40, 200), "across": (220, 220, 220)}


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> Frame:
    """Four coloured quarters; the brightness of a stripe in the middle tells the number of the frame."""
    image = np.empty((height, width, 3), np.uint8)
    y, x = height // 2, width // 2
    image[:y, :x], image[:y, x:] = CORNERS["first"], CORNERS["right"]
    image[y:, :x], image[y:, x:] = CORNERS["below"], CORNERS["across"]
    image[y - 8 : y + 8] = 30 + 6 * (number % 36)
    return image


def number_of(frame: Frame) -> int:
    return round((float(frame[frame.shape[0] // 2, frame.shape[1] // 2].mean()) - 30) / 6)


def encode(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 30,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    rotation: int | None = None,
    pts: Callable[[int], int] = int,
) -> Path:
    """An independent writer, with everything that write_video does not do."""
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"qmax": "3"} | (options or {}) if codec == "mpeg4" else options or {}
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = pts(number), Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def encode_sound(path: Path) -> None:
    """A second of silence, without a video stream."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 16000, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def patched(path: Path, *edits: tuple[bytes, int, bytes]) -> Path:
    """Overwrite bytes at an offset from the first place of a marker."""
    data = bytearray(path.read_bytes())
    for marker, offset, value in edits:
        start = data.index(marker) + offset
        data[start : start + len(value)] = value
    path.write_bytes(data)
    return path


def reason(path: Path) -> str:
    with pytest.raises(BrokenVideoError) as error:
        list(read_frames(path))
    return str(error.value)


def make_avi_chunk_empty(path: Path, number: int, keep: bytes = b"") -> None:
    """Shorten the chunk of one frame to `keep`, as recorders write a repeated frame; JUNK fills the rest."""
    data = bytearray(path.read_bytes())
    movi, index = data.index(b"movi"), data.rindex(b"idx1")
    flags, offset, size = struct.unpack_from("<III", data, index + 8 + 16 * number + 4)
    start = movi + offset
    assert data[start : start + 4] == b"00dc"
    rest = size + size % 2 - len(keep) - 8
    data[start + 4 : start + 8 + size + size % 2] = (
        struct.pack("<I", len(keep)) + keep + b"JUNK" + struct.pack("<I", rest) + bytes(rest)
    )
    struct.pack_into("<III", data, index + 8 + 16 * number + 4, flags, offset, len(keep))
    path.write_bytes(data)


def image_folder(folder: Path, numbers: Iterator[int] | range, suffix: str = ".jpg") -> Path:
    folder.mkdir()
    for number in numbers:
        image = picture(number)
        if suffix == ".png":
            cv2.imwrite(str(folder / f"img_{number:05d}.png"), image[..., ::-1])
        else:
            (folder / f"img_{number:05d}{suffix}").write_bytes(simplejpeg.encode_jpeg(image, quality=95))
    return folder
