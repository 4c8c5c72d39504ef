"""Read videos and lists once: manifest, quarantine and dark frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.params import load_params
from pipeline.core.progress import interruptible, shares_text
from pipeline.data.leakage import leakage_text
from pipeline.videos.prepare import counts_text, prepare
from stages._cluster import SchedulerOption, WorkersOption, shard_runner
from stages._shell import PARAMS_PATH, ParamsOption, say


def main(
    *,
    manifest_path: Annotated[Path, typer.Option("--manifest", help="The manifest to write.")],
    quarantine_path: Annotated[Path, typer.Option("--quarantine", help="The table of broken videos to write.")],
    dark_path: Annotated[Path, typer.Option("--dark", help="The store of dark frames to write.")],
    params_path: ParamsOption = PARAMS_PATH,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Read videos and lists once: manifest, quarantine and dark frames.

    Broken videos go to the quarantine with the reason; above prepare.max_quarantined of them the stage fails. With
    `prepare.damaged: take` the frames before a damage are used, and the manifest states it.
    """
    params = load_params(params_path)
    with interruptible() as stop:
        prepared = prepare(
            params.prepare,
            seed=params.seed,
            manifest_path=manifest_path,
            quarantine_path=quarantine_path,
            dark_path=dark_path,
            run=shard_runner("prepare", num_workers=workers, scheduler=scheduler, stop=stop),
            stop=stop,
        )
    for note in prepared.notes:
        say(f"prepare: {note}")
    say(counts_text(prepared.manifest))
    say(f"prepare: between the splits: {leakage_text(prepared.leaks)}")
    for line in prepared.contradictions:
        say(f"prepare: labels contradict each other: {line}")
    damaged = [row for row in prepared.manifest.rows if row.damage]
    for taken in damaged:
        say(f"prepare: damaged, taken up to there: {taken.path} ({taken.split}): {taken.damage}")
    for row in prepared.quarantine:
        say(f"prepare: quarantined {row.path} ({row.split}): {row.reason}")
    if prepared.seconds:
        say(f"prepare: time went to {shares_text(prepared.seconds)}")
    num_videos, num_broken = len(prepared.manifest.rows), len(prepared.quarantine)
    of_these = f", {len(damaged)} of them damaged" if damaged else ""
    say(f"prepare: {num_videos} videos{of_these}, {num_broken} in quarantine -> {manifest_path}, {dark_path}")
