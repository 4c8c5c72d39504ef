"""The annotation lists of the data sets, one parser for each layout (docs/datasets.md shows them).

A `parse_…` function reads lists alone; LAYOUTS also finds the videos on disk. Labels keep the data set's own numbers.
"""

from __future__ import annotations

import csv
import difflib
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from pipeline.core.errors import DataError
from pipeline.data.listing import (
    BLANKS,
    SPLITS,
    VIDEO_SUFFIXES,
    Findings,
    ListedVideo,
    Listing,
    checked,
    locate,
    name_stem,
    read_body,
    read_class_names,
    read_lines,
    read_text,
    whole_number,
    without_suffix,
)

EMPTY = "no videos: a split that has a list, or a folder, has videos"
GroupOf = Callable[[str, str], str | None]  # path and class name to group, or None where the path has another form


def parse_arid_v1(lists: Path, split: int) -> Listing:
    """ARID: `ARID_split{1,2,3}_{train,test}.txt` and `mapping_table.txt`, tab-separated id, label, Class/file.

    `other` is left out: it shares recording groups with train and with test, so it is no clean validation set.
    """
    files = {name: lists / f"ARID_split{split}_{name}.txt" for name in ("train", "test")}
    return _parse_arid(lists, files, [lists / f"ARID_split{split}_{name}.txt" for name in ("other", "others")])


def parse_arid_v1_5(lists: Path, split: int) -> Listing:
    """ARID V1.5: `split_{0,1}/split{0,1}_{train,test}.txt`; the last two tab-separated fields are label and path."""
    folder = lists / f"split_{split}"
    files = {name: folder / f"split{split}_{name}.txt" for name in ("train", "test")}
    return _parse_arid(lists, files, [folder / f"split{split}_{name}.txt" for name in ("other", "others")])


def _parse_arid(lists: Path, files: dict[str, Path], others: list[Path]) -> Listing:
    _require_lists(files.values())
    class_names = read_class_names(lists / "mapping_table.txt")
    findings = Findings()
    videos = []
    for split, file in files.items():
        lines = [(f"{file}:{number}", line.split("\t")) for number, line in _body(file, findings)]
        usual = Counter(len(fields) for _, fields in lines).most_common(1)
        for where, fields in lines:
            if len(fields) > usual[0][0]:  # two lines without an end between them: the first would be lost
                findings.add(where, f"{len(fields)} fields with tabs between them, most lines have {usual[0][0]}")
            videos += _entry(fields[-1], fields[-2:-1], split, where, class_names, _arid_group, findings)
    notes = [
        f"{other}: {len(read_lines(other))} videos are not used: they share recording groups with train and test"
        for other in others
        if other.is_file()
    ]
    return checked(videos, class_names, findings, notes=notes)


def parse_arid_ug2(lists: Path) -> Listing:
    """ARID of UG2+ 2.1, track 1: CSV files with the header VideoID,Video,ClassID; six classes that keep ids 5 to 10.

    The published validation list has no ClassID, so that its videos cannot be scored; so is a test list without labels.
    A test list with labels is taken. Where there is none, test has to be carved out of train.
    """
    class_names = read_class_names(lists / "mapping_table_t1.txt")
    findings = Findings()
    videos: list[ListedVideo] = []
    notes = []
    train = lists / "ARID1.1_t1_train_pub.csv"
    _require_lists([train])
    for file in [train, *sorted(lists.glob("ARID1.1_t1_validation*.csv")), *sorted(lists.glob("ARID1.1_t1_test*.csv"))]:
        rows = _read_csv(file, required=("Video",), others=("VideoID", "ClassID"))
        if file != train and rows and not any(row.get("ClassID") for _, row in rows):
            notes.append(f"{file}: {len(rows)} videos are not used: the list has no labels, so they cannot be scored")
            continue
        if not rows:
            findings.add(str(file), EMPTY)
        split = "train" if file == train else "val" if "validation" in file.name else "test"
        for where, row in rows:
            label = [row["ClassID"]] if "ClassID" in row else []
            group_of = _arid_group if "/" in row["Video"] else _own_group  # files of test are flat: 0.mp4
            videos += _entry(row["Video"], label, split, where, class_names, group_of, findings)
    return checked(videos, class_names, findings, notes=notes)


def parse_dark48(lists: Path, split: int) -> Listing:
    """Dark-48: `{train,test}_split{1,2,3}.txt` of lines `folder/file.mp4 label`, and `classInd.txt`.

    The group is the source's part of the file name: the published lists have clips of one source in train and test.
    """
    files = {name: lists / f"{name}_split{split}.txt" for name in ("train", "test")}
    _require_lists(files.values())
    class_names = read_class_names(lists / "classInd.txt")
    findings = Findings()
    videos = []
    for name, file in files.items():
        for number, line in _body(file, findings):
            path, _, label = line.rpartition(" ")
            videos += _entry(
                path.strip(BLANKS), [label], name, f"{file}:{number}", class_names, _dark48_group, findings
            )
    return checked(videos, class_names, findings)


def parse_frame_folders(lists: Path, split: int) -> Listing:
    """Folders of images: `{train,val,test}.txt` or `{train,val,test}_split{N}.txt` (or .tsv), `path num_frames label`.

    Separated by tabs or spaces, with or without that header. Class names are in `classInd.txt` (`id name`) beside the
    lists. The group is the folder itself.
    """
    files = {}
    for name in SPLITS:
        choices = [lists / f"{stem}{suffix}" for stem in (name, f"{name}_split{split}") for suffix in (".txt", ".tsv")]
        present = [choice for choice in choices if choice.is_file()]
        if len(present) > 1:
            raise DataError(f"more than one list of {name}", findings=[str(path) for path in present])
        if present or name != "val":
            files[name] = present[0] if present else choices[0]
    _require_lists(files.values())
    class_names = read_class_names(lists / "classInd.txt")
    findings = Findings()
    videos = []
    for name, file in files.items():
        for number, line in _body(file, findings):
            separated = line.split("\t") if "\t" in line else line.rsplit(" ", 2)
            fields = [field.strip(BLANKS) for field in separated]
            where = f"{file}:{number}"
            num_frames = whole_number(fields[1]) if len(fields) == 3 else None
            if not num_frames:
                findings.add(where, f"expected `path num_frames label`, not {line!r}")
                continue
            videos += _entry(
                fields[0], fields[2:], name, where, class_names, _own_group, findings, num_frames=num_frames
            )
    return checked(videos, class_names, findings)


def parse_csv(file: Path) -> Listing:
    """One CSV with a header: path, label, and if wanted class_name, group, split; other columns are ignored.

    label is the class's name; or its number, and then the column class_name has the name. Without split, val and test
    are carved; without group, each video is its own.
    """
    rows = _read_csv(file, required=("path", "label"), others=("class_name", "group", "split"))
    findings = Findings()
    class_names = _csv_class_names(rows, findings)
    labels = {name: label for label, name in class_names.items()}
    videos = []
    for where, row in rows:
        path, split = str(PurePosixPath(row["path"])), row.get("split")
        name = row.get("class_name", row["label"])
        if split is not None and split not in SPLITS:
            findings.add(where, f"split is train, val or test, not {split!r}")
        if row.get("group") == "":
            findings.add(where, "group is empty; leave the column out where videos are their own groups")
        if name in labels:
            group = row.get("group") or without_suffix(path)
            videos.append(ListedVideo(path, labels[name], name, group, split, where))
    return checked(videos, class_names, findings)


def _csv_class_names(rows: list[tuple[str, dict[str, str]]], findings: Findings) -> dict[int, str]:
    """Numbers and names of the classes; names alone are numbered in alphabetical order."""
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    if rows and "class_name" not in rows[0][1]:
        for where, row in rows:
            if not row["label"]:
                findings.add(where, "label is empty")
        return dict(enumerate(sorted({row["label"] for _, row in rows if row["label"]})))
    for where, row in rows:
        label, name = whole_number(row["label"]), row["class_name"]
        if label is None or not name:
            findings.add(where, f"beside a class_name, label is a number, not {row['label']!r} with {name!r}")
        elif labels.setdefault(name, label) != label:
            findings.add(where, f"{name!r} has more than one label: {label} here, but {labels[name]} above")
        elif names.setdefault(label, name) != name:
            findings.add(where, f"class {label} is {name!r} here, but {names[label]!r} above")
    return names


def list_class_folders(root: Path) -> Listing:
    """Videos below `<class>/`, or below `{train,val,test}/<class>/`; classes are numbered in alphabetical order."""
    tops = [folder for folder in _folders(root) if folder.name in SPLITS]
    if tops and len(tops) < len(_folders(root)):
        raise DataError(
            f"{root} has folders of splits and others",
            findings=[str(folder) for folder in _folders(root) if folder not in tops],
            remedy="keep either class folders, or train, val and test folders with class folders in them",
        )
    places = [(top.name if tops else None, folder) for top in tops or [root] for folder in _folders(top)]
    names = sorted({folder.name for _, folder in places})
    labels = {name: label for label, name in enumerate(names)}
    videos, strangers = [], []
    for split, folder in places:
        for file in sorted(path for path in _files_below(folder) if not path.name.startswith(".")):
            path = file.relative_to(root).as_posix()
            if not file.name.lower().endswith(VIDEO_SUFFIXES):
                strangers.append(path)
                continue
            videos.append(ListedVideo(path, labels[folder.name], folder.name, without_suffix(path), split, str(file)))
    findings = Findings()
    for top in tops:
        if not any(video.split == top.name for video in videos):
            findings.add(str(top), EMPTY)
    notes = [f"{root}: {len(strangers)} files are no videos and not used, such as {strangers[0]}"] if strangers else []
    return checked(videos, dict(enumerate(names)), findings, notes=notes)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", remedy="set prepare.root to the data set's folder")
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise _unreadable(error) from None


def _files_below(folder: Path) -> Iterator[Path]:
    """All files, and all links, which may lead nowhere: none is left out in silence. Links to folders are not followed.

    Raises DataError where a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise _unreadable(error)

    for place, folders, names in os.walk(folder, onerror=refuse):
        paths = [Path(place, name) for name in (*folders, *names)]
        yield from (path for path in paths if path.is_symlink() or path.is_file())


def _unreadable(error: OSError) -> DataError:
    return DataError(f"{error.filename}: cannot be read: {error.strerror}", remedy="its videos would be left out")


def _require_lists(files: Iterable[Path]) -> None:
    """Raise one DataError with every list that is missing."""
    missing = [f"{file}{' is a folder' * file.is_dir()}" for file in files if not file.is_file()]
    if missing:
        raise DataError(
            "annotation lists are missing",
            findings=missing,
            remedy="set prepare.root, prepare.lists and prepare.split (docs/datasets.md shows each layout)",
        )


def _body(file: Path, findings: Findings) -> list[tuple[int, str]]:
    """The lines of the list of a split; without one the split would be carved out of another in silence."""
    lines = read_body(file)
    if not lines:
        findings.add(str(file), EMPTY)
    return lines


def _read_csv(file: Path, *, required: tuple[str, ...], others: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
    """Rows of a CSV by column name with their `file:line`; `others` are columns that may be there.

    Raises DataError on a wrong header or number of fields, and where a column seems to be one of these, misspelt:
    without its column a table of splits would be split anew in silence.
    """
    reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    findings = Findings()
    rows: list[tuple[str, dict[str, str]]] = []
    number = 0  # of the last line of the row before
    try:
        header = [name.strip(BLANKS) for name in next(reader, [])]
        for name in required:
            if name not in header:
                findings.add(f"{file}:1", f"the header needs a column {name!r}; it has {', '.join(header) or 'none'}")
        absent = {name.lower(): name for name in (*required, *others) if name not in header}
        for name in header:
            for near in difflib.get_close_matches(name.lower(), absent, n=1, cutoff=0.75):
                findings.add(f"{file}:1", f"column {name!r} is not read; did you mean {absent[near]!r}?")
        for name in sorted(name for name, count in Counter(header).items() if count > 1):
            findings.add(f"{file}:1", f"column {name!r} is there twice")
        number = reader.line_num
        for fields in reader:
            where, number, before = f"{file}:{number + 1}", reader.line_num, number
            if number > before + 1:  # a quote that is not closed would swallow the lines to the next one
                findings.add(where, "a quote opens here and closes in another line; a video has a line of its own")
            if not any(field.strip(BLANKS) for field in fields):
                continue
            if len(fields) != len(header):
                findings.add(where, f"{len(fields)} fields, but the header has {len(header)}")
                continue
            rows.append((where, {name: field.strip(BLANKS) for name, field in zip(header, fields, strict=True)}))
    except csv.Error as error:
        findings.add(f"{file}:{number + 1}", f"{error}, in the row that begins here")
    findings.raise_any(f"{file} is not a table with a header", remedy="docs/datasets.md shows its columns")
    return rows


def _entry(
    path: str,
    label: list[str],
    split: str,
    where: str,
    class_names: dict[int, str],
    group_of: GroupOf,
    findings: Findings,
    *,
    num_frames: int | None = None,
) -> list[ListedVideo]:
    """The video of one line, and findings about it; none where it has no path or no label."""
    number = whole_number(label[0].strip(BLANKS)) if len(label) == 1 else None
    if not path or number is None:
        findings.add(where, f"expected a path and a label that is a number, not {path!r} and {', '.join(label)!r}")
        return []
    path = str(PurePosixPath(path))
    name = class_names.get(number, "")
    group = group_of(path, name) if name else path
    if group is None:
        findings.add(where, f"{path!r} does not fit class {number} ({name}) or the data set's form of names")
        group = path
    return [ListedVideo(path, number, name, group, split, where, num_frames)]


def _arid_group(path: str, class_name: str) -> str | None:
    """`<Class>_<group>` of `<Class>/<Class>_<group>_<n>.avi`."""
    match = re.fullmatch(rf"{re.escape(class_name)}/({re.escape(class_name)}_[^/]+)_[0-9]+", without_suffix(path))
    return match[1] if match else None


def _dark48_group(path: str, class_name: str) -> str | None:
    """The source's name stem; the class is no part of it, since a source can have clips of several classes."""
    return name_stem(path) if PurePosixPath(path).parts[:-1] == (class_name,) else None


def _own_group(path: str, _class_name: str) -> str | None:
    return without_suffix(path)


def _lists_at(root: Path, lists: Path | None, default: str) -> Path:
    """Where the lists are: relative to the root, or the layout's own place."""
    return root / (default if lists is None else lists)


def _arid_v1(root: Path, lists: Path | None, split: int) -> Listing:
    folders = ("", "clips_v1", "clips_v1_avi", "data")
    return locate(parse_arid_v1(_lists_at(root, lists, "list_cvt"), split), root, folders=folders)


def _arid_v1_5(root: Path, lists: Path | None, split: int) -> Listing:
    folders = ("clips_v1.5", "clips_v1.5_avi", "")
    return locate(parse_arid_v1_5(_lists_at(root, lists, "list_cvt"), split), root, folders=folders)


def _arid_ug2(root: Path, lists: Path | None, _split: int) -> Listing:
    listing = parse_arid_ug2(_lists_at(root, lists, "list_cvt"))
    folders: dict[str | None, Sequence[str]] = {
        "train": ("train_data", "train", ""),
        "val": ("val_data", "val"),
        "test": ("test_data", "test"),
    }
    return locate(listing, root, folders=folders)


def _dark48(root: Path, lists: Path | None, split: int) -> Listing:
    folders = ("", "videos", "clips")
    return locate(parse_dark48(_lists_at(root, lists, "annotations"), split), root, folders=folders)


def _frame_folders(root: Path, lists: Path | None, split: int) -> Listing:
    return locate(parse_frame_folders(_lists_at(root, lists, "."), split), root, directories=True)


def _class_folders(root: Path, _lists: Path | None, _split: int) -> Listing:
    return locate(list_class_folders(root), root)


def _csv(root: Path, lists: Path | None, _split: int) -> Listing:
    file = _lists_at(root, lists, "videos.csv")
    return locate(parse_csv(file / "videos.csv" if file.is_dir() else file), root)


# prepare.layout: root, lists relative to it (None: the layout's own place), number of the official split
LAYOUTS: dict[str, Callable[[Path, Path | None, int], Listing]] = {
    "arid_v1": _arid_v1,
    "arid_v1_5": _arid_v1_5,
    "arid_ug2": _arid_ug2,
    "dark48": _dark48,
    "frame_folders": _frame_folders,
    "class_folders": _class_folders,
    "csv": _csv,
}
