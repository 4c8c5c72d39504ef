"""List, show and use recipes: parameter files of known data sets."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import ParamsError
from pipeline.core.files import write_text_whole
from pipeline.core.params import load_params
from pipeline.data.names import text_problem
from stages._shell import PARAMS_PATH, ParamsOption, print_facts, say

RECIPES = Path(__file__).parent.parent / "configs"

app = typer.Typer(no_args_is_help=True, help=__doc__, add_completion=False, pretty_exceptions_enable=False)

NameArgument = Annotated[str, typer.Argument(help="Name of the recipe, as `dlkdd recipe list` prints it.")]


@app.command("list")
def list_recipes() -> None:
    """Print the recipes, each with its first line.

    Example: dlkdd recipe list
    """
    print_facts({path.stem: _text(path.stem).partition("\n")[0].lstrip("# ") for path in _paths()})


@app.command()
def show(name: NameArgument) -> None:
    """Print a recipe: a complete parameter file.

    Example: dlkdd recipe show dark48
    """
    typer.echo(_text(name), nl=False)


@app.command()
def use(
    name: NameArgument,
    data: Annotated[Path | None, typer.Option(help="The data set's folder, in place of the recipe's.")] = None,
    params_path: ParamsOption = PARAMS_PATH,
) -> None:
    """Put a recipe in place as the parameter file, and print what changes.

    Nothing is written when the folder of the data set does not exist. An edited parameter file is replaced: commit it
    first.

    Example: dlkdd recipe use arid --data /data/ARID
    """
    text = _text(name)
    if data is not None:
        if not data.is_dir():
            raise ParamsError(f"--data {data}: no such folder", remedy="name the folder that holds the videos")
        if problem := text_problem(str(data)):
            raise ParamsError(
                f"--data: no parameter file can hold it: {problem}", remedy="rename the folder, or name a link to it"
            )
        text = _with_value(_with_value(text, "  root", _quoted(data)), "render", "[]")
    before = params_path.read_text(encoding="utf-8", errors="replace") if params_path.exists() else ""
    changes = difflib.unified_diff(before.splitlines(), text.splitlines(), "before", str(params_path), lineterm="", n=0)
    write_text_whole(params_path, text)
    load_params(params_path)
    typer.echo("\n".join(changes) or f"{params_path} was this recipe already")
    say(f"{params_path}: recipe {name}; `dvc repro` runs it")


def _with_value(text: str, key: str, value: str) -> str:
    """A recipe with another value of a key, which has its indent; what stands behind the value stays."""
    changed, count = re.subn(rf"(?m)^({key}: )[^#\n]*?(\s*(?:#.*)?)$", lambda found: found[1] + value + found[2], text)
    assert count == 1, f"{key}: {count} times in a recipe"
    return changed


def _quoted(path: Path) -> str:
    """The path as a YAML text that no YAML rule can read otherwise."""
    return "'" + str(path).replace("'", "''") + "'"


def _paths() -> list[Path]:
    """All recipes, by name; they run with the repository's dvc.yaml, and so are no part of the installed package."""
    if not RECIPES.is_dir():
        raise ParamsError(
            "the recipes are not installed: they are files of the repository, beside the dvc.yaml that runs them",
            remedy="work in a clone of the repository, and install it from there: pip install -e .",
        )
    return sorted(RECIPES.glob("*.yaml"))


def _text(name: str) -> str:
    path, known = RECIPES / f"{name}.yaml", [found.stem for found in _paths()]
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ParamsError(f"no recipe {name!r}{hint}", remedy=f"the recipes are {', '.join(known)}")
    return path.read_text(encoding="utf-8")
