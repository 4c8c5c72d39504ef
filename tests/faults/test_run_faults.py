"""What happens to runs beside SIGKILL: signals, locks, lost helpers, want of memory, a clock that jumps."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from killed_runs import COMMANDS, Bench, Command
from stage_server import Fault, Started
from tiny_project import contents

# the fifth is train_teacher_folds, which ends at once where there are no folds
PREPARE, FIT, ENHANCE, TEACHER, _, ASK, STUDENT, BASELINE, *SHORT = COMMANDS.values()
LONG_STAGES = (PREPARE, FIT, ENHANCE, TEACHER, ASK, STUDENT, BASELINE)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STARTED = 15  # calls after which every long stage is at its work
PARTS_DONE = 25  # calls after which precompute is at its last part: it then stops no more, but ends
with_stage = pytest.mark.parametrize("command", LONG_STAGES, ids=lambda command: command.name)


def options_of(command: Command) -> tuple[str, ...]:
    return ("--checkpoint-seconds", "0") if command.trains else ()


def draw_call(bench: Bench, command: Command, rng: np.random.Generator) -> int:
    """One of the calls that change files while a stage is at its work."""
    whole = PARTS_DONE if command is ASK else bench.runs[command.name].calls
    return int(rng.integers(STARTED, max(whole, STARTED + 1) + 1))


# signals


@pytest.mark.fault("Runs", "SIGTERM, Ctrl-C, a lost terminal in a long stage", "R")
@with_stage
def test_a_signal_saves_the_progress_and_the_run_goes_on(bench, command, scale, cases):
    rng = np.random.default_rng([11, len(command.name)])
    bench, num_cases, num_interrupted = bench(0), scale(3, 18), 0
    for number in range(num_cases):
        case = bench.begin(command, with_old=bool(rng.integers(2)))
        sent = SIGNALS[number % 3]
        fault = Fault("signal", draw_call(bench, command, rng), error=sent)
        ended = bench.run(command, fault, options=options_of(command))
        assert ended.code in (0, 128 + sent), ended.err  # 0: it came after the last moment to stop
        if ended.code:
            num_interrupted += 1
            assert "error: interrupted; the progress is saved, and the same command goes on from here" in ended.err
        case.check_outs()
        case.finish()
    cases(num_cases)
    assert num_interrupted


@pytest.mark.fault("Runs", "a second signal", "R")
@with_stage
def test_a_second_signal_ends_it_at_once(bench, command, scale, cases):
    rng = np.random.default_rng([13, len(command.name)])
    bench = bench(0)
    for number in range(scale(1, 6)):
        case = bench.begin(command, with_old=bool(rng.integers(2)))
        sent = SIGNALS[(number + len(command.name)) % 3]
        at = draw_call(bench, command, rng) if command in (PREPARE, ENHANCE) else STARTED
        ended = bench.run(command, Fault("two signals", at, error=sent), options=options_of(command))
        assert ended.code == 128 + sent, ended.err
        assert ended.calls < at + 20  # what cleaning up takes
        case.check_outs()
        case.finish()
    cases(scale(1, 6))


@pytest.mark.fault("Runs", "SIGTERM, Ctrl-C, a lost terminal in a short stage", "R")
@pytest.mark.parametrize("command", SHORT, ids=lambda command: command.name)
def test_a_signal_ends_a_short_stage_and_leaves_nothing_half_written(bench, command, scale, cases):
    rng = np.random.default_rng([17, len(command.name)])
    bench = bench(0)
    for number in range(scale(1, 6)):
        case = bench.begin(command, with_old=bool(rng.integers(2)))
        sent = SIGNALS[(number + len(command.name)) % 3]
        at = int(rng.integers(1, bench.runs[command.name].calls + 1))
        ended = bench.run(command, Fault("signal", at, error=sent))
        # a run that finds its folders needs fewer calls than the first one, and may end before the signal
        assert ended.code == (128 + sent if ended.calls >= at else 0), ended.err
        case.check_outs()
        assert not list(bench.project.rglob("*.partial"))
        case.finish()
    cases(scale(1, 6))


@pytest.mark.fault("Runs", "SIGTERM, a lost terminal to a training and its data loader", "R")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_data_loader_processes_leave_the_signal_to_the_training(bench, sent):
    bench = bench(0)
    case = bench.begin(BASELINE, with_old=False)
    ended = bench.run(BASELINE, Fault("signal", STARTED, error=sent), before=ONE_LOADER, options=OFTEN)
    assert ended.code == 128 + sent, ended.err
    assert "the progress is saved" in ended.err
    case.finish()


# two runs


def stopped(bench: Bench, command: Command) -> Started:
    """Start a run that stands still in the middle of its work."""
    started = bench.start(command, Fault("signal", STARTED, error=signal.SIGSTOP), options=options_of(command))
    deadline = time.monotonic() + 60
    while Path(f"/proc/{started.process}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return started


@pytest.mark.fault("Runs", "two runs of one stage", "E")
@pytest.mark.parametrize("same", [True, False], ids=["same parameters", "other parameters"])
@with_stage
def test_the_second_run_of_a_stage_is_told_who_is_at_work(bench, command, same):
    bench = bench(0)
    case = bench.begin(command, with_old=not same)
    first = stopped(bench, command)
    try:
        params = bench.other / "params.yaml"
        with_params = not same and command is not ENHANCE
        second = bench.run(command, options=("--params", str(params)) if with_params else ())
        assert second.code == 4, second.err
        assert f"process {first.process} on {socket.gethostname()} is already w" in second.err
    finally:
        os.kill(first.process, signal.SIGCONT)
        ended = bench.server.wait(first)
    assert ended.code == 0, ended.err
    case.check_end()


# what a run needs

OFTEN = ("--checkpoint-seconds", "0")
ONE_LOADER = """
from pipeline.data import dataset
load = dataset.load_batches
from pipeline.train import trainer as training
training.load_batches = lambda *arguments, **options: load(*arguments, **{**options, "num_workers": 1})
"""
NO_MEMORY = {
    "Python": "import numpy; lack = lambda: numpy.empty(1 << 60, numpy.uint8)",
    "PyTorch": "import torch; lack = lambda: torch.empty(1 << 50)",
    "the system": "import errno, os\ndef lack(): raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))",
}
AT_THE_THIRD_STEP = """
from pipeline.train.trainer import Trainer
step = Trainer._step
def third(self, *arguments):
    return lack() if self.progress.step == 2 else step(self, *arguments)
Trainer._step = third
"""
AT_A_VIDEO = """
from pipeline.videos import dark_shard
read = dark_shard.read_frames
def until(path, **options):
    if path.stem == "wave2":
        lack()
    return read(path, **options)
dark_shard.read_frames = until
"""


@pytest.mark.fault("Runs", "out of memory in a training", "E")
@pytest.mark.parametrize("whose", NO_MEMORY)
def test_a_training_without_memory_says_what_needs_less_and_goes_on(bench, whose):
    bench = bench(0)
    case = bench.begin(STUDENT, with_old=False)
    ended = bench.run(STUDENT, options=OFTEN, before=NO_MEMORY[whose] + AT_THE_THIRD_STEP)
    assert ended.code == 4, ended.err
    assert "error: memory ran out" in ended.err
    assert "batch_size" in ended.err
    assert "Traceback" not in ended.err
    assert "from the checkpoint" in case.finish().err


@pytest.mark.fault("Runs", "out of memory in a task", "E")
@pytest.mark.parametrize("whose", NO_MEMORY)
def test_a_task_without_memory_is_named_and_the_others_are_done(bench, whose):
    bench = bench(0)
    case = bench.begin(PREPARE, with_old=True)
    ended = bench.run(PREPARE, before=NO_MEMORY[whose] + AT_A_VIDEO)
    assert ended.code == 4, ended.err
    assert "error: shard 0" in ended.err or "error: shard 1" in ended.err
    assert "memory ran out" in ended.err
    assert "fewer --workers" in ended.err
    case.check_outs()
    again = case.finish()
    assert len({path for kind, path, _ in again.log if kind == "create" and ".h5." in path}) == 1


KILL_LOADER = f"""{ONE_LOADER}
import os, signal
parent, make = os.getpid(), dataset.read_view
def killed(*arguments, **options):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(*arguments, **options)
dataset.read_view = killed
"""


@pytest.mark.fault("Runs", "a data loader process killed", "E")
def test_a_lost_data_loader_is_a_problem_of_the_machine(bench):
    bench = bench(0)
    case = bench.begin(BASELINE, with_old=True)
    ended = bench.run(BASELINE, before=KILL_LOADER, options=OFTEN)
    assert ended.code == 4, ended.err
    assert "error: a data loader process was lost" in ended.err
    assert "num_workers" in ended.err
    case.check_outs()
    case.finish()


@pytest.mark.fault("Runs", "a full /dev/shm", "E")
def test_full_shared_memory_is_named(bench):
    """Full from the first clip on: where only labels find no room, PyTorch's queue prints a traceback and waits."""
    bench = bench(0)
    case = bench.begin(BASELINE, with_old=True)
    fault = Fault("fail", 1, error=errno.ENOSPC)
    ended = bench.run(BASELINE, fault, before=ONE_LOADER, options=OFTEN, root=Path("/dev/shm"))
    assert ended.code == 4, ended.err
    assert "No space left on device" in ended.err
    assert "/dev/shm" in ended.err
    case.check_outs()
    case.finish()


@pytest.mark.fault("Runs", "no GPU where one is asked for", "E")
@pytest.mark.parametrize("command", [FIT, TEACHER, ASK, STUDENT, BASELINE, SHORT[0]], ids=lambda command: command.name)
def test_without_a_gpu_nothing_begins(bench, command):
    bench = bench(0)
    case = bench.begin(command, with_old=True)
    ended = bench.run(command, options=("--device", "cuda:9"))
    assert ended.code == 4, ended.err
    assert "CUDA device" in ended.err
    assert {out: contents(bench.project, (out,)) for out in command.outs} == case.before


# the clock

JUMPING = """
import random, time
draw, now = random.Random(5), time.time
time.time = lambda: now() + draw.uniform(-20, 20) * 365 * 86400
"""


@pytest.mark.fault("Runs", "the clock jumps by years", "=")
@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_a_jumping_clock_changes_nothing(bench, command):
    bench = bench(0)
    case = bench.begin(command, with_old=False)
    ended = bench.run(command, before=JUMPING)
    assert ended.code == 0, ended.err
    case.check_end()
