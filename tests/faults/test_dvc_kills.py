"""SIGKILL of DVC together with its stage: what `dlkdd check` advises, and `dvc repro`, lead to the same bytes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from clones import clone, commit, environment, run
from long_run import LONG
from tiny_project import contents, make_project, stages

OUTS = ("data", "models", "results")


def with_own_videos(folder):
    """The tiny project, its videos apart from what the chain writes."""
    folder.mkdir(exist_ok=True)
    make_project(folder, prepare__root="my_videos")
    (folder / "data").rename(folder / "my_videos")
    return folder


@pytest.fixture(scope="module")
def expected(stage_server, tmp_path_factory):
    """What the chain writes if nothing is killed."""
    folder = with_own_videos(tmp_path_factory.mktemp("expected"))
    for stage in stages():
        ended = stage_server.wait(stage_server.start(stage.arguments, folder))
        assert ended.code == 0, ended.err
    return contents(folder, OUTS)


def repro_for(folder, seconds):
    """`dvc repro`, killed with all that it started after so many seconds; whether it was at work until then."""
    with subprocess.Popen(
        ("dvc", "repro"),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
    assert process.returncode == 0, printed
    return False


def follow_the_advice(folder):
    """Do what check says about what a kill left; returns the files that it removed."""
    done = run(folder, sys.executable, "-m", "stages", "check", "--json", check=False)
    groups = {group["name"]: group for group in json.loads(done.stdout)["groups"]}
    removed = []
    for finding in groups["dvc"]["findings"]:
        if finding["level"] == "problem":
            name = re.match("`rm ([^`]+)`, then `dvc repro`", finding["remedy"])[1]
            (folder / name).unlink()
            removed.append(name)
    return removed


@pytest.mark.fault("Runs", "SIGKILL of DVC and its stage anywhere in `dvc repro`, or while DVC writes dvc.lock", "R")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("chunk", range(6 if LONG else 1))
def test_dvc_killed_anywhere_goes_on_and_ends_with_the_same_bytes(expected, tmp_path, chunk, scale, cases):
    rng = np.random.default_rng([21, chunk])
    clone(tmp_path, "csv")
    (tmp_path / "params.yaml").unlink()
    with_own_videos(tmp_path)
    commit(tmp_path, "my videos")
    killed = 0
    while killed < scale(2, 5) and repro_for(tmp_path, rng.uniform(1, 20)):
        killed += 1
        follow_the_advice(tmp_path)
    run(tmp_path, "dvc", "repro")
    assert contents(tmp_path, OUTS) == expected

    (tmp_path / "dvc.lock").write_bytes(b"")  # as a kill leaves it that comes while DVC writes it
    assert "validation failed" in run(tmp_path, "dvc", "repro", check=False).stderr
    assert follow_the_advice(tmp_path) == ["dvc.lock"]
    assert "Running stage" not in run(tmp_path, "dvc", "repro").stdout
    assert contents(tmp_path, OUTS) == expected
    cases(killed + 1)
