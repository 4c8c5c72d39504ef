"""Wrong lists are refused before a video is decoded, with every line that is wrong; odd but right ones are right."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from check_setups import write_params
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from listed_data import (
    CLASS_FOLDERS,
    LISTED,
    Style,
    class_folders,
    label_column,
    make,
    path_column,
)

from pipeline.core.errors import DataError
from pipeline.data.leakage import STEM_LAYOUTS, find_leakage
from pipeline.data.manifest import read_manifest
from pipeline.data.names import look, same_form

CLASSES = {5: "Run", 6: "Sit", 8: "Wave up"}
SOURCES = ("a", "b")


@pytest.fixture
def data(tmp_path):
    """`data(layout)`: that layout in the folder `data` of a project."""
    return lambda layout, **options: make(layout, tmp_path / "data", CLASSES, SOURCES, **options)


@pytest.fixture
def prepare(call, tmp_path, monkeypatch):
    """Run the stage on the data set of a layout; returns exit code and stderr. No video may be touched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)

    def run(layout):
        write_params(prepare__layout=layout)
        outs = ("--manifest", "manifest.csv", "--quarantine", "quarantine.csv", "--dark", "dark")
        code, _, err = call("prepare", *outs)
        assert not Path("manifest.csv").exists()
        assert not Path(".work").exists(), "work has begun"
        return code, err

    return run


def where(table, row):
    """How a finding about a row begins."""
    return f"{table.path}:{row + 1 + table.needs_header}: "


# --- what is wrong, in each layout: an edit of the train list or the test list, and the rows that are at fault ---


def repeat(data):
    train = data.table("train")
    train.rows.append(dict(train.rows[0]))
    return train, [len(train.rows) - 1], "is listed again (first in "


def repeat_with_another_label(data):
    train = data.table("train")
    rows = data.rows_of("train")
    train.rows.append(train.rows[rows[0]] | {label_column(train): train.rows[rows[-1]][label_column(train)]})
    if "class_name" in train.columns:
        train.rows[-1]["class_name"] = train.rows[rows[-1]]["class_name"]
    return train, [len(train.rows) - 1], "is Wave up in train, but "


def put_into_two_splits(data):
    train, test = data.table("train"), data.table("test")
    row = dict(train.rows[0])
    if "split" in row:
        row["split"] = "test"
    test.rows.append(row)
    return test, [len(test.rows) - 1], " in test, but "


def use_an_unknown_label(data):
    train = data.table("train")
    column = label_column(train)
    train.rows[1][column] = train.rows[3][column] = "77"
    # in a table the class's name tells its number
    return train, [1, 3], "label" if data.layout == "csv" else "label 77 is not in the class list (5 to 8)"


def write_no_number(data):
    train = data.table("train")
    for row, text in enumerate(("", "-5", "5.0", "five", "5" * 5000, "٥")):
        train.rows[row][label_column(train)] = text
    return train, range(6), ""


def leave_the_root(data):
    train = data.table("train")
    for row, path in enumerate(("../x.mp4", "/etc/x.mp4", "C:/x.mp4", "a/../../x.mp4", "x\\y.mp4")):
        train.rows[row][path_column(train)] = path
    return train, range(5), ""


def use_control_characters(data):
    train = data.table("train")
    for row, char in enumerate("\x07\x1b\u2028"):
        path = train.rows[row][path_column(train)]
        train.rows[row][path_column(train)] = path[:-1] + char + path[-1]
    return train, range(3), ""


def write_a_huge_line(data):
    train = data.table("train")
    train.rows[0][path_column(train)] = f"{train.rows[0][path_column(train)]}{'x' * 100_000}"
    train.rows[2][path_column(train)] = "d/" * 50_000 + "x.mp4"
    return train, [0, 2], ""


def overflow_a_field(data):
    """csv has a limit of 131,072 characters for a field; other lists have none."""
    train = data.table("train")
    train.rows[1][path_column(train)] = "x" * 300_000
    return train, [1], ""


LINE_FAULTS = {
    "duplicate lines": repeat,
    "conflicting lines: one video, two labels": repeat_with_another_label,
    "overlap of splits by path": put_into_two_splits,
    "a label outside the classes": use_an_unknown_label,
    "a label that is no number": write_no_number,
    "paths out of the root": leave_the_root,
    "control characters in names": use_control_characters,
    "a huge line": write_a_huge_line,
    "a field beyond the limit of csv": overflow_a_field,
}


def with_fault(names, outcome="E"):
    return [
        pytest.param(layout, edit, marks=pytest.mark.fault("Lists", name, outcome), id=f"{layout}: {name}")
        for name, edit in names.items()
        for layout in LISTED
    ]


@pytest.mark.parametrize(("layout", "edit"), with_fault(LINE_FAULTS))
def test_every_wrong_line_is_named_at_once_before_work_begins(data, prepare, layout, edit):
    found = data(layout)
    found.write()
    table, rows, words = edit(found)
    found.put(table, table.text())
    code, err = prepare(layout)
    assert code == 3, err
    assert "Traceback" not in err
    for row in rows:
        assert where(table, row) in err, err
    assert words in err
    assert len(err) < 5_000  # whatever the list holds


@pytest.mark.fault("Lists", "a label that is no name of a class (csv by names)", "E")
def test_a_name_that_is_misspelt_once_is_a_class_that_lacks_videos(data, prepare):
    found = data("csv", numbers=False)
    found.tables[0].rows[2]["label"] = "Rnu"
    found.write()
    code, err = prepare("csv")
    assert code == 3
    assert "videos.csv:4: class 0 (Rnu) has no video in test" in err


# --- ids that are shifted ---


@pytest.mark.fault("Lists", "1-based labels, 0-based class list", "E")
@pytest.mark.parametrize("shift", [1, -1])
@pytest.mark.parametrize("layout", LISTED)
def test_shifted_labels_are_refused_and_never_shifted(tmp_path, prepare, layout, shift):
    found = make(layout, tmp_path / "data", {1: "Run", 2: "Sit", 3: "Wave"}, SOURCES)
    found.write()
    for table in found.tables:
        for row in table.rows:
            row[label_column(table)] = str(int(row[label_column(table)]) + shift)
        found.put(table, table.text())
    if layout == "csv":  # numbers beside names: any will do, and each name keeps its own
        assert found.rows() == {path: (label + shift, *rest) for path, (label, *rest) in found.expected.items()}
        return
    code, err = prepare(layout)
    assert code == 3
    assert f"label {0 if shift < 0 else 4} is not in the class list (1 to 3)" in err or "more" in err
    assert f"every label is 1 too {'low' if shift < 0 else 'high'}" in err


@pytest.mark.fault("Lists", "a label that contradicts the class's folder", "E")
@pytest.mark.parametrize("layout", CLASS_FOLDERS)
def test_a_label_that_contradicts_the_folder_is_found(data, prepare, layout):
    found = data(layout)
    found.write()
    train = found.table("train")
    train.rows[0][label_column(train)], train.rows[-1][label_column(train)] = "8", "5"
    found.put(train, train.text())
    code, err = prepare(layout)
    assert code == 3
    for row, words in ((0, "does not fit class 8 (Wave up)"), (len(train.rows) - 1, "does not fit class 5 (Run)")):
        assert re.search(re.escape(where(train, row)) + ".*" + re.escape(words), err)


@pytest.mark.fault("Lists", "class list in another order than the lists", "E")
@pytest.mark.parametrize("layout", CLASS_FOLDERS)
def test_a_permuted_class_list_is_found_by_the_folders(data, prepare, layout):
    found = data(layout)
    found.write()
    first, second, third = found.classes.rows
    first["name"], second["name"], third["name"] = second["name"], third["name"], first["name"]
    found.put(found.classes, found.classes.text())
    code, err = prepare(layout)
    assert code == 3
    assert where(found.table("train"), 0) in err


# --- the class list ---

WRONG_CLASS_LISTS = {
    "0 Run\n0 Sit\n": ":2: class 0 is named again",
    "0 Run\n1 Run\n": ":2: class name 'Run' is used again",
    "Run 0\nSit 1\n": ":1: expected `id name`",
    "0\n1\n": ":2: expected `id name`",
    "": "no classes",
    "9" * 5000 + " Run\n": ":1: expected `id name`",
    "0 Run\n1 Sit\x001\n": ":2: not UTF-8 text (byte 0x00)",
    "0,Run\n1,Sit\n": ":1: expected `id name`",
}


@pytest.mark.fault("Lists", "a wrong class list", "E")
@pytest.mark.parametrize("text", WRONG_CLASS_LISTS, ids=range(len(WRONG_CLASS_LISTS)))
@pytest.mark.parametrize("layout", [layout for layout in LISTED if layout != "csv"])
def test_a_wrong_class_list_is_named_with_its_line(data, prepare, layout, text):
    found = data(layout)
    found.write()
    found.put(found.classes, text)
    code, err = prepare(layout)
    assert code == 3
    assert found.classes.path in err
    assert WRONG_CLASS_LISTS[text] in err
    assert len(err) < 5_000


# --- files that are no lists ---


def as_folder(file):
    file.unlink()
    file.mkdir()


def as_utf16(file):
    file.write_bytes(file.read_text().encode("utf-16"))


FILE_FAULTS = {
    "a list that is a folder": as_folder,
    "a list that is missing": Path.unlink,
    "an empty list": lambda file: file.write_bytes(b""),
    "a list of blank lines": lambda file: file.write_bytes(b"\n \r\n\t\n"),
    "non-UTF-8 lists": lambda file: file.write_bytes(file.read_bytes()[:-5] + "ü".encode("latin1")),
    "UTF-16 lists": as_utf16,
    "NUL bytes": lambda file: file.write_bytes(file.read_bytes() + b"\0" * 512),
    "binary in place of a list": lambda file: file.write_bytes(bytes(range(256)) * 100),
}


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize(("layout", "damage"), with_fault(FILE_FAULTS))
def test_what_is_no_list_is_named(data, prepare, layout, damage, which):
    found = data(layout)
    found.write()
    table = found.table(which)
    if layout == "arid_ug2" and which == "test" and damage in (Path.unlink, as_folder):
        pytest.skip("this layout has a list of test or none")
    damage(found.root / table.path)
    code, err = prepare(layout)
    assert code == 3, err
    assert "Traceback" not in err
    assert table.path in err
    assert len(err) < 5_000


@pytest.mark.fault("Lists", "an unreadable list", "E")
@pytest.mark.parametrize("layout", LISTED)
def test_a_list_that_may_not_be_read_is_named(data, prepare, layout, monkeypatch):
    found = data(layout)
    found.write()
    forbidden = found.root / found.table("train").path
    read = Path.read_bytes

    def read_bytes(path):
        if path.name == forbidden.name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)  # root may read everything
    code, err = prepare(layout)
    assert code == 3
    assert f"{found.table('train').path}: cannot be read: Permission denied" in err


# --- classes that lack videos ---


def keep(data, label, *, train, test):
    """Leave so many videos of a class in each split."""
    for split, number in (("train", train), ("test", test)):
        table = data.table(split)
        column = label_column(table)
        rows = [row for row in data.rows_of(split) if table.rows[row][column] == str(label)]
        for row in reversed(rows[number:]):
            del table.rows[row]


CLASS_FAULTS = {
    "a class only in train": (4, 0, "class 6 (Sit) has no video in test"),
    "a class only in test": (0, 4, "class 6 (Sit) has no video in train"),
    "a one-video class": (1, 4, "val cannot be carved out of train"),
    "a class in no list": (0, 0, "class 6 (Sit) has no video in train"),
}


@pytest.mark.parametrize(
    ("layout", "numbers"),
    [
        pytest.param(layout, numbers, marks=pytest.mark.fault("Lists", name, "E"), id=f"{layout}: {name}")
        for name, numbers in CLASS_FAULTS.items()
        for layout in LISTED
        if not (layout == "csv" and name == "a class in no list")  # the table is its own class list
    ],
)
def test_a_class_without_videos_in_a_split_is_named(data, prepare, layout, numbers):
    num_train, num_test, words = numbers
    found = data(layout)
    found.write()
    keep(found, 6, train=num_train, test=num_test)
    for table in found.tables:
        found.put(table, table.text())
    code, err = prepare(layout)
    assert code == 3
    assert words in err
    if num_train + num_test:
        assert re.search(rf"{re.escape(found.table('train' if num_train else 'test').path)}:\d+: ", err)


@pytest.mark.fault("Lists", "an empty folder of a split (class_folders)", "E")
def test_an_empty_test_folder_is_not_replaced_by_videos_of_train(tmp_path, prepare):
    found = class_folders(tmp_path / "data", ["Run", "Sit"], SOURCES)
    found.write()
    for path in found.expected:
        if path.startswith("test/"):
            (found.root / path).unlink()
    code, err = prepare("class_folders")
    assert code == 3
    assert "data/test: no videos" in err


@pytest.mark.fault("Lists", "links to nothing in class folders", "E")
def test_a_link_to_nothing_is_a_missing_video(tmp_path, prepare):
    found = class_folders(tmp_path / "data", ["Run", "Sit"], SOURCES)
    found.write()
    (found.root / "train/Run/new.mp4").symlink_to(tmp_path / "nowhere.mp4")
    code, err = prepare("class_folders")
    assert code == 3
    assert "train/Run/new.mp4 is missing" in err


@pytest.mark.fault("Lists", "a folder of videos that cannot be read", "E")
@pytest.mark.parametrize("layout", ["class_folders", "dark48"])
def test_a_folder_that_may_not_be_read_loses_no_video_in_silence(tmp_path, prepare, monkeypatch, layout):
    found = make(layout, tmp_path / "data", CLASSES, SOURCES) if layout == "dark48" else None
    found = found or class_folders(tmp_path / "data", ["Run", "Sit"], SOURCES)
    found.write()
    forbidden = found.root / ("Run" if layout == "dark48" else "train/Run")
    scandir, iterdir = __import__("os").scandir, Path.iterdir

    def refuse(reader):
        def read(path):
            if Path(path) == Path("data") / forbidden.relative_to(found.root):
                raise PermissionError(13, "Permission denied", str(path))
            return reader(path)

        return read

    monkeypatch.setattr("os.scandir", refuse(scandir))
    monkeypatch.setattr(Path, "iterdir", refuse(iterdir))
    code, err = prepare(layout)
    assert code == 3, err
    assert "Permission denied" in err
    assert "Run" in err


# --- what may look odd and is right ---

HARMLESS = {
    "CRLF": Style(newline="\r\n"),
    "lone CR": Style(newline="\r"),
    "BOM": Style(bom=True),
    "no final newline": Style(last_newline=False),
    "blank lines": Style(blank_lines=True),
    "trailing spaces and tabs": Style(trailing=" \t "),
    "header": Style(header=True),
    "no header": Style(),
    "lines in another order": Style(seed=7),
    "all of these": Style("\r\n", bom=True, header=True, last_newline=False, blank_lines=True, trailing=" ", seed=3),
}


@pytest.mark.parametrize(
    ("layout", "style"),
    [
        pytest.param(layout, style, marks=pytest.mark.fault("Lists", name, "="), id=f"{layout}: {name}")
        for name, style in HARMLESS.items()
        for layout in LISTED
    ],
)
def test_odd_lists_give_the_rows_of_the_clean_ones(data, layout, style):
    found = data(layout)
    found.write(style)
    assert found.rows() == found.expected
    if layout == "csv":
        names = data(layout, numbers=False)
        names.write(style)
        assert names.rows() == names.expected


@pytest.mark.fault("Lists", "a table without its header", "E")
@pytest.mark.parametrize("layout", ["csv", "arid_ug2"])
def test_a_table_without_its_header_is_refused(data, prepare, layout):
    found = data(layout)
    found.write()
    table = found.table("train")
    found.put(table, "\n".join(table.lines()))
    code, err = prepare(layout)
    assert code == 3
    assert f"{table.path}:1: the header needs a column " in err


@pytest.mark.fault("Lists", "two lines without an end between them", "E")
@pytest.mark.parametrize("layout", LISTED)
@pytest.mark.parametrize("row", [0, 5, 10])
def test_two_lines_in_one_lose_no_video_in_silence(data, prepare, layout, row):
    found = data(layout)
    found.write()
    table = found.table("train")
    lines = table.text().split("\n")
    row += table.needs_header
    lines[row : row + 2] = [lines[row] + lines[row + 1]]
    found.put(table, "\n".join(lines))
    code, err = prepare(layout)
    assert code == 3
    assert f"{table.path}:{row + 1}: " in err


@pytest.mark.fault("Lists", "a quote that is not closed", "E")
@pytest.mark.parametrize("layout", ["csv", "arid_ug2"])
@pytest.mark.parametrize("rows", [(1,), (2, 4)])
def test_a_quote_swallows_no_lines(data, prepare, layout, rows):
    found = data(layout)
    found.write()
    table = found.table("train")
    lines = [f"{line}," for line in table.text().split("\n")[:-1]]
    for row in rows:
        lines[row] += '"'  # begins in one ignored field, ends in another
    lines[0] += "note"
    found.put(table, "\n".join(lines) + "\n")
    code, err = prepare(layout)
    assert code == 3
    assert f"{table.path}:{rows[0] + 1}: " in err


@pytest.mark.fault("Lists", "labels missing in a part of a test list", "E")
def test_a_test_list_that_lacks_one_label_is_not_left_out(data, prepare):
    found = data("arid_ug2")
    test = found.table("test")
    test.rows[2]["ClassID"] = ""
    found.write()
    code, err = prepare("arid_ug2")
    assert code == 3
    assert where(test, 2) in err


# --- splits that have something in common: left as the lists have them, and reported ---


@pytest.mark.fault("Lists", "overlap of splits by group", "=")
@pytest.mark.parametrize("layout", ["arid_v1", "arid_v1_5", "dark48", "csv"])
def test_a_group_in_two_splits_is_found(data, layout):
    found = data(layout)
    for row in found.rows_of("test"):  # the clips of test become clips 3 and 4 of the recordings of train
        table = found.table("test")
        values = table.rows[row]
        path = re.sub(r"te([ _])(\d)", lambda m: f"tr{m[1]}{int(m[2]) + 2}", values[path_column(table)])
        values |= {path_column(table): path, **({"group": values["group"][:-2] + "tr"} if "group" in values else {})}
    below = "clips_v1.5/" if layout == "arid_v1_5" else ""
    paths = [below + row[path_column(table)] for table in found.tables for row in table.rows]
    replace(found, expected=dict.fromkeys(paths)).write()
    leaks = find_leakage(found.read().videos, stems=layout in STEM_LAYOUTS)
    (leak,) = [leak for leak in leaks if leak.kind == "group"]
    num_groups = len(SOURCES) * (len(CLASSES) if layout.startswith("arid") else 1)
    assert (leak.splits, leak.num_shared, leak.num_videos) == (("train", "test"), num_groups, (12, 12))


@pytest.mark.fault("Lists", "overlap of splits by digest, group or stem", "=")
def test_prepare_and_check_report_what_two_splits_share(checked_project, call):
    root = checked_project / "data"
    text = (root / "videos.csv").read_text()
    shutil.copy(root / "jump/jump0.mp4", root / "jump/jump3.mp4")
    text = text.replace(",wave3,test", ",wave0,test")
    for old, new in (("wave1", "clip_1"), ("wave3", "clip_2")):
        (root / f"wave/{old}.mp4").rename(root / f"wave/{new}.mp4")
        text = text.replace(f"wave/{old}.mp4", f"wave/{new}.mp4")
    (root / "videos.csv").write_text(text)
    write_params()
    outs = ("--manifest", "manifest.csv", "--quarantine", "quarantine.csv", "--dark", "dark")
    code, _, err = call("prepare", *outs, "--workers", "1")
    assert code == 0, err
    for kind in ("digest", "group", "stem"):
        assert re.search(rf"1 of 2 test videos \(50.00 %\) share a {kind} with 1 train videos", err), kind
    assert {row.split for row in read_manifest(Path("manifest.csv")).rows} == {"train", "val", "test"}
    _, out, _ = call("check", "--processes", "1")
    for kind in ("group", "stem"):
        assert f"share a {kind} with 1 train videos" in out


# --- whatever lists are made of ---

# No / in names, no \\, no : that could be a drive, no . that could begin a suffix, no _ that numbers clips
LETTERS = st.characters(
    categories=("L", "M", "N", "S", "Pd", "Zs", "Cf"), include_characters="'\",;#&()[]", exclude_characters="\ufeff"
)
# In one normal form, as names are compared and kept; tests/videos has the others
NAMES = (
    st.text(LETTERS, min_size=1, max_size=6)
    .map(lambda name: same_form(name.strip()))
    .filter(lambda name: name and not name.isdigit() and not re.fullmatch("[+-][0-9]+", name))
)
STYLES = st.builds(
    Style,
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.booleans(),
    header=st.booleans(),
    last_newline=st.booleans(),
    blank_lines=st.booleans(),
    trailing=st.sampled_from(["", " ", "\t", "  \t "]),
    seed=st.none() | st.integers(0, 99),
)
CLASS_LISTS = st.dictionaries(st.integers(0, 999), NAMES, min_size=2, max_size=4).filter(
    lambda classes: len(set(map(look, classes.values()))) == len(classes)
)
SOURCE_LISTS = st.lists(NAMES, min_size=1, max_size=3, unique_by=lambda name: look(name, case=False))


def examples(number, check, **strategies):
    """Run a check on so many seeded examples."""
    ran = 0

    @settings(
        max_examples=number,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],  # a failure is told as it is: to shrink it takes minutes
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(**strategies)
    def each(**values):
        nonlocal ran
        ran += 1
        check(**values)

    each()
    return ran


@pytest.mark.fault("Lists", "any legal names and formatting (hypothesis)", "=")
@pytest.mark.parametrize("layout", [*LISTED, "class_folders"])
def test_the_reader_gives_what_was_written(scale, cases, layout):
    def check(classes, sources, style, numbers):
        with tempfile.TemporaryDirectory() as folder:
            if layout == "class_folders":
                found = class_folders(Path(folder), list(classes.values()), sources)
            else:
                found = make(layout, Path(folder), classes, sources, numbers=numbers)
            found.write(style)
            assert found.rows() == found.expected

    strategies = {"classes": CLASS_LISTS, "sources": SOURCE_LISTS, "style": STYLES, "numbers": st.booleans()}
    cases(examples(scale(60, 500), check, **strategies))


# --- whatever becomes of them ---

# What a list says once and nothing else says too cannot be checked: which of the fields are compared
SAID_TWICE = {"frame_folders": ("split",), "csv": ("label", "class_name", "split")}
FIELDS = ("label", "class_name", "group", "split", "num_frames")
BYTES = st.one_of(st.sampled_from(list(b'\n\r\t ,;"/\\.-_0123456789\0\xff\xefRa')), st.integers(0, 255)).map(
    lambda value: bytes([value])
)
# where (a share of the content), how many bytes are taken away, what comes in their place
DAMAGE = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 2), BYTES | st.just(b""))


def compared(layout, rows):
    columns = [FIELDS.index(name) for name in SAID_TWICE.get(layout, FIELDS)]
    return {path: [row[column] for column in columns] for path, row in rows.items()}


def read(found):
    """The rows and no error, or the error that a user would see."""
    try:
        return found.rows(), ""
    except DataError as error:
        return None, str(error)


def is_parent(found, path):
    """Whether a folder of frames has only folders: `prepare` quarantines it, since a list alone cannot tell."""
    place = found.root / path
    return place.is_dir() and all(inner.is_dir() for inner in place.iterdir())


@pytest.mark.fault("Lists", "bytes of a list changed, lost or added (hypothesis)", "E")
@pytest.mark.parametrize("layout", LISTED)
def test_a_damaged_list_is_refused_or_says_the_same(scale, cases, layout):
    refused = 0

    def check(classes, sources, style, which, damages):
        nonlocal refused
        with tempfile.TemporaryDirectory() as folder:
            found = make(layout, Path(folder), classes, sources)
            found.write(style)
            tables = [found.table("train"), *([found.table("test")] if layout != "arid_ug2" else [])]
            if layout in CLASS_FOLDERS:
                tables.append(found.classes)
            table = tables[which % len(tables)]
            content = table.text(style).encode()
            for place, lost, added in damages:
                start = int(place * len(content))
                content = content[:start] + added + content[start + lost :]
            found.put(table, content)
            rows, error = read(found)
            refused += bool(error)
            if error:
                assert re.search(r"\.(txt|csv)(:\d+)?: ", error), error
                assert len(error) < 20_000
            elif not any(is_parent(found, path) for path in rows):
                assert compared(layout, rows) == compared(layout, found.expected)

    number = scale(60, 500)
    strategies = {"classes": CLASS_LISTS, "sources": SOURCE_LISTS, "style": STYLES}
    damages = st.lists(DAMAGE, min_size=1, max_size=2)
    cases(examples(number, check, **strategies, which=st.integers(0, 2), damages=damages))
    assert refused > number / 3
