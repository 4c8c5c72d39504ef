"""What annotation lists say about videos, and finding those on disk; knows no data set and needs no package.

Reading lists is apart from looking for files, so that published lists can be checked without their videos. Every check
collects its findings with `file:line` and raises once.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pipeline.core.errors import DataError, shortened
from pipeline.data.names import VIDEO_SUFFIXES, path_problem, text_problem, without_suffix

SPLITS = ("train", "val", "test")
BLANKS = " \t"  # may stand around a field; other white space is a part of it, and mostly damage
# First lines that are headers have nothing but these words; the official lists of ARID and Dark-48 have none
HEADER_WORDS = frozenset({"id", "videoid", "label", "classid", "class", "path", "video", "file", "name", "num_frames"})


@dataclass(frozen=True)
class ListedVideo:
    """One labelled video of a list.

    path: POSIX, relative to the root; as listed, and once located as found on disk. label: the data set's own number.
    group: what no split may cut (a recording, a person, a source video). split: train, val, test, or None where the
    data set has no lists. line: "file:line". num_frames: as listed, None where the list states none.
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


class MissingVideosError(DataError):
    """Listed videos were not found. `listing` has all of them, `found` the paths on disk of those that were."""

    def __init__(self, error: DataError, listing: Listing, found: frozenset[str]) -> None:
        super().__init__(error.message, findings=error.findings, remedy=error.remedy)
        self.listing = listing
        self.found = found


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
    labels: dict[str, int] = {}
    for number, line in read_body(path):
        digits, _, name = line.replace("\t", " ").partition(" ")
        label, name = whole_number(digits), name.strip(BLANKS)
        where = f"{path}:{number}"
        if label is None or not name:
            findings.add(where, f"expected `id name`, not {line!r}")
        elif label in names:
            findings.add(where, f"class {label} is named again: {name!r} after {names[label]!r}")
        elif name in labels:
            findings.add(where, f"class name {name!r} is used again")
        else:
            names[label], labels[name] = name, label
    if not names:
        findings.add(str(path), "no classes")
    findings.raise_any(f"{path} is not a class list")
    return names


def checked(
    videos: Sequence[ListedVideo], class_names: dict[int, str], findings: Findings, *, notes: Iterable[str] = ()
) -> Listing:
    """Check what lists can be wrong about, and raise all findings, also those that reading has collected.

    Refused: labels outside the class list, videos listed twice, paths that lead out of the root, names with control
    characters, classes without a video in some split, and lists without videos.
    """
    _check_labels(videos, class_names, findings)
    _check_repeats(videos, findings)
    for video in videos:
        problems = (path_problem(video.path), text_problem(video.class_name), text_problem(video.group))
        for problem in dict.fromkeys(filter(None, problems)):
            findings.add(video.line, problem)
    if not videos and not findings.lines:
        findings.add("lists", "no videos")
    if not findings.lines:  # else classes seem empty whose lines could not be read
        for split in sorted({video.split or "" for video in videos}):
            present = {video.label for video in videos if (video.split or "") == split}
            for label, name in sorted(class_names.items()):
                if label not in present:
                    where = next((video.line for video in videos if video.label == label), "lists")
                    findings.add(where, f"class {label} ({name}) has no video{f' in {split}' if split else ''}")
    remedy = _shift(videos, class_names) or "docs/datasets.md shows each layout's lists"
    findings.raise_any("the annotation lists cannot be used", remedy=remedy)
    return Listing(dict(sorted(class_names.items())), tuple(videos), tuple(notes))


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
        before = first.setdefault(without_suffix(video.path), video)
        if before is video:
            continue
        if (before.label, before.split, before.path) == (video.label, video.split, video.path):
            findings.add(video.line, f"{video.path} is listed again (first in {before.line})")
        else:
            findings.add(
                video.line,
                f"{video.path} is {video.class_name}{_in_split(video)}, "
                f"but {before.path} is {before.class_name}{_in_split(before)} ({before.line})",
            )


def _in_split(video: ListedVideo) -> str:
    return f" in {video.split}" if video.split else ""


def locate(
    listing: Listing,
    root: Path,
    *,
    folders: Sequence[str] | Mapping[str | None, Sequence[str]] = ("",),
    directories: bool = False,
) -> Listing:
    """Find the listed videos below the root, with any video suffix: copies of a data set are often re-encoded.

    folders: places below the root where the listed paths may begin, in order; the first that has a video wins. A
    mapping gives those of each split. directories: look for folders of frames instead of files. Raises DataError where
    there is no root, and MissingVideosError with every video that is missing, ambiguous or a link out of it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder", remedy="set prepare.root to the data set's folder")
    findings = Findings()
    of_split = folders if isinstance(folders, Mapping) else dict.fromkeys((*SPLITS, None), folders)
    places = {split: [place for place in of_split[split] if (root / place).is_dir()] for split in of_split}
    candidates = _Candidates(root, directories=directories)
    real_root = root.resolve()
    videos, on_disk = [], set()
    for video in listing.videos:
        inner = places[video.split]
        try:
            found = next(filter(None, (candidates.of(PurePosixPath(place) / video.path) for place in inner)), [])
        except OSError as error:
            findings.add(video.line, f"{video.path} cannot be looked for: {error.strerror}")
            videos.append(video)
            continue
        if not found:
            findings.add(video.line, f"{video.path} is missing")
        elif len(found) > 1:
            findings.add(video.line, f"{video.path} could be any of {', '.join(found)}")
        elif not (root / found[0]).resolve().is_relative_to(real_root):
            findings.add(video.line, f"{found[0]} is a link that leads out of the root")
        else:
            video = replace(video, path=found[0])
            on_disk.add(video.path)
        videos.append(video)
    located = replace(listing, videos=tuple(videos))
    searched = ", ".join(dict.fromkeys(str(root / place) for inner in places.values() for place in inner))
    try:
        findings.raise_any(
            f"listed videos were not found below {searched or root}",
            remedy="complete the data set, or set prepare.root to the folder that has the listed paths",
        )
    except DataError as error:
        raise MissingVideosError(error, located, frozenset(on_disk)) from None
    return located


class _Candidates:
    """What lies under a listed name; each folder is listed once."""

    def __init__(self, root: Path, *, directories: bool) -> None:
        self.root = root
        self.directories = directories
        self.folders: dict[PurePosixPath, dict[str, list[str]]] = {}

    def of(self, path: PurePosixPath) -> list[str]:
        """POSIX paths of the exact name or, where that is absent, of the same name with other video suffixes."""
        if self.directories:
            return [str(path)] if (self.root / path).is_dir() else []
        if path.parent not in self.folders:
            self.folders[path.parent] = self._listed(path.parent)
        names = self.folders[path.parent].get(without_suffix(path.name), [])
        if path.name in names:
            names = [path.name]
        return [str(path.parent / name) for name in names]

    def _listed(self, folder: PurePosixPath) -> dict[str, list[str]]:
        names: dict[str, list[str]] = defaultdict(list)
        if (self.root / folder).is_dir():
            for entry in sorted((self.root / folder).iterdir()):
                if entry.name.lower().endswith(VIDEO_SUFFIXES) and entry.is_file():
                    names[without_suffix(entry.name)].append(entry.name)
        return names
