"""The processes of `torchrun`: tasks that they share, sums over all of them, and what happens when one ends.

    torchrun --nproc-per-node 4 -m stages precompute_soft_targets …

Ranks talk through gloo on the CPU, and for gradients through NCCL on GPUs; each uses the GPU of its local rank. A rank
that has an error says so and ends; torchrun then stops the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.core.errors import EnvironmentProblem
from pipeline.core.work import StopCheck

Task = TypeVar("Task")
Result = TypeVar("Result")
Value = TypeVar("Value")

LONGEST_SHARE = timedelta(days=7)  # ranks wait for the slowest one; torchrun ends all when one dies


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started; `count` is 1 without it."""

    index: int
    count: int

    def share(self, tasks: Sequence[Task] | None, *, stop: StopCheck) -> list[Task]:
        """Rank 0 gives all tasks; every rank gets its own. Raises EnvironmentProblem where another rank ended."""
        given = self.from_first(tasks, stop=stop)
        assert given is not None
        return list(given[self.index :: self.count])

    def from_first(self, value: Value, *, stop: StopCheck) -> Value:
        """Rank 0's value, on all ranks. Raises EnvironmentProblem where another rank ended."""
        if self.count == 1:
            return value
        given = [value]
        with self.together(stop):
            dist.broadcast_object_list(given)
        return given[0]

    def total(self, values_M: Tensor) -> Tensor:
        """The sum over all ranks, as float64 on the CPU. To be called `together`."""
        total_M = values_M.detach().to("cpu", torch.float64)
        if self.count > 1:
            dist.all_reduce(total_M)
        return total_M

    def greatest(self, values: Sequence[int]) -> list[int]:
        """The greatest over all ranks of each value. To be called `together`."""
        if self.count == 1:
            return list(values)
        greatest_M = torch.tensor(values)
        dist.all_reduce(greatest_M, dist.ReduceOp.MAX)
        return [int(value) for value in greatest_M]

    @contextmanager
    def together(self, stop: StopCheck) -> Iterator[None]:
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
        with self.together(stop):
            dist.all_gather_object(of_all, results)
        return [result for of_one in of_all for result in of_one]


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The ranks of torchrun, for as long as the block."""
    count = world_size()
    if count == 1:
        yield Ranks(0, 1)
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


def _lost_a_peer(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL", "onnection"))
