"""What was written before the library lay in rooms still opens, and is still worth what it was.

old_files/before_the_rooms.tar.xz: parameters and all artifacts of a chain over eight videos, made by the commit before
the rooms (manifest format 1, frame stores, a fitted sci, models of format 2, a soft-target store of format 2).
"""

from __future__ import annotations

import csv
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

from pipeline.data.frame_store import FrameStore

FILES = ROOT / "tests/old_files/before_the_rooms.tar.xz"
SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.2 has none, 3.12 asks for one


@pytest.fixture
def old(tmp_path, monkeypatch):
    with tarfile.open(FILES) as archive:
        archive.extractall(tmp_path, **SAFELY)
    params = tmp_path / "params.yaml"  # parameters are no artifacts: what has come since then must be in them
    since = (
        "frames: null\n  damaged: quarantine\n  levels: linear\n  unlabelled: null\n  unlabelled_share: 0.0\n"
        "  footage_window: null\n  footage_windows: null\n"
    )
    text = params.read_text().replace("prepare:\n", f"prepare:\n  {since}", 1)
    text = text.replace("views:\n", "views:\n  mix: none\n  mix_share: 0.5\n  mix_alpha: 1.0\n", 1)
    text = text.replace("soft_targets:\n  source", "soft_targets:\n  min_agreement: 0.0\n  source", 1)
    params.write_text(f"render: []\nteacher_clip: null\nteacher_folds: null\nmore_teachers: {{}}\n{text}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def probabilities(path):
    """By video and class."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (row["video_id"], name): float(value) for row in rows for name, value in row.items() if name.startswith("p:")
    }


@pytest.mark.parametrize("name", ["dark", "enhanced"])
def test_frame_stores_are_whole(old, call, name):
    code, out, err = call("frames", "verify", f"data/{name}")
    assert code == 0, err
    assert "8 videos" in out + err


def test_the_soft_targets_are_whole_down_to_the_teacher(old, call):
    given = ("--teacher", "models/teacher.safetensors", "--enhanced", "data/enhanced")
    code, out, err = call("targets", "verify", "data/soft_targets.zarr", "--depth", "teacher", *given)
    assert code == 0, out + err


def test_the_old_enhancer_makes_the_old_enhanced_frames(old, call):
    code, _, err = call(
        "enhance", "--dark", "data/dark", "--enhancer", "models/enhancer.safetensors", "--out", "again", "--workers", 1
    )
    assert code == 0, err
    expected, found = FrameStore(Path("data/enhanced")), FrameStore(Path("again"))
    assert found.video_ids == expected.video_ids
    for name in expected.video_ids:
        every = range(expected.shape(name)[0])
        difference = found.read(name, every).astype(int) - expected.read(name, every)
        assert np.abs(difference).max() <= 1, name  # a network's rounding on another processor


@pytest.mark.parametrize(("model", "frames"), [("teacher", "enhanced"), ("student", "dark"), ("baseline", "dark")])
def test_models_say_what_they_said(old, call, model, frames):
    code, _, err = call(
        *(f"score-{model}", "--manifest", "data/manifest.csv", "--frames", f"data/{frames}"),
        *("--model", f"models/{model}.safetensors", "--out", "again.csv"),
    )
    assert code == 0, err
    expected = probabilities(Path(f"results/predictions/{model}.csv"))
    assert len(expected) == 4
    assert probabilities(Path("again.csv")) == pytest.approx(expected, abs=1e-4)


def test_a_student_learns_from_the_old_store_and_frames(old, call):
    code, _, err = call(
        *("train-student", "--manifest", "data/manifest.csv", "--frames", "data/dark"),
        *("--soft-targets", "data/soft_targets.zarr", "--teacher", "models/teacher.safetensors"),
        *("--out", "again.safetensors", "--curve", "again.csv"),
    )
    assert code == 0, err
    expected, found = (Path(name).read_text() for name in ("results/curves/student.csv", "again.csv"))
    assert found.splitlines()[0] == expected.splitlines()[0]
    values = [[float(value) for value in text.splitlines()[1].split(",")] for text in (found, expected)]
    assert values[0] == pytest.approx(values[1], abs=1e-3)


def test_the_old_results_are_evaluated_and_shown(old, call):
    shutil.rmtree("results/tables")
    predictions = [
        part for name in ("teacher", "student", "baseline") for part in (f"--{name}", f"results/predictions/{name}.csv")
    ]
    evaluated = call(
        *("evaluate", "--manifest", "data/manifest.csv", "--light", "data/light.csv", *predictions),
        *("--evaluation", "again.json", "--metrics", "metrics.json"),
        *("--confusion", "results/confusion", "--tables", "results/tables"),
    )
    assert evaluated[0] == 0, evaluated[2]
    # before metrics.json was made for `dvc exp show` it was the whole evaluation
    assert Path("again.json").read_text() == Path("results/metrics.json").read_text()
    shown = call(
        *("report", "--manifest", "data/manifest.csv", "--quarantine", "data/quarantine.csv", "--dark", "data/dark"),
        *("--enhanced", "data/enhanced", "--soft-targets", "data/soft_targets.zarr", "--models", "models"),
        *("--curves", "results/curves", "--evaluation", "results/metrics.json", "--tables", "results/tables"),
        *("--out", "report.html"),
    )
    assert shown[0] == 0, shown[2]
    assert "student" in Path("report.html").read_text()
