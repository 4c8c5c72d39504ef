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
from video_files import encode, number_of, picture

from pipeline.videos import decoder as decoding
from pipeline.videos.reader import probe, read_frames, read_times

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


# --- several video tracks ---

SMALL, LARGE, LARGER = (64, 48), (96, 64), (2600, 2000)


def with_tracks(path: Path, *sizes: tuple[int, int], default: int | None) -> Path:
    inputs = [
        ["-f", "lavfi", "-i", f"color=s={width}x{height}:r=25:d=0.{4 + n}"] for n, (width, height) in enumerate(sizes)
    ]
    tracks = range(len(sizes))
    mapped = [["-map", f"{n}", f"-disposition:v:{n}", "default" if n == default else "0"] for n in tracks]
    ffmpeg(*(word for words in inputs + mapped for word in words), "-c:v", "mpeg4", "-g", "1", path)
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "avi"])
@pytest.mark.parametrize(
    ("sizes", "default"),
    [
        ((SMALL, LARGE), None),
        ((LARGE, SMALL), None),
        ((SMALL, SMALL), None),
        ((SMALL, SMALL), 1),
        ((LARGE, SMALL), 1),
        ((SMALL, LARGE, SMALL), 0),
        ((SMALL, LARGER), 0),
    ],
)
def test_the_track_is_read_that_ffmpeg_chooses(
    tmp_path: Path, suffix: str, sizes: tuple[tuple[int, int], ...], default: int | None
):
    path = with_tracks(tmp_path / f"v.{suffix}", *sizes, default=default)
    ffmpeg("-i", path, "-pix_fmt", "rgb24", "-fps_mode", "passthrough", tmp_path / "%d.ppm")
    chosen = len(list(tmp_path.glob("*.ppm")))
    width, height = (tmp_path / "1.ppm").read_bytes().split()[1:3]
    frames = list(read_frames(path))
    assert (len(frames), frames[0].shape) == (chosen, (int(height), int(width), 3))
    info = probe(path)
    assert (info.width, info.height) == (int(width), int(height))


# --- frames a second ---


def with_times(path: Path, milliseconds: list[int], codec: str = "libx264", **options: str) -> Path:
    """A frame at each time, as recorders of screens make them: a nominal rate of 25."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base, stream.codec_context.options = Fraction(1, 1000), options
        for number, time in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


UNEVEN = [0, 40, 80, 120, 1000, 1040, 2500, 4000, 4040, 6000, 7500, 8960]  # 12 frames in 9 s, as good as


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "webm"])
@pytest.mark.parametrize("start", [0, 700])
def test_the_rate_is_frames_over_the_time_they_last(tmp_path: Path, suffix: str, start: int):
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    info = probe(with_times(tmp_path / f"v.{suffix}", [start + time for time in UNEVEN], codec))
    assert info.num_frames == 12
    assert 12 / info.fps == pytest.approx(9.0, abs=0.9)
    assert not info.is_steady


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "avi", "mov", "mpg", "webm"])
@pytest.mark.parametrize("rate", ["25", "30000/1001", "24000/1001", "60", "12.5", "10"])
def test_a_steady_video_has_the_rate_of_its_header(tmp_path: Path, suffix: str, rate: str):
    path = tmp_path / f"v.{suffix}"
    codec = {"avi": "mpeg4", "mpg": "mpeg2video", "webm": "libvpx"}.get(suffix, "libx264")
    if suffix == "mpg" and rate in ("12.5", "10"):
        pytest.skip("MPEG-2 has no such rate")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        f"testsrc=s=64x48:r={rate}:d=3",
        "-c:v",
        codec,
        path,
    )
    with av.open(str(path)) as container:
        stated = float(container.streams.video[0].average_rate)
    info = probe(path)
    assert (info.fps, info.is_steady) == (stated, True)
    assert info.fps == pytest.approx(float(Fraction(rate)), rel=1e-3)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_times_are_those_of_the_frames(tmp_path: Path, suffix: str):
    path = with_times(tmp_path / f"v.{suffix}", UNEVEN)
    times = np.array([*read_times(path)])
    assert times == pytest.approx(np.array([*decoding.read_times(path)]))
    np.testing.assert_allclose(times[:-1] - times[0], np.array(UNEVEN) / 1000, atol=0.0011)
    assert 0 < times[-1] - times[-2] < 2


@pytest.mark.parametrize("offset", ["0", "1", "3600"])
def test_a_clock_that_starts_over_or_goes_on_elsewhere_is_no_variable_rate(tmp_path: Path, offset: str):
    """Recorders append to one MPEG-TS; the first part of this one is of the second 1000."""
    parts = [tmp_path / "1.ts", tmp_path / "2.ts"]
    for part, start in zip(parts, ("1000", offset), strict=True):
        ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=2", "-c:v", "libx264", "-output_ts_offset", start, part)
    whole = tmp_path / "v.ts"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    info = probe(whole)
    assert (info.num_frames, info.fps) == (100, 25.0)


def test_frames_that_divx_packed_count_in_place_of_the_empty_ones(tmp_path: Path):
    """A packet has a frame and the one that is shown before it; the next one is "not coded"."""
    source = encode(tmp_path / "v.mp4", codec="mpeg4", options={"bf": "1", "g": "300"})
    not_coded = b"\x00\x00\x01\xb6" + int("0101001111001111", 2).to_bytes(2)
    with av.open(str(source)) as raw, av.open(str(tmp_path / "v.avi"), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        vops = [bytes(packet) for packet in raw.demux() if packet.size]
        header = raw.streams.video[0].codec_context.extradata + b"\0\0\1\xb2DivX503b1393p"
        packed = [header + vops[0]]
        for first, second in zip(vops[1::2], vops[2::2], strict=False):
            packed += [first + second, not_coded]
        for number, content in enumerate(packed):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            out.mux(packet)
    frames = [number_of(frame) for frame in read_frames(tmp_path / "v.avi")]
    info = probe(tmp_path / "v.avi")
    assert (frames, info.num_frames, info.fps, info.is_steady) == (list(range(29)), 29, 25.0, True)
