"""A container that is not read is named, with a command that makes a video of it which has all of its frames."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest
from ffmpeg import ffmpeg
from video_files import reason

from pipeline.data.names import UNREAD_SUFFIXES, VIDEO_SUFFIXES
from pipeline.videos.reader import read_frames

SOURCE = ("-f", "lavfi", "-i", "testsrc2=s=176x144:r=25:d=1")
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
READ = {
    ".mts": (*H264, "-f", "mpegts"),
    ".m2ts": (*H264, "-f", "mpegts"),
    ".vob": ("-c:v", "mpeg2video"),
    ".mod": ("-c:v", "mpeg2video", "-f", "vob"),
    ".asf": (),
    ".f4v": H264,
    ".divx": ("-c:v", "mpeg4", "-f", "avi"),
    ".flv": H264,
    ".ogv": ("-c:v", "libtheora"),
    ".mxf": ("-c:v", "mpeg2video"),
    ".3g2": ("-c:v", "mpeg4"),
    ".qt": (*H264, "-f", "mov"),
}
NOT_READ = {
    ".gif": ("a GIF image", ()),
    ".h264": ("a raw stream", H264),
    ".hevc": ("a raw stream", ("-c:v", "libx265", "-x265-params", "log-level=none")),
    ".m2v": ("a raw stream", ("-c:v", "mpeg2video")),
    ".ivf": ("IVF", ("-c:v", "libvpx-vp9")),
    ".nut": ("NUT", ("-c:v", "ffv1")),
    ".y4m": ("YUV4MPEG", ()),
    ".rm": ("RealMedia", ("-c:v", "rv20")),
    ".wtv": ("Windows TV", ()),
    ".mjpeg": ("a JPEG image, or raw MJPEG", ()),
}


@pytest.mark.parametrize("suffix", READ)
def test_what_cameras_and_editors_write_is_read(tmp_path: Path, suffix: str):
    path = tmp_path / f"a{suffix}"
    ffmpeg(*SOURCE, *READ[suffix], path)
    assert sum(1 for _ in read_frames(path)) == 25
    assert suffix in VIDEO_SUFFIXES


@pytest.mark.parametrize("suffix", NOT_READ)
def test_the_command_in_the_message_gives_every_frame(tmp_path: Path, suffix: str):
    name, options = NOT_READ[suffix]
    path = tmp_path / f"a b{suffix}"
    ffmpeg(*SOURCE, *options, path)
    message = reason(path)
    assert message.startswith(f"{name} is not read; `ffmpeg ")
    _, *arguments = shlex.split(message.split("`")[1])
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *arguments], cwd=tmp_path, check=True)
    assert sum(1 for _ in read_frames(tmp_path / "a b.mkv")) == 25
    assert suffix in UNREAD_SUFFIXES
