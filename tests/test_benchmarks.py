"""The benchmarks' material renders with the parameters that the demo has now, and those of training run, tiny."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from paths import ROOT

from benchmarks.material import render_videos
from pipeline.videos.reader import probe


def test_the_material_renders(tmp_path):
    paths = render_videos(tmp_path, 2, width=64, height=48, num_frames=8)
    assert len({path.read_bytes() for path in paths}) == 2
    assert [(probe(path).num_frames, probe(path).width) for path in paths] == [(8, 64)] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "measured", "count"),
    [
        ("clip_loader", r"^(?:ours, raw|ours, jpeg|PyAV|pytorchvideo) +([\d.]+) ", 8),
        ("decoder_process", r"relative to that +([\d.]+)$", 2),
        ("training_step", r"^\d workers +([\d.]+) ", 2),
        ("gpu_training --device cpu", r"^\| r2plus1d_slim .*\| ([\d.]+) \| [\d.]+% \|", 11),
    ],
)
def test_a_benchmark_runs_and_measures_every_kind(benchmark, measured, count):
    name, *options = benchmark.split()
    command = [sys.executable, "-W", "error", "-m", f"benchmarks.{name}", "--tiny", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    numbers = re.findall(measured, done.stdout, re.MULTILINE)
    assert len(numbers) == count, done.stdout
    assert all(float(number) > 0 for number in numbers), done.stdout
