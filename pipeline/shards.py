"""Shards as tasks that may run on any worker, run twice, or have run before a kill.

A task writes its shard into the stage's work folder and then a record beside it: what the shard holds, and what it was
made from. A later run keeps a shard whose record still holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline.frames import IndexRow, shard_path
from pipeline.work import write_text_whole


class ShardTask(Protocol):
    """What makes one shard; `str()` of it says which."""

    @property
    def shard(self) -> int:
        """Number of the shard."""

    @property
    def num_videos(self) -> int:
        """How many videos go through it: the unit of progress."""


Task = TypeVar("Task", bound=ShardTask)
Result = TypeVar("Result")


class RunTasks(Protocol):
    """How tasks are run: here, on processes, or on a cluster."""

    def __call__(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
        """The function's results in the order of the tasks."""


def write_record(work: Path, shard: int, rows: Iterable[IndexRow], **more: Any) -> None:
    """Say that a shard is whole: its rows, and other JSON values."""
    values = {"rows": [asdict(row) for row in rows], **more}
    write_text_whole(_record_path(work, shard), json.dumps(values, sort_keys=True, indent=1))


def read_record(work: Path, shard: int) -> tuple[tuple[IndexRow, ...], dict[str, Any]] | None:
    """Rows and other values of a shard that is whole; None where it has to be made."""
    try:
        values = json.loads(_record_path(work, shard).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    rows = tuple(IndexRow(**row) for row in values.pop("rows"))
    if rows and not shard_path(frames_folder(work), shard).is_file():
        return None
    return rows, values


def frames_folder(work: Path) -> Path:
    """Where the shards of the coming store lie in a work folder."""
    return work / "frames"


def remove_strangers(work: Path, rows: Iterable[IndexRow]) -> None:
    """Remove shards that earlier runs with other videos left and that the index does not name."""
    named = {shard_path(frames_folder(work), row.shard) for row in rows}
    for path in frames_folder(work).glob("*.h5"):
        if path not in named:
            path.unlink()


def _record_path(work: Path, shard: int) -> Path:
    return work / "records" / f"{shard:03d}.json"
