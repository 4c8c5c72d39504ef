from __future__ import annotations

import re
from collections import defaultdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import yaml
from paths import ROOT

from benchmarks.demo_light import measure_light
from pipeline.core.digest import digest_file
from pipeline.core.errors import ParamsError
from pipeline.core.params import Params, load_params, load_section
from pipeline.tools.demo import render as demo
from pipeline.tools.demo.render import DemoVideo, DemoVideosParams, contact_sheet, film, list_videos, render, write_demo
from pipeline.videos.reader import probe, read_frames
from stages._cluster import map_tasks

HERE = partial(map_tasks, num_workers=1)
SHIPPED = load_section(ROOT / "demo/params.yaml", "demo_videos", DemoVideosParams)
BUILT_IN = get_args(get_args(Params.model_fields["render"].annotation)[0])
TINY = SHIPPED.model_copy(
    update={
        "classes": ["Jump", "Wave"],
        "num_groups": 3,
        "num_test_groups": 1,
        "clips_per_group": 2,
        "num_places": 2,
        "width": 64,
        "height": 48,
        "min_frames": 8,
        "max_frames": 10,
    }
)


def ignore_progress(_count: int, _note: str, *, earlier: bool = False) -> None:
    pass


def digests(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): digest_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def tiny_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_demo(TINY, folder / "out", run=HERE, advance=ignore_progress)
    return folder / "out"


def read_list(root: Path, split: str) -> list[tuple[int, int, str]]:
    lines = (root / f"list_cvt/ARID_split1_{split}.txt").read_text().splitlines()
    return [(int(row), int(label), name) for row, label, name in (line.split("\t") for line in lines)]


def test_the_lists_are_arids(tiny_demo: Path):
    assert (tiny_demo / "list_cvt/mapping_table.txt").read_text() == "0\tJump\n1\tWave\n"
    listed = []
    for split, num_videos in (("train", 8), ("test", 4)):
        rows = read_list(tiny_demo, split)
        assert [row for row, _, _ in rows] == list(range(num_videos))
        for _, label, name in rows:
            match = re.fullmatch(r"(\w+)/(\w+)_(\d+)_(\d+)\.avi", name)
            assert match
            assert match[1] == match[2] == TINY.classes[label]
            listed.append(name.replace(".avi", ".mp4"))
    on_disk = [path.relative_to(tiny_demo).as_posix() for path in tiny_demo.rglob("*.mp4")]
    assert sorted(listed) == sorted(on_disk)


def test_no_performer_is_in_two_splits(tiny_demo: Path):
    splits = defaultdict(set)
    for split in ("train", "test"):
        for _, _, name in read_list(tiny_demo, split):
            splits[name.rsplit("_", 1)[0]].add(split)
    assert all(len(found) == 1 for found in splits.values())


def test_videos_have_the_stated_geometry(tiny_demo: Path):
    for path in tiny_demo.rglob("*.mp4"):
        info = probe(path)
        assert (info.width, info.height, info.fps) == (64, 48, TINY.fps)
        assert 8 <= len(list(read_frames(path))) <= 10


def test_two_processes_write_the_same_bytes_as_one(
    tiny_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_demo(TINY, tmp_path / "out", run=partial(map_tasks, num_workers=2), advance=ignore_progress)
    assert digests(tmp_path / "out") == digests(tiny_demo)
    assert not any((tmp_path / ".work").glob("demo_videos-*/"))


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    tiny_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[str] = []

    def stop_after_three(count: int, note: str, *, earlier: bool = False) -> None:
        seen.extend([note] * count)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demo(TINY, tmp_path / "out", run=HERE, advance=stop_after_three)
    assert not (tmp_path / "out").exists()
    steps: list[int] = []
    write_demo(TINY, tmp_path / "out", run=HERE, advance=lambda count, _, **__: steps.append(count))
    assert steps == [3] + [1] * 9
    assert digests(tmp_path / "out") == digests(tiny_demo)


def test_a_video_depends_only_on_its_name_and_the_look_of_the_set():
    video = DemoVideo("Wave", 2, 1)
    smaller = TINY.model_copy(update={"classes": ["Sit", "Wave"], "num_groups": 2, "clips_per_group": 1})
    assert np.array_equal(np.stack(list(film(TINY, video))), np.stack(list(film(smaller, video))))
    frames = {next(film(TINY, video)).tobytes() for video in list_videos(TINY)}
    assert len(frames) == len(list_videos(TINY))
    reseeded = TINY.model_copy(update={"seed": 1})
    assert next(film(reseeded, video)).tobytes() not in frames


@pytest.mark.parametrize("name", SHIPPED.classes)
def test_every_action_moves_in_the_picture(name: str):
    params = SHIPPED.model_copy(update={"width": 96, "height": 72, "nuisance": 0.0})
    frames = np.stack(list(islice(render(params, DemoVideo(name, 1, 1)), 0, None, 3))).astype(int)
    assert frames.shape[1:] == (72, 96, 3)
    moved = (np.abs(np.diff(frames, axis=0)).max(axis=-1) > 12).any(axis=0).mean()
    assert moved > 0.005


@pytest.mark.parametrize("nuisance", [0.0, 2.0])
def test_any_strength_of_nuisance_can_be_drawn(nuisance: float):
    params = TINY.model_copy(update={"nuisance": nuisance, "classes": SHIPPED.classes, "num_groups": 4})
    for video in list_videos(params)[::2]:
        assert next(film(params, video)).shape == (48, 64, 3)


def test_dark_videos_are_as_dark_as_real_ones():
    """24 real ARID clips have a mean luma of 8.6 at the 10th percentile, 19.1 at the median, 32.4 at the 90th."""
    clips = [np.stack(list(islice(film(SHIPPED, video), 2))) for video in list_videos(SHIPPED)[::21]]
    means = [measure_light(clip).mean for clip in clips]
    low, middle, high = np.percentile(means, [10, 50, 90])
    assert 5 < low < 13
    assert 14 < middle < 25
    assert 25 < high < 42


def test_the_contact_sheet_has_a_row_for_each_class(tmp_path: Path):
    contact_sheet(TINY.model_copy(update={"dark": False}), tmp_path / "sheet.png")
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (2 * 72, 6 * 96, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["Wave", "Jump"]}, "alphabetical"),
        ({"classes": ["Jump", "Fly"]}, "Fly"),
        ({"num_test_groups": 3}, "below num_groups"),
        ({"min_frames": 11}, "max_frames"),
        ({"width": 65}, "multiple of 2"),
        ({"nuisanse": 0.5}, "did you mean demo_videos.nuisance"),
    ],
)
def test_wrong_parameters_are_named(change: dict[str, object], message: str, tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"demo_videos": TINY.model_dump() | change}))
    with pytest.raises(ParamsError, match=message) as caught:
        load_section(path, "demo_videos", DemoVideosParams)
    assert "demo_videos" in str(caught.value)


def test_a_missing_section_is_reported_with_those_that_exist(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_text("smoke_videos: {}\n")
    with pytest.raises(ParamsError, match="no section demo_videos; there are: smoke_videos"):
        load_section(path, "demo_videos", DemoVideosParams)


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_a_recipe_may_render_is_a_section_of_the_demo_s_parameters(name):
    section = load_section(ROOT / "demo/params.yaml", f"{name}_videos", DemoVideosParams)
    assert set(section.classes) <= set(demo.ACTIONS)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_renders_the_videos_that_it_reads_and_no_others(path):
    recipe = load_params(path)
    assert recipe.render == [name for name in BUILT_IN if recipe.prepare.root == f"data/{name}"]
    assert bool(recipe.render) == (path.stem in BUILT_IN)
