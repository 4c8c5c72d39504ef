"""Jobs run when what they wait for is there, run again only where something changed, and survive interrupts."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.core.errors import DlkddError, Interrupted
from pipeline.tools.study.jobs import Job, run_jobs


@pytest.fixture
def shell(tmp_path):
    """Makes jobs of shell commands that note their runs in `runs`; $out and $in are the out and the inputs."""

    def job(name, script, *inputs, **identity):
        out = tmp_path / f"{name}.out"
        command = ("/bin/sh", "-c", f"echo {name} >> {tmp_path}/runs; {script}")
        return Job(
            name,
            command,
            identity=identity,
            inputs={str(number): path for number, path in enumerate(inputs)},
            outs=(out,),
            folder=tmp_path / "steps" / name,
            environment={"out": str(out), "in": " ".join(map(str, inputs))},
        )

    return job


class Shell:
    """A shell's process, as multiprocessing has them."""

    def __init__(self, job):
        with job.log.open("wb") as log:
            environment = {**os.environ, **job.environment}
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(job.command, env=environment, start_new_session=True, **options)
        self.terminate, self.kill = self.process.terminate, self.process.kill

    @property
    def exitcode(self):
        return self.process.poll()

    def join(self):
        self.process.wait()


@pytest.fixture
def run(tmp_path):
    """Runs jobs and returns which of them ran, in order; raises the error of those that failed."""

    def run(*jobs, at_once=1, stop=lambda: None):
        runs = tmp_path / "runs"
        runs.write_text("")
        how = {"start": Shell, "at_once": at_once, "machine": run.machine, "say": run.said.append, "stop": stop}
        outcome = run_jobs(jobs, **how, advance=lambda *_, **__: None)
        run.seconds, run.machines = outcome.seconds, outcome.machines
        if outcome.error is not None:
            raise outcome.error
        return runs.read_text().split()

    run.said, run.machine = [], "this machine"
    return run


@pytest.fixture
def chain(shell, tmp_path):
    """Two jobs of which the second reads what the first makes of a file: its first letter."""
    source = tmp_path / "source"
    source.write_text("apple")
    first = shell("first", "cut -c1 $in > $out", source)
    second = shell("second", "cat $in $in > $out", *first.outs)
    return source, first, second


def record(job):
    return json.loads(job.record.read_text())


def test_a_job_waits_for_what_it_reads_wherever_it_stands(run, chain):
    _, first, second = chain
    assert run(second, first, at_once=2) == ["first", "second"]
    assert second.outs[0].read_text() == "a\na\n"
    assert set(run.seconds) == {"first", "second"}


def test_what_is_done_does_not_run_again(run, chain):
    _, first, second = chain
    run(first, second)
    before = run.seconds
    assert run(first, second) == []
    assert run.seconds == before


def test_an_input_that_changed_runs_what_it_changes(run, chain):
    source, first, second = chain
    run(first, second)
    source.write_text("banana")
    assert run(first, second) == ["first", "second"]
    source.write_text("berry")  # the first one's out stays as it is
    assert run(first, second) == ["first"]


@pytest.mark.parametrize("damage", ["edited", "removed"])
def test_an_out_that_is_not_what_was_made_is_made_again(run, chain, damage):
    _, first, second = chain
    run(first, second)
    first.outs[0].write_text("z\n") if damage == "edited" else first.outs[0].unlink()
    assert run(first, second) == ["first"]
    assert first.outs[0].read_text() == "a\n"


def test_another_identity_runs_the_job(run, chain):
    _, first, second = chain
    run(first, second)
    assert run(first, replace(second, identity={"temperature": 4})) == ["second"]


def test_a_damaged_record_is_none(run, chain):
    _, first, second = chain
    run(first, second)
    first.record.write_text("{")
    assert run(first, second) == ["first"]


def test_a_store_is_known_by_its_index(run, shell, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (store / "index.csv").write_text("1")
    reader = shell("reader", "echo > $out", store)
    assert run(reader) == ["reader"]
    (store / "index.csv").write_text("2")
    assert run(reader) == ["reader"]


def test_a_folder_without_an_index_is_known_by_all_its_files(run, shell, tmp_path):
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    reader = shell("reader", "echo > $out", folder)
    assert run(reader) == ["reader"]
    assert run(reader) == []
    (folder / "a/model").write_text("2")
    assert run(reader) == ["reader"]


def test_a_failure_keeps_back_what_waits_for_it_and_nothing_else(run, chain, shell, tmp_path):
    _, first, second = chain
    broken = replace(first, command=("/bin/sh", "-c", "seq 100; echo the reason >&2; exit 5"))
    other = shell("other", "echo > $out")
    with pytest.raises(DlkddError, match="failed") as caught:
        run(broken, second, other)
    assert caught.value.exit_code == 5
    assert "1 step failed; 1 that wait for them did not start\n  - first: exit code 5" in str(caught.value)
    assert (tmp_path / "runs").read_text().split() == ["other"]
    (said,) = run.said
    assert "the reason" in said
    assert "  50\n" not in said  # the tail alone
    assert run(first, second, other) == ["first", "second"]


def test_the_exit_code_is_that_of_the_first_failure(run, shell):
    with pytest.raises(DlkddError, match="failed") as caught:
        run(shell("a", "kill -9 $$"), shell("b", "exit 3"))
    assert caught.value.exit_code == 128 + 9


def test_a_process_that_ends_before_its_first_word_is_told_without_an_older_ones(run, shell):
    job = shell("killed", "echo older; exit 1")
    with pytest.raises(DlkddError, match="failed"):
        run(job)
    how = {"at_once": 1, "machine": "", "say": run.said.append, "stop": lambda: None, "advance": lambda *_, **__: None}
    for each in (job, shell("killed at first", "true")):
        assert run_jobs([each], start=lambda _: SimpleNamespace(exitcode=-9), **how).failed == {each.name: 128 + 9}
        assert f"the end of {each.log}:\n" in run.said[-1]
        assert "older" not in run.said[-1]


def test_success_without_an_out_is_none(run, shell):
    silent = shell("silent", "true")
    with pytest.raises(DlkddError, match="failed"):
        run(silent)
    assert record(silent)["state"] == "failed"


WAIT_FOR = "n=0; while [ ! -e {} ] && [ $n -lt 100 ]; do sleep 0.05; n=$((n+1)); done; [ -e {} ] && echo > $out"


def test_as_many_run_at_once_as_told(run, shell, tmp_path):
    there = {name: tmp_path / f"{name}.there" for name in "ab"}

    def jobs():
        scripts = {"a": there["b"], "b": there["a"]}  # each waits for the other to begin
        return [shell(name, f"touch {there[name]}; {WAIT_FOR.format(*[path] * 2)}") for name, path in scripts.items()]

    assert sorted(run(*jobs(), at_once=2)) == ["a", "b"]
    for path in there.values():
        path.unlink()
    quick = shell(
        "a", f"touch {there['a']}; [ ! -e {there['b']} ] && echo > $out; sleep 0.2; [ ! -e {there['b']} ]", x=1
    )
    assert run(quick, shell("b", f"touch {there['b']}; echo > $out", x=1), at_once=1) == ["a", "b"]


@pytest.fixture
def slow(shell, tmp_path):
    """A job that saves when it is asked to stop, and ends at once where it has saved."""
    saved, begun = tmp_path / "saved", tmp_path / "begun"
    script = (
        f"[ -e {saved} ] && echo > $out && exit 0; trap 'echo > {saved}; exit 143' TERM; "
        f"echo $$ > {begun}.new; mv {begun}.new {begun}; while true; do sleep 0.05; done"
    )
    return shell("slow", script), begun, saved


def stop_when(path):
    def stop():
        if path.exists():
            raise Interrupted(15)

    return stop


def test_an_interrupt_lets_jobs_save_and_the_next_run_goes_on(run, slow):
    job, begun, saved = slow
    with pytest.raises(Interrupted) as caught:
        run(job, stop=stop_when(begun))
    assert caught.value.exit_code == 143
    assert saved.exists()
    assert run.said == ["stopping slow"]
    found = record(job)
    assert found["state"] == "interrupted"
    assert found["seconds"] > 0
    job.record.write_text(json.dumps({**found, "seconds": 3600.0}))
    assert run(job) == ["slow"]
    assert 3600 <= run.seconds["slow"] < 3660


def test_a_job_keeps_the_machine_that_it_ran_on(run, chain):
    _, first, second = chain
    run(first, second)
    run.machine = "another machine"
    first.record.unlink()
    assert run(first, second) == ["first"]
    assert run.machines == {"first": "another machine", "second": "this machine"}
    older = record(second)
    del older["machine"]
    second.record.write_text(json.dumps(older))
    assert run(first, second) == []
    assert run.machines["second"] is None


def test_no_process_is_left_when_even_waiting_is_interrupted(run, slow, monkeypatch):
    job, begun, _ = slow
    stubborn = replace(job, command=("/bin/sh", "-c", job.command[2].replace("trap", "trap '' TERM; : ")))
    calls = []

    def impatient(self, timeout=None):
        calls.append(timeout)
        if len(calls) == 1:
            raise Interrupted(2)  # the second Ctrl-C, while the job is waited for
        return wait(self, timeout)

    wait = subprocess.Popen.wait
    monkeypatch.setattr(subprocess.Popen, "wait", impatient)
    with pytest.raises(Interrupted):
        run(stubborn, stop=stop_when(begun))
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
    monkeypatch.undo()
    assert record(job)["state"] == "running"


def test_the_time_is_unknown_where_a_run_was_killed_with_this_process(run, chain):
    _, first, second = chain
    run(first, second)
    first.record.write_text(json.dumps({**record(first), "state": "running", "seconds": None}))
    assert run(first, second) == ["first"]
    assert run.seconds["first"] is None
    assert run.seconds["second"] is not None
