"""Independent jobs in a few processes of this machine, for what needs no cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import cv2

from pipeline.core.errors import EnvironmentProblem

Job = TypeVar("Job")
Result = TypeVar("Result")


def default_processes() -> int:
    """As many processes as this process may use cores, at most eight."""
    return min(8, len(os.sched_getaffinity(0)))


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, num_processes: int
) -> Generator[tuple[Job, Result], None, None]:
    """Yield each job with its result, in the order of the jobs; with one process, in this one.

    The function is a module's, and its jobs and results can be pickled. Closing the iterator lets the running jobs end
    and drops the others. Raises EnvironmentProblem when a process is killed from outside.
    """
    if num_processes == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, function(job)
        return
    executor = ProcessPoolExecutor(
        min(num_processes, len(jobs)), mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_process
    )
    try:
        yield from zip(jobs, executor.map(function, jobs), strict=True)
    except BrokenProcessPool:
        raise EnvironmentProblem(
            "a worker process was killed, perhaps for want of memory; finished work is kept",
            remedy="run the same command again, with --processes 1 if it happens again",
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _prepare_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    cv2.setNumThreads(1)
