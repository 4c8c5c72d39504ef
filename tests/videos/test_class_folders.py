"""Folders of classes are told from folders of splits, in any usual spelling; what is not data is not in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from lists import refused, touch

from pipeline.data.listing import Listing
from pipeline.data.names import split_named
from pipeline.videos.annotations import LAYOUTS


def counts(listing: Listing) -> dict[str | None, int]:
    return dict(Counter(video.split for video in listing.videos))


def read(root: Path) -> Listing:
    return LAYOUTS["class_folders"](root, None, 1)


def test_class_folders(tmp_path: Path):
    touch(tmp_path, "wave/1.mp4", "wave/deep/2.MKV", "bow/3.avi", "bow/notes.txt", ".hidden/4.mp4", "bow/.5.mp4")
    listing = LAYOUTS["class_folders"](tmp_path, None, 1)
    assert listing.class_names == {0: "bow", 1: "wave"}
    assert [(video.path, video.label, video.split, video.group) for video in listing.videos] == [
        ("bow/3.avi", 0, None, "bow/3"),
        ("wave/1.mp4", 1, None, "wave/1"),
        ("wave/deep/2.MKV", 1, None, "wave/deep/2"),
    ]
    assert listing.notes == (f"{tmp_path}: 1 files are not videos and not used, such as bow/notes.txt",)
    touch(tmp_path, "train/x/1.mp4")
    assert "folders of splits and others" in refused(lambda: LAYOUTS["class_folders"](tmp_path, None, 1))


def test_class_folders_of_splits(tmp_path: Path):
    touch(tmp_path, "train/a/1.mp4", "train/b/1.mp4", "test/a/2.mp4", "test/b/2.mp4")
    listing = LAYOUTS["class_folders"](tmp_path, None, 1)
    assert counts(listing) == {"train": 2, "test": 2}
    (tmp_path / "test/b/2.mp4").unlink()
    assert "class 1 (b) has no video in test" in refused(lambda: LAYOUTS["class_folders"](tmp_path, None, 1))


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("training", "validation", "testing"),
        ("train_set", "dev", "test_set"),
        ("Train Data", "valid-data", "TestVideos"),
    ],
)
def test_splits_in_usual_spellings(tmp_path: Path, train: str, val: str, test: str):
    for split in (train, val, test):
        touch(tmp_path, f"{split}/Jump/{split}1.mp4", f"{split}/Sit/{split}2.mp4")
    listing = read(tmp_path)
    assert listing.class_names == {0: "Jump", 1: "Sit"}
    assert counts(listing) == {"train": 2, "val": 2, "test": 2}
    assert {video.path.partition("/")[0]: video.split for video in listing.videos} == {
        train: "train", val: "val", test: "test",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["eval", "wave", "trains", "contest", "set", "", "test1", "train test"])
def test_other_names_are_no_splits(name: str):
    assert split_named(name) is None


@pytest.mark.parametrize("others", [["eval"], ["training"], ["Jump"]])
def test_two_folders_of_a_split_or_a_stranger_beside_them(tmp_path: Path, others: list[str]):
    for split in ("Train", "Test", *others):
        touch(tmp_path, f"{split}/Jump/1.mp4", f"{split}/Sit/2.mp4")
    message = refused(lambda: read(tmp_path))
    assert "folders of splits and others, or two of one split" in message
    assert f"{tmp_path}/{others[0]}" in message


@pytest.mark.parametrize(
    "names",
    [
        ("fold1/Jump/1.mp4", "fold1/Sit/1.mp4", "fold2/Jump/2.mp4", "fold2/Sit/2.mp4"),
        ("eval/Jump/1.mp4", "eval/Sit/1.mp4", "learn/Jump/2.mp4"),  # a class that one lacks
        ("Jump/train/1.mp4", "Jump/test/1.mp4", "Sit/train/1.mp4", "Sit/test/1.mp4"),
        ("train/rgb/Jump/1.mp4", "train/flow/Jump/1.mp4", "test/rgb/Jump/1.mp4", "test/flow/Jump/1.mp4"),
    ],
)
def test_folders_of_the_same_names_are_never_taken_for_classes(tmp_path: Path, names: tuple[str, ...]):
    touch(tmp_path, *names, *(f"{name.split('/')[0]}/.DS_Store" for name in names))
    message = refused(lambda: read(tmp_path))
    assert "hold only folders of the same names: are those the classes?" in message
    assert "Jump" in message
    assert "layout csv" in message


def test_classes_with_folders_of_different_names_or_with_videos_are_classes(tmp_path: Path):
    touch(tmp_path, "Jump/p1/1.mp4", "Jump/p2/1.mp4", "Sit/p3/1.mp4")
    assert read(tmp_path).class_names == {0: "Jump", 1: "Sit"}
    touch(tmp_path, "Sit/p1/1.mp4", "Sit/p2/1.mp4", "Sit/0.mp4")
    assert read(tmp_path).class_names == {0: "Jump", 1: "Sit"}


def test_folders_that_are_named_by_numbers_keep_them(tmp_path: Path):
    touch(tmp_path, "1/a.mp4", "10/b.mp4", "2/c.mp4")
    listing = read(tmp_path)
    assert listing.class_names == {1: "1", 2: "2", 10: "10"}
    assert {video.class_name: video.label for video in listing.videos} == {"1": 1, "2": 2, "10": 10}
    touch(tmp_path, "01/d.mp4")
    assert "labels '1' and '01' are one number" in refused(lambda: read(tmp_path))


def test_classes_whose_folders_look_the_same(tmp_path: Path):
    touch(tmp_path, "Jump/1.mp4", "jump/2.mp4", "Sit/3.mp4")
    assert "class 'jump' looks like 'Jump'" in refused(lambda: read(tmp_path))


def test_what_systems_leave_in_folders_is_not_data(tmp_path: Path):
    touch(tmp_path, "wave/1.mp4", "bow/2.mp4")
    clean = read(tmp_path)
    touch(
        tmp_path, "wave/._1.mp4", "wave/.DS_Store", "wave/Thumbs.db", "bow/desktop.ini", "bow/@eaDir/2.mp4/x.mp4",
        "@eaDir/3.mp4", "__MACOSX/wave/._1.mp4", "$RECYCLE.BIN/4.mp4", ".Trashes/5.mp4", "lost+found/6.mp4",
    )  # fmt: skip
    assert read(tmp_path) == clean


def test_links_to_class_folders_are_followed_and_loops_are_not(tmp_path: Path):
    root = tmp_path / "root"
    touch(root, "bow/1.mp4")
    touch(tmp_path, "disk/wave/2.mp4")
    (root / "wave").symlink_to(tmp_path / "disk/wave")
    (root / "bow/again").symlink_to("..")
    (root / "loop").symlink_to(".")
    listing = read(root)
    assert [video.path for video in listing.videos] == ["bow/1.mp4", "wave/2.mp4"]
    assert listing.class_names == {0: "bow", 1: "wave"}
    assert listing.notes[0].endswith(f"by links, such as wave/2.mp4: {tmp_path}/disk/wave/2.mp4")


def test_videos_that_cannot_be_read_are_told_of_with_a_command(tmp_path: Path):
    touch(tmp_path, "bow/1.mp4", "wave/2.mp4")
    (tmp_path / "wave/a.gif").write_bytes(b"GIF89a")
    assert read(tmp_path).notes[1] == (
        f"{tmp_path}: 1 of them may be videos, such as a.gif: "
        "a GIF image is not read; `ffmpeg -i a.gif -c:v ffv1 a.mkv` makes a video of it"
    )
