"""Another process at work in a stage's work folder."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager

from paths import ROOT

WORK = """
import sys
from pathlib import Path
from pipeline.core.work_folder import work_folder
with work_folder(sys.argv[1], params={}, inputs={}, format_version=1, outs=[*map(Path, sys.argv[2:])]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def at_work(stage, *outs):
    """Yields the process, which holds the locks of the stage and its outs in the current folder, and ends with it."""
    command = [sys.executable, "-c", WORK, stage, *outs]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
