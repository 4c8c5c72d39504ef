"""A dask scheduler and workers as processes of their own, started as an engineer would."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from paths import ROOT
from waiting import wait_for

SCHEDULER_OPTIONS = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--no-dashboard"]
WORKER_OPTIONS = ["--host", "127.0.0.1", "--nworkers", "1", "--nthreads", "1", "--no-dashboard", "--memory-limit", "0"]


class Cluster:
    """Starts a scheduler and workers in a folder; they end with the stack."""

    def __init__(self, folder, stack):
        self.folder, self.stack = folder, stack
        self.address_file = folder / "address.json"
        self.python_path = f"{ROOT}:{ROOT / 'tests/helpers'}:{ROOT / 'tests/stages'}"

    def start_scheduler(self, python_path=None):
        """Its process and its address."""
        process = self._start("dask_scheduler", *SCHEDULER_OPTIONS, python_path=python_path)
        wait_for(self.address_file.is_file, bool)
        return process, json.loads(self.address_file.read_text())["address"]

    def start_worker(self, *options):
        """A worker with one thread, without a nanny unless the options say so."""
        return self._start("dask_worker", *WORKER_OPTIONS, *options)

    def _start(self, program, *options, python_path=None):
        command = [sys.executable, "-m", f"distributed.cli.{program}", "--scheduler-file", str(self.address_file)]
        environment = {**os.environ, "PYTHONPATH": python_path or self.python_path}
        err = self.stack.enter_context((self.folder / f"{program}.err").open("a"))
        process = subprocess.Popen([*command, *options], stderr=err, cwd=self.folder, env=environment)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process
