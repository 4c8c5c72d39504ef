"""Finding listed videos on disk, and walking through folders of videos.

Apart from reading lists, so that published lists can be checked without their videos.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.core.errors import DataError
from pipeline.data.listing import ALL_SPLITS, Findings, ListedVideo, Listing
from pipeline.data.names import is_litter, is_video, look, same_form, spelt, without_suffix


class MissingVideosError(DataError):
    """Listed videos were not found. `listing` has all of them, `found` the paths on disk of those that were."""

    def __init__(self, error: DataError, listing: Listing, found: frozenset[str]) -> None:
        super().__init__(error.message, findings=error.findings, remedy=error.remedy)
        self.listing = listing
        self.found = found


def locate(
    listing: Listing,
    root: Path,
    *,
    folders: Sequence[str] | Mapping[str | None, Sequence[str]] = ("",),
    directories: bool = False,
) -> Listing:
    """Find the listed videos below the root, with any video suffix: copies of a data set are often re-encoded.

    folders: places below the root where the listed paths may begin, in order; the first that has a video wins. A
    mapping gives those of each split. directories: look for folders of frames instead of files. Links are followed,
    also out of the root, and a note says so. Raises DataError where there is no root, and MissingVideosError with every
    video that is missing or ambiguous.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder", remedy="set prepare.root to the data set's folder")
    findings = Findings()
    of_split = folders if isinstance(folders, Mapping) else dict.fromkeys((*ALL_SPLITS, None), folders)
    places = {split: [place for place in of_split[split] if (root / place).is_dir()] for split in of_split}
    candidates = _Candidates(root, directories=directories)
    videos, on_disk = [], set()
    for video in listing.videos:
        paths = [PurePosixPath(place) / video.path for place in places[video.split]]
        try:
            found = next(filter(None, map(candidates.of, paths)), [])
            if not found:
                hint = next(filter(None, map(candidates.hint, paths)), "")
                findings.add(video.line, f"{video.path} is missing{hint}")
        except OSError as error:
            findings.add(video.line, f"{video.path} cannot be looked for: {error.strerror}")
            found = []
        if len(found) > 1:
            findings.add(video.line, f"{video.path} could be any of {', '.join(map(spelt, found))}")
        elif found:
            video = replace(video, path=found[0])
            on_disk.add(video.path)
        videos.append(video)
    located = replace(listing, videos=tuple(videos), notes=(*listing.notes, *_linked_out(root, videos)))
    searched = ", ".join(dict.fromkeys(str(root / place) for inner in places.values() for place in inner))
    try:
        findings.raise_any(
            f"listed videos were not found below {searched or root}",
            remedy="complete the data set, or set prepare.root to the folder that has the listed paths",
        )
    except DataError as error:
        raise MissingVideosError(error, located, frozenset(on_disk)) from None
    return located


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` in the order of names, without what is not data, and with links to folders.

    A link that leads round in a circle is not followed: what is behind it comes anyway. Raises OSError where a folder
    cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error  # os.walk would skip the folder in silence

    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(place)
        inner = [name for name in sorted(folders) if not is_litter(name)]
        folders[:] = [name for name in inner if not _leads_round(here / name, folder)]
        yield here, folders, sorted(name for name in names if not is_litter(name))


def _leads_round(path: Path, top: Path) -> bool:
    """Whether a path is a link to a folder that it lies in, by its name or in truth."""
    if not path.is_symlink():
        return False
    target = os.path.realpath(path)
    above = [parent for parent in path.parents if parent == top or top in parent.parents]
    return any(_is_below(os.path.realpath(parent), target) for parent in above)


def _linked_out(root: Path, videos: Iterable[ListedVideo]) -> list[str]:
    """Notes about links out of the root. DVC sees what a link to a file holds, not what is behind one to a folder."""
    top = os.path.realpath(root)
    real = {video.path: os.path.realpath(root / video.path) for video in videos}
    outside = [path for path in real if not _is_below(real[path], top)]
    notes = []
    if outside:
        example = f"{outside[0]}: {real[outside[0]]}"
        notes.append(f"{len(outside)} of {len(real)} videos lie outside of {root}, by links, such as {example}")
    folders = {root / parent for path in outside for parent in PurePosixPath(path).parents if str(parent) != "."}
    linked = sorted(
        folder for folder in folders if folder.is_symlink() and not _is_below(os.path.realpath(folder), top)
    )
    if linked:
        how = "run `dvc repro -f prepare` after a change there"
        notes.append(f"{', '.join(map(str, linked))}: DVC does not look behind links to folders; {how}")
    return notes


def _is_below(path: str, top: str) -> bool:
    return os.path.commonpath((path, top)) == top


class _Candidates:
    """What lies under a listed name; each folder is listed once. Names are the same in any normal form."""

    def __init__(self, root: Path, *, directories: bool) -> None:
        self.root = root
        self.directories = directories
        self.folders: dict[PurePosixPath, list[PurePosixPath]] = {}  # as listed: as on disk
        # of a folder on disk, by names without suffix
        self.names: dict[PurePosixPath, defaultdict[str, list[str]]] = {}
        self.looks: dict[PurePosixPath, dict[str, str]] = {}  # the same by how they look

    def of(self, path: PurePosixPath) -> list[str]:
        """POSIX paths of the exact name or, where that is absent, of the same name with other video suffixes."""
        if self.directories:
            return [str(folder) for folder in self._folders(path)]
        there = self._there(path)
        exact = [place for place in there if place.name == path.name]
        others = [place for place in there if same_form(place.name) == same_form(path.name)]
        for places in (exact, others, [place for place in there if is_video(place.name)]):
            found = [str(place) for place in places if (self.root / place).is_file()]
            if found:
                return found
        return []

    def hint(self, path: PurePosixPath) -> str:
        """What is there in place of a missing video, as the end of a sentence."""
        for place in map(self.root.joinpath, self._there(path)):
            if place.is_symlink() and not place.exists():
                return f": a link to {place.readlink()}, which is not there"
        for folder in self._folders(path.parent):
            if folder not in self.looks:
                names = (name for names in self._names(folder).values() for name in names)
                self.looks[folder] = {look(without_suffix(name)): name for name in names}
            near = self.looks[folder].get(look(without_suffix(path.name)))
            if near is not None:
                return f"; there is {spelt(near)}, and it is listed as {spelt(path.name)}"
        return ""

    def _there(self, path: PurePosixPath) -> list[PurePosixPath]:
        key = without_suffix(same_form(path.name))
        return [folder / name for folder in self._folders(path.parent) for name in self._names(folder).get(key, [])]

    def _folders(self, path: PurePosixPath) -> list[PurePosixPath]:
        """The folders below the root that a listed path names."""
        if path not in self.folders:
            if (self.root / path).is_dir() or not path.name:
                self.folders[path] = [path]
            else:
                same = [place for place in self._there(path) if same_form(place.name) == same_form(path.name)]
                self.folders[path] = [place for place in same if (self.root / place).is_dir()]
        return self.folders[path]

    def _names(self, folder: PurePosixPath) -> defaultdict[str, list[str]]:
        if folder not in self.names:
            names = self.names[folder] = defaultdict(list)
            for name in sorted(entry.name for entry in (self.root / folder).iterdir()):
                names[without_suffix(same_form(name))].append(name)
        return self.names[folder]
