"""List and clear .work: what runs left, or keep for the next."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from typing import Annotated

import typer

from pipeline.core.errors import EnvironmentProblem, ParamsError
from pipeline.core.work_folder import remove_work_folder, work_root
from pipeline.tools.check.findings import age_text, size_text
from pipeline.tools.check.work_folders import LeftFolder, work_folders
from stages._shell import JsonOption, print_json, print_line, print_table, say

app = typer.Typer(no_args_is_help=True, help=__doc__, add_completion=False, pretty_exceptions_enable=False)


@app.command("list")
def list_folders(as_json: JsonOption = False) -> None:
    """Print the work folders: stage, size, age, and whether a run is at work, was stopped, or keeps it for the next.

    --json has their paths, too.

    Example: dlkdd work list
    """
    folders = work_folders()
    if as_json:
        print_json([{**asdict(folder), "path": str(folder.path)} for folder in folders])
    elif folders:
        _print(folders)
    else:
        say(f"{work_root()} is empty")


@app.command()
def clear(
    stages: Annotated[list[str] | None, typer.Argument(help="Stages whose folders go.", show_default="all")] = None,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Only those of runs that were stopped.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove work folders, after asking. Nothing is removed when a run is at work in one of them.

    Results stay where they are; a stage that runs again starts from the beginning. Of prepare, enhance and
    precompute_soft_targets that means all videos, not only new ones.

    Example: dlkdd work clear train_teacher
    """
    folders = _chosen(stages, unfinished=unfinished)
    if not folders:
        say(f"{work_root()}: nothing to remove")
        return
    held = [f"{folder.stage}: {folder.state}" for folder in folders if folder.holder is not None]
    if held:
        raise EnvironmentProblem(
            "runs are at work; nothing was removed", findings=held, remedy="wait for them, or name other stages"
        )
    if not yes and not _agreed(folders):
        say("nothing was removed")
        return
    for folder in folders:
        if folder.path.is_dir():  # a run may have ended, and removed its own, while the question stood
            remove_work_folder(folder.path)
            say(f"removed {folder.path}, {size_text(folder.freed_bytes)} freed")


def _chosen(stages: Sequence[str] | None, *, unfinished: bool) -> list[LeftFolder]:
    folders = work_folders()
    wanted = {name.replace("-", "_") for name in stages or ()}
    unknown = wanted - {folder.stage for folder in folders}
    if unknown:
        present = ", ".join(sorted({folder.stage for folder in folders})) or "none"
        raise ParamsError(
            f"no work folder of {' or '.join(sorted(unknown))}", remedy=f"`dlkdd work list`; there are: {present}"
        )
    return [
        folder
        for folder in folders
        if (not wanted or folder.stage in wanted) and (folder.unfinished or folder.holder is not None or not unfinished)
    ]


def _agreed(folders: Sequence[LeftFolder]) -> bool:
    if not sys.stdin.isatty():
        raise ParamsError("removing asks first, and there is no terminal to ask on", remedy="add --yes")
    _print(folders)
    return typer.confirm("Remove them?", err=True)


def _print(folders: Sequence[LeftFolder]) -> None:
    print_table(
        ("stage", "size", "frees", "age", "state"),
        (
            (
                each.stage,
                size_text(each.num_bytes),
                size_text(each.freed_bytes),
                age_text(each.age_seconds),
                each.state,
            )
            for each in folders
        ),
    )
    size, freed = (size_text(sum(map(attrgetter(name), folders))) for name in ("num_bytes", "freed_bytes"))
    print_line(f"{size} in {len(folders)} folders; removing them frees {freed}, the rest has links elsewhere")
