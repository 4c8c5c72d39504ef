"""Tasks shared by the ranks of `torchrun`: rank 0 runs the stage, the others take their share of its tasks.

    torchrun --nproc-per-node 4 -m stages precompute_soft_targets …

Ranks talk through gloo on the CPU, and only at the beginning and the end; each uses the GPU of its local rank.
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

from pipeline.errors import DlkddError
from pipeline.work import StopCheck

Task = TypeVar("Task")

LONGEST_SHARE = timedelta(days=7)  # ranks wait for the slowest one; torchrun ends all when one dies


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started; `count` is 1 without it."""

    index: int
    count: int

    def share(self, tasks: Sequence[Task] | None) -> list[Task]:
        """Rank 0 gives all tasks; every rank gets its own."""
        given = [tasks]
        dist.broadcast_object_list(given)
        assert given[0] is not None
        return list(given[0][self.index :: self.count])

    def run(
        self, function: Callable[[Task], None], tasks: Sequence[Task], *, done: Callable[[Task], None], stop: StopCheck
    ) -> None:
        """Run this rank's tasks and wait for the others; raises an error of the lowest rank that had one, on all."""
        error = None
        try:
            for task in tasks:
                stop()
                function(task)
                done(task)
        except DlkddError as caught:
            error = caught
        errors: list[DlkddError | None] = [None] * self.count
        dist.all_gather_object(errors, error)
        for each in errors:
            if each is not None:
                raise each


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
