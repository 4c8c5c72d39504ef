"""Real files of many codecs decode to every frame that they hold.

The golden numbers come from elsewhere: frames were counted by OpenCV's own FFmpeg (cv2.VideoCapture, grab() until it
fails; for the AV1 file, which it cannot decode, by counting the packets that PyAV demuxes), sizes are OpenCV's coded
sizes times the sample aspect ratio that the container states.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.videos.reader import probe, read_frames

# name: frames, displayed width and height, frames a second
GOLDEN = {
    "S001C001P001R001A001_rgb.avi": (103, 1920, 1080, 30),
    "av1_video.mkv": (125, 640, 360, 25),
    "bt709_full_range.mp4": (30, 1280, 720, 30),
    "demo.mp4": (280, 427, 256, 28),  # 340x256, samples of 64:51
    "h264_10bits.mp4": (30, 200, 200, 30),
    "h265_10bits.mp4": (30, 200, 200, 30),
    "h265_video.mp4": (10, 128, 128, 10),
    "nasa_13013.mp4": (390, 480, 270, 30000 / 1001),  # of two video tracks, the default one
    "part_0.mp4": (32, 455, 256, 30),  # 340x256, samples of 1024:765
    "test.avi": (164, 320, 240, 25),
    "test.mp4": (300, 455, 256, 30),
}


def test_every_file_of_the_folder_has_golden_numbers(shared_data: Path):
    assert {path.name for path in (shared_data / "videos/codecs").iterdir()} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_states_and_decodes_what_a_second_reader_counts(name: str, shared_data: Path):
    frames, width, height, fps = GOLDEN[name]
    path = shared_data / "videos/codecs" / name
    info = probe(path)
    assert (info.num_frames, info.width, info.height, info.fps) == (frames, width, height, fps)
    sizes = [frame.shape for frame in read_frames(path, short_side=64)]
    assert len(sizes) == frames
    assert {min(size[:2]) for size in sizes} == {64}


@pytest.mark.parametrize("name", [name for name in GOLDEN if name not in ("av1_video.mkv", "bt709_full_range.mp4")])
def test_pixels_agree_with_a_second_reader(name: str, shared_data: Path):
    """OpenCV converts with FFmpeg's older defaults: close, but not the same rounding. It ignores the aspect ratio."""
    path = shared_data / "videos/codecs" / name
    capture = cv2.VideoCapture(str(path))
    for _, frame in zip(range(3), read_frames(path), strict=False):
        other = cv2.resize(capture.read()[1][..., ::-1], frame.shape[1::-1]).astype(int)
        assert np.abs(frame.astype(int) - other).mean() < 4


def test_weizmann_videos_have_the_frames_that_their_list_states(shared_data: Path):
    root = shared_data / "videos/weizmann4"
    lines = (root / "videos.csv").read_text(encoding="utf-8").splitlines()[1:]
    for path, _label, _group, _mirror, frames, fps, width, height, _sha in (line.split(",") for line in lines[::8]):
        info = probe(root / path)
        assert (info.num_frames, info.width, info.height) == (int(frames), int(width), int(height))
        assert info.fps == pytest.approx(float(fps))
        assert sum(1 for _ in read_frames(root / path)) == int(frames)
