"""Tasks on many workers: in this process, a local cluster, or an existing dask scheduler.

The only module that imports distributed, whose functions carry no types: hence the ignored calls.

A task may run twice (a lost worker's finished tasks run again): it writes whole files and returns little. Workers of an
existing cluster need this package, the same Python and the project's files under the same absolute paths.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Annotated, Any, TypeVar

import typer

from pipeline.core.errors import DlkddError, EnvironmentProblem, out_of_memory
from pipeline.core.progress import StopCheck
from pipeline.data.shards import RunTasks, ShardReport, ShardTask
from stages._memory import keep_freed_memory
from stages._shell import progress

Task = TypeVar("Task")
Result = TypeVar("Result")

WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes on this machine.", show_default="as many as CPUs")
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler", envvar="DASK_SCHEDULER_ADDRESS", help="Address of a running dask scheduler, tcp://host:port."
    ),
]

CONNECT_SECONDS = 30
POLL_SECONDS = 0.5  # how soon a stop is noticed


def map_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    name: Callable[[Task], str],
    done: Callable[[Task, Result], None],
    stop: StopCheck,
    num_workers: int | None = None,
    scheduler: str | None = None,
) -> list[Result]:
    """The function's result for each task, in the order of the tasks.

    Runs on the scheduler of that address; else on `num_workers` processes (as many as CPUs), or in this process where
    one is enough. `function` must be importable and the tasks picklable. `done` hears of each task as it ends, `stop`
    may raise between tasks. A failing task does not keep the others from finishing; then the first error in task order
    is raised: the task's own, or EnvironmentProblem with the `name` of a task whose workers all died.
    """
    num_workers = min(num_workers or len(os.sched_getaffinity(0)), len(tasks))
    results: dict[int, Result] = {}
    errors: dict[int, BaseException] = {}
    with ExitStack() as stack:
        if scheduler is None and num_workers <= 1:
            outcomes = _run_here(function, tasks, name, stop)
        else:
            client = stack.enter_context(_connected(scheduler, num_workers))
            outcomes = _run_there(client, function, tasks, name, stop)
        for number, outcome in outcomes:
            if isinstance(outcome, BaseException):
                errors[number] = outcome
            else:
                results[number] = outcome
                done(tasks[number], outcome)
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(tasks))]


def shard_runner(stage: str, *, num_workers: int | None, scheduler: str | None, stop: StopCheck) -> RunTasks:
    """`map_tasks` for the shards of a stage, with its progress shown in videos."""

    def run(function: Callable[[Any], ShardReport], tasks: Sequence[ShardTask]) -> list[ShardReport]:
        with progress(stage, sum(len(task.videos) for task in tasks), "videos") as advance:

            def done(task: ShardTask, report: ShardReport) -> None:
                advance(len(task.videos), f"shard {task.shard}", earlier=not report.seconds)

            options: dict[str, Any] = {"num_workers": num_workers, "scheduler": scheduler}
            return map_tasks(function, tasks, name=str, done=done, stop=stop, **options)

    return run


def _run_here(
    function: Callable[[Task], Result], tasks: Sequence[Task], name: Callable[[Task], str], stop: StopCheck
) -> Iterator[tuple[int, Result | BaseException]]:
    """The number of each task with its result or error, as it ends."""
    for number, task in enumerate(tasks):
        stop()
        outcome: Result | BaseException | None
        try:
            outcome = function(task)
        except Exception as error:
            outcome = error if isinstance(error, DlkddError) else out_of_memory(error, name(task))
            if outcome is None:
                raise
        yield number, outcome


def _run_there(
    client: Any,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    name: Callable[[Task], str],
    stop: StopCheck,
) -> Iterator[tuple[int, Result | BaseException]]:
    """The same on the workers of a scheduler.

    The scheduler blames all tasks that a worker had when it died, so what died is tried once more, alone. Where several
    at a time were too much for the memory, that helps, too.
    """
    from distributed import KilledWorker, wait
    from distributed.comm.core import CommClosedError

    call = partial(_run_in_worker, function)
    futures = client.map(call, tasks, pure=False, retries=0)
    number_of = {future: number for number, future in enumerate(futures)}
    pending = set(futures)
    suspects: list[int] = []
    alone = False
    try:
        while pending or suspects:
            if not pending:
                alone, number = True, suspects.pop()
                pending = {client.submit(call, tasks[number], pure=False, retries=0)}
                number_of = dict.fromkeys(pending, number)
            stop()
            try:
                finished, pending = wait(pending, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")  # type: ignore[no-untyped-call]
            except TimeoutError:
                continue
            for future in finished:
                number = number_of[future]
                if future.status == "error":
                    if not alone and isinstance(future.exception(), KilledWorker):
                        suspects.append(number)
                    else:
                        yield number, _error_of(future, name(tasks[number]))
                    continue
                try:
                    yield number, future.result(timeout=POLL_SECONDS)
                except (TimeoutError, UnboundLocalError):
                    # a busy machine, or its worker died before the result came over, and the task runs again; the
                    # second error is distributed's, where the end of its waiting is a cancellation
                    pending.add(future)
    except (CancelledError, CommClosedError):
        raise EnvironmentProblem(
            "the dask scheduler went away", remedy="start it and run the same command again: it goes on from here"
        ) from None


def _run_in_worker(function: Callable[[Task], Result], task: Task) -> Result:
    keep_freed_memory()
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)  # there is a process for each core
    return function(task)


def _error_of(future: Any, name: str) -> BaseException:
    from distributed import KilledWorker

    error: BaseException = future.exception()
    if isinstance(error, KilledWorker):
        return EnvironmentProblem(
            f"{name}: each worker that took it died, {error.last_worker.address} last; the other tasks are done",
            remedy="memory is the usual reason: look for out-of-memory kills, then try again with fewer --workers",
        )
    return out_of_memory(error, name) or error


@contextmanager
def _connected(scheduler: str | None, num_workers: int) -> Iterator[Any]:
    """A client of that scheduler, or of a local cluster that ends with the block, and with this process if killed."""
    # Here and below rather than on top: a stage that runs in one process need not wait a second for dask
    import dask

    # Before distributed reads it: then a server imports distributed once and forks the workers
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.ERROR)
    with ExitStack() as stack:
        if scheduler is not None:
            try:
                client = stack.enter_context(
                    Client(scheduler, timeout=CONNECT_SECONDS)  # type: ignore[no-untyped-call]
                )
            except (OSError, ValueError) as error:
                raise EnvironmentProblem(
                    f"no dask scheduler answers at {scheduler}: {error}",
                    remedy="check --scheduler and DASK_SCHEDULER_ADDRESS; without them the stage uses this machine",
                ) from None
            _check_packages(client, scheduler)
        else:
            cluster = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=num_workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=None,  # tasks stream; dask's own limit would pause them for the page cache's sake
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # else a second run finds port 8787 in use
                silence_logs=logging.CRITICAL,
            )
            client = stack.enter_context(Client(stack.enter_context(cluster)))  # type: ignore[no-untyped-call]
            client.run(_ignore_the_terminal)
        yield client


def _check_packages(client: Any, scheduler: str) -> None:
    """Raise EnvironmentProblem where scheduler or workers lack this package."""
    try:
        client.run_on_scheduler(_is_here)
        client.run(_is_here)
    except Exception as error:  # whatever unpickling raises there
        raise EnvironmentProblem(
            f"the scheduler at {scheduler} or its workers cannot import this package: {error}",
            remedy="install the same version of it there, in the same Python",
        ) from None


def _is_here() -> None:
    """Does nothing: the question is whether it can be imported."""


def _ignore_the_terminal() -> None:
    """In a worker: Ctrl-C and a hangup go to all processes, but the stage decides when its workers end."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
