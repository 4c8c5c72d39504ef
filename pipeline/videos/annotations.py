"""The annotation lists of the data sets, one parser for each layout (docs/datasets.md shows them).

A `parse_…` function reads lists alone; LAYOUTS also finds the videos on disk. Labels keep the data set's own numbers.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.core.errors import DataError
from pipeline.data.listing import (
    BLANKS,
    EMPTY,
    SPLITS,
    UNLABELLED,
    Findings,
    ListedVideo,
    Listing,
    checked,
    footage,
    number_classes,
    read_body,
    read_class_names,
    read_lines,
    read_text,
    whole_number,
)
from pipeline.data.names import name_stem, same_form, split_named, without_suffix
from pipeline.videos.class_folders import add_footage, list_class_folders
from pipeline.videos.locate import locate

# Path and class name to group; None where the path is not named as the data set names files
GroupOf = Callable[[str, str], str | None]


@dataclass(frozen=True)
class _Line:
    """What a line of a list states about a video; empty texts where it lacks a field. where: "file:line"."""

    where: str
    path: str
    label: str
    num_frames: int | None = None


LinesOf = Callable[[Path, Findings], Iterable[_Line]]


def parse_arid_v1(lists: Path, split: int) -> Listing:
    """ARID: `ARID_split{1,2,3}_{train,test}.txt` and `mapping_table.txt`, tab-separated id, label, Class/file.

    `other` is left out: it shares recording groups with train and with test, so it is no clean validation set.
    """
    return _parse_arid(lists, f"ARID_split{split}")


def parse_arid_v1_5(lists: Path, split: int) -> Listing:
    """ARID V1.5: `split_{0,1}/split{0,1}_{train,test}.txt`; the last two tab-separated fields are label and path."""
    return _parse_arid(lists, f"split_{split}/split{split}")


def _parse_arid(lists: Path, stem: str) -> Listing:
    notes = [
        f"{other}: {len(read_lines(other))} videos are not used: they share recording groups with train and test"
        for other in (lists / f"{stem}_other.txt", lists / f"{stem}_others.txt")
        if other.is_file()
    ]
    files = [(name, lists / f"{stem}_{name}.txt") for name in ("train", "test")]
    return _parse(files, lists / "mapping_table.txt", _arid_lines, _arid_group, notes=notes)


def _arid_lines(file: Path, findings: Findings) -> Iterator[_Line]:
    lines = [(f"{file}:{number}", line.split("\t")) for number, line in read_body(file)]
    usual = Counter(len(fields) for _, fields in lines).most_common(1)
    for where, fields in lines:
        if len(fields) > usual[0][0]:  # two lines without an end between them: the first would be lost
            findings.add(where, f"{len(fields)} fields with tabs between them, most lines have {usual[0][0]}")
        yield _Line(where, fields[-1], "".join(fields[-2:-1]))


def parse_arid_ug2(lists: Path) -> Listing:
    """ARID of UG2+ 2.1, track 1: CSV files with the header VideoID,Video,ClassID; six classes that keep ids 5 to 10.

    The published validation list has no ClassID, so its videos cannot be scored: such a list is left out, of validation
    or test. A test list with labels is taken. Without one, test has to be carved out of train.
    """
    train = lists / "ARID1.1_t1_train_pub.csv"
    files, notes = [("train", train)], []
    for split, pattern in (("val", "ARID1.1_t1_validation*.csv"), ("test", "ARID1.1_t1_test*.csv")):
        for file in sorted(lists.glob(pattern)):
            rows = _read_ug2(file)
            if rows and not any(row.get("ClassID") for _, row in rows):
                notes.append(
                    f"{file}: {len(rows)} videos are not used: the list has no labels, so they cannot be scored"
                )
            else:
                files.append((split, file))
    return _parse(files, lists / "mapping_table_t1.txt", _ug2_lines, _ug2_group, notes=notes)


def _read_ug2(file: Path) -> list[tuple[str, dict[str, str]]]:
    return _read_csv(file, required=("Video",), others=("VideoID", "ClassID"))


def _ug2_lines(file: Path, _findings: Findings) -> Iterator[_Line]:
    return (_Line(where, row["Video"], row.get("ClassID", "")) for where, row in _read_ug2(file))


def parse_dark48(lists: Path, split: int) -> Listing:
    """Dark-48: `{train,test}_split{1,2,3}.txt` of lines `folder/file.mp4 label`, and `classInd.txt`.

    The group is the source's part of the file name: the published lists have clips of one source in train and test.
    """
    files = [(name, lists / f"{name}_split{split}.txt") for name in ("train", "test")]
    return _parse(files, lists / "classInd.txt", _dark48_lines, _dark48_group)


def _dark48_lines(file: Path, _findings: Findings) -> Iterator[_Line]:
    for number, line in read_body(file):
        path, _, label = line.rpartition(" ")
        yield _Line(f"{file}:{number}", path.strip(BLANKS), label)


def parse_frame_folders(lists: Path, split: int, root: Path | None = None) -> Listing:
    """Folders of images: `{train,val,test}.txt` or `{train,val,test}_split{N}.txt` (or .tsv), `path num_frames label`.

    Separated by tabs or spaces, with or without that header. Class names are in `classInd.txt` (`id name`) beside the
    lists. The group is the folder itself. root: absolute paths below it are taken.
    """
    files = []
    for name in SPLITS:
        choices = [lists / f"{stem}{suffix}" for stem in (name, f"{name}_split{split}") for suffix in (".txt", ".tsv")]
        present = [choice for choice in choices if choice.is_file()]
        if len(present) > 1:
            raise DataError(f"more than one list of {name}", findings=[str(path) for path in present])
        if present or name != "val":
            files.append((name, present[0] if present else choices[0]))
    return _parse(files, lists / "classInd.txt", _frame_folder_lines, _own_group, root=root)


def _frame_folder_lines(file: Path, findings: Findings) -> Iterator[_Line]:
    for number, line in read_body(file):
        separated = line.split("\t") if "\t" in line else line.rsplit(" ", 2)
        fields = [field.strip(BLANKS) for field in separated]
        num_frames = whole_number(fields[1]) if len(fields) == 3 else None
        if num_frames:
            yield _Line(f"{file}:{number}", fields[0], fields[2], num_frames)
        else:
            findings.add(f"{file}:{number}", f"expected `path num_frames label`, not {line!r}")


def _parse(
    files: Sequence[tuple[str, Path]],
    class_list: Path,
    lines_of: LinesOf,
    group_of: GroupOf,
    *,
    notes: Sequence[str] = (),
    root: Path | None = None,
) -> Listing:
    """The listing of a data set that has a list for each split, and a class list. Raises DataError.

    A list of a split must have videos: without them the split would be carved out of another in silence.
    """
    missing = [f"{file}{' is a folder' * file.is_dir()}" for _, file in files if not file.is_file()]
    if missing:
        raise DataError(
            "annotation lists are missing",
            findings=missing,
            remedy="set prepare.root, prepare.lists and prepare.split (docs/datasets.md shows each layout)",
        )
    class_names = read_class_names(class_list)
    findings = Findings()
    videos: list[ListedVideo] = []
    for split, file in files:
        before = len(findings.lines), len(videos)
        for line in lines_of(file, findings):
            label = whole_number(line.label.strip(BLANKS))
            if not line.path or label is None:
                findings.add(
                    line.where, f"expected a path and a label that is a number, not {line.path!r} and {line.label!r}"
                )
                continue
            path, name = _relative(line.path, root), class_names.get(label, "")
            group = group_of(path, name) if name else path
            if group is None:
                findings.add(
                    line.where, f"{path!r} does not fit class {label} ({name}) or how the data set names files"
                )
                group = path
            videos.append(ListedVideo(path, label, name, group, split, line.where, line.num_frames))
        if before == (len(findings.lines), len(videos)):
            findings.add(str(file), EMPTY)
    return checked(videos, class_names, findings, notes=notes)


def parse_csv(file: Path, root: Path | None = None) -> Listing:
    """One CSV with a header: path, label, and optionally class_name, group, split; other columns are ignored.

    label is the class's name, or its number if the column class_name has the name. Without split, val and test are
    carved; without group, each video is a group of its own. A row of the split unlabelled, or one whose label,
    class_name and split are empty or absent, is footage. root: absolute paths below it are taken.
    """
    rows = _read_csv(file, required=("path", "label"), others=("class_name", "group", "split"))
    findings = Findings()
    class_names = _csv_class_names([(where, row) for where, row in rows if not _is_footage(row)], findings)
    labels = {name: label for label, name in class_names.items()}
    videos: list[ListedVideo] = []
    for where, row in rows:
        path, named = _relative(row["path"], root), row.get("split")
        split = None if named is None else split_named(named)
        name = row.get("class_name", row["label"])
        if named is not None and split is None and not _is_footage(row):
            findings.add(where, f"split is train, val, test or {UNLABELLED}, not {named!r}")
        if row.get("group") == "":
            findings.add(where, "group is empty; leave the column out where videos are their own groups")
        group = row.get("group") or without_suffix(path)
        if _is_footage(row):
            videos.append(footage(path, group, where))
        elif name in labels:
            videos.append(ListedVideo(path, labels[name], name, group, split, where))
    return checked(videos, class_names, findings)


def _is_footage(row: dict[str, str]) -> bool:
    """Whether a row of a table is of a video without a label; a label that is missing in a split is an error."""
    named = row.get("split", "")
    return split_named(named) == UNLABELLED or not (named or row["label"] or row.get("class_name"))


def _csv_class_names(rows: list[tuple[str, dict[str, str]]], findings: Findings) -> dict[int, str]:
    """Class names by number; without a column class_name labels that are all whole numbers are both, and others are
    names, numbered in alphabetical order."""
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    if rows and "class_name" not in rows[0][1]:
        first = {row["label"]: where for where, row in reversed(rows)}
        for where, row in rows:
            if not row["label"]:
                findings.add(where, "label is empty")
        return number_classes({label: where for label, where in first.items() if label}, findings)
    for where, row in rows:
        label, name = whole_number(row["label"]), row["class_name"]
        if label is None or not name:
            findings.add(where, f"beside a class_name, label is a number, not {row['label']!r} with {name!r}")
        elif labels.setdefault(name, label) != label:
            findings.add(where, f"{name!r} has more than one label: {label} here, but {labels[name]} above")
        elif names.setdefault(label, name) != name:
            findings.add(where, f"class {label} is {name!r} here, but {names[label]!r} above")
    return names


def _relative(path: str, root: Path | None) -> str:
    """An absolute path below the root, by whatever links, relative to it; any other as it is."""
    listed = PurePosixPath(same_form(path))
    if root is not None and listed.is_absolute() and ".." not in listed.parts:
        for above in listed.parents:
            with suppress(OSError):
                if root.samefile(above):
                    return str(listed.relative_to(above))
    return str(listed)


def _read_csv(file: Path, *, required: tuple[str, ...], others: tuple[str, ...]) -> list[tuple[str, dict[str, str]]]:
    """Rows of a CSV by column name with their `file:line`; `others` are optional columns.

    Raises DataError on a wrong header or number of fields, and where a column's name looks like a misspelling of one of
    these: a table whose column `split` is not recognised would be split anew in silence.
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
            findings.add(f"{file}:1", f"column {name!r} appears twice")
        number = reader.line_num
        for fields in reader:
            where, number, before = f"{file}:{number + 1}", reader.line_num, number
            if number > before + 1:  # an unclosed quote would swallow the lines up to the next quote
                findings.add(where, "a quote opens here and closes on another line; each video has a line of its own")
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


def _arid_group(path: str, class_name: str) -> str | None:
    """`<Class>_<group>` of `<Class>/<Class>_<group>_<n>.avi`."""
    match = re.fullmatch(rf"{re.escape(class_name)}/({re.escape(class_name)}_[^/]+)_[0-9]+", without_suffix(path))
    return match[1] if match else None


def _dark48_group(path: str, class_name: str) -> str | None:
    """The source's name stem; the class is no part of it, since a source can have clips of several classes."""
    return name_stem(path) if PurePosixPath(path).parts[:-1] == (class_name,) else None


def _arid_footage_group(path: str) -> str:
    """That of a clip of ARID, in whatever folder it lies; any other video is a group of its own."""
    match = re.fullmatch(r"([^/_]+_[^/]+)_[0-9]+", without_suffix(PurePosixPath(path).name))
    return match[1] if match else without_suffix(path)


def _own_group(path: str, _class_name: str) -> str | None:
    return without_suffix(path)


def _ug2_group(path: str, class_name: str) -> str | None:
    return _arid_group(path, class_name) if "/" in path else _own_group(path, class_name)  # of test: 0.mp4


@dataclass(frozen=True)
class Layout:
    """How a data set lies below its root: called with the root, prepare.lists and prepare.split it gives the listing.

    parse: reads the lists at a place, of an official split, for a root; None: there are no lists, but folders of
    classes. lists: that place, relative to the root, where prepare.lists is None. folders, directories: as `locate`
    takes them. footage_group: the group of a path that has no label.
    """

    parse: Callable[[Path, int, Path], Listing] | None
    lists: str
    folders: Sequence[str] | Mapping[str | None, Sequence[str]] = ("",)
    directories: bool = False
    footage_group: Callable[[str], str] = without_suffix

    def __call__(self, root: Path, lists: Path | None, split: int, unlabelled: str | None = None) -> Listing:
        """The videos as listed, and the footage that prepare.unlabelled names, each found on disk; raises DataError."""
        if self.parse is None:
            _check_aside(root, unlabelled)
            listing = list_class_folders(root, unlabelled)
        else:
            listing = self.parse(root / (self.lists if lists is None else lists), split, root)
        located = locate(listing, root, folders=self.folders, directories=self.directories)
        if unlabelled is None:
            return located
        return add_footage(located, root, unlabelled, group_of=self.footage_group, directories=self.directories)


def _check_aside(root: Path, unlabelled: str | None) -> None:
    """Raise DataError where a folder of footage would count as a class, or as a part of one."""
    if unlabelled is not None and (root / unlabelled).is_dir() and len(PurePosixPath(unlabelled).parts) != 1:
        raise DataError(
            f"prepare.unlabelled: {unlabelled}: beside folders of classes it is a folder of its own in {root}",
            remedy="move it there",
        )


UG2_FOLDERS: dict[str | None, Sequence[str]] = {
    "train": ("train_data", "train", ""),
    "val": ("val_data", "val"),
    "test": ("test_data", "test"),
}
LAYOUTS = {  # prepare.layout
    "arid_v1": Layout(
        lambda lists, split, _root: parse_arid_v1(lists, split),
        "list_cvt",
        ("", "clips_v1", "clips_v1_avi", "data"),
        footage_group=_arid_footage_group,
    ),
    "arid_v1_5": Layout(
        lambda lists, split, _root: parse_arid_v1_5(lists, split),
        "list_cvt",
        ("clips_v1.5", "clips_v1.5_avi", ""),
        footage_group=_arid_footage_group,
    ),
    "arid_ug2": Layout(
        lambda lists, _split, _root: parse_arid_ug2(lists), "list_cvt", UG2_FOLDERS, footage_group=_arid_footage_group
    ),
    "dark48": Layout(
        lambda lists, split, _root: parse_dark48(lists, split),
        "annotations",
        ("", "videos", "clips"),
        footage_group=name_stem,
    ),
    "frame_folders": Layout(parse_frame_folders, ".", directories=True),
    "class_folders": Layout(None, "."),
    "csv": Layout(
        lambda place, _split, root: parse_csv(place / "videos.csv" if place.is_dir() else place, root), "videos.csv"
    ),
}
