"""The device that a stage computes on, and the processes of `torchrun`: what they share, and what happens if one ends.

    torchrun --nproc-per-node 4 -m stages precompute_soft_targets …

Ranks talk through gloo on the CPU, and for gradients through NCCL on GPUs; each uses the GPU of its local rank. A rank
that has an error says so and ends; torchrun then stops the others.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.core.errors import EnvironmentProblem, ParamsError
from pipeline.core.progress import StopCheck

Task = TypeVar("Task")
Result = TypeVar("Result")
Value = TypeVar("Value")

LONGEST_SHARE = timedelta(days=7)  # ranks wait for the slowest one; torchrun ends all when one dies


def choose_device(name: str) -> torch.device:
    """The device of that name; raises ParamsError for another name, EnvironmentProblem where the machine has none such.

    PyTorch has names of more devices, and takes cuda:256 for cuda:0.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = re.fullmatch("cpu|cuda(:(0|[1-9][0-9]*))?", name)
    if known is None:
        raise ParamsError(f"--device {name}: expected cpu, cuda, cuda:N or auto")
    if name != "cpu" and int(known[2] or 0) >= torch.cuda.device_count():
        raise EnvironmentProblem(
            f"--device {name}: PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices",
            remedy="omit --device to use what there is, or install a CUDA build of torch",
        )
    return torch.device(name)


def machine_name(device: torch.device) -> str:
    """What rounds the sums: `AMD EPYC (AVX2), torch 2.13.0`. A GPU, which may take a single process, is not opened."""
    if device.type == "cuda":
        computes = ", ".join(_stated("Model", Path("/proc/driver/nvidia/gpus").glob("*/information"))) or "a GPU"
    else:
        names = _stated("model name", Path("/proc").glob("cpuinfo")) or [platform.processor() or platform.machine()]
        computes = f"{', '.join(names)} ({torch.backends.cpu.get_cpu_capability()})"
    return f"{computes}, torch {torch.__version__}"


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started; `count` is 1 without it."""

    index: int
    count: int

    def broadcast(self, value: Value, *, stop: StopCheck) -> Value:
        """Rank 0's value, on all ranks. Raises EnvironmentProblem where another rank ended."""
        if self.count == 1:
            return value
        given = [value]
        with self.collective(stop):
            dist.broadcast_object_list(given)
        return given[0]

    def all_reduce_sum(self, values_M: Tensor) -> Tensor:
        """The sum over all ranks, as float64 on the CPU. To be called in `collective`."""
        sum_M = values_M.detach().to("cpu", torch.float64)
        if self.count > 1:
            dist.all_reduce(sum_M)
        return sum_M

    def all_reduce_max(self, values: Sequence[int]) -> list[int]:
        """The greatest over all ranks of each value. To be called in `collective`."""
        if self.count == 1:
            return list(values)
        max_M = torch.tensor(values)
        dist.all_reduce(max_M, dist.ReduceOp.MAX)
        return [int(value) for value in max_M]

    @contextmanager
    def collective(self, stop: StopCheck) -> Iterator[None]:
        """A block to which all ranks come; where one has ended, the others raise EnvironmentProblem."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _lost_a_peer(error):
                raise
            stop()  # the signal that ended the other rank came to this one, too
            raise EnvironmentProblem(
                "another rank ended before its share was done",
                remedy="look for its own message; the same command goes on from here",
            ) from error

    def run(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        *,
        done: Callable[[Task], None],
        stop: StopCheck,
    ) -> list[Result]:
        """Run this rank's tasks and wait for the others; the results of all ranks, on all.

        Raises this rank's own error at once, and EnvironmentProblem where another rank ended.
        """
        results = []
        for task in tasks:
            stop()
            results.append(function(task))
            done(task)
        of_all: list[list[Result]] = [[] for _ in range(self.count)]
        with self.collective(stop):
            dist.all_gather_object(of_all, results)
        return [result for of_one in of_all for result in of_one]


@contextmanager
def process_group() -> Iterator[Ranks]:
    """The ranks of torchrun, for as long as the block; within another such block, those of that one."""
    count = world_size()
    if count == 1:
        yield Ranks(0, 1)
        return
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), count)
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=LONGEST_SHARE)
    try:
        yield Ranks(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _stated(key: str, files: Iterable[Path]) -> list[str]:
    """The values of a key in files of `key : value` lines, each once."""
    pairs = (line.partition(":") for file in files for line in file.read_text(errors="replace").splitlines())
    return sorted({value.strip() for name, _, value in pairs if name.strip() == key})


def _lost_a_peer(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL", "onnection"))
