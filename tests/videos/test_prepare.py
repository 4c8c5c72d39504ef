"""Preparation: every listed video ends in the manifest or in the quarantine, whatever happened on the way."""

from __future__ import annotations

import csv
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from check_setups import write_params
from video_files import encode

from pipeline.core.digest import digest_file
from pipeline.core.errors import DataError, Interrupted, LostDecoderError
from pipeline.core.params import PrepareParams
from pipeline.data.frame_store import FrameStore, shard_of, shard_path
from pipeline.data.frames import expanded
from pipeline.data.manifest import read_manifest, read_quarantine
from pipeline.videos import dark_shard
from pipeline.videos.prepare import counts_text, prepare
from pipeline.videos.reader import VideoInfo, read_frames, write_video
from stages import prepare as stage

NUM_SHARDS = 4
SPLITS = ("train", "train", "val", "test")
NUM_FRAMES = 10


def moving(number):
    t, y, x = np.mgrid[:NUM_FRAMES, :24, :40]
    return np.stack([(9 * t + 3 * x + phase * y + 31 * number) % 180 for phase in (1, 2, 3)], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Two classes of four videos, and their table."""
    root = tmp_path_factory.mktemp("videos")
    lines = ["path,label,group,split"]
    for label in ("jump", "wave"):
        for number, split in enumerate(SPLITS):
            path = f"{label}/{label}_{number}.mp4"
            write_video(root / path, iter(moving(number + 7 * (label == "wave"))), fps=12.5)
            lines.append(f"{path},{label},{label}{number},{split}")
    (root / "videos.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def project(originals, tmp_path, monkeypatch):
    """A project folder that is the current one, with a copy of the videos in `data`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    shutil.copytree(originals, tmp_path / "data")
    return tmp_path


def write_frames_as(path, *, frames):
    """A video in a container that states no number of frames; yields what is stored of it."""
    encode(path, frames=frames, options={"g": "3", "bf": "0"})
    return read_frames(path, short_side=16)


def section(**changes):
    values = {
        "root": "data", "layout": "csv", "lists": None, "split": 1, "val_share": 0.25, "test_share": 0.25,
        "unlabelled": None, "unlabelled_share": 0.0, "footage_window": None, "footage_windows": None,
        "max_quarantined": 0.3, "min_frames": 4, "short_side": 16, "codec": "raw", "jpeg_quality": 95,
        "num_shards": NUM_SHARDS, "frames": None, "damaged": "quarantine", "levels": "linear",
    }  # fmt: skip
    return PrepareParams(**{**values, **changes})


def run_here(function, tasks):
    return [function(task) for task in tasks]


def run_prepare(out="out", run=run_here, **changes):
    return prepare(
        section(**changes),
        seed=0,
        manifest_path=Path(out, "manifest.csv"),
        quarantine_path=Path(out, "quarantine.csv"),
        dark_path=Path(out, "dark"),
        run=run,
    )


def stopped_after(count):
    """Runs that many tasks, and is then interrupted."""

    def run(function, tasks):
        for number, task in enumerate(tasks):
            if number == count:
                raise Interrupted(15)
            function(task)
        raise AssertionError("there are not so many tasks")

    return run


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def add_line(line):
    with Path("data/videos.csv").open("a") as file:
        file.write(line + "\n")


@pytest.fixture
def decoded(monkeypatch):
    """The ids of the videos that are decoded, as they are."""
    names = []
    read = dark_shard.read_frames

    def noted(path, **options):
        names.append(f"{path.parent.name}/{path.stem}")
        return read(path, **options)

    monkeypatch.setattr(dark_shard, "read_frames", noted)
    return names


def run_from_scratch(out="scratch"):
    """As on another machine: nothing of earlier runs is there."""
    shutil.rmtree(".work", ignore_errors=True)
    prepared = run_prepare(out)
    shutil.rmtree(".work")
    return prepared


def test_every_video_is_in_the_manifest_with_its_frames(project):
    prepared = run_prepare()
    manifest, dark = read_manifest(Path("out/manifest.csv")), FrameStore(Path("out/dark"))
    dark.verify()
    assert prepared.manifest == manifest
    with Path("data/videos.csv").open() as file:
        listed = {row["path"]: row for row in csv.DictReader(file)}
    assert {row.path for row in manifest.rows} == set(listed)
    assert dark.video_ids == tuple(row.video_id for row in manifest.rows)
    for row in manifest.rows:
        line = listed[row.path]
        assert (row.class_name, row.group, row.split) == (line["label"], line["group"], line["split"])
        assert (row.num_frames, row.fps, row.width, row.height) == (NUM_FRAMES, 12.5, 40, 24)
        assert row.digest == digest_file(Path("data") / row.path)
        frames = np.stack(list(read_frames(Path("data") / row.path, short_side=16)))
        assert dark.shape(row.video_id) == frames.shape[:3]
        np.testing.assert_array_equal(dark.read(row.video_id, range(NUM_FRAMES)), frames)
    assert read_quarantine(Path("out/quarantine.csv")) == prepared.quarantine == ()


@pytest.mark.parametrize("done", [1, 2])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(project, decoded, done):
    run_from_scratch()
    assert len(decoded) == len(set(decoded)) == 8
    decoded.clear()
    with pytest.raises(Interrupted):
        run_prepare(run=stopped_after(done))
    assert 0 < len(decoded) < 8
    assert not contents("out")
    run_prepare()
    assert len(decoded) == len(set(decoded)) == 8
    assert contents("out") == contents("scratch")


@pytest.mark.parametrize("missing", ["records", "frames"])
def test_a_shard_without_its_record_or_a_record_without_its_shard_is_made_again(project, decoded, missing):
    run_from_scratch()
    with pytest.raises(Interrupted):
        run_prepare(run=stopped_after(2))
    (work,) = Path(".work").glob("prepare-*/")
    lost = min((work / missing).iterdir())
    lost.unlink()
    decoded.clear()
    run_prepare()
    number = int(re.search(r"\d+", lost.stem)[0])
    assert {name for name in FrameStore(Path("out/dark")).video_ids if shard_of(name, NUM_SHARDS) == number} <= set(
        decoded
    )
    assert contents("out") == contents("scratch")


def test_a_run_with_nothing_new_decodes_nothing(project, decoded):
    run_prepare("first")
    decoded.clear()
    run_prepare("second")
    assert decoded == []
    assert contents("second") == contents("first")


def test_an_added_video_is_the_only_one_that_is_decoded(project, decoded):
    run_prepare("before")
    shutil.copy("data/jump/jump_0.mp4", "data/jump/jump_9.mp4")
    add_line("jump/jump_9.mp4,jump,jump9,train")
    decoded.clear()
    run_prepare("after")
    assert decoded == ["jump/jump_9"]
    before, after = contents("before/dark"), contents("after/dark")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {shard_path(Path(), shard_of("jump/jump_9", NUM_SHARDS)).name, "index.csv", "store.json"}
    run_from_scratch()
    assert contents("after") == contents("scratch")


def test_a_removed_video_costs_no_decoding(project, decoded):
    run_prepare("before")
    table = Path("data/videos.csv")
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if not line.startswith("jump/jump_0.mp4")))
    decoded.clear()
    run_prepare("after")
    assert decoded == []
    run_from_scratch()
    assert contents("after") == contents("scratch")


def test_what_is_taken_over_is_checked(project, decoded):
    """A flipped bit in what an earlier run left is made again, not handed on."""
    run_prepare("before")
    (work,) = Path(".work").glob("prepare-*/")
    store = FrameStore(Path("before/dark"))
    row = store.rows[0]
    path = shard_path(work / "frames", row.shard)
    frame = store.read(row.video_id, [2])[0].tobytes()
    content = path.read_bytes()
    path.unlink()  # the published store has the same file
    path.write_bytes(content.replace(frame, bytes([frame[0] ^ 1]) + frame[1:], 1))
    decoded.clear()
    run_prepare("after")
    assert decoded == [row.video_id]
    assert contents("after") == contents("before")


def test_files_are_known_by_their_content(project, decoded):
    """Other times mean nothing, other bytes of the same size do."""
    run_prepare("before")
    for path in Path("data").rglob("*.mp4"):
        os.utime(path, (1, 1))
    changed = Path("data/wave/wave_1.mp4")
    content = bytearray(changed.read_bytes())
    place = content.index(b"x264")  # the encoder's comment: other bytes, same frames
    content[place : place + 4] = b"X264"
    changed.write_bytes(content)
    decoded.clear()
    prepared = run_prepare()
    assert decoded == ["wave/wave_1"]
    assert prepared.manifest.by_id["wave/wave_1"].digest == digest_file(changed)


def test_the_same_shards_serve_other_splits(project, decoded):
    """What does not change the frames does not make them again."""
    run_prepare("before")
    decoded.clear()
    table = Path("data/videos.csv")
    table.write_text(table.read_text().replace("jump/jump_0.mp4,jump,jump0,train", "jump/jump_0.mp4,jump,jump0,val"))
    assert run_prepare().manifest.by_id["jump/jump_0"].split == "val"
    assert decoded == []


def test_what_other_parameters_left_goes(project, decoded):
    run_prepare("before")
    run_prepare("before", short_side=20)
    assert len(list(Path(".work").glob("prepare-*/"))) == 1
    decoded.clear()
    run_prepare("again")
    assert len(decoded) == 8


def test_shards_of_earlier_lists_are_not_published(project):
    run_prepare("before")
    table = Path("data/videos.csv")
    lines = table.read_text().splitlines()
    kept = {line.split(",")[0] for line in lines[1:] if line.endswith("train") and line.split(",")[2][-1] == "0"}
    table.write_text(
        "\n".join([lines[0], *(line for line in lines if line.split(",")[0] not in kept and line != lines[0])])
    )
    prepared = run_prepare()
    shards = {shard_of(row.video_id, NUM_SHARDS) for row in prepared.manifest.rows}
    assert {path.name for path in Path("out/dark").glob("*.h5")} == {shard_path(Path(), shard).name for shard in shards}
    FrameStore(Path("out/dark")).verify()


def damage(path):
    """Zeros in the middle of the coded frames."""
    content = bytearray(Path(path).read_bytes())
    start = content.index(b"mdat") + 900
    content[start : start + 400] = bytes(400)
    Path(path).write_bytes(content)


def test_a_broken_video_goes_to_the_quarantine_and_nothing_else_changes(project):
    run_prepare("whole")
    damage("data/jump/jump_1.mp4")
    prepared = run_prepare()
    (row,) = prepared.quarantine
    assert (row.video_id, row.path, row.split) == ("jump/jump_1", "jump/jump_1.mp4", "train")
    assert row.reason
    assert "\n" not in row.reason
    assert read_quarantine(Path("out/quarantine.csv")) == (row,)
    assert "jump/jump_1" not in prepared.manifest.by_id
    dark, whole = FrameStore(Path("out/dark")), FrameStore(Path("whole/dark"))
    assert set(dark.video_ids) == set(whole.video_ids) - {"jump/jump_1"}
    for name in dark.video_ids:
        np.testing.assert_array_equal(dark.read(name, range(NUM_FRAMES)), whole.read(name, range(NUM_FRAMES)))


def test_too_many_broken_videos_fail_the_stage_and_a_repair_costs_one_video(project, decoded):
    good = Path("data/jump/jump_1.mp4").read_bytes()
    Path("data/jump/jump_1.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"1 of 8 videos are broken: 12\.50%") as error:
        run_prepare(max_quarantined=0.1)
    assert any("jump/jump_1.mp4 (train)" in finding for finding in error.value.findings)
    assert "prepare.max_quarantined" in str(error.value)
    assert not contents("out")
    decoded.clear()
    Path("data/jump/jump_1.mp4").write_bytes(good)
    run_prepare(max_quarantined=0.1)
    assert decoded == ["jump/jump_1"]


def test_raising_the_limit_reads_nothing_again(project, decoded):
    Path("data/jump/jump_1.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="are broken"):
        run_prepare(max_quarantined=0.0)
    decoded.clear()
    assert len(run_prepare(max_quarantined=0.2).quarantine) == 1
    assert decoded == []


def test_a_class_must_not_vanish_from_a_split(project):
    Path("data/wave/wave_3.mp4").write_bytes(b"")
    with pytest.raises(DataError, match="no usable video is left of: wave in test"):
        run_prepare()


def test_short_videos_are_broken(project):
    write_video(Path("data/jump/jump_1.mp4"), iter(moving(1)[:3]), fps=12.5)
    (row,) = run_prepare().quarantine
    assert re.search(r"3 frames, fewer than the 4 of prepare\.min_frames", row.reason)


@pytest.fixture
def cut_video(project):
    """A video that was cut off after 7 of its 12 frames, and what its path and split are."""
    name = "jump/jump_1.mkv"
    write_frames_as(Path("data") / name, frames=12)
    content = Path("data", name).read_bytes()
    Path("data", name).write_bytes(content[: int(len(content) * 0.7)])
    Path("data/jump/jump_1.mp4").unlink()
    table = Path("data/videos.csv")
    table.write_text(table.read_text().replace("jump_1.mp4", "jump_1.mkv"))
    return name


def test_the_frames_before_a_damage_are_taken_if_asked_for(cut_video):
    (refused,) = run_prepare().quarantine
    assert refused.path == cut_video
    assert "damage" not in Path("out/manifest.csv").read_text().partition("\n")[0]
    prepared = run_prepare(damaged="take", max_quarantined=0.0)
    assert prepared.quarantine == ()
    (row,) = [row for row in read_manifest(Path("out/manifest.csv")).rows if row.damage]
    assert (row.path, row.damage) == (cut_video, refused.reason)
    whole = list(write_frames_as(Path("whole.mkv"), frames=12))
    assert 4 <= row.num_frames < 12
    stored = FrameStore(Path("out/dark")).read(row.video_id, range(row.num_frames))
    np.testing.assert_array_equal(stored, whole[: row.num_frames])
    (again,) = run_prepare().quarantine  # what was taken before is not taken over
    assert again == refused


def test_what_is_damaged_and_too_short_is_broken_whatever_is_asked_for(cut_video):
    (row,) = run_prepare(damaged="take", min_frames=9).quarantine
    assert "fewer than the 9 of prepare.min_frames: " in row.reason


def test_a_list_that_states_more_frames_tells_of_a_damage():
    video = dark_shard.SourceVideo("a", Path("a.mp4"), 9, None)
    info = VideoInfo(8, 25.0, True, 1, 8, 8)
    with pytest.raises(DataError, match="its list states 9 frames, it has 8"):
        dark_shard.judged(video, info, 8, section())
    assert dark_shard.judged(video, info, 8, section(damaged="take")).damage == "its list states 9 frames, it has 8"


def test_a_decoder_that_was_lost_damages_no_video(project, monkeypatch):
    def lost(path, **options):
        yield from list(read_frames(path, **options))[:6]
        raise LostDecoderError("its decoder gave no frame for 120 s")

    monkeypatch.setattr(dark_shard, "read_frames", lost)
    with pytest.raises(DataError, match="8 of 8 videos are broken"):
        run_prepare(damaged="take")


@pytest.fixture
def images(project):
    """Seven folders of images, of which the lists of `b` are wrong."""
    for name in "abcdefg":
        write_images(Path("images", name), "img_", moving(ord(name)))
    Path("images/classInd.txt").write_text("0 jump\n1 wave\n")
    Path("images/train.txt").write_text("a 10 0\nb 11 0\ne 10 1\n")
    Path("images/val.txt").write_text("c 10 0\nf 10 1\n")
    Path("images/test.txt").write_text("d 10 0\ng 10 1\n")


def write_images(folder, prefix, frames):
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        (folder / f"{prefix}{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(frame)))


def prepare_images(**changes):
    return run_prepare(root="images", layout="frame_folders", **changes)


def test_folders_of_images_must_have_the_listed_frames(images):
    prepared = prepare_images()
    assert [row.num_frames for row in prepared.manifest.rows] == [10] * 6
    (row,) = prepared.quarantine
    assert (row.video_id, row.reason) == ("b", "its list states 11 frames, it has 10")


def test_what_is_not_data_does_not_change_a_folder_of_images(images, decoded):
    before = prepare_images().manifest
    decoded.clear()
    for name in (".DS_Store", "Thumbs.db", "._img_00001.jpg", "desktop.ini"):
        Path("images/a", name).write_bytes(b"not data")
    Path("images/a/@eaDir").mkdir()
    assert prepare_images().manifest == before
    assert "a" not in decoded
    Path("images/a/img_00003.jpg").write_bytes(Path("images/a/img_00002.jpg").read_bytes())
    assert prepare_images().manifest != before


def test_names_of_images_may_be_in_another_coding(images):
    """As an archive of an old system leaves them: the quarantine is UTF-8 nevertheless."""
    before = prepare_images().manifest
    for image in Path("images/a").iterdir():
        image.rename(image.with_name(image.name.replace("img", os.fsdecode("gerät".encode("latin-1")))))
    Path("images/b", os.fsdecode("übersicht.jpg".encode("latin-1"))).touch()
    prepared = prepare_images()
    assert [row.num_frames for row in prepared.manifest.rows] == [10] * 6
    assert prepared.manifest.by_id["a"].digest != before.by_id["a"].digest
    (row,) = read_quarantine(Path("out/quarantine.csv"))
    assert "\N{REPLACEMENT CHARACTER}bersicht.jpg has no frame number" in row.reason


def test_images_that_change_places_are_another_video(images, decoded):
    """Their bytes and times are the same, all in all."""
    before = prepare_images().manifest
    decoded.clear()
    first, last, aside = (Path("images/a", name) for name in ("img_00000.jpg", "img_00009.jpg", "aside"))
    first.rename(aside)
    last.rename(first)
    aside.rename(last)
    assert prepare_images().manifest.by_id["a"].digest != before.by_id["a"].digest
    assert decoded == ["images/a"]


def test_frames_chosen_by_name_beside_optical_flow(images):
    plain = prepare_images(out="plain")
    for name in "abcdefg":
        for prefix in ("flow_x_", "flow_y_"):
            write_images(Path("images", name), prefix, moving(3)[:9])
    with pytest.raises(DataError) as caught:
        prepare_images()
    assert (
        "a (train): the folder mixes images of different names: flow_x_*.jpg, flow_y_*.jpg, img_*.jpg; prepare.frames "
        "chooses by name, such as img_*"
    ) in str(caught.value)
    chosen = prepare_images(frames="img_*", out="chosen")
    assert chosen.manifest == plain.manifest
    assert contents("chosen") == contents("plain")
    with pytest.raises(DataError, match="the folder has no images named frame_"):
        prepare_images(frames="frame_*")
    with pytest.raises(DataError, match="its list states 10 frames, it has 9"):
        prepare_images(frames="flow_x_*.jpg")


def test_leakage_between_splits_is_found(project):
    shutil.copy("data/wave/wave_0.mp4", "data/wave/wave_8.mp4")
    add_line("wave/wave_8.mp4,wave,wave8,test")
    prepared = run_prepare()
    (leak,) = [leak for leak in prepared.leaks if leak.kind == "digest"]
    assert (leak.splits, leak.examples) == (("train", "test"), ("wave/wave_0.mp4 = wave/wave_8.mp4",))
    assert prepared.contradictions == ()


def test_the_same_bytes_under_two_labels_contradict_each_other(project):
    """Whether in two splits or in one; it is no leakage, since no label can be learned from it."""
    for number, split in ((8, "test"), (9, "train")):
        shutil.copy("data/wave/wave_0.mp4", f"data/jump/jump_{number}.mp4")
        add_line(f"jump/jump_{number}.mp4,jump,x{number},{split}")
    prepared = run_prepare()
    (leak,) = [leak for leak in prepared.leaks if leak.kind == "digest"]
    assert leak.examples == ("jump/jump_9.mp4 = jump/jump_8.mp4",)
    assert prepared.contradictions == (
        "jump/jump_8.mp4 (jump, test) = jump/jump_9.mp4 (jump, train) = wave/wave_0.mp4 (wave, train): "
        "the same bytes, other labels",
    )


def test_ids_must_differ(project):
    """ARID's copies come as .avi or .mp4: two that differ in the suffix alone are one id."""
    shutil.copy("data/wave/wave_0.mp4", "data/wave/wave_0.avi")
    add_line("wave/wave_0.avi,wave,wave0,train")
    with pytest.raises(DataError, match="wave_0"):
        run_prepare()


def test_counts_are_a_table(project):
    assert counts_text(run_prepare().manifest).splitlines() == [
        "class   train     val    test",
        "jump        2       1       1",
        "wave        2       1       1",
        "all         4       2       2",
    ]


def test_two_processes_and_one_give_the_same_bytes(project, capfd):
    Path("data/jump/jump_1.mp4").write_bytes(b"no video")
    write_params(**{f"prepare__{name}": value for name, value in section().model_dump().items()})
    for workers in (1, 2):
        out = Path(f"out{workers}")
        stage.main(
            manifest_path=out / "manifest.csv",
            quarantine_path=out / "quarantine.csv",
            dark_path=out / "dark",
            workers=workers,
        )
        printed = capfd.readouterr()
        assert printed.out == ""
        assert "7 videos, 1 in quarantine" in printed.err
        assert "quarantined jump/jump_1.mp4 (train)" in printed.err
    assert contents("out1") == contents("out2")


def test_companded_frames_keep_what_rounding_takes(project):
    def stored(levels):
        run_prepare(levels=levels)
        store = FrameStore(Path("out/dark"))
        assert store.levels == levels
        return {name: store.read(name, range(store.shape(name)[0])) for name in store.video_ids}

    linear = stored("linear")
    manifest = Path("out/manifest.csv").read_bytes()
    companded = stored("companded")
    assert Path("out/manifest.csv").read_bytes() == manifest
    for name, frames_THWC in linear.items():
        values = expanded(companded[name], "companded")
        # near white codes are two values apart, and linear levels were rounded themselves
        assert np.abs(values - frames_THWC).max() <= 3
        assert (np.abs(values - np.rint(values)) > 0.1).mean() > 0.2
