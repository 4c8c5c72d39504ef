"""Videos without lists: the folders of classes, below folders of splits where a data set has some; and of footage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.core.errors import DataError
from pipeline.data.listing import (
    EMPTY,
    UNLABELLED,
    Findings,
    ListedVideo,
    Listing,
    checked,
    footage,
    number_classes,
    read_lines,
)
from pipeline.data.names import (
    UNREAD_SUFFIXES,
    is_image,
    is_video,
    path_problem,
    same_form,
    split_named,
    without_suffix,
)
from pipeline.videos.containers import unread_container
from pipeline.videos.locate import MissingVideosError, locate, walk


def list_class_folders(root: Path, unlabelled: str | None = None) -> Listing:
    """Videos below `<class>/`, or below `{train,val,test}/<class>/`; classes are numbered in alphabetical order.

    Folders of classes that are named by whole numbers keep them. Beside them a folder `unlabelled` has footage, in
    folders or not; the one that prepare.unlabelled names is left to `add_footage`.
    """
    named = {name: split for name in _inner(root)[0] if name != unlabelled and (split := split_named(name))}
    tops = {name: split for name, split in named.items() if split != UNLABELLED}
    _check_tops(root, named, unlabelled)
    aside = set() if tops else {unlabelled, *named}
    places = [(tops.get(top), root / top / name) for top in tops or [""] for name in _class_names(root / top, aside)]
    findings = Findings()
    names = number_classes({folder.name: str(folder) for _, folder in places}, findings)
    labels = {name: label for label, name in names.items()}
    videos, strangers = [], []
    for split, folder in places:
        for file in _files_below(folder) if folder.name in labels else []:  # else a finding
            path = file.relative_to(root).as_posix()
            if is_video(file.name):
                group = without_suffix(path)
                videos.append(ListedVideo(path, labels[folder.name], folder.name, group, split, str(file)))
            else:
                strangers.append(file)
    for top in named.keys() - tops.keys():
        paths = [file.relative_to(root).as_posix() for file in _files_below(root / top) if is_video(file.name)]
        videos += [footage(path, without_suffix(path), str(root / path)) for path in paths]
    for top, split in named.items():
        if not any(video.split == split for video in videos):
            findings.add(str(root / top), EMPTY)
    return checked(videos, names, findings, notes=_notes(root, strangers))


def add_footage(
    listing: Listing, root: Path, place: str, *, group_of: Callable[[str], str], directories: bool = False
) -> Listing:
    """The listing with the footage at `place`: all videos below that folder of the root, or those that a list names.

    A list has a path below the root on each line. Videos that the listing has already are not taken again. directories:
    look for folders of frames. Raises DataError where there is no footage, or where some of it cannot be named.
    """
    if place != "." and (problem := path_problem(place)):
        raise DataError(
            f"prepare.unlabelled names no place below the root: {problem}",
            remedy="name a folder, or a list, below prepare.root",
        )
    there, strangers = root / place, list[Path]()
    if there.is_dir():
        found = _image_folders(there) if directories else _files_below(there)
        strangers = [] if directories else [file for file in found if not is_video(file.name)]
        paths = [(path.relative_to(root).as_posix(), str(path)) for path in found if directories or is_video(path.name)]
    elif there.is_file():
        paths = [(same_form(line), f"{there}:{number}") for number, line in read_lines(there)]
    else:
        raise DataError(
            f"prepare.unlabelled: {there}: no such folder or list",
            remedy="name a folder, or a list, below prepare.root",
        )
    findings = Findings()
    for path, line in paths:
        if problem := path_problem(path):
            findings.add(line, problem)
    findings.raise_any("footage without labels cannot be used", remedy="docs/datasets.md tells how it is listed")
    known = {same_form(without_suffix(video.path)) for video in listing.videos}
    shots = tuple(footage(path, group_of(path), line) for path, line in paths)
    try:
        located = locate(Listing({}, shots), root, directories=directories)
    except MissingVideosError as error:
        whole = replace(listing, videos=(*listing.videos, *error.listing.videos))
        raise MissingVideosError(error, whole, error.found | {video.path for video in listing.videos}) from None
    videos = [video for video in located.videos if same_form(without_suffix(video.path)) not in known]
    if not videos:
        more = f": all {len(paths)} are listed with a label" if paths else ""
        raise DataError(f"prepare.unlabelled: {there}: no videos{more}", remedy="set it to null where there is none")
    notes = [*located.notes, *_notes(there, strangers)]
    if taken := len(paths) - len(videos):
        notes.append(f"{there}: {taken} of its {len(paths)} videos are listed already, and count as they are listed")
    return replace(listing, videos=(*listing.videos, *videos), notes=(*listing.notes, *notes))


def _image_folders(top: Path) -> list[Path]:
    try:
        return [place for place, _, names in walk(top) if any(map(is_image, names))]
    except OSError as error:
        raise _unreadable(error) from None


def _check_tops(root: Path, tops: dict[str, str], unlabelled: str | None) -> None:
    others = [name for name in _inner(root)[0] if name not in tops and name != unlabelled]
    has_splits = any(split != UNLABELLED for split in tops.values())
    if (has_splits and others) or len(set(tops.values())) < len(tops):
        raise DataError(
            f"{root} has folders of splits and others, or two of one split",
            findings=[
                *(f"{root / name}: {split}" for name, split in tops.items()),
                *(str(root / name) for name in others),
            ],
            remedy="keep either class folders, or one folder each of train, val and test with class folders in them; "
            "beside both there may be one folder `unlabelled`",
        )


def _class_names(top: Path, aside: set[str | None]) -> list[str]:
    """Names of the folders of classes, without those `aside`.

    Raises DataError where they may be folders of splits, whatever their names.
    """
    names = [name for name in _inner(top)[0] if name not in aside]
    inner = {name: _inner(top / name) for name in names}
    largest = max((set(folders) for folders, _ in inner.values()), key=len, default=set())
    if len(names) > 1 and all(
        folders and not files and largest.issuperset(folders) for folders, files in inner.values()
    ):
        raise DataError(
            f"the folders in {top} hold only folders of the same names: are those the classes?",
            findings=[f"{top / name}: {', '.join(folders)}" for name, (folders, _) in inner.items()],
            remedy="name folders of splits train, val and test; else list the videos in a table (layout csv)",
        )
    return names


def _inner(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in a folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", remedy="set prepare.root to the data set's folder")
    try:
        return next((folders, files) for _, folders, files in walk(folder))
    except OSError as error:
        raise _unreadable(error) from None


def _files_below(folder: Path) -> list[Path]:
    """All files, and links to nothing, which count as missing videos."""
    try:
        paths = sorted(place / name for place, _, names in walk(folder) for name in names)
    except OSError as error:
        raise _unreadable(error) from None
    return [path for path in paths if path.is_symlink() or path.is_file()]


def _unreadable(error: OSError) -> DataError:
    return DataError(f"{error.filename}: cannot be read: {error.strerror}", remedy="its videos would be left out")


def _notes(root: Path, strangers: Sequence[Path]) -> list[str]:
    notes = []
    if strangers:
        example = strangers[0].relative_to(root).as_posix()
        notes.append(f"{root}: {len(strangers)} files are not videos and not used, such as {example}")
    unread = [path for path in strangers if path.name.lower().endswith(UNREAD_SUFFIXES) and path.is_file()]
    if unread:
        how = unread_container(unread[0])
        notes.append(
            f"{root}: {len(unread)} of them may be videos{f', such as {unread[0].name}: {how}' if how else ''}"
        )
    return notes
