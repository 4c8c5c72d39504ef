"""Requests to stop, reports of progress, and where the time goes, of long work."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from types import FrameType
from typing import Protocol, TypeVar

from pipeline.core.errors import Interrupted

Item = TypeVar("Item")
Task = TypeVar("Task")
Result = TypeVar("Result")

StopCheck = Callable[[], None]
SignalHandler = Callable[[int, FrameType | None], None]


class Advance(Protocol):
    """Told by long work that `count` more units are done; `note` says something about the newest.

    earlier: a run before this one did them, so that they say nothing about this one's speed.
    """

    def __call__(self, count: int, note: str, /, *, earlier: bool = False) -> None: ...  # noqa: D102


class Progress(Protocol):
    """Shows how far work of `total` units is; within the context its `Advance` is told of them."""

    def __call__(self, description: str, total: int, unit: str, /) -> AbstractContextManager[Advance]: ...  # noqa: D102


class MapTasks(Protocol):
    """Runs a function on tasks: here, on processes of this machine, or on a cluster (stages/_cluster.py)."""

    def __call__(  # noqa: D102
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        *,
        name: Callable[[Task], str],
        done: Callable[[Task, Result], None],
        stop: StopCheck,
    ) -> list[Result]: ...


@contextmanager
def no_progress(_description: str, _total: int, _unit: str, /) -> Iterator[Advance]:
    """Shows nothing."""

    def advance(_count: int, _note: str, /, *, earlier: bool = False) -> None:
        return None

    yield advance


@contextmanager
def interruptible() -> Iterator[StopCheck]:
    """Turn signals to end into a request: the yielded check raises Interrupted at the caller's next safe point.

    A second signal raises at once. Handlers are put back at the end.
    """
    received: list[int] = []

    def request(signal_number: int, _frame: FrameType | None) -> None:
        received.append(signal_number)
        if len(received) > 1:
            raise Interrupted(signal_number)

    def check() -> None:
        if received:
            raise Interrupted(received[0])

    with signals_handled_by(request):
        try:
            yield check
        except Exception as error:
            if len(received) > 1 and not isinstance(error, Interrupted):
                raise Interrupted(received[1]) from error  # raised within HDF5, it may come out as another error
            raise


@contextmanager
def signals_handled_by(handler: SignalHandler) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a lost terminal's SIGHUP go to the handler; under `nohup` the last goes to nobody."""
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, *hangup)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


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
    total: dict[str, float] = defaultdict(float)
    for name, value in chain.from_iterable(seconds.items() for seconds in several):
        total[name] += value
    return dict(total)


def shares_text(seconds: Mapping[str, float]) -> str:
    """For a person: `enhance 60%, decode 40%`, the largest first; empty where no time was spent."""
    total = sum(seconds.values())
    largest_first = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {value / total:.0%}" for name, value in largest_first) if total else ""
