"""Published lists parse to their published numbers; wrong lists are refused with every finding and its line."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lists import GOOD, arid_lists, csv_of, refused, touch

from pipeline.data.listing import Listing
from pipeline.data.manifest import video_id
from pipeline.data.names import name_stem, path_problem, without_suffix
from pipeline.videos.annotations import (
    LAYOUTS,
    parse_arid_ug2,
    parse_arid_v1,
    parse_arid_v1_5,
    parse_csv,
    parse_dark48,
    parse_frame_folders,
)

ARID_CLASSES = ["Drink", "Jump", "Pick", "Pour", "Push", "Run", "Sit", "Stand", "Turn", "Walk", "Wave"]


def counts(listing: Listing) -> dict[str | None, int]:
    return dict(Counter(video.split for video in listing.videos))


# --- the published lists; numbers from the data sets' papers and sites ---


@pytest.mark.parametrize(("split", "train", "test"), [(1, 2288, 823), (2, 2252, 859), (3, 2259, 852)])
def test_arid(shared_data: Path, split: int, train: int, test: int):
    listing = parse_arid_v1(shared_data / "annotations/arid_v1", split)
    assert counts(listing) == {"train": train, "test": test}
    assert listing.class_names == dict(enumerate(ARID_CLASSES))
    assert all(video.group.startswith(video.class_name + "_") for video in listing.videos)
    assert "673 videos are not used" in listing.notes[0]


def test_arid_ug2_keeps_its_labels_and_says_that_validation_has_none(shared_data: Path):
    listing = parse_arid_ug2(shared_data / "annotations/arid_ug2")
    assert counts(listing) == {"train": 1837}
    assert listing.class_names == {5: "Run", 6: "Sit", 7: "Stand", 8: "Turn", 9: "Walk", 10: "Wave"}
    assert "90 videos are not used: the list has no labels, so they cannot be scored" in listing.notes[0]


def test_dark48(shared_data: Path):
    listing = parse_dark48(shared_data / "annotations/dark48", 1)
    assert counts(listing) == {"train": 7052, "test": 1763}
    assert len(listing.class_names) == 48
    groups = {video.path: video.group for video in listing.videos}
    assert groups["dancing/yt-LMhhbstvTxs_393.mp4"] == "yt-LMhhbstvTxs"
    assert groups["karaoke/Q2Ea0on902w_000057_000067.mp4"] == "Q2Ea0on902w"


def test_csv_of_real_videos(shared_data: Path):
    root = shared_data / "videos/weizmann4"
    listing = LAYOUTS["csv"](root, Path("videos.csv"), 1)
    assert counts(listing) == {None: 72}
    assert listing.class_names == {0: "bend", 1: "jack", 2: "wave1", 3: "wave2"}
    assert len({video.group for video in listing.videos}) == 9
    assert all((root / video.path).is_file() for video in listing.videos)
    assert LAYOUTS["csv"](root, None, 1) == listing


# --- the other layouts, written here as docs/datasets.md describes them ---


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        "\n" + GOOD + "\n \n",
        "id\tlabel\tpath\r\n" + GOOD.replace("\n", "\r\n"),
    ],
)
def test_line_ends_marks_blank_lines_and_headers_change_nothing(tmp_path: Path, text: str):
    listing = parse_arid_v1(arid_lists(tmp_path, text), 1)
    train = [(video.path, video.label, video.group) for video in listing.videos if video.split == "train"]
    assert train == [("Drink/Drink_1_1.avi", 0, "Drink_1"), ("Jump/Jump_1_1.avi", 1, "Jump_1")]


@pytest.mark.parametrize("others", ["others", "other"])
def test_arid_v1_5_reads_the_last_two_fields(tmp_path: Path, others: str):
    folder = tmp_path / "list_cvt/split_1"
    folder.mkdir(parents=True)
    (folder.parent / "mapping_table.txt").write_text("0\tDrink\n1\tJump\n", encoding="utf-8")
    (folder / "split1_train.txt").write_text(
        "7\tx\t0\tDrink/Drink_1_1.mp4\n8\tx\t1\tJump/Jump_1_1.mp4\n", encoding="utf-8"
    )
    (folder / "split1_test.txt").write_text("0\tDrink/Drink_2_1.mp4\n1\tJump/Jump_2_1.mp4\n", encoding="utf-8")
    (folder / f"split1_{others}.txt").write_text("0\tDrink/Drink_1_2.mp4\n", encoding="utf-8")
    listing = parse_arid_v1_5(tmp_path / "list_cvt", 1)
    assert counts(listing) == {"train": 2, "test": 2}
    assert "1 videos are not used" in listing.notes[0]
    names = [video.path for video in listing.videos]
    touch(tmp_path, *(f"clips_v1.5_avi/{without_suffix(name)}.avi" for name in names))
    found = LAYOUTS["arid_v1_5"](tmp_path, None, 1)
    assert found.videos[0].path == "clips_v1.5_avi/Drink/Drink_1_1.avi"
    touch(tmp_path, *(f"clips_v1.5/{name}" for name in names))
    assert LAYOUTS["arid_v1_5"](tmp_path, None, 1).videos[0].path == "clips_v1.5/Drink/Drink_1_1.mp4"


def test_arid_ug2_takes_a_test_list_with_labels(tmp_path: Path):
    lists = tmp_path / "list_cvt"
    lists.mkdir()
    (lists / "mapping_table_t1.txt").write_text("5\tRun\n6\tSit\n", encoding="utf-8")
    (lists / "ARID1.1_t1_train_pub.csv").write_text(
        "VideoID,Video,ClassID\n0,Run/Run_1_1.mp4,5\n1,Sit/Sit_1_1.mp4,6\n", encoding="utf-8"
    )
    (lists / "ARID1.1_t1_validation_gt_pub.csv").write_text("VideoID,Video\n0,0.mp4\n", encoding="utf-8")
    (lists / "ARID1.1_t1_test_gt.csv").write_text("VideoID,Video,ClassID\n0,0.mp4,6\n1,1.mp4,5\n", encoding="utf-8")
    touch(tmp_path, "train_data/Run/Run_1_1.mp4", "train_data/Sit/Sit_1_1.mp4", "test_data/0.mp4", "test_data/1.mp4")
    listing = LAYOUTS["arid_ug2"](tmp_path, None, 1)
    assert [(video.path, video.label) for video in listing.videos if video.split == "test"] == [
        ("test_data/0.mp4", 6),
        ("test_data/1.mp4", 5),
    ]
    assert len(listing.notes) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.txt", "a/v 1 30 0\nb/w 31 1\n"),
        ("train_split2.txt", "a/v 1 30 0\nb/w 31 1"),
        ("train.tsv", "path\tnum_frames\tlabel\r\na/v 1\t30\t0\r\nb/w\t31\t1\r\n"),
    ],
)
def test_frame_folders(tmp_path: Path, name: str, text: str):
    (tmp_path / "classInd.txt").write_text("0 a\n1 b\n", encoding="utf-8")
    (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "test.txt").write_text("a/x.mp4 9 0\nb/x 9 1\n", encoding="utf-8")
    for folder in ("a/v 1", "b/w", "a/x.mp4", "b/x"):
        (tmp_path / folder).mkdir(parents=True)
    listing = LAYOUTS["frame_folders"](tmp_path, None, 2)
    assert [(video.path, video.num_frames, video.label, video.split) for video in listing.videos] == [
        ("a/v 1", 30, 0, "train"),
        ("b/w", 31, 1, "train"),
        ("a/x.mp4", 9, 0, "test"),
        ("b/x", 9, 1, "test"),
    ]
    (tmp_path / name).write_text("a/v 1 many 0\nb/w 31\n", encoding="utf-8")
    message = refused(lambda: parse_frame_folders(tmp_path, 2))
    assert f"{name}:1: expected `path num_frames label`" in message
    assert f"{name}:2" in message


# --- CSV ---


def test_csv_with_every_column(tmp_path: Path):
    file = csv_of(
        tmp_path,
        'split,more,path,label,class_name,group\ntrain,x,"a,1.mp4",7,b c,g\ntest,,./d/2.mp4,7,b c,h\n'
        "test,,3.mp4,2,a,h\ntrain,,4.mp4,2,a,g\n",
    )
    listing = parse_csv(file)
    assert listing.class_names == {2: "a", 7: "b c"}
    assert [(video.path, video.label, video.group, video.split) for video in listing.videos] == [
        ("a,1.mp4", 7, "g", "train"),
        ("d/2.mp4", 7, "h", "test"),
        ("3.mp4", 2, "h", "test"),
        ("4.mp4", 2, "g", "train"),
    ]
    assert listing.videos[1].line == f"{file}:3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs a column 'path'; it has none"),
        ("a.mp4,run\n", "needs a column 'path'"),
        ("path,label\n", "no videos"),
        ("path,label,label\na.mp4,x,x\n", "column 'label' appears twice"),
        ("path,label\na.mp4,x,y\n", ":2: 3 fields, but the header has 2"),
        ("path,label\na.mp4,\n", "no videos with a label"),
        ("path,label,split\na.mp4,x,train\nb.mp4,,train\n", ":3: label is empty"),
        ("path,label,class_name\na.mp4,0,x\nb.mp4,,x\n", ":3: beside a class_name, label is a number"),
        ("path,label,class_name\na.mp4,one,x\n", ":2: beside a class_name, label is a number"),
        ("path,label,class_name\na.mp4,1,x\nb.mp4,1,y\n", ":3: class 1 is 'y' here, but 'x' above"),
        ("path,label,class_name\na.mp4,1,x\nb.mp4,2,x\n", ":3: 'x' has more than one label"),
        ("path,label,split\na.mp4,x,eval\n", ":2: split is train, val, test or unlabelled, not 'eval'"),
        ("path,label,split\na.mp4,x,train\nb.mp4,x,\n", ":3: split is train, val, test or unlabelled, not ''"),
        ("path,label,group\na.mp4,x,\n", ":2: group is empty"),
        ("path,label\n../a.mp4,x\n", ":2: '../a.mp4' has '..', which may lead out of the root"),
        ("path,label\n/a.mp4,x\n", ":2: '/a.mp4' is not below the root"),
        ("path,label\nC:/a.mp4,x\n", "not below the root"),
        ("path,label\nx\\a.mp4,x\n", "has backslashes"),
        ('path,label\n"a.mp4,x\n', "is not a table"),
        ("path,label\na.mp4,x\na.mp4,x\n", ":3: a.mp4 is listed again (first in "),
        ("path,label\na.mp4,x\na.avi,y\n", ":3: a.avi is y, but a.mp4 is x ("),
    ],
)
def test_wrong_csv(tmp_path: Path, text: str, words: str):
    file = csv_of(tmp_path, text)
    message = refused(lambda: parse_csv(file))
    assert words in message
    assert str(file) in message or "no videos" in message


def test_absolute_paths_below_the_root_are_taken_by_whatever_links(tmp_path: Path):
    root = tmp_path / "disk/set"
    touch(root, "a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4")
    (tmp_path / "named").symlink_to("disk/set")
    (tmp_path / "other").symlink_to("disk")
    csv_of(
        root,
        f"path,label\n{root}/a/1.mp4,a\n{tmp_path}/named/a/2.mp4,a\n{tmp_path}/other/set/b/3.mp4,b\nb/4.mp4,b\n",
    )
    for place in (root, tmp_path / "named"):
        paths = [video.path for video in LAYOUTS["csv"](place, None, 1).videos]
        assert paths == ["a/1.mp4", "a/2.mp4", "b/3.mp4", "b/4.mp4"]
    csv_of(root, f"path,label\n{tmp_path}/elsewhere.mp4,a\n{root}/../x.mp4,b\n")
    message = refused(lambda: LAYOUTS["csv"](root, None, 1))
    assert "videos.csv:2: " in message
    assert message.count("is not below the root: paths are relative to it") == 2


def test_absolute_paths_of_frame_folders(tmp_path: Path):
    (tmp_path / "classInd.txt").write_text("0 a\n1 b\n", encoding="utf-8")
    for split in ("train", "test"):
        rows = "".join(f"{tmp_path}/{split}/{label} 9 {label}\n" for label in (0, 1))
        (tmp_path / f"{split}.txt").write_text(rows, encoding="utf-8")
        for label in "01":
            (tmp_path / split / label).mkdir(parents=True)
    paths = [video.path for video in LAYOUTS["frame_folders"](tmp_path, None, 1).videos]
    assert paths == ["train/0", "train/1", "test/0", "test/1"]


def labelled(folder: Path, *labels: str) -> Path:
    return csv_of(folder, "path,label\n" + "".join(f"{number}.mp4,{label}\n" for number, label in enumerate(labels)))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "2", "1"], {1: "1", 2: "2", 10: "10"}),
        (["3", "0", "2", "1"], {0: "0", 1: "1", 2: "2", 3: "3"}),
        (["07", "11"], {7: "07", 11: "11"}),
        (["wave", "10", "2"], {0: "10", 1: "2", 2: "wave"}),
    ],
)
def test_labels_that_are_whole_numbers_stay_numbers(tmp_path: Path, labels: list[str], names: dict[int, str]):
    listing = parse_csv(labelled(tmp_path, *labels))
    assert listing.class_names == names
    assert [video.class_name for video in listing.videos] == labels


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["1.0", "2.0"], ":2: label is a name, or a whole number from 0 on, not '1.0'"),
        (["-1", "2"], ":2: label is a name, or a whole number from 0 on, not '-1'"),
        (["1", "2", "01"], ":2: labels '1' and '01' are one number"),
        (["Jump", "Sit", "jump"], r":4: class 'jump' looks like 'Jump'"),
        (["Gehen_\u00e4", "Sit", "Gehen_a\u0308"], r":4: class 'Gehen_a\u0308' looks like 'Gehen_ä'"),
        (["Jump", "Ju\u200bmp", "Sit"], r":3: class 'Ju\u200bmp' looks like 'Jump'"),
        (["Jump up", "Jump\u00a0up", "Sit"], r":3: class 'Jump\xa0up' looks like 'Jump up'"),
        (["Jump up", "Jump  up", "Sit"], ":3: class 'Jump  up' looks like 'Jump up'"),
        (["Jump", "Jump\u00a0", "Sit"], r":3: class 'Jump\xa0' looks like 'Jump'"),
        (["Jump", "Jump\ufeff", "Sit"], r":3: class 'Jump\ufeff' looks like 'Jump'"),
    ],
)
def test_labels_that_would_be_other_classes_without_a_word(tmp_path: Path, labels: list[str], words: str):
    assert words in refused(lambda: parse_csv(labelled(tmp_path, *labels)))


def test_groups_that_look_the_same_would_be_cut_without_a_word(tmp_path: Path):
    rows = "path,label,group\na.mp4,x,Zo\u00eb\nb.mp4,x,Zoe\u0308\nc.mp4,y,v1\nd.mp4,y,V1\n"
    message = refused(lambda: parse_csv(csv_of(tmp_path, rows)))
    assert r":3: group 'Zoe\u0308' looks like 'Zoë'" in message
    assert "V1" not in message  # ids of videos differ by case


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_come_in_one_normal_form(tmp_path: Path, form: Literal["NFC", "NFD"]):
    rows = unicodedata.normalize(form, "path,label,group\nä/1.mp4,Gehen_ä,Zoë\nb.mp4,sit,y\n")
    video = parse_csv(csv_of(tmp_path, rows)).videos[0]
    assert (video.class_name, video.group, video_id(video.path)) == ("Gehen_ä", "Zoë", "ä/1")


def test_splits_of_a_table_in_usual_spellings(tmp_path: Path):
    rows = "path,label,split\na.mp4,x,Train\nb.mp4,x,validation\nc.mp4,x,TEST\n"
    assert [video.split for video in parse_csv(csv_of(tmp_path, rows)).videos] == ["train", "val", "test"]


# --- wrong lists ---


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (GOOD + "2\t5\tRun/Run_1_1.avi\n", "train.txt:3: label 5 is not in the class list (0 to 1)"),
        (GOOD + "2\t0\tDrink/Drink_1_1.avi\n", "train.txt:3: Drink/Drink_1_1.avi is listed again (first in "),
        (GOOD + "2\t0\tJump/Jump_1_2.avi\n", "train.txt:3: 'Jump/Jump_1_2.avi' does not fit class 0 (Drink)"),
        (GOOD + "2\t0\tDrink/Drink_9_1.avi\n", "is Drink in test, but Drink/Drink_9_1.avi is Drink in train"),
        (GOOD + "2 0 Drink/Drink_1_3.avi\n", "train.txt:3: expected a path and a label"),
        (GOOD + "2\tx\tDrink/Drink_1_3.avi\n", "train.txt:3: expected a path and a label that is a number"),
        (GOOD + "2\t0\t../Drink/Drink_1_3.avi\n", "train.txt:3: '../Drink/Drink_1_3.avi'"),
        ("0\t0\tDrink/Drink_1_1.avi\n", "class 1 (Jump) has no video in train"),
        (GOOD.replace("\t1\t", "\t2\t").replace("\t0\t", "\t1\t"), "1-based"),
    ],
)
def test_wrong_arid_lists(tmp_path: Path, train: str, words: str):
    test = "0\t0\tDrink/Drink_9_1.avi\n1\t1\tJump/Jump_9_1.avi\n"
    if words == "1-based":  # nobody uses 0
        train = "0\t1\tJump/Jump_1_1.avi\n1\t2\tKick/Kick_1_1.avi\n"
        test = "0\t1\tJump/Jump_2_1.avi\n"
    lists = arid_lists(tmp_path, train, test)
    assert words in refused(lambda: parse_arid_v1(lists, 1))


def test_all_findings_come_at_once_but_few_are_printed(tmp_path: Path):
    lists = arid_lists(tmp_path, GOOD + "".join(f"{n}\t9\tRun/Run_1_{n}.avi\n" for n in range(2, 52)))
    message = refused(lambda: parse_arid_v1(lists, 1))
    assert message.startswith("the annotation lists cannot be used: 50 problems")
    assert len(re.findall(r"ARID_split1_train.txt:\d+: label 9", message)) == 20
    assert "and 30 more" in message


def test_missing_and_unreadable_lists(tmp_path: Path):
    lists = arid_lists(tmp_path, GOOD)
    message = refused(lambda: parse_arid_v1(lists, 2))
    assert "ARID_split2_train.txt" in message
    assert "ARID_split2_test.txt" in message
    (lists / "ARID_split1_train.txt").write_bytes(b"0\t0\tDrink/Drink_1_1.avi\n1\t1\tJump/Jump_\xe9_1.avi\n")
    message = refused(lambda: parse_arid_v1(lists, 1))
    assert "ARID_split1_train.txt:2: not UTF-8 text (byte 0xe9)" in message


@pytest.mark.parametrize("text", ["", "Drink\n", "0\tDrink\n0\tJump\n", "0\tDrink\n1\tDrink\n"])
def test_wrong_class_lists(tmp_path: Path, text: str):
    lists = arid_lists(tmp_path, GOOD)
    (lists / "mapping_table.txt").write_text(text, encoding="utf-8")
    assert "mapping_table.txt" in refused(lambda: parse_arid_v1(lists, 1))


# --- names ---


def test_name_stems():
    assert name_stem("x/yt-LMhhbstvTxs_393.mp4") == "yt-LMhhbstvTxs"
    assert name_stem("x/Q2Ea0on902w_000057_000067.mp4") == "Q2Ea0on902w"
    assert name_stem("giphy-JfWhcnvXR2hj2_0.avi") == "giphy-JfWhcnvXR2hj2"
    assert name_stem("_12.mp4") == "_12"


@given(st.text())
def test_a_path_without_a_problem_stays_below_the_root(path: str):
    if path_problem(path) is None:
        assert not Path(path).is_absolute()
        assert ".." not in Path(path).parts
