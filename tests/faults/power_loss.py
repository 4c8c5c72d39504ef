"""What a power loss may leave behind, judged from the log of the calls by which a command changed files (shim.c).

The model is that of POSIX, and stricter than what file systems do:

- What was written to a file may be lost, wholly or in parts, until an fsync of that file.
- A new name (made, renamed or linked) may be lost until an fsync of the folder that it is in, each name by itself and
  in any order: nothing is assumed about journals, about data that is ordered before its names (ext4's data=ordered), or
  about a rename that brings its file's content along (ext4's auto_da_alloc).
- An fsync of a file makes its content durable, but not its name.
- A rename, and the exchange of two names, are atomic: afterwards the old state is there, or the new one.
- What fsync has written stays: disks that lie about their cache are not covered, nor is what other processes do.

Published are all names outside of the work folder, but for `*.partial` and what is below such; and in the work folder
those that were renamed or linked there: progress that a next run relies on. Found is what could make them torn, or
lose the old state before the new one is durable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import PurePath

WORK, PARTIAL, DELETED = ".work", ".partial", " (deleted)"


@dataclass
class Disk:
    """The state of the files below `root` as far as a log tells; `found` are the faults so far.

    by_design: names that may be written in place, by their ends.
    """

    root: str
    by_design: tuple[str, ...] = (".lock",)
    found: list[str] = field(default_factory=list)
    _content: dict[str, int] = field(default_factory=dict)  # which content a name has; links share it
    _not_synced: set[int] = field(default_factory=set)  # contents
    _pending: set[str] = field(default_factory=set)  # names that may be lost
    _settled: set[str] = field(default_factory=set)  # names in the work folder that are published
    _numbers: count[int] = field(default_factory=count)

    def replay(self, log: Iterable[tuple[str, str, str]]) -> list[str]:
        """Take in all calls of a command that ended well; returns what was found."""
        for kind, path, other in log:
            if DELETED in path or DELETED in other:  # a file without a name is lost with the process
                continue
            getattr(self, f"_{kind}")(path, other)
        for path in sorted(self._pending):
            if not self._in_work(path) and self._is_published(path):
                self.found.append(f"{self._short(path)}: its name is not durable when the command ends")
        self._check_contents(self._content, "when the command ends", only_outs=True)
        return self.found

    def _create(self, path: str, _: str) -> None:
        self._content[path] = next(self._numbers)
        self._pending.add(path)
        if self._is_published(path):
            self.found.append(f"{self._short(path)}: is made under its published name")

    def _mkdir(self, path: str, _: str) -> None:
        self._pending.add(path)

    def _write(self, path: str, _: str) -> None:
        self._not_synced.add(self._content_of(path))
        if self._is_published(path):
            self.found.append(f"{self._short(path)}: is written in place")

    def _sync(self, path: str, _: str) -> None:
        self._not_synced.discard(self._content.get(path, -1))
        self._pending -= {name for name in self._pending if str(PurePath(name).parent) == path}

    def _remove(self, path: str, _: str) -> None:
        waiting = [name for name in self._pending if not self._in_work(name) and self._is_published(name)]
        if waiting and path not in waiting and PARTIAL not in path:
            self.found.append(
                f"{self._short(path)}: is removed before the name of {self._short(min(waiting))} is durable"
            )
        self._drop(path)

    def _rename(self, path: str, source: str) -> None:
        self._check_before(path, source)
        moved = self._take(source)
        self._drop(path)
        self._put(path, moved)

    def _exchange(self, path: str, source: str) -> None:
        self._check_before(path, source)
        there, moved = self._take(path), self._take(source)
        self._put(path, moved)
        self._put(source, there)

    def _link(self, path: str, source: str) -> None:
        self._check_before(path, source)
        self._content[path] = self._content_of(source)
        self._pending.add(path)
        self._settle(path)

    def _check_before(self, path: str, source: str) -> None:
        """That all is durable which gets a published name."""
        if PARTIAL in self._short(path):
            return
        what = f"before {self._short(path)} gets it"
        self._check_contents([name for name in self._content if name == source or _below(name, source)], what)
        for name in sorted(self._pending):
            if _below(name, source):
                self.found.append(f"{self._short(name)}: its name is not durable {what}")

    def _check_contents(self, names: Iterable[str], when: str, *, only_outs: bool = False) -> None:
        for name in sorted(names):
            if only_outs and (self._in_work(name) or not self._is_published(name)):
                continue
            if self._content[name] in self._not_synced:
                self.found.append(f"{self._short(name)}: its content is not durable {when}")

    def _take(self, path: str) -> tuple[dict[str, int], set[str]]:
        """What is at a path and below it, under names relative to it, and which of these names are pending."""
        self._content_of(path)
        inner = {name: self._content.pop(name) for name in list(self._content) if name == path or _below(name, path)}
        pending = {name for name in self._pending if _below(name, path)}
        self._pending -= {path, *pending}
        self._settled = {name for name in self._settled if name != path and not _below(name, path)}
        cut = len(path)
        return {name[cut:]: number for name, number in inner.items()}, {name[cut:] for name in pending}

    def _put(self, path: str, taken: tuple[dict[str, int], set[str]]) -> None:
        inner, pending = taken
        self._content |= {path + name: number for name, number in inner.items()}
        self._pending |= {path, *(path + name for name in pending)}
        self._settle(path)

    def _drop(self, path: str) -> None:
        self._take(path)

    def _settle(self, path: str) -> None:
        if self._in_work(path) and PARTIAL not in self._short(path):
            self._settled.add(path)

    def _content_of(self, path: str) -> int:
        """Of a file that was there before the log: it is durable."""
        if path not in self._content:
            self._content[path] = next(self._numbers)
        return self._content[path]

    def _is_published(self, path: str) -> bool:
        if PARTIAL in self._short(path) or path.endswith(self.by_design):
            return False
        return not self._in_work(path) or path in self._settled

    def _in_work(self, path: str) -> bool:
        return WORK in PurePath(self._short(path)).parts[:1]

    def _short(self, path: str) -> str:
        return path.removeprefix(self.root).lstrip("/")


def _below(path: str, folder: str) -> bool:
    return path.startswith(folder + "/")
