"""The benchmarks' material renders, what alternatives cost is counted, and most scripts run at toy size."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import CLIP, one_thread, tiny_recognizer  # noqa: F401 - a fixture
from paths import ROOT

from benchmarks import light_before_shrinking
from benchmarks.alternatives import alternatives, enhancer_gmac
from benchmarks.in_memory import enhance_frames
from benchmarks.material import render_videos
from pipeline.core.params import load_params
from pipeline.evaluate.cost import cost_of
from pipeline.videos.reader import probe, write_video

OPTIONS = load_params(ROOT / "params.yaml").fit_enhancer


def test_the_material_renders(tmp_path):
    paths = render_videos(tmp_path, 2, width=64, height=48, num_frames=8)
    assert len({path.read_bytes() for path in paths}) == 2
    assert [(probe(path).num_frames, probe(path).width) for path in paths] == [(8, 64)] * 2


# what a clip would cost without a student


@pytest.fixture(scope="module")
def found():
    return alternatives(tiny_recognizer().eval(), OPTIONS, frame_size=(24, 32), num_runs=3)


def test_two_streams_are_the_network_twice(found):
    alone, two = found[:2]
    assert (alone.parameters, alone.gmac) == (cost_of(tiny_recognizer()).parameters, cost_of(tiny_recognizer()).gmac)
    assert (two.parameters, two.gmac, two.cpu_seconds) == (2 * alone.parameters, 2 * alone.gmac, None)


def test_every_enhancer_is_an_alternative(found):
    names = [other.name.removeprefix("with ") for other in found[2:]]
    learned = ["zero_dce", "zero_dce at 1/2", "zero_dce_pp", "zero_dce_pp at 1/2", "sci"]
    assert names == ["gamma", "gamma_auto", "equalize", "clahe", *learned]


def test_enhancing_costs_the_network_and_each_frame(found):
    alone, by_name = found[0], {other.name: other for other in found}
    for name in ("gamma", "gamma_auto", "equalize", "clahe"):
        other = by_name[f"with {name}"]
        assert (other.parameters, other.gmac) == (alone.parameters, alone.gmac)
        assert other.cpu_seconds > alone.cpu_seconds
    for name, parameters, reduction in (("zero_dce", 79_416, 1), ("zero_dce at 1/2", 79_416, 2), ("sci", 258, 1)):
        per_frame = enhancer_gmac(name.split()[0], height=24, width=32, curve_reduction=reduction)
        other = by_name[f"with {name}"]
        assert other.parameters == alone.parameters + parameters
        assert other.gmac == pytest.approx(alone.gmac + CLIP.num_frames * per_frame)
        assert other.cpu_seconds > alone.cpu_seconds


def test_a_whole_clip_is_enhanced_at_the_size_of_the_frames(monkeypatch):
    shapes = set()

    def seen(enhancer, dark_THWC):
        shapes.add(dark_THWC.shape)
        return enhance_frames(enhancer, dark_THWC)

    monkeypatch.setattr("benchmarks.alternatives.enhance_frames", seen)
    alternatives(tiny_recognizer().eval(), OPTIONS, frame_size=(24, 32), num_runs=1)
    assert shapes == {(CLIP.num_frames, 24, 32, 3)}


# counted before this project began by another program; by hand: 79,200 multiplications a pixel
@pytest.mark.parametrize(("height", "width", "gmac"), [(112, 112, 63.6), (240, 320, 389.3)])
def test_zero_dce_costs_what_was_counted_elsewhere(height, width, gmac):
    found = 64 * enhancer_gmac("zero_dce", height=height, width=width, curve_reduction=1)
    assert round(found, 1) == gmac
    assert found == pytest.approx(64 * height * width * 79_200 / 1e9)


def test_curves_at_half_the_size_cost_a_quarter():
    for name in ("zero_dce", "zero_dce_pp"):
        whole, half = (enhancer_gmac(name, height=48, width=64, curve_reduction=number) for number in (1, 2))
        assert whole == 4 * half > 0
    assert len({enhancer_gmac("sci", height=48, width=64, curve_reduction=number) for number in (1, 2)}) == 1


def test_light_before_shrinking_is_measured_for_every_way_and_enhancer(tmp_path, monkeypatch, capsys):
    frames_THWC = np.random.default_rng(0).integers(80, 250, (3, 6, 8, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, iter(frames_THWC), fps=25.0)
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path), "--clips", "2", "--darkest", "1", "--short-side", "24"])
    light_before_shrinking.main()
    rows = re.findall(r"^\| .*?((?:\| -?[\d.]+ ){4})\|", capsys.readouterr().out, re.MULTILINE)
    assert len(rows) == 1 + len(light_before_shrinking.WAYS)


def test_light_before_shrinking_says_that_there_are_no_videos(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "missing")])
    with pytest.raises(SystemExit, match="no videos there; name a folder of bright ones"):
        light_before_shrinking.main()


# whole scripts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "measured", "count"),
    [
        ("clip_loader", r"^(?:ours, raw|ours, jpeg|PyAV|pytorchvideo) +([\d.]+) ", 8),
        ("decoder_process", r"relative to that +([\d.]+)$", 2),
        ("training_step", r"^\d workers +([\d.]+) ", 2),
        ("freed_memory", r"^(?:given back|kept) +(\d+) ", 2),
        ("alternatives", r"^\| (?:student|with) .*\| ([\d.]+) \|$", 10),
        ("second_store", r"^\| (?:raw|jpeg) \| \d+ \| \d+ \| ([\d.]+) \|", 4),
        ("lossless_frames", r"^\| (?:dark|after gamma) .*\| ([\d.]+) \|$", 10),
        ("growth", r"^\| \d+ \| ([\d.]+) \|", 2),
        ("parts_cost", r"^\| (?:a further teacher|dark frames).*?\| ([\d.]+) MB", 2),
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


@pytest.mark.slow
def test_all_that_is_to_be_measured_on_a_gpu_runs_on_a_cpu(tmp_path):
    command = ["bash", "benchmarks/gpu_suite.sh", tmp_path, "--device", "cpu", "--tiny"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTEST_ADDOPTS": ""}  # its own pytest would empty our --basetemp
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580, check=False)
    said = (tmp_path / "suite.md").read_text()
    assert done.returncode == 0, said + (tmp_path / "suite.err").read_text()
    assert said.splitlines()[-1] == "0 of 4 parts failed"
    steps = re.findall(r"^\| r2plus1d_slim .*\| ([\d.]+) \| [\d.]+% \|", said, re.MULTILINE)
    assert len(steps) == 7
    assert "22 commands, 0 failed" in said
