"""Enhance and prepare on a scheduler and two workers of their own: deaths of workers lose nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from builders import write_frames
from paths import ROOT
from waiting import wait_for

from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest
from pipeline.enhance.classical import Clahe
from pipeline.enhance.file import save_enhancer
from pipeline.videos.reader import write_video

NUM_SHARDS = 12

pytestmark = pytest.mark.slow


def dark_video(seed, shape=(8, 24, 32)):
    return np.random.default_rng(seed).gamma(1.2, 12, (*shape, 3)).clip(0, 255).astype(np.uint8)


def stage_command(*arguments):
    return [sys.executable, "-m", "stages", *arguments]


def environment():
    keep = {key: value for key, value in os.environ.items() if key not in ("DVC_ROOT", "DASK_SCHEDULER_ADDRESS")}
    return {**keep, "PYTHONPATH": str(ROOT)}


def run_stage(project, *arguments):
    done = subprocess.run(
        stage_command(*arguments), cwd=project, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def communicate(process):
    """What it writes to stderr until it ends; one that never does is killed."""
    try:
        return process.communicate(timeout=120)[1]
    finally:
        process.kill()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# A worker that takes a moment for each video, so that there is a middle of the run to kill it in
SLOWLY = """
import time
from pipeline.enhance import apply as enhancement

def dask_setup(worker):
    batches = enhancement.enhanced_batches

    def slowly(enhancer, video):
        time.sleep(0.15)
        return batches(enhancer, video)

    enhancement.enhanced_batches = slowly
"""


PATHS = ["--dark", "dark", "--enhancer", "enhancer.safetensors", "--out"]


@contextmanager
def in_the_middle(folder, cluster):
    """The stage on a cluster, when some of its shards are done; its result in one process is in `alone`.

    Yields the stage's process, the scheduler's and those of two workers.
    """
    dark = {f"Run/Run_{number}_1": dark_video(number) for number in range(40)}
    write_frames(folder / "dark", dark, num_shards=NUM_SHARDS)
    save_enhancer(folder / "enhancer.safetensors", Clahe(2.0, 4), fitted_on={})
    run_stage(folder, "enhance", *PATHS, "alone", "--workers", "1")
    shutil.rmtree(folder / ".work")

    (folder / "slowly.py").write_text(SLOWLY)
    scheduler, address = cluster.start_scheduler()
    workers = [cluster.start_worker("--no-nanny", "--preload", str(folder / "slowly.py")) for _ in range(2)]
    command = stage_command("enhance", *PATHS, "together", "--scheduler", address)
    with subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True) as stage:
        wait_for(lambda: len(list(folder.glob(".work/enhance-*/records/*[0-9].json"))), lambda done: done >= 3)
        assert len(list(folder.glob(".work/enhance-*/records/*[0-9].json"))) < NUM_SHARDS - 2
        yield stage, scheduler, workers


def test_a_worker_killed_in_the_middle_loses_nothing(tmp_path, cluster):
    with in_the_middle(tmp_path, cluster) as (stage, _, workers):
        workers[0].send_signal(signal.SIGKILL)
        err = communicate(stage)
    assert stage.returncode == 0, err
    assert workers[1].poll() is None
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    FrameStore(tmp_path / "together").verify()


def test_a_scheduler_killed_in_the_middle_is_told_of_and_the_next_run_goes_on(tmp_path, cluster):
    with in_the_middle(tmp_path, cluster) as (stage, scheduler, _):
        scheduler.send_signal(signal.SIGKILL)
        err = communicate(stage)
    assert stage.returncode == 4, err
    assert "the dask scheduler went away" in err
    assert not (tmp_path / "together").exists()
    run_stage(tmp_path, "enhance", *PATHS, "together", "--workers", "1")
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")


# A worker whose decoder crashes on one video, as a library in C may
POISONED = """
import os
from pipeline.videos import dark_shard

def dask_setup(worker):
    read = dark_shard.read_frames

    def crash_or_read(path, **options):
        if path.name == "poison.mp4":
            os._exit(11)
        return read(path, **options)

    dark_shard.read_frames = crash_or_read
"""


def test_a_video_that_crashes_workers_is_quarantined_by_name_and_the_others_finish(tmp_path, cluster):
    for number in range(18):
        label = ("sit", "run")[number % 2]
        name = "poison" if number == 4 else f"{number:02d}"
        path = tmp_path / "videos" / label / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, dark_video(number, (10, 32, 48)), fps=10)
    shipped = (ROOT / "configs/folder.yaml").read_text()
    parameters = shipped.replace("root: data/videos", f"root: {tmp_path / 'videos'}")
    parameters = parameters.replace("max_quarantined: 0.01", "max_quarantined: 0.1").replace(
        "short_side: 64", "short_side: 32"
    )
    assert parameters.count(str(tmp_path)) == parameters.count("max_quarantined: 0.1 ") == 1
    (tmp_path / "params.yaml").write_text(parameters)
    (tmp_path / "poisoned.py").write_text(POISONED)
    _, address = cluster.start_scheduler()
    for _ in range(2):
        cluster.start_worker("--nanny", "--preload", str(tmp_path / "poisoned.py"))
    outs = ["--manifest", "manifest.csv", "--quarantine", "quarantine.csv", "--dark", "dark"]
    err = run_stage(tmp_path, "prepare", *outs, "--scheduler", address)
    assert "quarantined sit/poison.mp4" in err
    assert "2 processes died while they worked on it" in (tmp_path / "quarantine.csv").read_text()
    rows = read_manifest(tmp_path / "manifest.csv").rows
    assert len(rows) == 17
    assert {row.video_id for row in rows} == set(FrameStore(tmp_path / "dark").video_ids)
