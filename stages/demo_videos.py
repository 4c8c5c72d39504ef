"""Render the built-in demo: dark videos of eleven actions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.params import load_section
from pipeline.tools.demo.render import DemoVideosParams, contact_sheet, list_videos, write_demo
from stages._cluster import map_tasks
from stages._shell import ParamsOption, progress, say


def main(
    params_path: ParamsOption = Path("demo/params.yaml"),
    section: Annotated[str, typer.Option(help="The section of the parameter file.")] = "demo_videos",
    out: Annotated[Path, typer.Option(help="The folder that is written, or replaced.")] = Path("data/demo"),
    processes: Annotated[int | None, typer.Option(min=1, help="Worker processes; else one per core.")] = None,
    contact_sheet_path: Annotated[
        Path | None,
        typer.Option("--contact-sheet", help="Write one picture of all classes to this PNG, and no videos."),
    ] = None,
) -> None:
    """Render the built-in demo: dark videos of eleven actions.

    They lie in ARID's layout.

    Example: dlkdd demo-videos --params demo/params.yaml --section demo_videos --out data/demo
    """
    params = load_section(params_path, section, DemoVideosParams)
    if contact_sheet_path is not None:
        contact_sheet(params, contact_sheet_path)
        say(f"{contact_sheet_path}: one video of each of {len(params.classes)} classes, from left to right in time")
        return
    num_videos = len(list_videos(params))
    with progress(section, num_videos, "videos") as advance:
        write_demo(params, out, run=partial(map_tasks, num_workers=processes), advance=advance)
    say(f"{out}: {num_videos} videos of {len(params.classes)} classes, with ARID's lists in {out / 'list_cvt'}")
