"""However it was killed, and whoever helped, the stage ends with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from builders import VIEWS, one_thread, tiny_data  # noqa: F401 - a fixture
from paths import ROOT
from precompute_runs import compute, make_project
from target_stores import contents


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    return make_project(tmp_path, monkeypatch)


def start(folder, *options, pause_seconds=0.0):
    """The stage as a process of its own, two videos a part; it pauses before each batch."""
    code = (
        "import sys, time\n"
        "from pipeline.distill.teacher import bank, precompute\n"
        f"precompute.CLIPS_PER_PART = {2 * VIEWS.num_views}\n"
        "infer = bank.infer\n"
        "def paused(*arguments, **options):\n"
        f"    time.sleep({pause_seconds})\n"
        "    return infer(*arguments, **options)\n"
        "bank.infer = paused\n"
        "from stages.__main__ import main\n"
        "sys.argv[0] = 'dlkdd'\n"
        "main()\n"
    )
    command = [
        sys.executable, "-c", code, "precompute_soft_targets", "--manifest", "manifest.csv", "--frames", "frames",
        "--teacher", "teacher.safetensors", "--out", "killed.zarr", "--workers", "1", "--device", "cpu", *options,
    ]  # fmt: skip
    environment = {**os.environ, "DVC_ROOT": str(folder / "killed"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def whole_parts(folder):
    return len(list((folder / "killed").rglob("*.safetensors")))


@pytest.mark.slow
def test_killed_at_any_point_it_goes_on_and_ends_with_the_same_bytes(tmp_path):
    tiny_data(tmp_path, num_train=60, num_val=1, num_test=1, num_classes=3)
    expected = compute()
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(8):  # among the parts
        process = start(tmp_path, pause_seconds=0.02)
        enough = whole_parts(tmp_path) + rng.integers(1, 4)
        while whole_parts(tmp_path) < enough:
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.wait()
        seen.append(whole_parts(tmp_path))
        assert not (tmp_path / "killed.zarr").exists()
    assert seen == sorted(set(seen))  # each run went on where the one before it was
    assert seen[-1] < 30
    assert start(tmp_path).wait() == 0
    assert contents(tmp_path / "killed.zarr") == expected
    began = time.monotonic()
    start(tmp_path).wait()
    whole = time.monotonic() - began
    for _ in range(8):  # while it packs and publishes
        process = start(tmp_path)
        time.sleep(rng.uniform(0.5, 1.0) * whole)
        process.kill()
        process.wait()
        assert whole_parts(tmp_path) == 30
        if (tmp_path / "killed.zarr").exists():
            assert contents(tmp_path / "killed.zarr") == expected
    assert start(tmp_path).wait() == 0
    assert contents(tmp_path / "killed.zarr") == expected
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
def test_a_killed_worker_is_replaced(tmp_path):
    tiny_data(tmp_path, num_train=300, num_val=1, num_test=1, num_classes=3, shape_THW=(12, 40, 50))
    expected = compute()
    process = start(tmp_path, "--workers", "2")
    while not whole_parts(tmp_path):
        assert process.poll() is None
        time.sleep(0.01)
    workers = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/stat") if is_worker_of(p, process.pid)]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    assert process.poll() is None
    assert process.wait(timeout=120) == 0
    assert contents(tmp_path / "killed.zarr") == expected


def is_worker_of(stat, process):
    """Whether it is a child of the server that forks the process's workers."""
    try:
        server = parent_of(stat)
        return parent_of(Path(f"/proc/{server}/stat")) == process and "forkserver" in Path(
            f"/proc/{server}/cmdline"
        ).read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent_of(stat):
    return int(stat.read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_sigterm_keeps_what_is_done(tmp_path):
    process = start(tmp_path, pause_seconds=1.0)
    while not whole_parts(tmp_path):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert whole_parts(tmp_path) in (1, 2)  # the part that it was at is finished
    assert not (tmp_path / "killed.zarr").exists()


@pytest.mark.slow
def test_ranks_do_not_show(project):
    expected = compute()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "stages",
        "precompute_soft_targets", "--manifest", "manifest.csv", "--frames", "frames",
        "--teacher", "teacher.safetensors", "--out", "ranks.zarr",
    ]  # fmt: skip
    environment = {**os.environ, "DVC_ROOT": str(project / "ranks"), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, env=environment, timeout=120)
    assert contents(Path("ranks.zarr")) == expected
