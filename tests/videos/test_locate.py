"""Listed videos are found on disk whatever their suffix, normal form or links; what is not there is named."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from lists import GOOD, LISTED, arid_lists, csv_of, refused, touch

from pipeline.data.names import without_suffix
from pipeline.videos.annotations import LAYOUTS
from pipeline.videos.locate import walk


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".MP4", ".mkv"])
@pytest.mark.parametrize("below", ["", "clips_v1", "data"])
def test_a_listed_name_is_found_with_any_video_suffix(tmp_path: Path, suffix: str, below: str):
    arid_lists(tmp_path, GOOD)
    touch(tmp_path, *(f"{below}/{without_suffix(name)}{suffix}".lstrip("/") for name in LISTED))
    listing = LAYOUTS["arid_v1"](tmp_path, None, 1)
    assert listing.videos[0].path == f"{below}/Drink/Drink_1_1{suffix}".lstrip("/")


def test_every_missing_video_is_named(tmp_path: Path):
    arid_lists(tmp_path, GOOD)
    touch(tmp_path, LISTED[1], "Drink/Drink_1_1.txt")
    message = refused(lambda: LAYOUTS["arid_v1"](tmp_path, None, 1))
    assert "3 problems" in message
    assert "ARID_split1_train.txt:1: Drink/Drink_1_1.avi is missing" in message
    assert "ARID_split1_test.txt:2: Jump/Jump_9_1.avi is missing" in message


def test_the_exact_name_wins_and_two_others_are_ambiguous(tmp_path: Path):
    arid_lists(tmp_path, GOOD)
    touch(tmp_path, *LISTED, "Drink/Drink_1_1.mp4")
    assert LAYOUTS["arid_v1"](tmp_path, None, 1).videos[0].path == "Drink/Drink_1_1.avi"
    (tmp_path / LISTED[0]).unlink()
    touch(tmp_path, "Drink/Drink_1_1.mkv")
    message = refused(lambda: LAYOUTS["arid_v1"](tmp_path, None, 1))
    assert "could be any of Drink/Drink_1_1.mkv, Drink/Drink_1_1.mp4" in message


def four_videos(root: Path, *names: str) -> Path:
    """A table of videos named so, of two classes."""
    root.mkdir(exist_ok=True)
    return csv_of(root, "path,label\n" + "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(names)))


def test_links_to_data_are_followed_and_said(tmp_path: Path):
    """A cache of DVC or git-annex, a folder on another disk, the root itself."""
    cache, disk = tmp_path / "cache", tmp_path / "disk"
    touch(cache, "0f/3a")
    touch(disk, "x.avi", "Jump_1_1.avi", "Jump_9_1.avi")
    touch(tmp_path / "real", "Drink/Drink_9_1.avi")
    root = tmp_path / "root"
    root.symlink_to("real")
    arid_lists(root)
    (root / "Jump").symlink_to(disk)
    (root / "Drink/Drink_1_1.avi").symlink_to(cache / "0f/3a")
    listing = LAYOUTS["arid_v1"](root, None, 1)
    assert {video.path for video in listing.videos} == set(LISTED)
    assert listing.notes == (
        f"3 of 4 videos lie outside of {root}, by links, such as Drink/Drink_1_1.avi: {cache}/0f/3a",
        f"{root}/Jump: DVC does not look behind links to folders; run `dvc repro -f prepare` after a change there",
    )
    (root / "Drink/Drink_1_1.avi").unlink()
    touch(root, "store/y.avi")
    (root / "Drink/Drink_1_1.avi").symlink_to("../store/y.avi")
    assert LAYOUTS["arid_v1"](root, None, 1).notes[0].startswith("2 of 4 videos")


def test_a_link_to_nothing_says_where_it_leads(tmp_path: Path):
    arid_lists(tmp_path)
    touch(tmp_path, *LISTED[2:])
    (tmp_path / "Drink/Drink_1_1.mp4").symlink_to("../.git/annex/objects/x.mp4")
    (tmp_path / LISTED[1]).symlink_to("Jump_1_1.avi")
    message = refused(lambda: LAYOUTS["arid_v1"](tmp_path, None, 1))
    assert "train.txt:1: Drink/Drink_1_1.avi is missing: a link to ../.git/annex/objects/x.mp4, which is not" in message
    assert "train.txt:2: Jump/Jump_1_1.avi is missing: a link to Jump_1_1.avi, which is not there" in message


def test_a_listed_path_leads_nowhere_but_below_the_root(tmp_path: Path):
    touch(tmp_path, "secret.mp4")
    root = tmp_path / "root"
    touch(root, "a.mp4")
    for path in ("../secret.mp4", str(tmp_path / "secret.mp4"), "x/../../secret.mp4", f"{root}/../secret.mp4"):
        four_videos(root, "a.mp4", path)
        assert "videos.csv:3: " in refused(lambda: LAYOUTS["csv"](root, None, 1))


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_the_same_in_any_normal_form(tmp_path: Path, listed, stored):
    names = ("Gehen_ä/Zoë 1.mp4", "Gehen_ä/Zoë 2.mp4", "b/ñ.mp4", "b/한국어.mp4")
    touch(tmp_path, *(unicodedata.normalize(stored, name) for name in names))
    four_videos(tmp_path, *(unicodedata.normalize(listed, name) for name in names))
    listing = LAYOUTS["csv"](tmp_path, None, 1)
    assert all((tmp_path / video.path).is_file() for video in listing.videos)
    (tmp_path / "classInd.txt").write_text("0 a\n1 b\n", encoding="utf-8")
    for split in ("train", "test"):
        rows = []
        for label in (0, 1):
            (tmp_path / unicodedata.normalize(stored, f"{split}_ö_{label}")).mkdir()
            rows.append(unicodedata.normalize(listed, f"{split}_ö_{label} 9 {label}"))
        (tmp_path / f"{split}.txt").write_text("\n".join(rows), encoding="utf-8")
    listing = LAYOUTS["frame_folders"](tmp_path, None, 1)
    assert all((tmp_path / video.path).is_dir() for video in listing.videos)


def test_the_exact_form_wins(tmp_path: Path):
    both = [unicodedata.normalize(form, "ä.mp4") for form in ("NFC", "NFD")]
    touch(tmp_path, *both, "b.mp4")
    four_videos(tmp_path, "ä.mp4", "b.mp4")
    assert LAYOUTS["csv"](tmp_path, None, 1).videos[0].path == both[0]


@pytest.mark.parametrize(
    ("listed", "stored", "words"),
    [
        ("wave 1.mp4", "wave\u00a01.mp4", r"; there is wave\xa01.mp4, and it is listed as wave 1.mp4"),
        ("wave\u200b1.mp4", "wave1.mp4", r"; there is wave1.mp4, and it is listed as wave\u200b1.mp4"),
        ("Wave1.mp4", "wave1.MP4", "; there is wave1.MP4, and it is listed as Wave1.mp4"),
    ],
)
def test_what_looks_like_a_missing_name_is_named(tmp_path: Path, listed: str, stored: str, words: str):
    touch(tmp_path, stored, "b.mp4")
    four_videos(tmp_path, listed, "b.mp4")
    assert f"{listed} is missing{words}" in refused(lambda: LAYOUTS["csv"](tmp_path, None, 1))


def test_a_listed_file_is_taken_whatever_its_suffix(tmp_path: Path):
    touch(tmp_path, "a.dat", "b.h264", "c.MTS", "d.vob")
    four_videos(tmp_path, "a.dat", "b.h264", "c.MTS", "d.mp4")
    assert [video.path for video in LAYOUTS["csv"](tmp_path, None, 1).videos] == ["a.dat", "b.h264", "c.MTS", "d.vob"]


def test_a_walk_ends_whatever_links_there_are(tmp_path: Path):
    touch(tmp_path, "top/a/1", "top/b/2", "other/3", "top/.hidden/4", "top/@eaDir/5", "top/a/._1", "top/Thumbs.db")
    for link, target in {
        "top/self": ".", "top/up": "..", "top/a/b": "../b", "top/b/a": "../a", "top/c": "../other",
        "other/back": "../top", "top/round": "round",
    }.items():  # fmt: skip
        (tmp_path / link).symlink_to(target)
    files = [place / name for place, _, names in walk(tmp_path / "top") for name in names]
    names = [file.relative_to(tmp_path / "top").as_posix() for file in files]
    assert names == ["round", "a/1", "a/b/2", "b/2", "b/a/1", "c/3"]


def test_a_root_that_is_not_there(tmp_path: Path):
    for layout, locate in LAYOUTS.items():
        assert refused(lambda locate=locate: locate(tmp_path / "nowhere", None, 1)), layout
