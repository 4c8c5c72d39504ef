"""Starts a job's command in a fork of a process that has imported torch and the stages' libraries already.

A training of the demo takes 100 seconds, and 4 of them are imports (LOG.md): a fork has them at once. It is a process
as `python -m stages` is, with a session, a log and an environment of its own, and gives the same bytes.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

from pipeline.tools.study.jobs import Job, Start

# What the stages of a study import that takes long, also only when they train: torch's optimisers import torch._dynamo.
# A name that is wrong here costs time alone. None of them starts a thread, which a fork would not have.
PRELOADED = (
    "pipeline.enhance.apply",
    "pipeline.enhance.fit",
    "pipeline.train.run",
    "pipeline.distill.student.cached_targets",
    "pipeline.distill.student.loss",
    "pipeline.distill.teacher.precompute",
    "pipeline.evaluate.score.scoring",
    "numpy.random",
    "torch._dynamo",
    "rich.progress",
    "typer.main",
)


@contextmanager
def forking(threads: int) -> Iterator[Start]:
    """Yields what starts jobs; each has that many threads of the CPU, which libraries read when they are imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])

    def start(job: Job) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=run_module, args=(job.command, dict(job.environment), job.log))
        process.start()
        return process

    with _environment(OMP_NUM_THREADS=str(threads)):  # all the time: a server that was killed is started again
        with _deaf_to_the_group():
            forkserver.ensure_running()
        yield start


def run_module(command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """As `python -m` with these words, in this process: its output goes to the log, and it ends as that would."""
    os.setsid()  # what a terminal sends reaches the study alone, which passes on one signal
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # if it came already, it waited
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for output in (1, 2):
        os.dup2(descriptor, output)
    os.environ.update(environment)
    module, *sys.argv[1:] = command
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """These variables for what starts in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _deaf_to_the_group() -> Iterator[None]:
    """What starts in the block outlives a signal to all processes of the group; the study is told, too, and ends it.

    Ctrl-C and a hangup are ignored. SIGTERM is blocked, so that none is lost that the study sends to a fork: it is
    held until the fork asks for it.
    """
    resource_tracker.ensure_running()  # it would start with the server, and unblock
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        for number, handler in handlers.items():
            signal.signal(number, handler)
