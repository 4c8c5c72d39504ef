"""A stage whose `dvc repro` was killed works on as an orphan: the next `dvc repro` is told, and nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time

import pytest
from clones import environment
from paths import ROOT
from tiny_project import contents, make_project, stages

ORPHAN = "train_baseline"
EPOCHS = 60  # some seconds


def dvc(project, *arguments):
    return subprocess.Popen(
        ("dvc", *arguments),
        cwd=project,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def done(process):
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def holder(project):
    """The process that holds the lock of the stage's work folder, once there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for lock in (project / ".work").glob(f"{ORPHAN}-*.lock"):
            if lock.with_suffix("").is_dir() and (found := re.search(r"process (\d+)", lock.read_text())):
                return int(found[1])
        time.sleep(0.01)
    raise AssertionError("it did not begin")


def ended(process):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.fault("Runs", "a stage whose dvc was killed works on", "R")
def test_an_orphan_is_told_of_and_loses_nothing(stage_server, tmp_path):
    project = make_project(tmp_path / "project", train_student__epochs=EPOCHS, train_student__warmup_epochs=1)
    by_name = {stage.name: stage for stage in stages()}
    for name in ("prepare", ORPHAN):
        assert stage_server.run(by_name[name].arguments, project).code == 0
    whole = contents(project, by_name[ORPHAN].outs)
    for out in by_name[ORPHAN].outs:
        (project / out).unlink()
    shutil.rmtree(project / ".work")
    for name in ("pipeline", "stages"):  # which dvc.yaml names as dependencies
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", project)
    assert done(dvc(project, "init", "--no-scm", "-q"))[0] == 0

    first = dvc(project, "repro", "--single-item", ORPHAN)
    orphan = holder(project)
    os.kill(orphan, signal.SIGSTOP)  # it must not end before the others have looked
    first.send_signal(signal.SIGKILL)
    assert first.wait(timeout=20) == -signal.SIGKILL

    code, output = done(dvc(project, "repro", "--single-item", ORPHAN))
    assert code != 0
    assert f"process {orphan} on " in output
    assert "exited with 4" in output
    os.kill(orphan, signal.SIGCONT)
    assert ended(orphan)
    done(first)  # its output was the orphan's as well
    assert contents(project, by_name[ORPHAN].outs) == whole

    code, output = done(dvc(project, "repro", "--single-item", ORPHAN))
    assert code == 0, output
    assert contents(project, by_name[ORPHAN].outs) == whole
