"""Enhance the dark frames: the store that the teacher learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.enhancement import enhance
from pipeline.work import interruptible
from stages._cluster import SchedulerOption, WorkersOption, shard_runner
from stages._shell import say


def main(
    *,
    dark_path: Annotated[Path, typer.Option("--dark", help="The dark frames.")],
    enhancer_path: Annotated[Path, typer.Option("--enhancer", help="The enhancer's model file.")],
    out: Annotated[Path, typer.Option(help="The store of enhanced frames to write.")],
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Enhance the dark frames: the store that the teacher learns from.

    Same videos, same frame numbers, same sizes, same codec: only the light differs.
    """
    with interruptible() as stop:
        run = shard_runner("enhance", num_workers=workers, scheduler=scheduler, stop=stop)
        enhanced = enhance(dark_path, enhancer_path, out, run=run)
    say(f"enhance: {len(enhanced.video_ids)} videos -> {out}")
