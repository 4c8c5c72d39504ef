"""What the stage shells share: messages and progress on stderr, the parameter option, logging."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=True)

ParamsOption = Annotated[Path, typer.Option("--params", help="The parameter file.", show_default=True)]
PARAMS_PATH = Path("params.yaml")

PLAIN_INTERVAL_SECONDS = 10.0


def printable(text: str) -> str:
    """The text without what a terminal would obey: names from files cannot inject escape sequences."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def say(message: str) -> None:
    """One line of plain text to stderr, without markup."""
    console.print(printable(message), markup=False, emoji=False)


Advance = Callable[[int, str], None]


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Advance]:
    """Show progress: a bar on a terminal, a plain line at once and every ten seconds elsewhere.

    Yields `advance(count, note)`: `count` more units are done, `note` says something about the newest.
    """
    if not console.is_terminal:
        with _plain_progress(description, total, unit) as advance:
            yield advance
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[note]}", style="dim"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(escape(description), total=total, note="")
        yield lambda count, note: bar.update(task, advance=count, note=escape(note))


@contextmanager
def _plain_progress(description: str, total: int, unit: str) -> Iterator[Advance]:
    started, shown = time.monotonic(), -PLAIN_INTERVAL_SECONDS  # the first line comes at once
    done = 0

    def advance(count: int, note: str) -> None:
        nonlocal done, shown
        done += count
        now = time.monotonic()
        if now - shown >= PLAIN_INTERVAL_SECONDS or done == total:
            shown = now
            left = (total - done) * (now - started) / max(done, 1)
            say(f"{description}: {done}/{total} {unit}, {left:.0f} s left{'; ' + note if note else ''}")

    yield advance
