"""Show where the chain stands in this folder, and what is next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from pipeline.core.errors import ParamsError
from pipeline.core.text import printable
from pipeline.tools.check.chain import Standing, State, chain_standing, is_project
from stages._shell import JsonOption, print_json, print_line, stdout

_STYLES: dict[State, str] = {"done": "green", "stale": "yellow", "missing": "dim", "running": "bold cyan"}


def main(*, as_json: JsonOption = False) -> None:
    """Show where the chain stands in this folder, and what is next.

    A stage is done where dvc.lock knows its last run, with these parameters, this command and code and the inputs that
    the stages before it made, and its files are here. Data is not read: `dvc status` compares all of it. A stage that
    runs is known by the lock that it holds. `dlkdd` without a command shows the same.

    Example: dlkdd status
    """
    if not is_project(Path()):
        raise ParamsError(
            "no dvc.yaml of this project in this folder", remedy="go to the folder of the project, then `dlkdd status`"
        )
    found = chain_standing(Path())
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        show(found)


def show(found: Sequence[Standing]) -> None:
    """The stages with their state, and what comes next."""
    grid = Table.grid(padding=(0, 2))
    for each in found:
        grid.add_row(each.stage, Text(each.state, _STYLES[each.state]), printable(each.why))
    stdout().print(grid)
    print_line(f"\n{_next(found)}")
    print_line("Compared with dvc.lock: parameters, commands, code; of data only that it exists.")


def _next(found: Sequence[Standing]) -> str:
    running = [each.stage for each in found if each.state == "running"]
    left = [each.stage for each in found if each.state in ("stale", "missing")]
    if running:
        after = f"; {len(left)} stages are not done" if left else ""
        return f"Running: {', '.join(running)}{after}."
    if left:
        after = f" and what follows, up to {len(left)} stages" if len(left) > 1 else ""
        return f"Next: `dvc repro` runs {left[0]}{after}."
    return "All is done: `dvc metrics show`, results/report.html."
