"""Broken, odd and oddly named videos, as the stages meet them: quarantined, refused, or read right."""

from __future__ import annotations

import csv
import json
import os
import struct
from fractions import Fraction
from pathlib import Path

import check_setups
import numpy as np
import pytest
import yaml
from builders import CLASSES, CLIP, one_thread, tiny_recognizer  # noqa: F401
from check_setups import prepare_here, write_videos
from paths import ROOT
from video_files import encode, encode_sound, number_of, patched, picture

from pipeline.core.digest import digest_file
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest, read_quarantine
from pipeline.models.recognizer import save_model
from pipeline.tools.check.data import check_manifest
from pipeline.tools.check.findings import Group
from pipeline.videos import decoder as decoding

OUTS = ("--manifest", "out/manifest.csv", "--quarantine", "out/quarantine.csv", "--dark", "out/dark", "--workers", "1")


@pytest.fixture(scope="module", autouse=True)
def _own_processes():
    yield
    decoding.end_idle()


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def without_frames(path):
    """As a recorder leaves it that wrote the head of a fragmented file and never a fragment."""
    encode(path, container={"movflags": "frag_keyframe+empty_moov"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moof") - 4])


def of_two_sizes(path):
    parts = [encode(path.with_name(f"{width}.ts"), frames=15, size=(width, 48)) for width in (64, 96)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))


# name: how it is made, the fault, words of the reason
BROKEN = {
    "cut.mp4": (lambda path: cut(encode(path), 0.6), "truncated mp4", "FFmpeg: Invalid data"),
    "cut_fast.mp4": (
        lambda path: cut(encode(path, options={"crf": "5"}, container={"movflags": "faststart"}), 0.7),
        "fast-start mp4 with fewer frames than its header",
        "",
    ),
    "fewer.avi": (
        lambda path: patched(encode(path, codec="mpeg4"), (b"strh", 40, struct.pack("<I", 35))),
        "AVI with fewer frames than its header",
        "30 frames can be decoded, but the container states 35",
    ),
    "truncated.mkv": (
        lambda path: cut(encode(path, codec="ffv1"), 0.6),
        "truncated mkv",
        "but the container states 1.20 s",
    ),
    "empty.mp4": (lambda path: path.touch(), "empty file", "the file is empty"),
    "text.mp4": (lambda path: path.write_text("nothing to see\n" * 99), "text file", "Invalid data"),
    "sound.mp4": (encode_sound, "audio only", "there is no video stream"),
    "no_frames.mp4": (without_frames, "no frames", ""),
    "short.mp4": (lambda path: encode(path, frames=3), "shorter than prepare.min_frames", "fewer than the 8"),
    "sizes.ts": (of_two_sizes, "changing resolution", "its size changes from 64x48 to 96x48 at frame 15"),
    "angle.mp4": (lambda path: encode(path, rotation=45), "rotated by no quarter turn", "90 degrees"),
    "hidden.mp4": (
        lambda path: patched(encode(path), (b"elst", 12, struct.pack(">I", 500))),
        "edit list that contradicts its header",
        "state different durations",
    ),
}


def not_monotonic(number):
    """Times with gaps, and of frames that last very long or hardly at all."""
    return number * number + 10**4 * (number > 20)


X265 = {"x265-params": "log-level=none"}
# name: how it is encoded, the fault
ODD = {
    "variable.mp4": ({"pts": lambda number: number * (number + 1) // 2}, "variable frame rate"),
    "varied.mkv": ({"pts": lambda number: number * (number + 1) // 2}, "variable frame rate"),
    "gaps.mp4": ({"pts": not_monotonic}, "odd timestamps"),
    "huge.mkv": ({"pts": lambda number: number + 10**6}, "odd timestamps"),
    "late.mp4": ({"pts": lambda number: number + 10**6}, "odd timestamps"),
    "negative.mkv": ({"pts": lambda number: number - 10**3}, "odd timestamps"),
    "ten_bits.mp4": ({"pix_fmt": "yuv420p10le"}, "10-bit"),
    "ten_bits_hevc.mkv": ({"codec": "libx265", "pix_fmt": "yuv420p10le", "options": X265}, "10-bit"),
    "hevc.mp4": ({"codec": "libx265", "options": X265}, "HEVC"),
    "av1.mp4": ({"codec": "libsvtav1", "options": {"preset": "8", "crf": "20"}}, "AV1"),
    "vp9.webm": ({"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}, "VP9"),
    "full_range.mp4": ({"pix_fmt": "yuvj420p"}, "full range"),
    "wide_pixels.mp4": ({"aspect": Fraction(4, 3)}, "non-square pixels"),
    "turned.mp4": ({"rotation": 90}, "rotated"),
    "edited.mp4": (
        {"pts": lambda number: number - 10, "container": {"avoid_negative_ts": "disabled", "use_editlist": "1"}},
        "edit list that hides frames",
    ),
    "eight.mp4": ({"frames": 8}, "shorter than a clip"),
    "-i.mp4": ({}, "name with a leading dash"),
    "a b  c.mp4": ({}, "name with spaces"),
    "%03d*?[x];'$(x).mp4": ({}, "name with signs of shells and patterns"),
    "ünï😀.mp4": ({}, "name beyond ASCII"),
    "http:x.mp4": ({}, "name like an address"),
}


def listed(names):
    """Add videos of train, which are in the folder of the data, to its list."""
    with Path("data/videos.csv").open("a", newline="") as file:
        csv.writer(file).writerows([name, "jump", name, "train"] for name in names)


def write_params(**changes):
    return check_setups.write_params(prepare__short_side=48, prepare__codec="raw", prepare__num_shards=2, **changes)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What one run makes of all the videos of this file: manifest, reasons of the quarantine, and frames."""
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        write_videos(Path("data"))
        for name, (make, _, _) in BROKEN.items():
            make(Path("data", name))
        for name, (how, _) in ODD.items():
            encode(Path("data", name), **how)
        listed([*BROKEN, *ODD])
        prepare_here(write_params(prepare__max_quarantined=0.9))
    store = FrameStore(folder / "dark")
    store.verify()
    reasons = {row.path: row.reason for row in read_quarantine(folder / "quarantine.csv")}
    return read_manifest(folder / "manifest.csv"), reasons, store, folder


def of(table):
    """Parameters with the fault of each name."""
    return [
        pytest.param(
            name, marks=pytest.mark.fault("Videos", row[1], "Q" if table is BROKEN else "="), id=f"video{index}"
        )
        for index, (name, row) in enumerate(table.items())
    ]


@pytest.mark.parametrize("name", of(BROKEN))
def test_a_broken_video_is_in_quarantine_with_its_reason(prepared, name):
    manifest, reasons, _, _ = prepared
    assert BROKEN[name][2] in reasons[name]
    assert name not in {row.path for row in manifest.rows}


@pytest.mark.parametrize("name", of(ODD))
def test_an_odd_video_has_the_frames_of_its_source(prepared, name):
    manifest, reasons, store, folder = prepared
    assert set(reasons) == set(BROKEN)
    (row,) = [row for row in manifest.rows if row.path == name]
    assert row.digest == digest_file(folder / "data" / name)
    frames = store.read(row.video_id, range(row.num_frames))
    expected = {"edited.mp4": range(10, 30), "eight.mp4": range(8)}.get(name, range(30))
    assert [number_of(frame) for frame in frames] == list(expected)
    if name == "wide_pixels.mp4":
        assert frames.shape[1:3] == (48, 85)
        return
    for number, frame in zip(expected, frames, strict=True):
        source = picture(number)
        if name == "turned.mp4":  # counter-clockwise; its shorter side is the shorter one of the store, too
            source = np.rot90(source)
        assert frame.shape == source.shape
        assert np.abs(frame.astype(int) - source).mean() < 6


@pytest.mark.fault("Videos", "more broken videos than prepare.max_quarantined", "E")
def test_too_many_broken_videos_are_an_error(checked_project, call):
    for name in ("empty.mp4", "text.mp4", "sound.mp4"):
        BROKEN[name][0](Path("data", name))
    listed(["empty.mp4", "text.mp4", "sound.mp4"])
    write_params(prepare__max_quarantined=0.2)
    code, _, err = call("prepare", *OUTS)
    assert code == 3
    assert all(name in err for name in ("empty.mp4", "text.mp4", "sound.mp4", "prepare.max_quarantined"))
    assert not Path("out/manifest.csv").exists()


@pytest.mark.fault("Videos", "bit flips that still decode, of a video that the manifest knows", "E")
def test_bits_that_still_decode_are_told_by_the_digest(checked_project, call):
    chosen = write_params()
    assert call("prepare", *OUTS)[0] == 0
    before = read_manifest(Path("out/manifest.csv"))
    sound = Group("data")
    check_manifest(sound, chosen.prepare, Path("out/manifest.csv"))
    assert not sound.findings
    changed = patched(Path("data/jump/jump0.mp4"), (b"x264", 0, b"X264"))  # the encoder's comment: the same frames
    gone = Path("data/wave/wave1.mp4")
    content = gone.read_bytes()
    gone.unlink()
    code, out, _ = call("check", "--manifest", "out/manifest.csv", "--processes", 1, "--json")
    findings = json.loads(out)["groups"][1]["findings"]
    assert code != 0
    assert [(found["level"], found["details"]) for found in findings if "of out/manifest.csv" in found["message"]] == [
        ("problem", ["jump/jump0.mp4"]),
        ("problem", ["wave/wave1.mp4"]),
    ]
    # and where `prepare` reads them again, what was made from the old ones does not fit the new manifest
    gone.write_bytes(content)
    assert call("prepare", *OUTS)[0] == 0
    after = read_manifest(Path("out/manifest.csv"))
    assert [old.path for old, new in zip(before.rows, after.rows, strict=True) if old != new] == ["jump/jump0.mp4"]
    assert after.by_id["jump/jump0"].digest == digest_file(changed)
    assert before.digest != after.digest


@pytest.mark.fault("Videos", "missing files", "E")
def test_every_missing_file_is_listed(checked_project, call):
    names = ["jump/jump0.mp4", "jump/jump3.mp4", "wave/wave1.mp4"]
    for name in names:
        Path("data", name).unlink()
    write_params()
    code, _, err = call("prepare", *OUTS)
    assert code == 3
    assert all(f"{name} is missing" in err for name in names)
    assert not Path("out").exists()


@pytest.mark.fault("Videos", "paths in a list that lead out of the root", "E")
@pytest.mark.parametrize("how", ["dots", "absolute"])
def test_a_list_names_nothing_outside_of_the_root(checked_project, call, tmp_path, how):
    outside = encode(tmp_path / "outside.mp4")
    listed(["../outside.mp4" if how == "dots" else str(outside)])
    write_params()
    code, _, err = call("prepare", *OUTS)
    assert code == 3
    assert ("may lead out of the root" if how == "dots" else "is not below the root") in err
    assert "videos.csv:10" in err
    assert not Path("out").exists()


@pytest.mark.fault("Videos", "links to videos and folders on another disk", "=")
@pytest.mark.parametrize("how", ["link", "linked folder"])
def test_links_to_data_are_followed(checked_project, call, tmp_path, how):
    name = "l.mp4" if how == "link" else "elsewhere/outside.mp4"
    (tmp_path / "disk").mkdir()
    outside = encode(tmp_path / "disk/outside.mp4")
    Path("data", name.partition("/")[0]).symlink_to(outside if how == "link" else outside.parent)
    listed([name])
    write_params()
    code, _, err = call("prepare", *OUTS)
    assert code == 0, err
    assert f"1 of 9 videos lie outside of data, by links, such as {name}: {outside}" in err
    row = read_manifest(Path("out/manifest.csv")).by_id[name.removesuffix(".mp4")]
    assert (row.path, row.num_frames) == (name, 30)


@pytest.mark.fault("Videos", "symlink loops", "=")
def test_a_loop_of_links_is_gone_round_once(checked_project, call):
    Path("data/videos.csv").unlink()
    Path("data/jump/again").symlink_to("..")
    Path("data/wave/self").symlink_to(".")
    write_params(prepare__layout="class_folders", prepare__val_share=0.25, prepare__test_share=0.25)
    code, _, err = call("prepare", *OUTS)
    assert code == 0, err
    assert len(read_manifest(Path("out/manifest.csv")).rows) == 8


# --- predict, which writes no manifest ---

NAMES = [
    "-i.mp4",
    "a b.mp4",
    "new\nline.mp4",
    "%03d[x].mp4",
    "ünï😀.mp4",
    os.fsdecode(b"latin-\xe9.mp4"),
    "\x1b[31m.mp4",
]


@pytest.mark.fault("Videos", "names with spaces, newlines, dashes, bytes that are no UTF-8, to predict", "=")
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_predict_takes_any_name(tmp_path, monkeypatch, call, name):
    monkeypatch.chdir(tmp_path)
    save_model(Path("model.st"), tiny_recognizer(), class_names=CLASSES, trained_on={"stage": "train_student"})
    values = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"clip": CLIP.model_dump()}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    Path("night").mkdir()
    encode(Path("plain.mp4")).rename(Path("night", name))
    code, out, err = call("predict", "--model", "model.st", "night", "--json", "--csv", "all.csv")
    assert code == 0, err
    (video,) = json.loads(out)["videos"]
    assert video["path"] == f"night/{name}"
    assert video["num_frames"] == 30
    with Path("all.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [f"night/{name}"]
    code, out, err = call("predict", "--model", "model.st", "night")
    assert code == 0, err
    assert "\x1b[31m" not in out
    monkeypatch.chdir("night")
    assert call("predict", "--model", "../model.st", "--params", "../params.yaml", "--json", "--", name)[0] == 0


@pytest.mark.fault("Videos", "names with line ends or bytes that are no UTF-8, to prepare", "E")
@pytest.mark.parametrize("name", [os.fsdecode(b"latin-\xe9.mp4"), "new\nline.mp4", "\x1b[31m.mp4"], ids=ascii)
def test_a_name_that_no_table_can_hold_is_named(checked_project, call, name):
    """Before a video is decoded."""
    Path("data/videos.csv").unlink()
    Path("data/jump/jump0.mp4").rename(Path("data/jump", name))
    write_params(prepare__layout="class_folders", prepare__val_share=0.25, prepare__test_share=0.25)
    code, _, err = call("prepare", *OUTS)
    assert code == 3, err
    assert repr(name)[1:-1] in err
    assert "\x1b[31m" not in err
    assert not Path("out").exists()
    assert not Path(".work").exists()
