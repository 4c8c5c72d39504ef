"""Tasks shared by the ranks of `torchrun`: rank 0 runs the stage, the others take their share of its tasks.

    torchrun --nproc-per-node 4 -m stages precompute_soft_targets …

Ranks talk through gloo on the CPU, and only at the beginning and the end; each uses the GPU of its local rank. A rank
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

from pipeline.errors import EnvironmentProblem
from pipeline.work import StopCheck

Task = TypeVar("Task")
Result = TypeVar("Result")

LONGEST_SHARE = timedelta(days=7)  # ranks wait for the slowest one; torchrun ends all when one dies


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started; `count` is 1 without it."""

    index: int
    count: int

    def share(self, tasks: Sequence[Task] | None, *, stop: StopCheck) -> list[Task]:
        """Rank 0 gives all tasks; every rank gets its own. Raises EnvironmentProblem where another rank ended."""
        given = [tasks]
        with _together(stop):
            dist.broadcast_object_list(given)
        assert given[0] is not None
        return list(given[0][self.index :: self.count])

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
        with _together(stop):
            dist.all_gather_object(of_all, results)
        return [result for of_one in of_all for result in of_one]


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The ranks of torchrun, for as long as the block."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(0, 1)
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=LONGEST_SHARE)
    try:
        yield Ranks(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()


@contextmanager
def _together(stop: StopCheck) -> Iterator[None]:
    """All ranks come here, or those that do are told."""
    try:
        yield
    except RuntimeError as error:  # what gloo raises when it loses a peer
        stop()  # the signal that ended the other rank came to this one, too
        raise EnvironmentProblem(
            "another rank ended before its share was done",
            remedy="look for its own message; the same command goes on from here",
        ) from error
