"""A data set without lists: the folders of its classes, below folders of splits where it has some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import DataError
from pipeline.data.listing import EMPTY, Findings, ListedVideo, Listing, checked, number_classes
from pipeline.data.names import UNREAD_SUFFIXES, is_video, split_named, without_suffix
from pipeline.videos.locate import walk
from pipeline.videos.remux import unread_container


def list_class_folders(root: Path) -> Listing:
    """Videos below `<class>/`, or below `{train,val,test}/<class>/`; classes are numbered in alphabetical order.

    Folders of classes that are named by whole numbers keep them.
    """
    tops = {name: split for name in _inner(root)[0] if (split := split_named(name))}
    _check_tops(root, tops)
    places = [(tops.get(top), root / top / name) for top in tops or [""] for name in _class_names(root / top)]
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
    for top, split in tops.items():
        if not any(video.split == split for video in videos):
            findings.add(str(root / top), EMPTY)
    return checked(videos, names, findings, notes=_notes(root, strangers))


def _check_tops(root: Path, tops: dict[str, str]) -> None:
    others = [name for name in _inner(root)[0] if name not in tops]
    if tops and (others or len(set(tops.values())) < len(tops)):
        raise DataError(
            f"{root} has folders of splits and others, or two of one split",
            findings=[
                *(f"{root / name}: {split}" for name, split in tops.items()),
                *(str(root / name) for name in others),
            ],
            remedy="keep either class folders, or one folder each of train, val and test with class folders in them",
        )


def _class_names(top: Path) -> list[str]:
    """Names of the folders of classes. Raises DataError where they may be folders of splits, whatever their names."""
    names = _inner(top)[0]
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
