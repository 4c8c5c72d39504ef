"""A model's latency and peak memory, each way to run it in a process of its own.

Torch is imported only where it runs: a process that runs an ONNX file has none, as in deployment.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import EnvironmentProblem
from pipeline.tools.export.onnx_file import open_onnx

Way = Literal["eager", "compiled", "onnx"]
_BRIGHTEST = 40  # noise of a dark clip is below this level


@dataclass(frozen=True)
class Run:
    """One way to run a file: `path` is an ONNX file for the way onnx, a model file for the others.

    device: of torch; ONNX Runtime computes on the CPU. The first call and `num_warmup` more come before the `num_runs`
    that are timed.
    """

    path: Path
    way: Way
    device: str
    batch_size: int
    num_warmup: int
    num_runs: int
    num_threads: int


@dataclass(frozen=True)
class Latency:
    """Seconds from a batch of uint8 clips on the device to its output.

    first_seconds: of the first call, compilation included. peak_bytes: on the CPU the largest resident set of the
    process, libraries included; on a GPU the most memory that torch allocated.
    """

    way: Way
    p50_seconds: float
    p95_seconds: float
    clips_per_second: float
    first_seconds: float
    peak_bytes: int


def measure(run: Run) -> Latency:
    """Time a run in a new process; raises EnvironmentProblem where it is killed or cannot compile."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            return executor.submit(_measure, run).result()
        except BrokenProcessPool:
            raise EnvironmentProblem(
                f"the process that ran {run.path} ({run.way}) was killed, perhaps for want of memory",
                remedy="lower --batch-size",
            ) from None


def _measure(run: Run) -> Latency:
    call, peak_bytes = _onnx(run) if run.way == "onnx" else _torch(run)
    first = _seconds(call)
    for _ in range(run.num_warmup):
        call()
    seconds = [_seconds(call) for _ in range(run.num_runs)]
    p50, p95 = np.percentile(seconds, [50, 95]).tolist()
    return Latency(run.way, p50, p95, run.batch_size * run.num_runs / sum(seconds), first, peak_bytes())


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _onnx(run: Run) -> tuple[Callable[[], object], Callable[[], int]]:
    file = open_onnx(run.path, num_threads=run.num_threads)
    taken = file.description["input"]
    input_B = _noise((run.batch_size, *taken["shape"][1:])).astype(taken["dtype"])
    return lambda: file.run(input_B), peak_resident_bytes


def _torch(run: Run) -> tuple[Callable[[], object], Callable[[], int]]:
    import torch

    from pipeline.models.recognizer import load_model

    torch.set_num_threads(run.num_threads)
    device, recognizer = torch.device(run.device), load_model(run.path).recognizer
    clip = recognizer.architecture.clip
    shape = (run.batch_size, clip.num_frames, clip.size, clip.size, 3)
    clip_BTHWC = torch.from_numpy(_noise(shape)).to(device)
    program: Any = recognizer.to(device)
    if run.way == "compiled":
        program = torch.compile(program)

    @torch.inference_mode()
    def call() -> None:
        try:
            program(clip_BTHWC).softmax(dim=1)
        except RuntimeError as error:
            if run.way != "compiled":
                raise
            raise EnvironmentProblem(
                f"torch cannot compile {run.path}: {str(error).partition(chr(10))[0]}",
                remedy="install a C++ compiler, or omit --compile",
            ) from None
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    if device.type == "cuda":
        return call, lambda: torch.cuda.max_memory_allocated(device)
    return call, peak_resident_bytes


def _noise(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, _BRIGHTEST, shape, dtype=np.uint8)


def peak_resident_bytes() -> int:
    """The peak resident set of this process; getrusage would give the parent's where that was larger."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
