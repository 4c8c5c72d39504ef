"""What is in `.work`: the progress of unfinished runs, and what finished ones keep for the next."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.work_folder import KEPT_NAME, NO_LOCKS, stage_of, work_root

KEEP_ROWS = ("precompute_soft_targets",)  # stages whose folders stay as they are, for the next run
_FLOCK = "hhqqi"  # struct flock of Linux: type, whence, start, length, process


@dataclass(frozen=True)
class LeftFolder:
    """One work folder.

    freed_bytes: what its removal frees: files without another hard link, such as the published store's or the cache's.
    age_seconds: since anything in it was written. unfinished: its run was stopped, and another can continue it. holder:
    who works in it now, such as "process 7 on host".
    """

    path: Path
    stage: str
    num_bytes: int
    freed_bytes: int
    age_seconds: float
    unfinished: bool
    holder: str | None

    @property
    def state(self) -> str:
        """Its state, for a person."""
        if self.holder is not None:
            return f"{self.holder} is at work"
        return "not finished" if self.unfinished else "kept for reuse"


def work_folders() -> list[LeftFolder]:
    """All work folders of the project, sorted by name. Only reads: not even a lock is taken."""
    root = work_root()
    if not root.is_dir():
        return []
    paths = [path for path in sorted(root.iterdir()) if path.is_dir() and "-" in path.name]
    return [found for path in paths if (found := _looked_at(path)) is not None]


def _looked_at(path: Path) -> LeftFolder | None:
    """None where its stage has just ended, and removed it."""
    stage = stage_of(path)
    try:
        num_bytes, freed_bytes, newest = 0, 0, path.stat().st_mtime
    except FileNotFoundError:
        return None
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                stat = os.lstat(Path(folder, name))
            except FileNotFoundError:
                continue  # a running stage renamed it
            num_bytes += stat.st_size
            freed_bytes += stat.st_size if stat.st_nlink == 1 else 0
            newest = max(newest, stat.st_mtime)
    return LeftFolder(
        path,
        stage,
        num_bytes,
        freed_bytes,
        max(0.0, time.time() - newest),
        stage not in KEEP_ROWS and not (path / KEPT_NAME).exists(),
        lock_holder(path.with_suffix(".lock")),
    )


def lock_holder(path: Path) -> str | None:
    """Who holds a lock, as recorded in its file; None where nobody does, or the file system has no locks."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, query))[0]
        holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else holder or "an unknown process"
