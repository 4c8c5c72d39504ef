"""The whole chain of a tiny project whose views are blends of two videos, and what the tools say of its store."""

import os
import subprocess
import sys

import numpy as np
import pytest
from paths import ROOT
from tiny_project import contents, make_project, stages

from pipeline.distill.store.store import SoftTargetStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_chain_runs_on_blends(tmp_path):
    project = make_project(tmp_path, views__mix="mixup", views__mix_share=1.0, views__mix_alpha=0.4)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        command = [sys.executable, "-m", "stages", *arguments]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for stage in stages():
        run(*stage.arguments)
    store = SoftTargetStore(project / "data/soft_targets.zarr")
    assert (store.read_shard(0).arrays["partner"] != 0).all()
    assert np.unique(store.read_shard(0).arrays["blends"][..., 7]).size > 1
    inspected = run("targets", "inspect", "data/soft_targets.zarr", "--manifest", "data/manifest.csv")
    assert "mix mixup" in inspected
    run(
        *("targets", "verify", "data/soft_targets.zarr", "--depth", "teacher"),
        *("--teacher", "models/teacher.safetensors", "--enhanced", "data/enhanced"),
    )
    (precompute,) = (stage for stage in stages() if stage.name == "precompute_soft_targets")
    before = contents(project, precompute.outs)
    for file in project.glob(".work/precompute*/*.safetensors"):
        file.unlink()
    run(*precompute.arguments)
    assert contents(project, precompute.outs) == before
