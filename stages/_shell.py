"""What the stage shells share: messages and progress on stderr, results on stdout, options of several commands."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline.core.progress import Advance
from pipeline.core.tables import weak_teacher_of
from pipeline.core.text import printable as printable

console = Console(stderr=True, highlight=False, soft_wrap=True)

ParamsOption = Annotated[Path, typer.Option("--params", help="The parameter file.", show_default=True)]
PARAMS_PATH = Path("params.yaml")
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: cuda where there is one.")]
ManifestOption = Annotated[Path, typer.Option("--manifest", help="The manifest that `prepare` wrote.")]
ModelOption = Annotated[Path, typer.Option("--model", help="The model file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

# of the trainings
TrainFramesOption = Annotated[Path, typer.Option("--frames", help="The frame store to learn from.")]
ModelOutOption = Annotated[Path, typer.Option("--out", help="The model file to write.")]
CurveOption = Annotated[Path, typer.Option("--curve", help="The table of epochs to write, for `dvc plots`.")]
CheckpointOption = Annotated[
    float, typer.Option("--checkpoint-seconds", min=0, help="Time between two checkpoints; 0: after every step.")
]
CHECKPOINT_SECONDS = 20.0
TensorboardOption = Annotated[
    Path | None, typer.Option("--tensorboard", help="A folder for TensorBoard: every epoch is written as it ends.")
]
LiveOption = Annotated[
    Path | None, typer.Option("--live", help="A folder for a file of where it stands, as `dvc exp show` reads it.")
]

# of what compares teacher and baseline
CurvesOption = Annotated[
    Path | None,
    typer.Option("--curves", help="The folder of the trainings' curves; teacher's and baseline's are compared."),
]

# of what scores a model
ScoreFramesOption = Annotated[Path, typer.Option("--frames", help="The frame store of the kind that the model knows.")]
PredictionsOutOption = Annotated[Path, typer.Option("--out", help="The table of predictions to write.")]

PLAIN_INTERVAL_SECONDS = 10.0
DIGEST_DIGITS = 12  # of those in tables and lines for people; --json has them whole
_BAR_CELLS = (5, 40)  # the least that is a bar, and the most
_BESIDE_BAR = 62  # columns that counts, pace and time take


RANK = int(os.environ.get("RANK", "0"))  # of this process among those of torchrun


def say(message: str) -> None:
    """One line of plain text to stderr, without markup; of several ranks the first one speaks."""
    if RANK == 0:
        console.print(printable(message), markup=False, emoji=False)


def say_error(message: str) -> None:
    """The same from every rank, with its number: each has errors of its own."""
    console.print(printable(f"rank {RANK}: {message}" if RANK else message), markup=False, emoji=False)


def warn_of_weak_teacher(stage: str, curves: Path | None) -> None:
    """Say so where the teacher is no better than the baseline on val, by the curves that are there."""
    warning = None if curves is None else weak_teacher_of(curves)
    if warning is not None:
        say(f"{stage}: {warning}")


def print_line(text: str) -> None:
    """Plain text to stdout, without markup: on a terminal it wraps between words, elsewhere it stays one line."""
    console = stdout()
    console.print(printable(text), soft_wrap=not console.is_terminal)


def short_digest(digest: str | None) -> str:
    """The first digits of a digest, for people."""
    return "none" if digest is None else digest[:DIGEST_DIGITS]


def print_json(value: object, *, indent: int | None = 1) -> None:
    """JSON to stdout, in ASCII: no name from a file can control a terminal, and every name survives."""
    typer.echo(json.dumps(value, indent=indent))


def print_result(values: object, text: str, *, as_json: bool) -> None:
    """What a command did, as JSON or in words."""
    print_json(values) if as_json else print_line(text)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table to stdout; all columns but the first are numbers."""
    table = Table(title=title)
    for place, header in enumerate(headers):
        table.add_column(printable(header), justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    stdout().print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Names and values to stdout, a line each; those without a value are left out."""
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value:
            grid.add_row(printable(name), printable(value))
    stdout().print(grid)


def stdout() -> Console:
    """For what has a form of its own; names from files are made printable before."""
    return Console(highlight=False, markup=False, emoji=False)


@dataclass
class _Pace:
    """How many units are done, at what rate, and how long the rest takes."""

    total: int
    unit: str  # in the plural
    done: int = 0
    earlier: int = 0  # of these: by an earlier run, which says nothing about the speed of this one
    started: float = field(default_factory=lambda: time.monotonic())

    def __str__(self) -> str:
        own, seconds = self.done - self.earlier, time.monotonic() - self.started
        if own <= 0 or seconds <= 0:
            return ""
        return f"{_rate(own / seconds, self.unit)}, {_duration((self.total - self.done) * seconds / own)} left"


def _rate(per_second: float, unit: str) -> str:
    if per_second < 1:
        seconds = 1 / per_second
        return f"{seconds:.{1 if seconds < 100 else 0}f} s/{unit.removesuffix('s')}"
    return f"{per_second:,.{1 if per_second < 100 else 0}f} {unit}/s"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Advance]:
    """Show progress: a bar on a terminal, a plain line at once and every ten seconds elsewhere.

    Yields `advance(count, note)`: `count` more units are done, `note` says something about the newest. `earlier=True`
    says that an earlier run did them: they count, but not in the rate and the time left.
    """
    pace = _Pace(total, unit)
    with (_bar if console.is_terminal else _lines)(description, pace) as show:

        def advance(count: int, note: str, *, earlier: bool = False) -> None:
            pace.done += count
            pace.earlier += count if earlier else 0
            show(note)

        yield advance


class _NotedProgress(Progress):
    """A bar with its note in a line of its own: in one line the two do not fit 80 columns."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bar, and the note below it."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["note"]:
                yield Text(f"  {task.fields['note']}", style="dim", no_wrap=True, overflow="ellipsis")


@contextmanager
def _bar(description: str, pace: _Pace) -> Iterator[Callable[[str], None]]:
    least, most = _BAR_CELLS
    cells = min(most, console.width - len(description) - _BESIDE_BAR)
    columns = (
        TextColumn("{task.description}"),
        *((BarColumn(cells),) if cells >= least else ()),
        MofNCompleteColumn(),
        TextColumn(pace.unit),
        TextColumn("{task.fields[pace]}"),
        TimeElapsedColumn(),
    )
    with _NotedProgress(*columns, console=console) as bar:
        task = bar.add_task(escape(description), total=pace.total, pace="", note="")
        yield lambda note: bar.update(task, completed=pace.done, pace=str(pace), note=printable(note))


@contextmanager
def _lines(description: str, pace: _Pace) -> Iterator[Callable[[str], None]]:
    shown = -PLAIN_INTERVAL_SECONDS  # the first line comes at once

    def show(note: str) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= PLAIN_INTERVAL_SECONDS or pace.done == pace.total:
            shown = now
            speed = f", {pace}" if str(pace) else ""
            say(f"{description}: {pace.done}/{pace.total} {pace.unit}{speed}{'; ' + note if note else ''}")

    yield show
