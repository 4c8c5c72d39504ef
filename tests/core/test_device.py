"""Ranks share tasks, and none waits for one that is gone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from paths import ROOT

from pipeline.core.device import Ranks, choose_device, machine_name, process_group
from pipeline.core.errors import EnvironmentProblem, ParamsError
from stages.precompute_soft_targets import main

SCRIPT = """
import os, sys, time
from pathlib import Path
from pipeline.core.errors import DlkddError, ParamsError
from pipeline.core.progress import interruptible
from pipeline.core.device import process_group

what, folder = sys.argv[1], Path(sys.argv[2])

def square(number):
    (folder / f"{number}.begun").touch()
    if what == "wait":
        time.sleep(0.5)
    if what == "fail" and number == 1:
        raise ParamsError("1 is refused")
    if what == "die" and number == 1:
        os.kill(os.getpid(), 9)
    return number ** 2

try:
    with process_group() as ranks, interruptible() as stop:
        if what == "refuse" and ranks.index == 0:
            raise ParamsError("all is refused")
        own = ranks.broadcast(list(range(50 if what == "wait" else 5)), stop=stop)[ranks.index::ranks.count]
        results = ranks.run(square, own, done=lambda number: None, stop=stop)
        (folder / f"{ranks.index}.done").write_text(f"{own} {sorted(results)}")
except DlkddError as error:
    (folder / f"{os.environ['RANK']}.error").write_text(f"{type(error).__name__} {error.exit_code} {error}")
    sys.exit(error.exit_code)
"""


def start(folder, what):
    (folder / "script.py").write_text(SCRIPT)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3",
        folder / "script.py", what, folder,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def texts(folder, suffix):
    return [path.read_text() for path in sorted(folder.glob(f"*.{suffix}"))]


@pytest.mark.parametrize("name", ["toaster", "cuda:x", "mps", "meta"])
def test_other_devices_are_refused(name):
    """Also those that PyTorch has a name for, and the stages nothing to do with."""
    with pytest.raises(ParamsError, match=f"--device {name}: expected cpu, cuda, cuda:N or auto"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:256", "cuda:999"])
def test_a_gpu_that_is_not_there_is_not_taken_for_another(name):
    """PyTorch's numbers of devices have eight bits."""
    with pytest.raises(EnvironmentProblem, match=f"--device {name}: PyTorch .* sees [0-9]+ CUDA devices"):
        choose_device(name)


def test_the_machine_is_named_by_processor_instructions_and_torch():
    processor, _, version = machine_name(torch.device("cpu")).rpartition(", ")
    assert version == f"torch {torch.__version__}"
    assert processor.endswith(f" ({torch.backends.cpu.get_cpu_capability()})")
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        assert processor.rpartition(" (")[0] in cpuinfo.read_text()


def test_a_gpu_is_named_without_being_opened():
    assert re.fullmatch(f"(a GPU|NVIDIA .+), torch {re.escape(torch.__version__)}", machine_name(torch.device("cuda")))


def test_without_torchrun_there_is_one():
    with process_group() as ranks:
        assert ranks == Ranks(0, 1)


@pytest.mark.slow
def test_every_rank_gets_its_share_and_all_results(tmp_path):
    assert start(tmp_path, "square").wait(timeout=120) == 0
    results = [0, 1, 4, 9, 16]
    assert texts(tmp_path, "done") == [f"[0, 3] {results}", f"[1, 4] {results}", f"[2] {results}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "own"), [("fail", "ParamsError 2 1 is refused"), ("refuse", "ParamsError 2 all is refused"), ("die", None)]
)
def test_an_error_of_one_rank_ends_all(tmp_path, what, own):
    assert start(tmp_path, what).wait(timeout=120) != 0
    told = texts(tmp_path, "error")
    assert texts(tmp_path, "done") == []
    assert [text for text in told if text.startswith("ParamsError")] == ([own] if own else [])
    # torchrun may stop the others before they notice
    other = ("EnvironmentProblem 4 another rank ended", "Interrupted 143")
    assert sum(text.startswith(other) for text in told) == 2


@pytest.mark.slow
def test_a_signal_waits_for_a_safe_point_on_every_rank(tmp_path):
    process = start(tmp_path, "wait")
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.begun"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    assert [text.split(" interrupted")[0] for text in texts(tmp_path, "error")] == ["Interrupted 143"] * 3


def test_dask_and_torchrun_are_not_mixed(monkeypatch, tmp_path):
    monkeypatch.setattr("stages.precompute_soft_targets.process_group", lambda: nullcontext(Ranks(0, 2)))
    paths = {"manifest_path": tmp_path, "frames_path": tmp_path, "teacher_path": tmp_path, "out": tmp_path / "out"}
    for options in ({"workers": 2}, {"scheduler": "tcp://localhost:1"}):
        with pytest.raises(ParamsError, match="torchrun among its own"):
            main(**paths, **options)
