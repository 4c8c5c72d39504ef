"""Sound files as people cut, segment, record and remux them have ffmpeg's frames; damaged ones are told."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import pytest
import simplejpeg
from ffmpeg import ffmpeg, opinion
from video_files import encode, number_of, picture, reason

from pipeline.videos.reader import read_frames

PICTURES = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=4", "-pix_fmt", "yuv420p", "-threads", "1"]
X264_OPEN = [
    "-c:v",
    "libx264",
    "-x264-params",
    "open-gop=1:keyint=25:min-keyint=25:bframes=3:scenecut=0:b-pyramid=none",
]
X265 = ["-c:v", "libx265", "-x265-params", "log-level=none:keyint=25:min-keyint=25:pools=none"]
H264 = ["-c:v", "libx264", "-g", "30", "-bf", "2"]


def count(path: Path) -> int:
    return sum(1 for _ in read_frames(path))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "source.mp4"
    ffmpeg(*PICTURES, *H264, path)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize(
    ("start", "seconds"), [("0.51", "2"), ("1.234", "1.001"), ("2.3333", "0.77"), ("0.4", "0.033")]
)
def test_a_cut_without_encoding_anew(tmp_path: Path, source: Path, start: str, seconds: str, suffix: str):
    """Its edit list begins and ends within frames, and is rounded to the movie's clock."""
    path = tmp_path / f"cut.{suffix}"
    ffmpeg("-ss", start, "-t", seconds, "-i", source, "-c", "copy", path)
    told = opinion(path)
    assert told.sound
    assert count(path) == told.frames


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mp4"])
@pytest.mark.parametrize("encoder", [X264_OPEN, X265], ids=["x264", "x265"])
def test_pieces_that_begin_with_leading_pictures(tmp_path: Path, encoder: list[str], suffix: str):
    """They refer to the piece before, so that a decoder leaves them out."""
    ffmpeg(*PICTURES, *encoder, tmp_path / f"whole.{suffix}")
    split = ["-c", "copy", "-f", "segment", "-segment_time", "1", "-reset_timestamps", "1"]
    ffmpeg("-i", tmp_path / f"whole.{suffix}", *split, tmp_path / f"piece%d.{suffix}")
    pieces = sorted(tmp_path.glob("piece*"))
    assert len(pieces) > 2
    for path in pieces:
        told = opinion(path)
        assert told.sound
        assert told.frames > 20
        assert count(path) == told.frames


@pytest.mark.parametrize("offset", ["95440", "95442.5", "3600.1"])
def test_a_clock_that_wraps_or_starts_late(tmp_path: Path, source: Path, offset: str):
    """MPEG-TS counts to 2**33 at 90 kHz; FFmpeg takes what lies before its end for times before 0."""
    path = tmp_path / "v.ts"
    ffmpeg("-i", source, "-c", "copy", "-output_ts_offset", offset, path)
    assert opinion(path).sound
    assert count(path) == 100


@pytest.mark.parametrize("encoder", [H264, ["-c:v", "mpeg2video", "-g", "12", "-bf", "2"]], ids=["h264", "mpeg2"])
@pytest.mark.parametrize("share", [0.2, 0.37, 0.6])
def test_a_recording_that_begins_between_key_frames(tmp_path: Path, encoder: list[str], share: float):
    """A piece of a broadcast: ffmpeg complains of what comes before the first key frame, and leaves it out."""
    path = tmp_path / "v.ts"
    ffmpeg(*PICTURES, *encoder, path)
    data = path.read_bytes()
    path.write_bytes(data[int(len(data) * share) // 188 * 188 :])
    frames = opinion(path).frames
    assert 5 < frames < 90
    assert count(path) == frames


def test_an_avi_whose_clock_is_faster_than_its_frames(tmp_path: Path):
    """As ffmpeg writes one from a video with a fine clock: empty chunks lie between the frames."""
    ffmpeg(*PICTURES, "-c:v", "libx264", "-bf", "0", "-video_track_timescale", "600", tmp_path / "v.mov")
    ffmpeg("-i", tmp_path / "v.mov", "-c", "copy", tmp_path / "v.avi")
    assert opinion(tmp_path / "v.avi").sound
    assert count(tmp_path / "v.avi") == 100


@pytest.mark.parametrize(
    ("codec", "unit"), [("libx264", b"\x06\x05\xff"), ("libx265", b"\x4e\x01\x05\xff")], ids=["h264", "hevc"]
)
def test_an_error_in_what_carries_no_picture(tmp_path: Path, codec: str, unit: bytes):
    """Supplemental information (user data) that is longer than its unit, as IP cameras write it."""
    path = encode(tmp_path / "v.ts", codec=codec, options={"x265-params": "log-level=none"} if "265" in codec else {})
    data = bytearray(path.read_bytes())
    place = data.index(unit) + len(unit)
    while data[place] == 255:
        place += 1
    data[place] = 254
    path.write_bytes(data)
    assert opinion(path).warnings
    assert [number_of(frame) for frame in read_frames(path)] == list(range(30))


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4", "v.avi"])
@pytest.mark.parametrize("kind", [0x61, 0x66, 0x69, 0x6C, 0])  # no IDR slice, SEI, delimiter, filler, nothing
def test_a_damaged_first_key_frame_is_no_recording_that_begins_late(tmp_path: Path, name: str, kind: int):
    path = encode(tmp_path / name, options={"g": "10", "bf": "0"})
    data = bytearray(path.read_bytes())
    start = data.index(b"x264 - core")
    place = data.index(b"\x65\x88", start)
    data[place] = kind
    path.write_bytes(data)
    assert reason(path)


def exif(jpeg: bytes) -> bytes:
    """A JPEG with a block of camera data."""
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHH", 1, 0x0112, 3, 1, 1, 0) + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff + jpeg[2:]


def test_side_data_that_pyav_does_not_know(tmp_path: Path):
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=15)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(12):
            packet = av.Packet(exif(simplejpeg.encode_jpeg(picture(number), quality=95)))
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = stream.time_base or 1
            out.mux(packet)
    assert [number_of(frame) for frame in read_frames(path)] == list(range(12))
