"""What annotation lists say about videos; knows no data set and needs no package.

Every check collects its findings with `file:line` and raises once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.core.errors import DataError, shortened
from pipeline.data.names import (
    look,
    path_problem,
    same_form,
    spelt,
    text_problem,
    without_suffix,
)

SPLITS = ("train", "val", "test")  # of the videos that have a label
UNLABELLED = "unlabelled"  # the split of footage: videos without a label, which soft targets alone are for
ALL_SPLITS = (*SPLITS, UNLABELLED)
TAUGHT = ("train", UNLABELLED)  # what soft targets are for
NO_LABEL = -1  # the label of footage, and its class index; it has no class name either
BLANKS = " \t"  # may stand around a field; other white space is a part of it, and mostly damage
EMPTY = "no videos: a split that has a list, or a folder, has videos"
# First lines that are headers have nothing but these words; the official lists of ARID and Dark-48 have none
HEADER_WORDS = frozenset({"id", "videoid", "label", "classid", "class", "path", "video", "file", "name", "num_frames"})


@dataclass(frozen=True)
class ListedVideo:
    """One video of a list.

    path: POSIX, relative to the root; as listed, and once located as found on disk. label: the data set's own number.
    group: what no split may cut (a recording, a person, a source video). split: train, val, test, or None where the
    data set has no lists; unlabelled, and then label is NO_LABEL and class_name empty. line: "file:line". num_frames:
    as listed, None where the list states none.
    """

    path: str
    label: int
    class_name: str
    group: str
    split: str | None
    line: str
    num_frames: int | None = None


@dataclass(frozen=True)
class Listing:
    """A data set: class names by its own label numbers, the videos, and notes about what its lists have beyond that."""

    class_names: dict[int, str]
    videos: tuple[ListedVideo, ...]
    notes: tuple[str, ...] = ()


class Findings:
    """Collects what is wrong, and raises it as one DataError."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, where: str, text: str) -> None:
        """Note one problem at `file:line`."""
        self.lines.append(f"{where}: {shortened(text)}")

    def raise_any(self, message: str, *, remedy: str | None = None) -> None:
        """Raise DataError with the first findings and the count of the rest, if there are any."""
        if not self.lines:
            return
        problems = "1 problem" if len(self.lines) == 1 else f"{len(self.lines)} problems"
        raise DataError(f"{message}: {problems}", findings=self.lines, remedy=remedy)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list that are not blank, with their numbers and without blanks around them.

    Line ends of any system, a byte order mark and no last newline are fine. Raises DataError as `read_text` does.
    """
    lines = re.split("\r\n|\r|\n", read_text(path))
    return [(number, line.strip(BLANKS)) for number, line in enumerate(lines, start=1) if line.strip(BLANKS)]


def read_body(path: Path) -> list[tuple[int, str]]:
    """The lines of a list without its header, where it has one."""
    lines = read_lines(path)
    if lines and {word.lower() for word in re.split(r"[\s,]+", lines[0][1])} <= HEADER_WORDS:
        return lines[1:]
    return lines


def read_text(path: Path) -> str:
    """A list's text. Raises DataError where the file is missing, not UTF-8, or has NUL bytes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror}", remedy="set prepare.root and prepare.lists (docs/datasets.md)"
        ) from None
    try:
        text = data.decode("utf-8-sig")
        offset = data.find(b"\0")
    except UnicodeDecodeError as error:
        data, offset = error.object, error.start
    if offset >= 0:
        line = data.count(b"\n", 0, offset) + 1
        encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "latin1"
        raise DataError(
            f"{path}:{line}: not UTF-8 text (byte {data[offset]:#04x})",
            remedy=f"save it as UTF-8, for instance: iconv -f {encoding} -t utf-8 {path.name}",
        )
    return text


def whole_number(text: str) -> int | None:
    """A label or a count of a list: up to nine digits, and nothing else."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def read_class_names(path: Path) -> dict[int, str]:
    """A class list of lines `id name`, separated by white space; names may have spaces. Raises DataError."""
    findings = Findings()
    names: dict[int, str] = {}
    first: dict[str, str] = {}
    for number, line in read_body(path):
        digits, _, name = line.replace("\t", " ").partition(" ")
        label, name = whole_number(digits), name.strip(BLANKS)
        where = f"{path}:{number}"
        if label is None or not name:
            findings.add(where, f"expected `id name`, not {line!r}")
        elif label in names:
            findings.add(where, f"class {label} is named again: {name!r} after {names[label]!r}")
        elif (before := first.setdefault(look(name), name)) is not name:
            findings.add(where, f"class name {before!r} is used again" if name == before else _looks_like(name, before))
        else:
            names[label] = same_form(name)
    if not names:
        findings.add(str(path), "no classes")
    findings.raise_any(f"{path} is not a class list")
    return names


def number_classes(places: Mapping[str, str], findings: Findings) -> dict[int, str]:
    """Class names by number, of names with a place of each ("file:line") and no numbers beside them.

    Names that are all whole numbers keep them: as texts they would come in the order 1, 10, 2. Others are numbered in
    alphabetical order.
    """
    numbers = {name: whole_number(name) for name in sorted(places)}
    names: dict[int, str] = {}
    for name, number in numbers.items():
        if number is not None and names.setdefault(number, name) != name:
            findings.add(places[name], f"labels {name!r} and {names[number]!r} are one number: write it in one way")
        elif number is None and re.fullmatch(r"[+-]?[0-9]+\.?[0-9]*", name):
            findings.add(places[name], f"label is a name, or a whole number from 0 on, not {name!r}")
    return dict(enumerate(numbers)) if None in numbers.values() else names


def footage(path: str, group: str, line: str) -> ListedVideo:
    """A video without a label."""
    return ListedVideo(path, NO_LABEL, "", group, UNLABELLED, line)


def without_label(video: ListedVideo) -> ListedVideo:
    """A video as footage: what its list says about its class is forgotten."""
    return replace(video, label=NO_LABEL, class_name="", split=UNLABELLED)


def checked(
    videos: Sequence[ListedVideo], class_names: dict[int, str], findings: Findings, *, notes: Iterable[str] = ()
) -> Listing:
    """Check what lists can be wrong about, and raise all findings, also those that reading has collected.

    Refused: labels outside the class list, videos listed twice, paths that lead out of the root, names with control
    characters, names of classes or groups that look the same, classes without a video in some split, and lists without
    videos.
    """
    labelled = [video for video in videos if video.split != UNLABELLED]
    _check_labels(labelled, class_names, findings)
    _check_repeats(videos, findings)
    _check_looks(videos, findings)
    for video in videos:
        problems = (path_problem(video.path), text_problem(video.class_name), text_problem(video.group))
        for problem in dict.fromkeys(filter(None, problems)):
            findings.add(video.line, problem)
    if not labelled and not findings.lines:
        findings.add("lists", "no videos with a label" if videos else "no videos")
    if not findings.lines:  # else classes seem empty whose lines could not be read
        for split in sorted({video.split or "" for video in labelled}):
            present = {video.label for video in labelled if (video.split or "") == split}
            for label, name in sorted(class_names.items()):
                if label not in present:
                    where = next((video.line for video in videos if video.label == label), "lists")
                    findings.add(where, f"class {label} ({name}) has no video{f' in {split}' if split else ''}")
    remedy = _shift(labelled, class_names) or "docs/datasets.md shows each layout's lists"
    findings.raise_any("the annotation lists cannot be used", remedy=remedy)
    return Listing(
        {label: same_form(name) for label, name in sorted(class_names.items())},
        tuple(replace(video, class_name=same_form(video.class_name), group=same_form(video.group)) for video in videos),
        tuple(notes),
    )


def _check_labels(videos: Sequence[ListedVideo], class_names: dict[int, str], findings: Findings) -> None:
    for video in videos:
        if video.label not in class_names:
            known = f"{min(class_names)} to {max(class_names)}" if class_names else "empty"
            findings.add(video.line, f"label {video.label} is not in the class list ({known})")


def _shift(videos: Sequence[ListedVideo], class_names: dict[int, str]) -> str | None:
    """What to do where the labels are those of the class list but for one that was added or subtracted."""
    labels = {video.label for video in videos}
    if labels <= class_names.keys():
        return None
    if {label - 1 for label in labels} <= class_names.keys():
        return "every label is 1 too high (1-based labels and a 0-based class list?): subtract 1"
    if {label + 1 for label in labels} <= class_names.keys():
        return "every label is 1 too low (0-based labels and a 1-based class list?): add 1"
    return None


def _check_repeats(videos: Sequence[ListedVideo], findings: Findings) -> None:
    first: dict[str, ListedVideo] = {}
    for video in videos:
        before = first.setdefault(same_form(without_suffix(video.path)), video)
        if before is video:
            continue
        if (before.label, before.split, before.path) == (video.label, video.split, video.path):
            findings.add(video.line, f"{video.path} is listed again (first in {before.line})")
        else:
            findings.add(
                video.line,
                f"{video.path} is {_listed_as(video)}, but {before.path} is {_listed_as(before)} ({before.line})",
            )


def _check_looks(videos: Sequence[ListedVideo], findings: Findings) -> None:
    """Two spellings would be two classes, or two groups that a split may cut, without a word.

    Groups may differ by case (ids of videos do), and paths as groups in any way: their videos are two files.
    """
    first: dict[tuple[str, str], tuple[str, str]] = {}
    told = set()
    for video in videos:
        names = [] if video.split == UNLABELLED else [("class", look(video.class_name), video.class_name)]
        if video.group != without_suffix(video.path):
            names.append(("group", look(video.group, case=False), video.group))
        for kind, seen, name in names:
            before, line = first.setdefault((kind, seen), (name, video.line))
            if name != before and (kind, name) not in told:
                told.add((kind, name))
                findings.add(video.line, f"{kind} {_looks_like(name, before)} ({line})")


def _looks_like(name: str, before: str) -> str:
    return f"'{spelt(name)}' looks like '{spelt(before)}', but has other characters: write it in one way"


def _listed_as(video: ListedVideo) -> str:
    if video.split == UNLABELLED:
        return UNLABELLED
    return f"{video.class_name} in {video.split}" if video.split else video.class_name
