"""Files written whole or not at all, the one place that does so, and errors of the disk in the user's words."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pipeline.core.errors import DlkddError, EnvironmentProblem

PARTIAL_SUFFIX = ".partial"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's fcntl.h and fs.h


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (a rename survives a power loss only after this)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_FREE_SPACE = "free disk space, then run the same command again: it goes on"
_MAKE_WRITABLE = "make the file and its folder accessible to this user, then run the same command again: it goes on"
_LOOK_AT_DISK = "the disk, or the way to it, fails: see the system's log; on a sound one run the same command again"
# Errors of the system whatever the program does: what they mean, and what helps
_REFUSALS = {
    errno.ENOSPC: ("cannot be written", _FREE_SPACE),
    errno.EDQUOT: ("cannot be written", _FREE_SPACE),
    errno.EROFS: ("cannot be written", _MAKE_WRITABLE),
    errno.EACCES: ("cannot be read or written", _MAKE_WRITABLE),
    errno.EIO: ("cannot be read or written", _LOOK_AT_DISK),
}

_IN_MESSAGES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def disk_error(error: BaseException, path: Path | None = None) -> EnvironmentProblem | None:
    """The problem to report where a full, failing or read-only disk caused an error; None where it did not.

    `path` is what was worked on; an error that names another file is about that one, unless it is the temporary name.
    HDF5, safetensors and others have exceptions of their own for it: these quote the system's message, or have the
    system's error as their cause.
    """
    for each in _chain(error):
        number = each.errno if isinstance(each, OSError) else None
        if number not in _REFUSALS:
            number = next((number for number in _IN_MESSAGES if os.strerror(number) in str(each)), None)
        if number is None:
            continue
        named = each.filename if isinstance(each, OSError) else None
        if isinstance(named, str | bytes | os.PathLike):
            name = os.fsdecode(named)
            path = path if path is not None and name.endswith(PARTIAL_SUFFIX) else Path(name)
        what, remedy = _REFUSALS[number]
        return EnvironmentProblem(f"{path or 'a file'}: {what}: {os.strerror(number)}", remedy=remedy)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that led to it."""
    seen: set[int] = set()
    next_error: BaseException | None = error
    while next_error is not None and id(next_error) not in seen:
        seen.add(id(next_error))
        yield next_error
        next_error = next_error.__cause__ or (None if next_error.__suppress_context__ else next_error.__context__)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk into EnvironmentProblem; other errors pass."""
    try:
        yield
    except DlkddError:
        raise
    except Exception as error:
        problem = disk_error(error, path)
        if problem is None:
            raise
        raise problem from error


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing; their names are durable then."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def require_writable(*outs: Path) -> None:
    """Raise EnvironmentProblem where nothing can be made at one of these paths: before the work, not after hours."""
    for out in outs:
        probe = _partial(out)
        with writing(out):
            make_folder(out.parent)
            _sweep(out.parent.absolute())
            try:
                probe.touch()
            finally:
                probe.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary name beside it; fsync and rename when the block is done."""
    partial = _partial(path)
    with writing(path):
        make_folder(path.parent)
        _sweep(path.parent.absolute())
        try:
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@cache
def _sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left half-written in a folder; once, since it may be large."""
    ours = re.compile(rf"\.{re.escape(socket.gethostname())}\.(\d+){re.escape(PARTIAL_SUFFIX)}$")
    for entry in os.scandir(folder):
        found = ours.search(entry.name)
        if found and not _lives(int(found[1])):
            Path(entry.path).unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _partial(path: Path) -> Path:
    """A name beside a path for what this process has not finished."""
    return path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}{PARTIAL_SUFFIX}")


def write_text_whole(path: Path, text: str) -> None:
    """Write a small text file atomically, as UTF-8 with the line ends that are in `text`."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def read_text_whole(path: Path) -> str:
    """The text of a file that `write_text_whole` or `written_whole` made; ValueError where its end was cut off."""
    text = path.read_bytes().decode("utf-8")
    if text and not text.endswith("\n"):
        raise ValueError("its last line has no end: it was cut off")
    return text


def publish(built: Path, out: Path) -> None:
    """Move a finished file or folder onto a stage's out, replacing an older one; afterwards `built` is gone."""
    with writing(out):
        make_folder(out.parent)
        _sync_tree(built)
        # moved away, not deleted there: a kill must not leave half of it at the out
        old = built.with_name(f"{out.name}.old{PARTIAL_SUFFIX}")
        shutil.rmtree(old, ignore_errors=True)
        if not _exchanged(built, out, old):
            _replace(built, out, old)
        sync_folder(out.parent)
        shutil.rmtree(old, ignore_errors=True)


def _replace(built: Path, out: Path, old: Path) -> None:
    """In several steps: between two of them nothing may lie at `out`."""
    if out.is_dir() and not out.is_symlink():
        if not _renamed(out, old):
            shutil.rmtree(out)
    elif built.is_dir():
        out.unlink(missing_ok=True)  # a folder is not renamed onto a file or a link
    if not _renamed(built, out):
        beside = out.with_name(out.name + PARTIAL_SUFFIX)
        if built.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(built, beside)
        else:
            shutil.copy2(built, beside)
        _sync_tree(beside)
        beside.replace(out)
        sync_folder(out.parent)
        shutil.rmtree(built) if built.is_dir() else built.unlink()


def _exchanged(built: Path, out: Path, old: Path) -> bool:
    """Exchange two folders in one step; False where the system cannot, and nothing has happened.

    What was built gets the name of what is swept first: that of progress must not come to hold the old version.
    """
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # of Linux, which Python does not offer
    if renameat2 is None or not built.is_dir() or not out.is_dir() or out.is_symlink():
        return False
    built.replace(old)
    if renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(out), _RENAME_EXCHANGE) == 0:
        return True
    old.replace(built)
    return False


def _renamed(path: Path, to: Path) -> bool:
    """Rename; False where `to` lies on another file system: the work folder may, beside an experiment's outs."""
    try:
        path.replace(to)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _sync_tree(path: Path) -> None:
    """Make the content of a file or folder durable; libraries that write several files rarely do."""
    for inner in [path, *path.rglob("*")]:
        if inner.is_dir():
            sync_folder(inner)
        else:
            with inner.open("rb") as file:
                os.fsync(file.fileno())
