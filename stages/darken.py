"""Make a dark copy of a folder of videos, with the demo's camera."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline.data.camera import ARID_CRF, ARID_LIKE, at_exposure
from pipeline.tools.demo.darken import Darkening, darken_folder
from stages._cluster import map_tasks
from stages._shell import progress, say


def main(
    source: Annotated[Path, typer.Argument(help="A folder of videos, with any folders in it.")],
    target: Annotated[Path, typer.Argument(help="The dark copy: a new folder, or an unfinished copy to resume.")],
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other exposures, lights and noise.")] = 0,
    exposure: Annotated[
        float, typer.Option(min=-10, max=10, help="Stops brighter (+) or darker (-) than the real clips of ARID.")
    ] = 0.0,
    crf: Annotated[int, typer.Option(min=0, max=51, help="x264's quality; it crushes the dark levels.")] = ARID_CRF,
    keep_lists: Annotated[
        bool,
        typer.Option("--keep-lists/--drop-lists", help="Copy annotation lists and other files that are not videos."),
    ] = True,
    processes: Annotated[int | None, typer.Option(min=1, help="Worker processes; else one per core.")] = None,
) -> None:
    """Make a dark copy of a folder of videos, with the demo's camera.

    Broken videos are listed at the end (exit code 3). Run again, it keeps what is done.

    Example: dlkdd darken bright_videos dark_videos --exposure -1
    """
    how = Darkening(at_exposure(ARID_LIKE, exposure), seed, crf)
    run = partial(map_tasks, num_workers=processes)
    done = darken_folder(source, target, how, copy_others=keep_lists, run=run, progress=progress)
    say(f"{target}: {done.written} videos darkened, {done.kept} kept, {done.copied} other files copied")
    if done.images:
        say(f"{source}: {done.images} images were skipped: they are neither darkened nor copied")
