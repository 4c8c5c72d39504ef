"""Print the mean over a data set's splits, ARID's convention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.core.errors import ParamsError
from pipeline.tools.study.split_means import SplitMean, mean_of_splits
from stages._shell import printable

_TITLES = {"top1": "top-1", "top5": "top-5", "mean_class_top1": "mean per class", "ece": "ECE"}


def main(
    *,
    paths: Annotated[list[Path], typer.Argument(metavar="METRICS", help="The metrics.json of each split.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print the mean over a data set's splits, ARID's convention: of what `evaluate` wrote for each.

    docs/evaluation.md has the commands that make the three.

    Example: dlkdd mean-splits split1.json split2.json split3.json
    """
    if len(paths) < 2:
        raise ParamsError(f"a mean of {len(paths)} split", remedy="name the metrics.json of each split")
    means = mean_of_splits(paths)
    if as_json:
        typer.echo(json.dumps(_nested(paths, means), indent=2))
    else:
        _print_table(paths, means)


def _nested(paths: list[Path], means: list[SplitMean]) -> dict[str, object]:
    nested: dict[str, dict[str, object]] = {}
    for found in means:
        nested.setdefault(found.of, {})[found.name] = {"mean": round(found.mean, 6), "splits": found.splits}
    return {"files": [str(path) for path in paths], **nested}


def _print_table(paths: list[Path], means: list[SplitMean]) -> None:
    table = Table()
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in ("mean", *(str(path) for path in paths)):
        table.add_column(escape(printable(name)), justify="right", overflow="fold")
    for found in means:
        shown = (_text(found, value) for value in (found.mean, *found.splits))
        table.add_row(found.of.replace("_minus_", " − "), _TITLES[found.name], *shown)
    Console().print(table)


def _text(found: SplitMean, value: float) -> str:
    if found.name == "ece":
        return f"{value:.3f}"
    return f"{100 * value:+.1f}" if found.of == "student_minus_baseline" else f"{value:.1%}"
