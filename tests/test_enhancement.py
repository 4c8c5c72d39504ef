"""The enhanced store: the dark one's videos, frames and sizes in another light, made restartably."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.enhance import Clahe, Equalize, Gamma, enhance_frames
from pipeline.enhancement import enhance
from pipeline.enhancer_file import save_enhancer
from pipeline.errors import Interrupted, StaleArtifactError
from pipeline.frames import FrameStore, shard_of, shard_path, write_index, write_shard

SHAPES = {f"Run/Run_{number}_1": (5 + number, 16, 20) for number in range(7)} | {"long": (65, 12, 16)}
NUM_SHARDS = 3


def dark_videos():
    rng = np.random.default_rng(0)
    return {name: rng.gamma(1.2, 12, (*shape, 3)).clip(0, 255).astype(np.uint8) for name, shape in SHAPES.items()}


def write_dark(folder, *, codec="raw"):
    rows = []
    for shard in range(NUM_SHARDS):
        members = [(name, lambda frames=frames: iter(frames)) for name, frames in dark_videos().items()
                   if shard_of(name, NUM_SHARDS) == shard]  # fmt: skip
        options = {"shard": shard, "codec": codec, "jpeg_quality": 90, "min_frames": 1}
        rows += write_shard(shard_path(folder, shard), members, **options).rows
    write_index(folder, rows, codec=codec, jpeg_quality=90, origin={})
    return FrameStore(folder)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    write_dark(Path("dark"))
    save_enhancer(Path("enhancer.safetensors"), Gamma(2.2), fitted_on={})
    return tmp_path


def run_here(function, tasks):
    return [function(task) for task in tasks]


def run_enhance(out="enhanced", run=run_here):
    return enhance(Path("dark"), Path("enhancer.safetensors"), Path(out), run=run)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize("enhancer", [Gamma(2.2), Clahe(2.0, 2), Equalize("frame", 9)], ids=str)
def test_each_frame_is_enhanced_and_keeps_its_place(project, enhancer):
    save_enhancer(Path("enhancer.safetensors"), enhancer, fitted_on={})
    enhanced, dark = run_enhance(), FrameStore(Path("dark"))
    enhanced.verify()
    assert [(row.video_id, row.shard, row.row) for row in enhanced.rows] == [
        (row.video_id, row.shard, row.row) for row in dark.rows
    ]
    for name, frames in dark_videos().items():
        assert enhanced.shape(name) == dark.shape(name)
        np.testing.assert_array_equal(enhanced.read(name, range(len(frames))), enhance_frames(enhancer, frames))
    assert not list(Path(".work").glob("*/*"))


def test_no_enhancer_gives_the_dark_frames(project):
    save_enhancer(Path("enhancer.safetensors"), Gamma(1.0), fitted_on={})
    assert run_enhance().digest == FrameStore(Path("dark")).digest


def test_a_store_says_what_it_was_made_from(project):
    first = run_enhance()
    assert first.origin["dark"] == FrameStore(Path("dark")).digest
    save_enhancer(Path("enhancer.safetensors"), Gamma(2.3), fitted_on={})
    assert run_enhance().origin["enhancer"] != first.origin["enhancer"]


def test_jpeg_stays_jpeg(project):
    shutil.rmtree("dark")
    dark = write_dark(Path("dark"), codec="jpeg")
    enhanced = run_enhance()
    assert (enhanced.codec, enhanced.jpeg_quality) == (dark.codec, dark.jpeg_quality) == ("jpeg", 90)
    enhanced.verify()


@pytest.mark.parametrize("done", [1, 2])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(project, done):
    run_enhance("whole")
    made = []

    def run(function, tasks):
        for number, task in enumerate(tasks):
            if number == done:
                raise Interrupted(15)
            function(task)
            made.append(shard_path(task.work / "frames", task.shard).stat().st_mtime_ns)

    def run_on(function, tasks):
        results = run_here(function, tasks)
        kept = [shard_path(task.work / "frames", task.shard).stat().st_mtime_ns for task in tasks]
        assert kept[:done] == made
        return results

    with pytest.raises(Interrupted):
        run_enhance(run=run)
    run_enhance(run=run_on)
    assert contents("enhanced") == contents("whole")


def test_a_damaged_dark_store_is_not_enhanced(project):
    row = FrameStore(Path("dark")).rows[0]
    path = shard_path(Path("dark"), row.shard)
    content = path.read_bytes()
    frame = dark_videos()[row.video_id][0].tobytes()
    path.write_bytes(content.replace(frame, bytes(len(frame))))
    with pytest.raises(StaleArtifactError, match=path.name):
        run_enhance()
    assert not Path("enhanced").exists()


def test_a_missing_enhancer_is_found_before_any_task(project):
    Path("enhancer.safetensors").unlink()

    def never(function, tasks):
        raise AssertionError("tasks were run")

    with pytest.raises(StaleArtifactError, match="no such model file"):
        run_enhance(run=never)
