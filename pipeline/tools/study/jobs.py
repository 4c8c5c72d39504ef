"""Runs commands that wait for each other's outs, several at a time, and skips those whose outs are unchanged.

A job's record, written when it starts and when it ends, has its fingerprint, the digests of its outs, its seconds and
the machine.
Fingerprints cover the content of inputs, not their dates or paths.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.digest import digest_file, digest_json
from pipeline.core.errors import DlkddError
from pipeline.core.files import write_text_whole
from pipeline.core.progress import Advance, StopCheck

POLL_SECONDS = 0.05
TAIL_LINES = 15
INDEXES = ("zarr.json", "index.csv")  # of a soft-target store and a frame store: they have the digests of the rest

Say = Callable[[str], None]  # shows text to the user


@dataclass(frozen=True)
class Job:
    """A command: a module and its arguments. `identity` is what its outs depend on besides its inputs.

    `folder` holds its record and its log.
    """

    name: str
    command: tuple[str, ...]
    identity: Mapping[str, object]
    inputs: Mapping[str, Path]
    outs: tuple[Path, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """What it writes to stdout and stderr."""
        return self.folder / "log.txt"

    @property
    def record(self) -> Path:
        """How its last run went."""
        return self.folder / "record.json"

    def fingerprint(self) -> str:
        """Of the identity and the content of the inputs, those that exist."""
        there = {name: content_digest(path) for name, path in self.inputs.items()}
        return digest_json({"identity": dict(self.identity), "inputs": there})


class Process(Protocol):
    """A job's process, as multiprocessing has them: `exitcode` is None while it runs, minus a signal that ended it."""

    @property
    def exitcode(self) -> int | None: ...  # noqa: D102
    def terminate(self) -> None: ...  # noqa: D102
    def kill(self) -> None: ...  # noqa: D102
    def join(self) -> None: ...  # noqa: D102


Start = Callable[[Job], Process]  # runs a job's command, whose output goes to its log


@dataclass(frozen=True)
class Outcome:
    """How the jobs went: seconds and machines of those that are done, exit codes of those that failed, by name.

    `num_left` wait for a failed one. Seconds are of all runs that a job needed; None where one of them was killed
    together with this process. The machine is the one that a job ended on; None in records of earlier versions.
    """

    seconds: Mapping[str, float | None]
    machines: Mapping[str, str | None]
    failed: Mapping[str, int]
    num_left: int

    @property
    def error(self) -> DlkddError | None:
        """What to tell where jobs failed, with the exit code of the first."""
        if not self.failed:
            return None
        left = f"; {self.num_left} that wait for them did not start" if self.num_left else ""
        error = DlkddError(
            f"{len(self.failed)} step{'s' * (len(self.failed) != 1)} failed{left}",
            findings=[f"{name}: exit code {code}" for name, code in self.failed.items()],
            remedy="the messages are above; fix the cause and run the same command again: what is done is kept",
        )
        error.exit_code = next(iter(self.failed.values()))
        return error


@dataclass
class _Running:
    job: Job
    fingerprint: str
    process: Process
    machine: str
    started: float
    earlier_seconds: float | None  # of runs that were interrupted; None where that is not known

    def finish(self, otherwise: str) -> tuple[int, float | None]:
        """Record how it ended, as `done` or `otherwise`; returns its exit code (128 + a signal) and seconds."""
        code = self.process.exitcode
        assert code is not None
        outs = [content_digest(path) for path in self.job.outs]
        if code == 0 and None in outs:
            code = 1  # the stages write all of their outs or fail: a bug, and no reason to call it done
        seconds = None
        if self.earlier_seconds is not None:
            seconds = round(self.earlier_seconds + time.monotonic() - self.started, 3)
        state = otherwise if code else "done"
        _write_record(
            self.job, fingerprint=self.fingerprint, state=state, seconds=seconds, machine=self.machine, outs=outs
        )
        return (code if code >= 0 else 128 - code), seconds


def run_jobs(
    jobs: Sequence[Job], *, start: Start, at_once: int, machine: str, say: Say, stop: StopCheck, advance: Advance
) -> Outcome:
    """Run what is not done yet, up to `at_once` at a time, on this machine.

    Jobs that wait for the outs of a failed one do not start; all others are run. Where `stop` raises, the running jobs
    get SIGTERM and are waited for, so that they save their progress.
    """
    made_by = {out: job.name for job in jobs for out in job.outs}
    needs = {job.name: {made_by[path] for path in job.inputs.values() if path in made_by} for job in jobs}
    waiting, done, failed = list(jobs), dict[str, float | None](), dict[str, int]()
    machines: dict[str, str | None] = {}
    ready: list[Job] = []
    running: list[_Running] = []

    def find_ready() -> None:
        ready.extend(job for job in waiting if needs[job.name] <= done.keys())
        waiting[:] = [job for job in waiting if not needs[job.name] <= done.keys()]

    try:
        find_ready()
        while running or ready:
            stop()
            if ready and len(running) < at_once:
                job = ready.pop(0)
                fingerprint, record = job.fingerprint(), _read_record(job)
                if _still_holds(job, record, fingerprint):
                    done[job.name], machines[job.name] = record["seconds"], record.get("machine")
                    advance(1, job.name, earlier=True)
                    find_ready()
                else:
                    running.append(_start(job, fingerprint, record, machine, start))
                continue
            for each in [each for each in running if each.process.exitcode is not None]:
                running.remove(each)
                code, seconds = each.finish("failed")
                if code == 0:
                    done[each.job.name], machines[each.job.name] = seconds, machine
                    advance(1, each.job.name)
                    find_ready()
                else:
                    failed[each.job.name] = code
                    _tell(each.job, code, say)
            if running:
                time.sleep(POLL_SECONDS)
    finally:
        _end(running, say)
    return Outcome(done, machines, failed, len(waiting))


def content_digest(path: Path) -> str | None:
    """Digest of a file, of the index of a store, or of all files of another folder; None where nothing exists."""
    for file in (path, *(path / name for name in INDEXES)):
        if file.is_file():
            return digest_file(file)
    if not path.is_dir():
        return None
    return digest_json({str(file.relative_to(path)): digest_file(file) for file in path.rglob("*") if file.is_file()})


def _still_holds(job: Job, record: Mapping[str, Any], fingerprint: str) -> bool:
    """Whether a record says that the job is done, and its outs are what it made."""
    return (
        record.get("state") == "done"
        and record["fingerprint"] == fingerprint
        and record["outs"] == [content_digest(path) for path in job.outs]
    )


def _start(job: Job, fingerprint: str, record: Mapping[str, Any], machine: str, start: Start) -> _Running:
    earlier: float | None = 0.0
    if record.get("fingerprint") == fingerprint and record["state"] != "done":  # it resumes
        earlier = record["seconds"]
    _write_record(job, fingerprint=fingerprint, state="running", seconds=None, machine=machine, outs=[])
    job.log.write_bytes(b"")  # it may be killed before it writes to it
    return _Running(job, fingerprint, start(job), machine, time.monotonic(), earlier)


def _end(running: Sequence[_Running], say: Say) -> None:
    """Ask jobs to stop, and wait for them; where waiting is interrupted by a second signal they are killed."""
    try:
        for each in running:
            each.process.terminate()
        if running:
            say(f"stopping {', '.join(each.job.name for each in running)}")
        for each in running:
            each.process.join()
            each.finish("interrupted")
    finally:
        for each in running:
            each.process.kill()  # nothing where it has ended
            each.process.join()


def _tell(job: Job, code: int, say: Say) -> None:
    lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()
    tail = "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])
    say(f"{job.name}: exit code {code}; the end of {job.log}:\n{tail}")


def _write_record(job: Job, **values: object) -> None:
    write_text_whole(job.record, json.dumps(values, indent=1) + "\n")


def _read_record(job: Job) -> dict[str, Any]:
    """Empty where there is no readable record: the job then runs."""
    try:
        record = json.loads(job.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and {"fingerprint", "state", "seconds", "outs"} <= record.keys() else {}
