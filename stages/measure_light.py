"""Measure how dark each video is, for accuracy by light."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.files import require_writable
from pipeline.data.frame_store import FrameStore
from pipeline.evaluate.light import video_luma
from pipeline.evaluate.tables import write_light
from stages._shell import progress, say


def main(
    *,
    dark_path: Annotated[Path, typer.Option("--dark", help="The dark frames.")],
    out: Annotated[Path, typer.Option(help="The table of mean lumas to write.")],
) -> None:
    """Measure how dark each video is, for accuracy by light: mean luma, 0 to 255, of eight frames of each.

    Example: dlkdd measure-light --dark data/dark --out data/light.csv
    """
    require_writable(out)
    store = FrameStore(dark_path)
    write_light(out, video_luma(store, store.video_ids, progress=progress))
    say(f"measure_light: {len(store.video_ids)} videos -> {out}")
