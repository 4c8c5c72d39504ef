"""The enhanced store: the dark one's videos, frames and sizes in another light, made restartably."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from benchmarks.in_memory import enhance_frames
from pipeline.core.errors import Interrupted, StaleArtifactError
from pipeline.data.frame_shard import write_shard
from pipeline.data.frame_store import FrameStore, shard_of, shard_path, write_index
from pipeline.enhance import apply as enhancement
from pipeline.enhance.apply import enhance
from pipeline.enhance.classical import Clahe, Equalize, Gamma, Unchanged
from pipeline.enhance.file import save_enhancer

SHAPES = {f"Run/Run_{number}_1": (5 + number, 16, 20) for number in range(7)} | {"long": (65, 12, 16)}
NUM_SHARDS = 3


def noise(shape, seed=0):
    return np.random.default_rng(seed).gamma(1.2, 12, (*shape, 3)).clip(0, 255).astype(np.uint8)


def dark_videos():
    return {name: noise(shape, seed) for seed, (name, shape) in enumerate(SHAPES.items(), 1)}


def write_dark(folder, *, videos=None, codec="raw", levels="linear"):
    rows = []
    for shard in range(NUM_SHARDS):
        members = [(name, lambda frames=frames: iter(frames)) for name, frames in (videos or dark_videos()).items()
                   if shard_of(name, NUM_SHARDS) == shard]  # fmt: skip
        options = {"shard": shard, "codec": codec, "jpeg_quality": 90}
        rows += write_shard(shard_path(folder, shard), members, **options).rows
    write_index(folder, rows, codec=codec, jpeg_quality=90, levels=levels, origin={})
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
    return enhance(Path("dark"), Path("enhancer.safetensors"), Path(out), run=run).store


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


@pytest.mark.parametrize("enhancer", [Gamma(2.2), Clahe(2.0, 2), Unchanged()], ids=str)
def test_codes_are_enhanced_to_display_values_and_none_keeps_them(project, enhancer):
    save_enhancer(Path("enhancer.safetensors"), enhancer, fitted_on={})
    before = run_enhance()
    shutil.rmtree("dark")
    dark = write_dark(Path("dark"), levels="companded")
    enhanced = run_enhance()  # nothing is taken over: the same bytes mean something else
    assert enhanced.levels == ("companded" if enhancer == Unchanged() else "linear")
    assert enhanced.digest != before.digest or isinstance(enhancer, Clahe)
    for name, frames in dark_videos().items():
        expected = enhance_frames(enhancer, frames, dark.levels)
        np.testing.assert_array_equal(enhanced.read(name, range(len(frames))), expected)


def test_no_enhancer_gives_the_dark_frames(project):
    save_enhancer(Path("enhancer.safetensors"), Gamma(1.0), fitted_on={})
    assert run_enhance().digest == FrameStore(Path("dark")).digest


def test_a_store_says_what_it_was_made_from(project):
    first = run_enhance()
    assert first.origin["dark"] == FrameStore(Path("dark")).digest
    assert first.origin["light"] == "gamma"
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
    shutil.rmtree(".work")
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


@pytest.fixture
def enhanced_names(monkeypatch):
    """The ids of the videos that are enhanced, as they are."""
    names = []
    batches = enhancement.enhanced_batches

    def noted(enhancer, video):
        names.append(video.video_id)
        return batches(enhancer, video)

    monkeypatch.setattr(enhancement, "enhanced_batches", noted)
    return names


def run_from_scratch(out="scratch"):
    shutil.rmtree(".work", ignore_errors=True)
    store = run_enhance(out)
    shutil.rmtree(".work")
    return store


def replace_dark(videos, **options):
    shutil.rmtree("dark")
    return write_dark(Path("dark"), videos=videos, **options)


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_an_added_video_is_the_only_one_that_is_enhanced(project, enhanced_names, codec):
    replace_dark(dark_videos(), codec=codec)
    run_enhance("before")
    replace_dark({**dark_videos(), "Run/new": noise((9, 16, 20))}, codec=codec)
    enhanced_names.clear()
    run_enhance("after")
    assert enhanced_names == ["Run/new"]
    run_from_scratch()
    assert contents("after") == contents("scratch")


def test_a_changed_video_is_enhanced_again_and_a_removed_one_goes(project, enhanced_names):
    run_enhance("before")
    videos = dark_videos()
    del videos["long"]
    videos["Run/Run_2_1"] = noise((7, 16, 20))
    replace_dark(videos)
    enhanced_names.clear()
    run_enhance("after")
    assert enhanced_names == ["Run/Run_2_1"]
    run_from_scratch()
    assert contents("after") == contents("scratch")


def test_frames_of_the_same_bytes_in_another_shape_are_others(project, enhanced_names):
    videos = dark_videos()
    videos["long"] = np.zeros((2, 12, 16, 3), np.uint8)
    replace_dark(videos)
    run_enhance("before")
    videos["long"] = np.zeros((2, 16, 12, 3), np.uint8)
    replace_dark(videos)
    enhanced_names.clear()
    assert run_enhance("after").shape("long") == (2, 16, 12)
    assert enhanced_names == ["long"]


def test_another_enhancer_enhances_all(project, enhanced_names):
    run_enhance("before")
    save_enhancer(Path("enhancer.safetensors"), Gamma(2.3), fitted_on={})
    enhanced_names.clear()
    run_enhance("after")
    assert sorted(enhanced_names) == sorted(SHAPES)


def damage_dark(name):
    row = next(row for row in FrameStore(Path("dark")).rows if row.video_id == name)
    path = shard_path(Path("dark"), row.shard)
    content = path.read_bytes()
    frame = dark_videos()[name][0].tobytes()
    path.write_bytes(content.replace(frame, bytes(len(frame))))
    return lambda: path.write_bytes(content)


def test_damaged_videos_are_named_together_while_the_others_finish(project, enhanced_names):
    mend = [damage_dark(name) for name in ("Run/Run_1_1", "Run/Run_4_1")]
    with pytest.raises(StaleArtifactError, match="2 of 8 videos could not be enhanced") as error:
        run_enhance()
    assert [finding.partition(":")[0] for finding in sorted(error.value.findings)] == ["Run/Run_1_1", "Run/Run_4_1"]
    assert not Path("enhanced").exists()
    for undo in reversed(mend):
        undo()
    enhanced_names.clear()
    run_enhance()
    assert sorted(enhanced_names) == ["Run/Run_1_1", "Run/Run_4_1"]
    run_from_scratch()
    assert contents("enhanced") == contents("scratch")


def test_the_report_counts_frames_and_time(project):
    first = enhance(Path("dark"), Path("enhancer.safetensors"), Path("enhanced"), run=run_here)
    assert first.num_frames == sum(shape[0] for shape in SHAPES.values())
    assert set(first.seconds) == {"decode", "enhance", "encode", "write"}
    again = enhance(Path("dark"), Path("enhancer.safetensors"), Path("enhanced"), run=run_here)
    assert (again.num_frames, again.seconds) == (0, {})


def test_memory_does_not_grow_with_the_length_of_a_video(project, monkeypatch):
    monkeypatch.setattr("pipeline.data.frame_shard._COPY_BYTES", 1 << 20)  # a bound of its own, 16 MiB
    peaks = []
    for num_frames in (200, 800):
        videos = {"one": np.zeros((num_frames, 90, 120, 3), np.uint8)}
        replace_dark(videos)
        del videos
        tracemalloc.start()
        run_enhance()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_a_missing_enhancer_is_found_before_any_task(project):
    Path("enhancer.safetensors").unlink()

    def never(function, tasks):
        raise AssertionError("tasks were run")

    with pytest.raises(StaleArtifactError, match="no such model file"):
        run_enhance(run=never)
