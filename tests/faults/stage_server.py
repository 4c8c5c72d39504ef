"""Stages as forks of one process that has everything imported: a run of a tiny stage takes a fraction of a second.

The process is started with shim.c preloaded, so that a run can be given a fault: a full disk from the n-th call on that
changes a file, or a kill before or after it. A run can also be killed after some time, or be sent a signal.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]  # not from paths: this runs as a program too
SHIM = Path(__file__).with_name("shim.c")

MODES = {
    "count": 0,
    "fail": 1,
    "kill before": 2,
    "kill after": 3,
    "fail once": 4,
    "short": 5,
    "signal": 10,
    "two signals": 11,
}
KINDS = {"write": 1, "create": 2, "sync": 4, "rename": 8, "remove": 16, "mkdir": 32, "link": 64, "resize": 128}
ALL = tuple(KINDS)
GROWING = (
    "write",
    "create",
    "sync",
    "mkdir",
    "link",
    "resize",
)  # what a full disk refuses, fsync on a network's as well


class Control(ctypes.Structure):
    """The control block of shim.c."""

    _fields_ = (
        ("mode", ctypes.c_int32),
        ("error", ctypes.c_int32),
        ("mask", ctypes.c_int32),
        ("logging", ctypes.c_int32),
        ("at", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("root", ctypes.c_char * 1024),
        ("match", ctypes.c_char * 1024),
    )


@dataclass(frozen=True)
class Fault:
    """What happens at the `at`-th call (from 1) of these kinds on a path below the project that contains `match`.

    error: the errno of "fail"; the number of "signal" and "two signals", which the run's process group gets.
    """

    mode: str
    at: int
    kinds: tuple[str, ...] = ALL
    match: str = ""
    error: int = 0


@dataclass(frozen=True)
class Ended:
    """How a run ended. code: the exit code, or the signal's number below zero; calls: that changed a file."""

    code: int
    out: str
    err: str
    seconds: float
    calls: int
    log: tuple[tuple[str, str, str], ...]  # kind, path, other path; where it was asked for


@dataclass(frozen=True)
class Started:
    """A run that goes on; the files take what it prints."""

    process: int
    out: Path
    err: Path


class StageServer:
    """The process that forks runs; a context."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._number = 0
        self._log = folder / "control.log"
        shim, self._path = folder / "shim.so", folder / "control"
        build = ["cc", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", shim, SHIM, "-ldl"]
        subprocess.run(build, check=True)
        self._path.write_bytes(bytes(ctypes.sizeof(Control)))
        with self._path.open("r+b") as file:
            self.control = Control.from_buffer(mmap.mmap(file.fileno(), 0))
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "DASK_"))}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**keep, **one_thread, "LD_PRELOAD": str(shim), "FAULT_CONTROL": str(self._path), "COLUMNS": "200"},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert json.loads(self._process.stdout.readline()) == "ready"

    def __enter__(self) -> StageServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self,
        arguments: list[str],
        project: Path,
        *,
        fault: Fault | None = None,
        signal_after: tuple[int, float] | None = None,
        environment: dict[str, str] | None = None,
        log: bool = False,
        before: str = "",
        root: Path | None = None,
    ) -> Ended:
        """Run `dlkdd` with these arguments in a project.

        signal_after: a signal's number and the seconds after which the run's process group gets it. before: code that
        the fork executes first, to change what a stage looks like from within. root: the folder that the fault is
        about, in place of the project. Every run ends within 120 seconds.
        """
        started = self.start(
            arguments, project, fault=fault, environment=environment, log=log, before=before, root=root
        )
        return self.wait(started, signal_after=signal_after)

    def start(
        self,
        arguments: list[str],
        project: Path,
        *,
        fault: Fault | None = None,
        environment: dict[str, str] | None = None,
        log: bool = False,
        before: str = "",
        root: Path | None = None,
    ) -> Started:
        """The same, but the run goes on by itself; one that is started beside it takes over count, log and fault."""
        set_control(self.control, root or project, fault, logging=log)
        self._log.write_text("")
        self._number += 1
        out, err = self._folder / f"out{self._number}", self._folder / f"err{self._number}"
        for path in (out, err):
            path.touch()  # a run may be killed before it opens them
        process = self._ask(
            {
                "arguments": arguments, "folder": str(project), "out": str(out), "err": str(err), "before": before,
                "environment": environment or {},
            }
        )["process"]  # fmt: skip
        return Started(process, out, err)

    def wait(self, started: Started, *, signal_after: tuple[int, float] | None = None) -> Ended:
        """How a run ends that was started."""
        ended = self._ask({"process": started.process, "signal_after": signal_after})
        lines = self._log.read_text(errors="surrogateescape").splitlines()
        out, err = (path.read_text(errors="replace") for path in (started.out, started.err))
        started.out.unlink()
        started.err.unlink()
        return Ended(
            ended["code"],
            out,
            err,
            ended["seconds"],
            self.control.count,
            tuple((kind, path, other) for kind, path, other in (line.split("\t") for line in lines)),
        )

    def _ask(self, request: dict) -> dict:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def set_control(control: Control, project: Path, fault: Fault | None, *, logging: bool) -> None:
    """Arm the shim for the next run."""
    fault = fault or Fault("count", 0)
    control.mode, control.at, control.error = MODES[fault.mode], fault.at, fault.error
    control.mask = sum(KINDS[kind] for kind in fault.kinds)
    control.match, control.count, control.logging = os.fsencode(fault.match), 0, logging
    control.root = os.fsencode(f"{project.resolve()}/")


def serve() -> None:
    """Answer requests until stdin ends."""
    sys.path.insert(0, str(ROOT))
    from stages.__main__ import COMMANDS, FAMILIES

    for name in COMMANDS:
        import_module(f"stages.{FAMILIES.get(name, name)}")
    for path in sorted((ROOT / "pipeline").rglob("[a-z]*.py")):
        import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    # torch._dynamo: the first optimizer imports it, which takes seconds
    for name in ("torch._dynamo", "zarr", "h5py", "safetensors.torch", "cv2", "av", "distributed"):
        import_module(name)
    began: dict[int, float] = {}
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "process" in request:
            child = request["process"]
            code = _wait(child, request["signal_after"])
            print(json.dumps({"code": code, "seconds": time.monotonic() - began[child]}), flush=True)
            continue
        now = time.monotonic()
        child = os.fork()
        if not child:
            _run(request)
        began[child] = now
        print(json.dumps({"process": child}), flush=True)


def _wait(child: int, signal_after: tuple[int, float] | None) -> int:
    number, seconds = signal_after or (signal.SIGKILL, 120.0)
    descriptor = os.pidfd_open(child)
    for number_now, seconds_now in ((number, seconds), (signal.SIGKILL, 120.0)):
        if select.select([descriptor], [], [], seconds_now)[0]:
            break
        try:
            os.killpg(child, number_now)
        except ProcessLookupError:  # it has no group of its own yet
            os.kill(child, number_now)
    os.close(descriptor)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _run(request: dict) -> None:
    code = 1
    try:
        os.setsid()
        os.chdir(request["folder"])
        os.environ.update(request["environment"])
        for descriptor, path in ((1, request["out"]), (2, request["err"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        exec(request["before"], {})
        from stages.__main__ import main

        sys.argv = ["dlkdd", *request["arguments"]]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        try:
            import atexit

            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


if __name__ == "__main__":
    serve()
