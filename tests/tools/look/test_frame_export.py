"""Exported files show the frames of the store, and nothing is written where anything is wrong."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from builders import manifest_row, write_frames

from pipeline.core.errors import DataError, ParamsError, StaleArtifactError
from pipeline.data.frame_store import FrameStore, shard_path
from pipeline.data.manifest import write_manifest
from pipeline.tools.look.frame_export import export_videos
from pipeline.videos.reader import probe, read_frames

SHAPES = {"Jump/1": (7, 32, 48), "Run/1": (40, 33, 47), "Run/2": (3, 32, 48)}


def smooth_video(shape_THW, phase):
    """A gradient that moves: what a codec holds well."""
    t, y, x = np.mgrid[tuple(slice(size) for size in shape_THW)]
    return np.stack([(2 * t + y + x + phase * channel) % 200 for channel in (0, 1, 2)], axis=-1).astype(np.uint8)


def dark_videos():
    return {name: smooth_video(shape, 5) // 4 for name, shape in SHAPES.items()}


@pytest.fixture
def dark(tmp_path):
    return write_frames(tmp_path / "dark", dark_videos())


@pytest.fixture
def enhanced(tmp_path):
    return write_frames(tmp_path / "enhanced", {name: video * 3 for name, video in dark_videos().items()})


def export(store, out, **options):
    return export_videos(store, out, **{"fps": 10.0, "crf": 4, **options})


def decoded(path):
    return np.stack(list(read_frames(path)))


def assert_near(shown_THWC, frames_THWC):
    assert shown_THWC.shape == frames_THWC.shape
    assert np.abs(shown_THWC.astype(int) - frames_THWC).mean() < 3


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_each_video_is_a_file_in_folders_by_its_id(dark, tmp_path):
    written, num_frames = export(dark, tmp_path / "look")
    assert files(tmp_path / "look") == ["Jump/1.mp4", "Run/1.mp4", "Run/2.mp4"]
    assert (sorted(written), num_frames) == (sorted((tmp_path / "look").rglob("*.mp4")), 50)
    assert_near(decoded(tmp_path / "look/Jump/1.mp4"), dark_videos()["Jump/1"])
    assert probe(tmp_path / "look/Jump/1.mp4").fps == 10


def test_the_halves_are_the_frames_of_the_two_stores(dark, enhanced, tmp_path):
    export(dark, tmp_path / "look", beside=enhanced)
    for name, (_, height, width) in SHAPES.items():
        shown = decoded(tmp_path / f"look/{name}.mp4")
        half = shown.shape[2] // 2
        assert (half, shown.shape[1]) == (width + width % 2, height + height % 2)
        for store, side in ((dark, shown[:, :, :half]), (enhanced, shown[:, :, half:])):
            assert_near(side[:, :height, :width], store.read(name, range(len(shown))))


def test_an_odd_last_row_and_column_are_there_twice(dark, tmp_path):
    export(dark, tmp_path / "look", video_ids=["Run/1"])
    shown = decoded(tmp_path / "look/Run/1.mp4").astype(int)
    assert shown.shape[1:3] == (34, 48)
    assert np.abs(shown[:, -1] - shown[:, -2]).mean() < 2
    assert np.abs(shown[:, :, -1] - shown[:, :, -2]).mean() < 2


def test_the_manifest_states_the_rates_and_fps_is_for_the_others(dark, tmp_path):
    rows = [manifest_row(name, 0, "train", shape) for name, shape in SHAPES.items()]
    rows[1] = type(rows[1])(**{**rows[1].__dict__, "fps": 0.0})
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    written, _ = export(dark, tmp_path / "look", manifest=manifest, fps=12.0)
    assert [probe(path).fps for path in written] == [25.0, 12.0, 25.0]
    fewer = write_manifest(tmp_path / "fewer.csv", rows[1:2])
    with pytest.raises(StaleArtifactError, match="lacks 2 of") as error:
        export(dark, tmp_path / "look", manifest=fewer, fps=12.0)
    assert error.value.findings == ("Jump/1", "Run/2")


def test_ids_and_a_limit_choose(dark, tmp_path):
    def chosen(**options):
        written, _ = export(dark, tmp_path / "look", force=True, **options)
        return [path.relative_to(tmp_path / "look").with_suffix("").as_posix() for path in written]

    assert chosen() == list(SHAPES)
    assert chosen(limit=2) == ["Jump/1", "Run/1"]
    assert chosen(video_ids=["Run/2", "Jump/1", "Run/2"]) == ["Run/2", "Jump/1"]


def test_all_unknown_ids_are_named_with_the_nearest(dark, tmp_path):
    with pytest.raises(ParamsError, match="no such videos: 2") as error:
        export(dark, tmp_path / "look", video_ids=["Jmp/1", "Run/1", "x"])
    assert error.value.findings == ("Jmp/1: did you mean Jump/1?", "x")
    assert not (tmp_path / "look").exists()


def test_stores_that_differ_are_refused_with_all_differences(dark, tmp_path):
    others = dark_videos()
    others["Other/1"] = others.pop("Jump/1")
    others["Run/1"] = others["Run/1"][:39]
    others["Run/2"] = others["Run/2"][:, :, :46]
    other = write_frames(tmp_path / "other", others)
    with pytest.raises(StaleArtifactError, match="4 differ") as error:
        export(dark, tmp_path / "look", beside=other)
    assert error.value.findings == (
        f"Jump/1: only in {dark.path}",
        f"Other/1: only in {other.path}",
        "Run/1: 40 frames of 47×33 and 39 frames of 47×33",
        "Run/2: 3 frames of 48×32 and 3 frames of 46×32",
    )
    assert not (tmp_path / "look").exists()


def test_what_differs_elsewhere_does_not_matter_to_a_video_that_is_named(dark, tmp_path):
    other = write_frames(tmp_path / "other", {"Run/2": dark_videos()["Run/2"]})
    assert export(dark, tmp_path / "look", beside=other, video_ids=["Run/2"])[1] == 3


def test_files_that_are_there_stay_unless_forced(dark, tmp_path):
    out = tmp_path / "look"
    (out / "Run").mkdir(parents=True)
    for name in ("Run/1.mp4", "Run/2.mp4"):
        (out / name).write_text("mine")
    with pytest.raises(ParamsError, match="paths in the way: 2") as error:
        export(dark, out)
    assert error.value.findings == tuple(f"{out / name}: already exists" for name in ("Run/1.mp4", "Run/2.mp4"))
    assert files(out) == ["Run/1.mp4", "Run/2.mp4"]
    export(dark, out, force=True)
    assert len(decoded(out / "Run/1.mp4")) == 40


def test_nothing_replaces_a_folder_and_a_file_is_no_folder(dark, tmp_path):
    out = tmp_path / "look"
    (out / "Jump/1.mp4").mkdir(parents=True)
    (out / "Run").write_text("mine")
    with pytest.raises(ParamsError) as error:
        export(dark, out, force=True)
    assert set(error.value.findings) == {f"{out}/Run: is not a folder", f"{out}/Jump/1.mp4: is a folder"}


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/tmp/out", "C:\\out", "", "a/../b"])
def test_an_id_that_leads_out_is_refused(tmp_path, name):
    frames = {name: dark_videos()["Run/2"], "fine": dark_videos()["Run/2"]}
    store = write_frames(tmp_path / "dark", frames)
    with pytest.raises(DataError, match="that name no file in it: 1"):
        export(store, tmp_path / "in/look")
    assert not (tmp_path / "in").exists()
    assert export(store, tmp_path / "in/look", video_ids=["fine"])[1] == 3


def test_a_link_that_leads_out_is_refused(dark, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "look").mkdir()
    (tmp_path / "look/Run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="that name no file in it: 2"):
        export(dark, tmp_path / "look", force=True)
    assert files(tmp_path / "elsewhere") == []


def test_ids_of_one_file_are_refused(tmp_path):
    store = write_frames(tmp_path / "dark", {name: dark_videos()["Run/2"] for name in ("a", "./a")})
    with pytest.raises(DataError, match="that name no file in it: 1"):
        export(store, tmp_path / "look")


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_fps_is_a_rate(dark, tmp_path, fps):
    with pytest.raises(ParamsError, match="--fps"):
        export(dark, tmp_path / "look", fps=fps)


def test_damaged_videos_are_named_while_the_others_are_written(dark, tmp_path):
    row = next(row for row in dark.rows if row.video_id == "Run/1")
    path = shard_path(dark.path, row.shard)
    content = path.read_bytes()
    frame = dark_videos()["Run/1"][20].tobytes()
    path.write_bytes(content.replace(frame, frame[::-1]))
    with pytest.raises(StaleArtifactError, match="1 of 3 videos are damaged") as error:
        export(FrameStore(dark.path), tmp_path / "look")
    assert "frame 20 of Run/1" in error.value.findings[0]
    assert files(tmp_path / "look") == ["Jump/1.mp4", "Run/2.mp4"]


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    peaks = []
    for num_frames in (64, 256):
        store = write_frames(tmp_path / str(num_frames), {"one": np.zeros((num_frames, 90, 120, 3), np.uint8)})
        tracemalloc.start()
        export(store, tmp_path / f"look{num_frames}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
