"""Tasks on workers: the results in order, errors as themselves, nothing left running."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from distributed import Future
from paths import ROOT
from waiting import wait_for

from pipeline.core.errors import DataError, EnvironmentProblem, Interrupted, StaleArtifactError
from stages import _cluster
from stages._cluster import map_tasks


def square(number):
    if number < 0:
        raise StaleArtifactError(f"{number} is below 0", findings=["a", "b"], remedy="use another")
    return number * number


def square_or_die(number):
    if number == 3:
        os._exit(9)
    return number * number


def sleep(folder):
    Path(folder, f"{os.getpid()}.pid").touch()
    time.sleep(60)


def go_on():
    return None


def run_map(function, tasks, *, stop=go_on, **options):
    heard = []
    results = map_tasks(
        function, tasks, name="task {}".format, done=lambda task, _: heard.append(task), stop=stop, **options
    )
    assert sorted(heard) == sorted(tasks)
    return results


def test_one_worker_is_this_process():
    assert run_map(square, [3, 1, 2], num_workers=1) == [9, 1, 4]
    assert run_map(lambda _: os.getpid(), [0], num_workers=8) == [os.getpid()]
    assert run_map(square, []) == []


def test_here_too_the_others_finish_before_the_first_error_is_raised():
    heard = []
    with pytest.raises(StaleArtifactError, match="-1 is below 0"):
        map_tasks(square, [1, -1, 2, -2], name=str, done=lambda task, _: heard.append(task), stop=go_on, num_workers=1)
    assert heard == [1, 2]


def test_a_stop_is_noticed_between_tasks():
    heard = []

    def stop():
        if heard:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        map_tasks(square, [1, 2], name=str, done=lambda task, _: heard.append(task), stop=stop, num_workers=1)
    assert heard == [1]


def test_on_two_processes_errors_come_back_as_themselves_after_the_others():
    heard = []
    tasks = [5, -1, 4, -2, *range(6, 12)]
    with pytest.raises(StaleArtifactError, match="-1 is below 0") as error:
        map_tasks(square, tasks, name=str, done=lambda task, _: heard.append(task), stop=go_on, num_workers=2)
    assert error.value.findings == ("a", "b")
    assert error.value.remedy == "use another"
    assert sorted(heard) == sorted(task for task in tasks if task >= 0)


def test_a_result_that_comes_late_is_waited_for(monkeypatch):
    late = [TimeoutError, UnboundLocalError]  # the second is distributed's own, where a cancellation wins the race
    fetch = Future.result

    def result(future, timeout=None):
        if late:
            raise late.pop()
        return fetch(future, timeout=timeout)

    monkeypatch.setattr(Future, "result", result)
    assert run_map(square, [3, 1, 2], num_workers=2) == [9, 1, 4]
    assert not late


def test_an_absent_scheduler_is_a_problem_of_the_environment(monkeypatch):
    monkeypatch.setattr("stages._cluster.CONNECT_SECONDS", 0.5)
    with pytest.raises(EnvironmentProblem, match="no dask scheduler answers at tcp://127"):
        run_map(square, [1, 2], scheduler="tcp://127.0.0.1:9")


@dataclass(frozen=True)
class Shard:
    shard: int
    videos: tuple = ("a",)


@dataclass(frozen=True)
class Timed:
    seconds: dict


def take_over_the_first(task):
    return Timed({} if task.shard < 5 else {"work": 1.0})


def test_what_was_taken_over_does_not_count_in_the_rate(capfd, monkeypatch):
    """Five of six shards take no time: the rate is that of the sixth."""
    seconds = iter(range(0, 600, 10))
    monkeypatch.setattr("stages._shell.time.monotonic", lambda: next(seconds))
    run = _cluster.shard_runner("enhance", num_workers=1, scheduler=None, stop=go_on)
    run(take_over_the_first, [Shard(number) for number in range(6)])
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith("enhance: 6/6 videos, ")
    assert "videos/s" not in lines[-2]
    assert "s/video" in lines[-1]


@pytest.mark.slow
def test_results_come_in_the_order_of_the_tasks():
    assert run_map(square, list(range(20)), num_workers=2) == [number * number for number in range(20)]


def new_pages(megabytes):
    """Page faults of using and freeing that much memory a hundred times."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(100):
        np.empty(megabytes << 20, np.uint8)[::4096] = 1
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_workers_keep_freed_memory_for_the_next_allocation():
    pages_of_one = 4 * 2**20 // resource.getpagesize()
    assert max(run_map(new_pages, [4, 4], num_workers=2)) < 3 * pages_of_one


@pytest.fixture
def one_worker():
    """The address of a scheduler that has one."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, scheduler_kwargs={"dashboard_address": "127.0.0.1:0"}
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.slow
def test_an_existing_scheduler_does_the_work(one_worker):
    assert run_map(square, [1, 2, 3], scheduler=one_worker) == [1, 4, 9]


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_a_problem_of_the_environment(cluster):
    scheduler, address = cluster.start_scheduler()
    asked = time.monotonic()

    def stop():
        if time.monotonic() - asked > 2:
            scheduler.kill()

    with pytest.raises(EnvironmentProblem, match="scheduler went away"):
        run_map(square, [1, 2], scheduler=address, stop=stop)


@pytest.mark.slow
def test_a_cluster_without_this_package_is_found_before_work_starts(cluster, monkeypatch):
    monkeypatch.setattr(_cluster._is_here, "__module__", "not_installed_there")
    monkeypatch.setitem(sys.modules, "not_installed_there", _cluster)
    _, address = cluster.start_scheduler(python_path=str(ROOT))
    with pytest.raises(EnvironmentProblem, match="cannot import this package"):
        run_map(square, [1, 2], scheduler=address)


@pytest.mark.slow
def test_a_task_that_kills_its_workers_is_named_and_the_others_finish():
    assert done_beside_a_killer(list(range(8)), num_workers=2) == [0, 1, 2, 4, 5, 6, 7]


@pytest.mark.slow
def test_a_task_that_waits_behind_it_on_the_same_worker_finishes_too(one_worker):
    """The scheduler blames all that a worker had when it died."""
    assert done_beside_a_killer([3, 4], scheduler=one_worker) == [4]


def done_beside_a_killer(tasks, **options):
    """The tasks that are done, sorted, where task 3 kills each worker that takes it."""
    heard = []
    with pytest.raises(EnvironmentProblem, match="task 3: each worker that took it died"):
        map_tasks(
            square_or_die,
            tasks,
            name="task {}".format,
            done=lambda task, _: heard.append(task),
            stop=go_on,
            **options,
        )
    return sorted(heard)


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from pipeline.core.errors import Interrupted
from pipeline.core.progress import interruptible
from stages._cluster import map_tasks
import test_cluster

if __name__ == "__main__":
    try:
        with interruptible() as stop:
            map_tasks(test_cluster.sleep, [{folder!r}] * 2, name=str, done=print, stop=stop, num_workers=2)
    except Interrupted as error:
        sys.exit(error.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
)
def test_no_worker_outlives_a_stage_that_is_killed(tmp_path, number, exit_code):
    script, paths = tmp_path / "script.py", [str(ROOT / name) for name in ("", "tests/helpers", "tests/stages")]
    script.write_text(SCRIPT.format(paths=paths, folder=str(tmp_path)))
    with (tmp_path / "err").open("w") as err:
        stage = subprocess.Popen([sys.executable, script], stderr=err, start_new_session=True)
    workers = wait_for(lambda: [int(path.stem) for path in tmp_path.glob("*.pid")], lambda pids: len(pids) == 2)
    by_terminal = number in (signal.SIGINT, signal.SIGHUP)  # which reach them all
    for process in [stage.pid, *(workers if by_terminal else [])]:
        os.kill(process, number)
    assert stage.wait(timeout=60) == exit_code
    wait_for(lambda: [pid for pid in workers if is_running(pid)], lambda running: not running)
    if number != signal.SIGKILL:
        assert (tmp_path / "err").read_text() == ""


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_errors_keep_their_kind_when_pickled():
    error = pickle.loads(pickle.dumps(DataError("a", findings=["b"], remedy="c")))
    assert (str(error), error.findings, error.remedy) == ("a\n  - b\nhelp: c", ("b",), "c")
