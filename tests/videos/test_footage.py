"""Footage without labels: every layout lists it, no split that is measured has its groups, and prepare stores it."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from check_setups import frames, look_at, params, prepare_here, write_videos
from hypothesis import given
from hypothesis import strategies as st
from lists import arid_lists, csv_of, refused, touch

from pipeline.core.errors import ParamsError
from pipeline.data.footage import source_id, window_id, window_starts
from pipeline.data.frame_store import FrameStore
from pipeline.data.leakage import find_contradictions, find_leakage
from pipeline.data.listing import NO_LABEL, ListedVideo, Listing, footage
from pipeline.data.manifest import Manifest, ManifestRow, read_manifest, video_id, write_manifest
from pipeline.videos import dark_shard
from pipeline.videos.annotations import LAYOUTS, parse_csv
from pipeline.videos.prepare import counts_text
from pipeline.videos.reader import write_video
from pipeline.videos.splits import complete_splits, left_out_notes


def unlabelled(listing: Listing) -> list[tuple[str, str]]:
    """Path and group of what has no label."""
    found = [video for video in listing.videos if video.split == "unlabelled"]
    assert all((video.label, video.class_name) == (NO_LABEL, "") for video in found)
    return [(video.path, video.group) for video in found]


# tables


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.mp4,x\nb.mp4,y\nn.mp4,\n",
        "path,label,split\na.mp4,x,train\nb.mp4,y,train\nn.mp4,,unlabelled\n",
        "path,label,split\na.mp4,x,train\nb.mp4,y,train\nn.mp4,x,unlabeled\n",  # its label is not looked at
        "path,label,split\na.mp4,x,train\nb.mp4,y,train\nn.mp4,,\n",
        "path,label,class_name\na.mp4,0,x\nb.mp4,1,y\nn.mp4,,\n",
    ],
)
def test_rows_of_a_table(tmp_path: Path, text: str):
    listing = parse_csv(csv_of(tmp_path, text))
    assert unlabelled(listing) == [("n.mp4", "n")]
    assert listing.class_names == {0: "x", 1: "y"}


def test_a_video_is_not_listed_with_a_label_and_without(tmp_path: Path):
    file = csv_of(tmp_path, "path,label\na.mp4,x\nb.mp4,y\na.avi,\n")
    assert ":4: a.avi is unlabelled, but a.mp4 is x (" in refused(lambda: parse_csv(file))


# folders and lists


def test_a_folder_beside_folders_of_classes(tmp_path: Path):
    touch(tmp_path, "bow/1.mp4", "wave/2.mp4", "Unlabelled/night/3.mp4", "Unlabelled/4.mp4", "Unlabelled/notes.txt")
    listing = LAYOUTS["class_folders"](tmp_path, None, 1)
    assert unlabelled(listing) == [
        ("Unlabelled/4.mp4", "Unlabelled/4"),
        ("Unlabelled/night/3.mp4", "Unlabelled/night/3"),
    ]
    assert listing.class_names == {0: "bow", 1: "wave"}
    assert Counter(video.split for video in listing.videos) == {None: 2, "unlabelled": 2}


def test_a_folder_beside_folders_of_splits(tmp_path: Path):
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "train/unlabelled/3.mp4", "unlabeled/4.mp4")
    listing = LAYOUTS["class_folders"](tmp_path, None, 1)
    assert unlabelled(listing) == [("unlabeled/4.mp4", "unlabeled/4")]
    assert list(listing.class_names.values()) == ["a", "b", "unlabelled"]  # a class may be called so
    touch(tmp_path, "unlabelled/5.mp4")
    assert "two of one split" in refused(lambda: LAYOUTS["class_folders"](tmp_path, None, 1))
    (tmp_path / "unlabelled/5.mp4").unlink()
    (tmp_path / "unlabelled").rmdir()
    (tmp_path / "unlabeled/4.mp4").unlink()
    assert "no videos" in refused(lambda: LAYOUTS["class_folders"](tmp_path, None, 1))


def test_the_folder_that_the_parameters_name_is_no_class(tmp_path: Path):
    touch(tmp_path, "bow/1.mp4", "wave/2.mp4", "night/3.mp4", "night/deep/4.mp4")
    listing = LAYOUTS["class_folders"](tmp_path, None, 1, "night")
    assert [path for path, _ in unlabelled(listing)] == ["night/3.mp4", "night/deep/4.mp4"]
    assert list(listing.class_names.values()) == ["bow", "wave"]
    assert "a folder of its own" in refused(lambda: LAYOUTS["class_folders"](tmp_path, None, 1, "night/deep"))


def test_further_videos_of_a_table(tmp_path: Path):
    touch(tmp_path, "a.mp4", "b.mp4", "night/c.mp4", "night/d.avi", "night/readme.txt")
    csv_of(tmp_path, "path,label\na.mp4,x\nb.mp4,y\nnight/c.mp4,y\n")
    listing = LAYOUTS["csv"](tmp_path, None, 1, "night")
    assert unlabelled(listing) == [("night/d.avi", "night/d")]
    assert any("1 of its 2 videos are listed already" in note for note in listing.notes)
    assert any("1 files are not videos" in note for note in listing.notes)
    assert unlabelled(LAYOUTS["csv"](tmp_path, None, 1, ".")) == unlabelled(listing)
    (tmp_path / "night.txt").write_text("night/d.mp4\n\n")  # with another suffix, as lists often have
    assert unlabelled(LAYOUTS["csv"](tmp_path, None, 1, "night.txt")) == unlabelled(listing)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nothing", "no such folder or list"),
        ("../night", "may lead out of the root"),
        ("/night", "is not below the root"),
        ("empty", "no videos"),
        ("known", "all 1 are listed"),
        ("lost.txt", "lost.txt:1: night/lost.mp4 is missing"),
        ("out.txt", "out.txt:1: '../x.mp4' has '..'"),
    ],
)
def test_footage_that_cannot_be_used(tmp_path: Path, place: str, words: str):
    touch(tmp_path, "known/a.mp4", "b.mp4")
    csv_of(tmp_path, "path,label\nknown/a.mp4,x\nb.mp4,y\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "lost.txt").write_text("night/lost.mp4\n")
    (tmp_path / "out.txt").write_text("../x.mp4\n")
    assert words in refused(lambda: LAYOUTS["csv"](tmp_path, None, 1, place))


def test_clips_that_are_named_as_the_data_set_does_have_its_groups(tmp_path: Path):
    arid_lists(tmp_path)
    names = ("Drink/Drink_1_1.avi", "Jump/Jump_1_1.avi", "Drink/Drink_9_1.avi", "Jump/Jump_9_1.avi")
    touch(tmp_path, *names, "more/Drink_9_7.avi", "more/cam_a.avi")
    listing = LAYOUTS["arid_v1"](tmp_path, None, 1, "more")
    assert unlabelled(listing) == [("more/Drink_9_7.avi", "Drink_9"), ("more/cam_a.avi", "more/cam_a")]
    assert {video.group for video in listing.videos if video.split == "test"} == {"Drink_9", "Jump_9"}


def test_folders_of_images(tmp_path: Path):
    touch(tmp_path, *(f"{name}/img_1.jpg" for name in ("a", "b", "c", "d", "night/e", "night/f")), "night/notes.txt")
    for split, names in (("train", "ab"), ("test", "cd")):
        lines = [f"{name}\t1\t{label}" for label, name in enumerate(names)]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "classInd.txt").write_text("0 x\n1 y\n")
    listing = LAYOUTS["frame_folders"](tmp_path, None, 1, "night")
    assert unlabelled(listing) == [("night/e", "night/e"), ("night/f", "night/f")]


# splits


def videos_of(num_classes: int, num_groups: int) -> list[ListedVideo]:
    return [
        ListedVideo(f"{label}/{group}_{n}.mp4", label, f"class{label}", f"{label}_{group}", None, "list:1")
        for label in range(num_classes)
        for group in range(num_groups)
        for n in range(2)
    ]


def test_a_share_of_train_loses_its_labels_by_whole_groups():
    listed = videos_of(3, 12)
    done = complete_splits(listed, val_share=0.25, test_share=0.25, unlabelled_share=0.667, seed=0)
    plain = complete_splits(listed, val_share=0.25, test_share=0.25, seed=0)
    assert [v.path for v in done if v.split in ("val", "test")] == [v.path for v in plain if v.split in ("val", "test")]
    found = [video for video in done if video.split == "unlabelled"]
    num_train = sum(video.split == "train" for video in plain)
    assert abs(len(found) - 0.667 * num_train) <= 2 * 3
    assert {(video.label, video.class_name) for video in found} == {(NO_LABEL, "")}
    groups = {split: {video.group for video in done if video.split == split} for split in ("train", "unlabelled")}
    assert not groups["train"] & groups["unlabelled"]
    assert {video.label for video in done if video.split == "train"} == {0, 1, 2}
    assert complete_splits(listed, val_share=0.25, test_share=0.25, unlabelled_share=0.667, seed=0) == done


def test_footage_of_measured_groups_is_left_out_and_said():
    listed = videos_of(2, 8)
    plain = complete_splits(listed, val_share=0.25, test_share=0.25, seed=0)
    group_of = {split: next(v.group for v in plain if v.split == split) for split in ("train", "val", "test")}
    shots = [footage(f"n/{split}.mp4", group, "n:1") for split, group in group_of.items()]
    done = complete_splits([*listed, *shots], val_share=0.25, test_share=0.25, seed=0)
    assert [video.path for video in done if video.split == "unlabelled"] == ["n/train.mp4"]
    assert [video for video in done if video.split != "unlabelled"] == list(plain)
    (note,) = left_out_notes([*listed, *shots], done)
    assert note.startswith("2 videos without a label are not used: val or test has their groups, such as n/val.mp4")
    assert left_out_notes(listed, plain) == []


def test_footage_does_not_make_up_for_a_class():
    with pytest.raises(Exception, match="all 4 videos are of one class"):
        complete_splits([*videos_of(1, 2), footage("n.mp4", "n", "n:1")], val_share=0.5, test_share=0.5, seed=0)


# leakage


def row(path: str, split: str, digest: str, label: int = 0) -> ManifestRow:
    name = "" if split == "unlabelled" else f"class{label}"
    return ManifestRow(video_id(path), path, label, name, path, split, 1, 25.0, 8, 8, digest * 32)


def test_footage_shares_nothing_with_what_is_measured():
    rows = [
        row("a/yt-x_1.mp4", "train", "1"),
        row("a/b_1.mp4", "test", "2", 1),
        row("a/c_1.mp4", "val", "3"),
        row("n/copy.mp4", "unlabelled", "2", NO_LABEL),  # under whatever label
        row("n/c_2.mp4", "unlabelled", "4", NO_LABEL),
        row("n/yt-x_2.mp4", "unlabelled", "1", NO_LABEL),  # with train it may share anything
    ]
    leaks = {(leak.kind, leak.splits): leak for leak in find_leakage(rows, stems=True)}
    assert set(leaks) == {("digest", ("unlabelled", "test")), ("stem", ("unlabelled", "val"))}
    assert leaks["digest", ("unlabelled", "test")].examples == ("n/copy.mp4 = a/b_1.mp4",)
    assert find_contradictions(rows) == []


# the manifest, and the stage


def test_a_manifest_keeps_footage_and_counts_no_class_of_it(tmp_path: Path):
    rows = [row("a.mp4", "train", "1"), row("b.mp4", "test", "2", 1), row("n.mp4", "unlabelled", "3", NO_LABEL)]
    written = write_manifest(tmp_path / "manifest.csv", rows)
    assert read_manifest(tmp_path / "manifest.csv") == written
    assert (written.labels, written.class_names) == ((0, 1), ("class0", "class1"))
    assert [written.class_index(each) for each in written.rows] == [0, 1, NO_LABEL]
    assert [each.path for each in written.rows_of("train", "unlabelled")] == ["a.mp4", "n.mp4"]
    assert "1 videos without a label" in counts_text(written)
    assert "without a label" not in counts_text(Manifest(written.rows[:2], written.digest))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    write_videos(Path("data"))
    return tmp_path


def test_footage_is_prepared_and_checked_like_any_video(project):
    prepare_here(params())
    plain = Path("manifest.csv").read_bytes()
    table = Path("data/videos.csv")
    table.write_text(table.read_text().replace("jump/jump1.mp4,jump,jump1,train", "jump/jump1.mp4,,jump1,unlabelled"))
    Path("data/night").mkdir()
    Path("data/night/copy.mp4").write_bytes(Path("data/jump/jump2.mp4").read_bytes())
    chosen = params(prepare__unlabelled="night")
    group, data = look_at(chosen)
    assert data.splits["unlabelled"] == 2
    assert any("9 videos of 2 classes: 3 train, 2 val, 2 test, 2 unlabelled" in fact for fact in group.facts)
    prepared = prepare_here(chosen)
    found = prepared.manifest.rows_of("unlabelled")
    assert [(each.video_id, each.label, each.class_name) for each in found] == [
        ("jump/jump1", NO_LABEL, ""),
        ("night/copy", NO_LABEL, ""),
    ]
    assert [str(leak) for leak in prepared.leaks] == [
        "1 of 2 val videos (50.00 %) share a digest with 1 unlabelled videos "
        "(1 in both, such as night/copy.mp4 = jump/jump2.mp4)"
    ]
    assert "jump/jump1.mp4,-1,,jump1,unlabelled," in Path("manifest.csv").read_text()
    table.write_text(table.read_text().replace("jump/jump1.mp4,,jump1,unlabelled", "jump/jump1.mp4,jump,jump1,train"))
    prepare_here(params())
    assert Path("manifest.csv").read_bytes() == plain


def test_check_looks_at_the_rest_where_footage_is_missing(project):
    Path("data/night.txt").write_text("night/lost.mp4\n")
    group, data = look_at(params(prepare__unlabelled="night.txt"))
    assert [finding.details for finding in group.findings] == [("data/night.txt:1: night/lost.mp4 is missing",)]
    assert list(data.listing.class_names.values()) == ["jump", "wave"]
    assert len(data.seen) == 8


def test_broken_footage_goes_to_the_quarantine(project):
    Path("data/night").mkdir()
    Path("data/night/broken.mp4").write_bytes(b"not a video")
    message = refused(lambda: prepare_here(params(prepare__unlabelled="night", prepare__max_quarantined=0.5)))
    assert "no usable video is left of: unlabelled" in message
    Path("data/night/good.mp4").write_bytes(Path("data/jump/jump1.mp4").read_bytes())
    prepared = prepare_here(params(prepare__unlabelled="night", prepare__max_quarantined=0.5))
    assert [(each.path, each.split) for each in prepared.quarantine] == [("night/broken.mp4", "unlabelled")]


# windows of long footage


@given(st.integers(1, 500), st.integers(1, 50), st.none() | st.integers(1, 9))
def test_windows_are_spread_and_do_not_overlap(num_frames: int, window: int, most: int | None):
    starts = window_starts(num_frames, window, most)
    if num_frames <= window:
        assert starts == []
        return
    assert len(starts) == min(num_frames // window, most or num_frames)
    assert all(after - before >= window for before, after in pairwise(starts))
    assert starts[0] >= 0
    assert starts[-1] + window <= num_frames
    gaps = [after - before for before, after in pairwise(starts)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_the_id_of_a_window_tells_its_video():
    assert window_id("night/a", 240) == "night/a@00000240"
    assert source_id("night/a@00000240") == "night/a"
    assert source_id("night/a@24") == "night/a@24"


@pytest.fixture
def long_footage(project):
    """24 frames without a label beside the ten of every other video."""
    Path("data/night").mkdir()
    write_video(Path("data/night/a.mp4"), frames(99, 24), fps=10)
    write_video(Path("data/night/short.mp4"), frames(98, 9), fps=10)
    return {"prepare__unlabelled": "night", "prepare__footage_window": 9}


def test_long_footage_is_stored_in_windows_read_in_one_pass(long_footage, monkeypatch):
    whole = prepare_here(params(prepare__unlabelled="night"))
    dark = FrameStore(Path("dark"))
    expected = dark.read("night/a", range(24))
    read, read_frames = [], dark_shard.read_frames

    def noted(path, **options):
        read.append(path.name)
        return read_frames(path, **options)

    monkeypatch.setattr(dark_shard, "read_frames", noted)
    prepared = prepare_here(params(**long_footage))
    assert read == ["a.mp4"]  # the rest is known
    found = prepared.manifest.rows_of("unlabelled")
    assert [(each.video_id, each.path, each.num_frames) for each in found] == [
        ("night/a@00000000", "night/a.mp4", 9),
        ("night/a@00000015", "night/a.mp4", 9),
        ("night/short", "night/short.mp4", 9),
    ]
    assert {each.digest for each in found[:2]} == {whole.manifest.by_id["night/a"].digest}
    dark = FrameStore(Path("dark"))
    for each in found[:2]:
        first = int(each.video_id[-8:])
        assert (dark.read(each.video_id, range(9)) == expected[first : first + 9]).all()
    before = Path("manifest.csv").read_bytes()
    read.clear()
    prepare_here(params(**long_footage))
    assert (read, Path("manifest.csv").read_bytes()) == ([], before)
    prepared = prepare_here(params(**{**long_footage, "prepare__footage_windows": 1}))
    assert [each.video_id for each in prepared.manifest.rows_of("unlabelled")] == ["night/a@00000007", "night/short"]
    read.clear()
    prepared = prepare_here(params(**{**long_footage, "prepare__footage_window": 10}))  # as many, of other lengths
    assert [each.num_frames for each in prepared.manifest.rows_of("unlabelled")] == [10, 10, 9]
    assert set(read) == {"a.mp4"}
    scratch = contents()
    shutil.rmtree(".work")
    prepare_here(params(**{**long_footage, "prepare__footage_window": 10}))
    assert contents() == scratch


def contents() -> dict[str, bytes]:
    files = [Path("manifest.csv"), *sorted(Path("dark").iterdir())]
    return {str(file): file.read_bytes() for file in files}


@pytest.fixture
def footage_that_breaks_off(long_footage):
    """One video, the second of whose two windows is damaged."""
    Path("data/night/short.mp4").unlink()
    file = Path("data/night/a.mp4")
    whole = file.read_bytes()
    place = len(whole) * 4 // 5
    file.write_bytes(whole[:place] + bytes(len(whole) // 10) + whole[place + len(whole) // 10 :])
    return long_footage


def test_check_calls_footage_that_breaks_off_used_as_prepare_does(footage_that_breaks_off):
    group, data = look_at(params(**footage_that_breaks_off), every_frame=True)
    (finding,) = [finding for finding in group.findings if finding.level != "fact"]
    assert finding.level == "warning"
    assert "night/a.mp4 (unlabelled)" in finding.details[0]
    assert sorted(found.num_frames for found in data.seen) == [9, *[10] * 8]
    assert "8 of 9 videos: decoded from end to end" in group.facts


def test_footage_that_breaks_off_gives_the_windows_before(footage_that_breaks_off):
    prepared = prepare_here(params(**footage_that_breaks_off))
    assert "night/a@00000000" in prepared.manifest.by_id
    assert [(each.video_id, each.path, each.split) for each in prepared.quarantine] == [
        ("night/a@00000015", "night/a.mp4", "unlabelled")
    ]


@pytest.mark.parametrize("every_frame", [False, True])
def test_check_counts_what_windows_store(long_footage, every_frame):
    _, data = look_at(params(**{**long_footage, "prepare__footage_windows": 1}), every_frame=every_frame)
    assert sorted(found.num_frames for found in data.seen) == [9, 9, *[10] * 8]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prepare__footage_windows": 3}, "takes a footage_window"),
        ({"prepare__footage_window": 4}, "must not be below min_frames"),
    ],
)
def test_windows_that_cannot_be(changes, words):
    with pytest.raises(ParamsError, match="1 wrong parameter") as caught:
        params(**changes)
    assert words in caught.value.findings[0]
