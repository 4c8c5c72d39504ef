"""Enhance the dark frames: the store that the teacher learns from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from pipeline.enhancement import enhance
from pipeline.enhancer_file import is_learned
from pipeline.stopwatch import shares_text
from pipeline.work import interruptible
from stages._cluster import SchedulerOption, WorkersOption, shard_runner
from stages._shell import say


def main(
    *,
    dark_path: Annotated[Path, typer.Option("--dark", help="The dark frames.")],
    enhancer_path: Annotated[Path, typer.Option("--enhancer", help="The enhancer's model file.")],
    out: Annotated[Path, typer.Option(help="The store of enhanced frames to write.")],
    device: Annotated[
        str, typer.Option(help="Of a learned enhancer: cpu, cuda, cuda:N, or auto: cuda where there is one.")
    ] = "auto",
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Enhance the dark frames: the store that the teacher learns from.

    Same videos, same frame numbers, same sizes, same codec: only the light differs. Videos that were enhanced before,
    with the same enhancer, are taken over.
    """
    started = time.monotonic()
    with interruptible() as stop:
        run = shard_runner("enhance", num_workers=workers, scheduler=scheduler, stop=stop)
        enhanced = enhance(dark_path, enhancer_path, out, device=_device(device, enhancer_path), run=run)
    seconds = time.monotonic() - started
    if enhanced.num_frames:
        rate = enhanced.num_frames / seconds
        say(f"enhance: {enhanced.num_frames:,} frames, {rate:,.0f} a second; {shares_text(enhanced.seconds)}")
    say(f"enhance: {len(enhanced.store.video_ids)} videos -> {out}")


def _device(name: str, enhancer_path: Path) -> str:
    if not is_learned(enhancer_path):
        return "cpu"
    from stages._device import choose_device  # here, since classical enhancers need no torch

    return str(choose_device(name))
