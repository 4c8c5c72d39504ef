"""Fresh clones of the project, for tests that do what a user does."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from paths import ROOT

PYTHON_BIN = Path(sys.executable).parent


def run(folder, *command, check=True):
    """Run a command in a clone, with the environment's python first on the path."""
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def environment():
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_"))}
    return {**keep, "PATH": f"{PYTHON_BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def wait_for_queue(folder):
    """Until all that was queued is done, well; the lines of `dvc queue status`."""
    deadline = time.monotonic() + 300
    while re.search("Queued|Running", status := run(folder, "dvc", "queue", "status").stdout.partition("Worker")[0]):
        assert time.monotonic() < deadline
        time.sleep(1)
    assert "Success" in status
    assert "Failed" not in status
    return status.splitlines()


def clone(folder, recipe="smoke"):
    """A new repository with the files of the working tree, with a recipe in place."""
    files = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    shutil.copy(folder / f"configs/{recipe}.yaml", folder / "params.yaml")
    run(folder, "git", "init", "-q")
    run(folder, "git", "config", "user.name", "test")
    run(folder, "git", "config", "user.email", "test@example.org")
    commit(folder, "the project")


def commit(folder, message):
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "-qm", message)
