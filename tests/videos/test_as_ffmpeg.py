"""Ordinary files of cameras, recorders and editors, read as the ffmpeg program reads them."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg
from ffmpeg import ffmpeg
from video_files import picture

from pipeline.videos.reader import probe, read_frames

# --- orientation ---


def with_exif(path: Path, orientation: int) -> Path:
    """Motion JPEG whose pictures have an EXIF block, as cameras write it; FFmpeg gives it as side data of type 31."""
    entry = struct.pack("<HHHII", 1, 0x0112, 3, 1, orientation)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + entry + b"\0\0\0\0"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=15)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(3):
            jpeg = simplejpeg.encode_jpeg(picture(number), quality=95)
            packet = av.Packet(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 15)
            out.mux(packet)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_and_mirrors_as_ffmpeg_does(tmp_path: Path, orientation: int):
    path = with_exif(tmp_path / "v.avi", orientation)
    frames = list(read_frames(path))
    height, width = frames[0].shape[:2]
    assert (len(frames), probe(path).width, probe(path).height) == (3, width, height)
    assert (width, height) == ((64, 48) if orientation < 5 else (48, 64))
    ffmpeg("-i", path, "-pix_fmt", "rgb24", "-f", "rawvideo", tmp_path / "raw")
    other = np.fromfile(tmp_path / "raw", np.uint8).reshape(3, height, width, 3)
    assert np.abs(np.stack(frames).astype(int) - other).mean() < 4
