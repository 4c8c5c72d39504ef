"""`dlkdd enhance --preview`: every enhancer's own pixels, the fits of the stage, and nothing left out in silence."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from builders import manifest_row, one_thread, write_frames  # noqa: F401 - one_thread applies to the file
from paths import ROOT

from benchmarks.in_memory import enhance_frames
from pipeline.core.params import load_params
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import encoded
from pipeline.data.manifest import write_manifest
from pipeline.enhance import fit as fitted_enhancer
from pipeline.enhance.classical import Gamma, Unchanged
from pipeline.enhance.file import CLASSICAL, ENHANCERS, LEARNED, load_enhancer, save_enhancer
from pipeline.evaluate.light import spread_videos
from pipeline.tools.look.preview import Column, columns, preview

LEVELS = {"a/1": 30, "a/2": 5, "b/1": 60, "b/2": 15, "c/1": 90}  # of brightness
SHAPE = (5, 24, 32)
CPU = torch.device("cpu")


def dark_videos():
    return {
        name: np.random.default_rng(level).gamma(2.0, level / 2, (*SHAPE, 3)).clip(0, 255).astype(np.uint8)
        for name, level in LEVELS.items()
    }


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    write_frames(Path("dark"), dark_videos())
    splits = {"a/1": "train", "a/2": "train", "b/1": "train", "b/2": "val", "c/1": "test"}
    write_manifest(Path("manifest.csv"), [manifest_row(name, 0, split, SHAPE) for name, split in splits.items()])
    write_params()
    return tmp_path


def write_params(**changes):
    whole = yaml.safe_load((ROOT / "params.yaml").read_text())
    whole["fit_enhancer"] |= {"steps": 3, "batch_size": 2, "size": 24, "learning_rate": 0.01, **changes}
    whole["enhancer"] = whole["fit_enhancer"].pop("enhancer", "gamma")
    Path("params.yaml").write_text(yaml.safe_dump(whole))


def columns_now(*, file=None, train=("a/1", "a/2", "b/1")):
    params = load_params(Path("params.yaml"))
    return columns(FrameStore(Path("dark")), params, file=file, train=train, device=CPU, stop=lambda: None)


@pytest.fixture
def fits(monkeypatch):
    """Names of the fits that are done."""
    names = []
    fit_into = fitted_enhancer._fit_into

    def noted(found, stage, fit, *others):
        names.append(fit.name)
        fit_into(found, stage, fit, *others)

    monkeypatch.setattr(fitted_enhancer, "_fit_into", noted)
    return names


# the library


def test_the_sheet_shows_the_middle_frames_that_each_enhancer_makes_of_its_video(project):
    shown = columns_now()
    assert [column.enhancer.name for column in shown] == list(ENHANCERS)
    names = ["a/2", "b/2", "c/1"]
    sheet = preview(FrameStore(Path("dark")), names, shown, among="5 videos")
    assert [len(boxes) for boxes in sheet.boxes] == [len(ENHANCERS)] * 3
    for name, boxes in zip(names, sheet.boxes, strict=True):
        for column, box in zip(shown, boxes, strict=True):
            expected = enhance_frames(column.enhancer, dark_videos()[name])[SHAPE[0] // 2]
            part = sheet.picture_HWC[box.top : box.top + box.height, box.left : box.left + box.width]
            factor = box.height // SHAPE[1]
            np.testing.assert_array_equal(part[::factor, ::factor], expected, err_msg=f"{name}, {column}")


def test_the_videos_are_spread_from_the_darkest_to_the_brightest():
    luma = {"a": 5.0, "b": 1.0, "c": 9.0, "d": 1.0, "e": 7.0}
    assert spread_videos(luma, 2) == ["b", "c"]
    assert spread_videos(luma, 3) == ["b", "a", "c"]
    assert spread_videos(luma, 9) == ["b", "d", "a", "e", "c"]
    assert spread_videos(luma, 1) == ["b"]


def test_classical_enhancers_have_the_parameters_of_the_file(project):
    write_params(gamma=3.5, statistics="frame", smoothing=7)
    shown = {column.enhancer.name: column for column in columns_now(train=None)}
    assert list(shown) == list(CLASSICAL)
    assert (shown["gamma"].enhancer, shown["gamma"].note) == (Gamma(3.5), "gamma 3.5")
    assert shown["equalize"].note == "over 7 frames"
    assert shown["equalize"].enhancer.smoothing == 7


def test_a_file_serves_for_its_own_name(project):
    save_enhancer(Path("mine.safetensors"), Gamma(5.0), fitted_on={})
    shown = {column.enhancer.name: column for column in columns_now(file=Path("mine.safetensors"), train=None)}
    assert (shown["gamma"].enhancer, shown["gamma"].note) == (Gamma(5.0), "mine.safetensors")


def test_a_fitted_file_is_taken_instead_of_a_fit(project, fits):
    columns_now()
    (model,) = Path(".work").glob("preview_zero_dce-*/enhancer.safetensors")
    model.rename("zero.safetensors")
    fits.clear()
    write_params(steps=4)
    shown = {column.enhancer.name: column.note for column in columns_now(file=Path("zero.safetensors"))}
    assert fits == ["zero_dce_pp", "sci"]
    assert (shown["zero_dce"], shown["sci"]) == ("zero.safetensors", "fitted in 4 steps")


def test_weights_of_the_parameters_are_those_of_their_enhancer(project, fits):
    columns_now()
    (model,) = Path(".work").glob("preview_sci-*/enhancer.safetensors")
    model.rename("sci.safetensors")
    fits.clear()
    write_params(enhancer="sci", weights="sci.safetensors", steps=4)
    shown = {column.enhancer.name: column for column in columns_now()}
    assert fits == ["zero_dce", "zero_dce_pp"]
    assert shown["sci"].note == "sci.safetensors"
    expected = load_enhancer(Path("sci.safetensors")).tensors()
    found = shown["sci"].enhancer.tensors()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


# the command

PREVIEW = ("enhance", "--preview", 2, "--dark", "dark", "--out", "preview.png", "--device", "cpu")


@pytest.fixture
def succeed(call):
    def run(*arguments):
        code, out, err = call(*arguments)
        assert (code, out) == (0, "")
        return err

    return run


def test_learned_enhancers_are_those_of_the_stage_byte_for_byte(project, succeed):
    succeed(*PREVIEW, "--manifest", "manifest.csv")
    for name in LEARNED:
        write_params(enhancer=name)
        succeed("fit_enhancer", "--dark", "dark", "--manifest", "manifest.csv", "--out", f"{name}.safetensors",
                "--curve", "c.csv", "--device", "cpu")  # fmt: skip
        (kept,) = Path(".work").glob(f"preview_{name}-*/enhancer.safetensors")
        assert kept.read_bytes() == Path(f"{name}.safetensors").read_bytes()


def test_a_second_preview_fits_nothing_and_is_the_same_picture(project, succeed, fits):
    said = succeed(*PREVIEW, "--manifest", "manifest.csv")
    assert f"2 videos, {len(ENHANCERS)} enhancers" in said
    assert fits == list(LEARNED)
    first = Path("preview.png").read_bytes()
    fits.clear()
    succeed(*PREVIEW, "--manifest", "manifest.csv")
    assert fits == []
    assert Path("preview.png").read_bytes() == first
    write_params(gamma=4.0)
    succeed(*PREVIEW, "--manifest", "manifest.csv")
    assert fits == []
    assert Path("preview.png").read_bytes() != first


def test_without_a_manifest_it_says_what_is_left_out_and_why(project, succeed, fits):
    said = succeed(*PREVIEW)
    assert "without zero_dce, zero_dce_pp, sci: learned enhancers are fitted" in said
    assert f"2 videos, {len(CLASSICAL)} enhancers" in said
    assert fits == []
    height, width, _ = cv2.imread("preview.png").shape
    assert f"{width}x{height} pixels" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*PREVIEW[:5], "--out", "data/enhanced"], "expected the name of a .png file"),
        ([*PREVIEW, "--workers", 2], "--preview does not take --workers"),
        (["enhance", "--dark", "dark", "--out", "enhanced"], "--enhancer is missing"),
        (
            ["enhance", "--dark", "dark", "--out", "o", "--enhancer", "e", "--manifest", "m", "--params", "p"],
            "does not take --manifest and --params",
        ),
    ],
)
def test_wrong_options_are_2_and_write_nothing(project, call, arguments, message):
    before = sorted(Path().iterdir())
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert sorted(Path().iterdir()) == before


def test_test_videos_are_not_shown(project, succeed, monkeypatch):
    """Whoever looks at them to choose an enhancer has tuned on them."""
    shown = []

    def noted(dark, video_ids, *others, **options):
        shown.extend(video_ids)
        return preview(dark, video_ids, *others, **options)

    monkeypatch.setattr(import_module("stages._preview"), "preview", noted)
    succeed(*PREVIEW[:2], 9, *PREVIEW[3:], "--manifest", "manifest.csv")
    assert shown == ["a/2", "b/2", "a/1", "b/1"]  # from dark to bright, without c/1


def test_a_store_without_videos_is_3(project, call):
    write_frames(Path("none"), {})
    code, _, err = call(*PREVIEW[:4], "none", *PREVIEW[5:])
    assert code == 3
    assert err.startswith("error: none: there are no videos to show")


def test_a_manifest_of_other_videos_is_5_before_anything_is_fitted(project, call, fits):
    rows = [manifest_row(name, 0, "train", SHAPE) for name in (*LEVELS, "x", "y")]
    write_manifest(Path("manifest.csv"), rows)
    code, _, err = call(*PREVIEW, "--manifest", "manifest.csv")
    assert (code, fits) == (5, [])
    assert "lacks 2 videos of manifest.csv\n  - x\n  - y\n" in err


def test_the_stage_does_not_import_the_preview(project, call, monkeypatch):
    for name in ("stages._preview", "pipeline.tools.look.preview", "pipeline.tools.look.contact_sheet"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    save_enhancer(Path("e.safetensors"), Gamma(2.0), fitted_on={})
    code, _, err = call("enhance", "--dark", "dark", "--enhancer", "e.safetensors", "--out", "out", "--workers", 1)
    assert code == 0, err
    assert "stages._preview" not in sys.modules
    assert FrameStore(Path("out")).video_ids == tuple(LEVELS)


def test_codes_are_shown_as_the_values_that_they_stand_for(project):
    codes = {name: encoded(video.astype(np.float32), "companded") for name, video in dark_videos().items()}
    shown = [Column(Unchanged(), ""), Column(Gamma(2.2), "")]
    linear, companded = (
        preview(store, ["a/1", "a/2"], shown, among="two")
        for store in (FrameStore(Path("dark")), write_frames(Path("codes"), codes, levels="companded"))
    )
    for boxes in linear.boxes:
        for box in boxes:
            rows, columns_ = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
            pair = (sheet.picture_HWC[rows, columns_].astype(int) for sheet in (linear, companded))
            assert np.abs(np.subtract(*pair)).max() <= 2
