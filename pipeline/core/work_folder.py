"""Work folders: where a long stage builds its result, under locks of its own.

A stage builds in `.work/<stage>-<fingerprint>/`, outside of what DVC tracks, so that a killed run resumes where it was:
DVC deletes a stage's outs before it starts, but never looks in here. The fingerprint names everything that the result
depends on; with any other parameter, input or format the stage starts a folder of its own.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.core.digest import digest_bytes, digest_json
from pipeline.core.errors import EnvironmentProblem
from pipeline.core.files import PARTIAL_SUFFIX, make_folder, require_writable, write_text_whole, writing
from pipeline.core.progress import StopCheck
from pipeline.core.text import printable

WAIT_SECONDS = 0.2  # between two looks at a lock
_WAITING_SUFFIX = ".waiting"
_log = logging.getLogger(__name__)
KEPT_NAME = "kept.json"  # marks a work folder of a finished run
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of NFS without lockd, Lustre without flock, and others


def work_root() -> Path:
    """`.work` of the repository: DVC_ROOT names the original one also where DVC runs an experiment in a copy."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".work"


@dataclass(frozen=True)
class WorkFolder:
    """A locked folder for one stage run: `path` holds the progress, and stays until `finish`.

    `outs` are what was or will be published from it: a stage that makes several artifacts of a kind, as the frames of
    several lights, keeps a folder for each.
    """

    stage: str
    path: Path
    outs: frozenset[str] = frozenset()

    def finish(self) -> None:
        """Remove the progress, once the outs are published; or leave it to a process that waits for it."""
        if not self.is_waited_for():
            shutil.rmtree(self.path)

    def is_waited_for(self) -> bool:
        """Whether another process waits for this one, to have the same result."""
        try:
            with self.path.with_suffix(_WAITING_SUFFIX).open("r+b") as waiting:
                return not take_lock(waiting.fileno(), self.path)
        except FileNotFoundError:
            return False

    def keep(self) -> None:
        """Leave what was made for the next run; what runs with other parameters left for the same outs goes."""
        for marker in self.path.parent.glob(f"{self.stage}-*/{KEPT_NAME}"):
            others = _kept_for(marker) - self.outs
            with suppress(EnvironmentProblem):
                if others:
                    _mark_kept(marker, others)
                else:
                    remove_work_folder(marker.parent)
        _mark_kept(self.path / KEPT_NAME, self.outs)


def kept_folders(out: Path) -> Iterator[Path]:
    """The work folders that are kept for an out, each locked while it is looked at; passes over those in use."""
    for marker in sorted(work_root().glob(f"*/{KEPT_NAME}")):
        folder = marker.parent
        if str(out) in _kept_for(marker):
            with suppress(EnvironmentProblem), _locked(folder.with_suffix(".lock"), stage_of(folder), "is in use"):
                yield folder


def _mark_kept(marker: Path, outs: frozenset[str]) -> None:
    write_text_whole(marker, json.dumps({"outs": sorted(outs)}) + "\n")


def _kept_for(marker: Path) -> frozenset[str]:
    """The outs that a kept folder is kept for; none where it does not say."""
    try:
        return frozenset(map(str, json.loads(marker.read_bytes())["outs"]))
    except (OSError, ValueError, LookupError, TypeError):
        return frozenset()


def stage_of(path: Path) -> str:
    """The stage that a work folder belongs to, by its name."""
    return path.name.rpartition("-")[0]


def remove_work_folder(path: Path) -> None:
    """Remove a work folder and the progress in it; raises EnvironmentProblem where another process works in it."""
    with _locked(path.with_suffix(".lock"), stage_of(path), f"is at work in {path}"):
        shutil.rmtree(path)


@contextmanager
def work_folder(
    stage: str,
    *,
    params: Mapping[str, object],
    inputs: Mapping[str, str],
    format_version: int,
    outs: Sequence[Path] = (),
    stop: StopCheck | None = None,
) -> Iterator[WorkFolder]:
    """Enter the work folder of a stage, holding its lock and those of the `outs` that it will write.

    `params` are the values that the stage uses, `inputs` the digests of what it reads. The lock is a POSIX record
    lock: it ends with the process however that ends, and forked data loaders do not inherit it. With `stop`, which may
    raise, it waits for another process that works in the folder, and finds that one's progress there; two experiments
    that want the same teacher do so. Raises EnvironmentProblem when another process works on the same out, or without
    `stop` in the same folder, when an out cannot be written, and for all that a full or failing disk refuses in the
    block.
    """
    fingerprint = digest_json(
        {"stage": stage, "format": format_version, "params": dict(params), "inputs": dict(inputs)}
    )
    path = work_root() / f"{stage}-{fingerprint[:16]}"
    # the lock lies beside the folder, so that finishing does not remove a held one
    with ExitStack() as stack:
        for out in outs:
            stack.enter_context(out_lock(stage, out))
        stack.enter_context(_locked(path.with_suffix(".lock"), stage, f"is already working in {path}", stop))
        stack.enter_context(writing(path))
        path.mkdir(exist_ok=True)
        for leftover in path.rglob(f"*{PARTIAL_SUFFIX}"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        named = frozenset(map(str, outs)) | _kept_for(path / KEPT_NAME)
        (path / KEPT_NAME).unlink(missing_ok=True)
        write_text_whole(
            path / "fingerprint.json",
            json.dumps({"stage": stage, "params": dict(params), "inputs": dict(inputs)}, indent=1, sort_keys=True),
        )
        yield WorkFolder(stage, path, named)


@contextmanager
def out_lock(stage: str, out: Path) -> Iterator[None]:
    """Hold the lock of a path that a stage will write; raises EnvironmentProblem where another process holds it.

    And where nothing can be written there, before hours of work rather than after them. Two runs with
    different parameters have different work folders, but the same out.
    """
    with _locked(out_lock_path(out), stage, f"is already writing {out}"), writing(out):
        require_writable(out)
        yield


def out_lock_path(out: Path) -> Path:
    """The file whose lock says that a process writes a path."""
    return work_root() / f"out-{digest_bytes(str(out.absolute()).encode())[:16]}.lock"


def take_lock(descriptor: int, path: Path) -> bool:
    """Lock an open file for this process; False where another one has it.

    On a file system without locks it goes on without, and says so once.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in NO_LOCKS:
            raise
        _tell_of_no_locks(path.parent)
    return True


def has_locks(path: Path) -> bool:
    """Whether the file system of a file has locks: tries a shared one, for a moment. True if it cannot be opened."""
    try:
        with path.open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NO_LOCKS
    return True


def _wait_for(descriptor: int, path: Path, stop: StopCheck) -> None:
    """Take a lock as soon as its holder lets it go; until then a shared lock on a file beside it says so."""
    with path.with_suffix(_WAITING_SUFFIX).open("a+b") as waiting:
        fcntl.lockf(waiting, fcntl.LOCK_SH)
        while not take_lock(descriptor, path):
            stop()
            time.sleep(WAIT_SECONDS)


@cache
def _tell_of_no_locks(folder: Path) -> None:
    """Where nobody set up logging, Python prints a warning as it is, to stderr."""
    _log.warning(
        "%s: this file system has no locks, so nothing keeps two runs of one stage apart: do not start one twice",
        printable(str(folder)),
    )


@contextmanager
def _locked(path: Path, stage: str, what: str, stop: StopCheck | None = None) -> Iterator[None]:
    with writing(path):
        make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not take_lock(descriptor, path):
            holder = os.pread(descriptor, 4096, 0).decode(errors="replace").strip() or "an unknown process"
            if stop is None:
                raise EnvironmentProblem(
                    f"{stage}: {holder} {what}",
                    remedy="wait for it, or stop that process and run the command again: it goes on from there",
                )
            _log.warning("%s: %s %s: waiting for it, to go on from what it leaves", stage, holder, what)
            _wait_for(descriptor, path, stop)
        with writing(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)
