"""The benchmarks' material renders with the parameters that the demo has now."""

from __future__ import annotations

from benchmarks.material import render_videos
from pipeline.video import probe


def test_the_material_renders(tmp_path):
    paths = render_videos(tmp_path, 2, width=64, height=48, num_frames=8)
    assert len({path.read_bytes() for path in paths}) == 2
    assert [(probe(path).num_frames, probe(path).width) for path in paths] == [(8, 64)] * 2
