"""What ffmpeg decodes without a word is no broken video, and has ffmpeg's number of frames.

Real and made videos of many codecs are cut, remuxed, segmented and re-timed in every container, by ffmpeg and PyAV.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from ffmpeg import opinion
from made_files import made_files

from pipeline.core.errors import BrokenVideoError
from pipeline.videos import decoder as decoding

CODECS = ("h265_video.mp4", "h265_10bits.mp4", "h264_10bits.mp4", "av1_video.mkv", "nasa_13013.mp4", "test.avi")


@pytest.mark.slow
@pytest.mark.timeout(1800)  # ten times what it takes
def test_no_sound_file_is_refused_or_has_another_count(tmp_path: Path, shared_data: Path):
    videos = shared_data / "videos"
    real = [
        path
        for folder in ("egogestar", "weizmann4", "arid_dark")
        for path in sorted((videos / folder).rglob("*.mp4"))[:15:7]
    ]
    real += [videos / "codecs" / name for name in CODECS]
    outcomes: Counter[str] = Counter()
    wrong = []
    for path in made_files(tmp_path, real):
        told = opinion(path)
        if not told.sound:
            outcomes["not sound to ffmpeg"] += 1
            continue
        try:
            frames = sum(1 for _ in decoding.read_frames(path, short_side=16))
        except BrokenVideoError as error:
            outcomes["refused"] += 1
            wrong.append(f"{path.name}: {error}")
            continue
        outcomes["same count" if frames == told.frames else "other count"] += 1
        if frames != told.frames:
            wrong.append(f"{path.name}: {frames} frames, but ffmpeg decodes {told.frames}")
    decoding.end_idle()
    assert not wrong, f"{dict(outcomes)}: {wrong}"
    assert outcomes["same count"] >= 400, dict(outcomes)
