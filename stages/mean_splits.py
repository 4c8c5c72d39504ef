"""Print the mean over a data set's splits, ARID's convention."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import ParamsError
from pipeline.tools.study.split_means import mean_of_splits
from stages._shell import JsonOption, print_json, print_table

_TITLES = {"top1": "top-1", "top5": "top-5", "mean_class_top1": "mean per class", "ece": "ECE"}


def main(
    *,
    paths: Annotated[list[Path], typer.Argument(metavar="EVALUATION", help="The evaluation.json of each split.")],
    as_json: JsonOption = False,
) -> None:
    """Print the mean over a data set's splits, ARID's convention: of what `evaluate` wrote for each.

    docs/evaluation.md has the commands that make the three.

    Example: dlkdd mean-splits split1.json split2.json split3.json
    """
    if len(paths) < 2:
        raise ParamsError(f"a mean of {len(paths)} split", remedy="name the evaluation.json of each split")
    means = mean_of_splits(paths)
    if as_json:
        print_json({"files": [str(path) for path in paths], **means})
        return
    names = [path.stem for path in paths]
    print_table(
        ("", "mean", *(names if len(set(names)) == len(names) else map(str, paths))),
        (
            (
                f"{of.replace('_minus_', ' − ')} {_TITLES[name]}",
                *(_text(of, name, value) for value in (number["mean"], *number["splits"])),
            )
            for of, found in means.items()
            for name, number in found.items()
        ),
    )


def _text(of: str, name: str, value: float) -> str:
    if name == "ece":
        return f"{value:.3f}"
    return f"{100 * value:+.1f}" if of == "student_minus_baseline" else f"{value:.1%}"
