"""Where the time goes: seconds by name, of one task or the sum of many."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Stopwatch:
    """Adds up the seconds spent under each name; those of a block within a block go to the inner one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name: str | None = None
        self._since = 0.0

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """The block's seconds go to that name, also when it raises."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, name: str | None) -> str | None:
        now, before = time.perf_counter(), self._name
        if before is not None:
            self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._name, self._since = name, now
        return before

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items; what it takes to get the next one goes to that name."""
        iterator = iter(items)
        while True:
            with self.time(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item


def summed(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The seconds of many tasks, by name."""
    total: dict[str, float] = {}
    for seconds in several:
        for name, value in seconds.items():
            total[name] = total.get(name, 0.0) + value
    return total


def shares_text(seconds: Mapping[str, float]) -> str:
    """For a person: `enhance 60%, decode 40%`, the largest first; empty where no time was spent."""
    total = sum(seconds.values())
    largest_first = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {value / total:.0%}" for name, value in largest_first) if total else ""
