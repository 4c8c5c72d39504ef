"""Enhance the dark frames: the store that the teacher learns from."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import ParamsError
from pipeline.core.progress import interruptible, shares_text
from pipeline.enhance.apply import enhance
from pipeline.enhance.file import is_learned
from stages._cluster import SchedulerOption, WorkersOption, shard_runner
from stages._shell import PARAMS_PATH, say


def main(
    *,
    dark_path: Annotated[Path, typer.Option("--dark", help="The dark frames.")],
    enhancer_path: Annotated[
        Path | None, typer.Option("--enhancer", help="The enhancer's model file; a preview needs none.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The store of enhanced frames to write; of a preview: a PNG.")],
    device: Annotated[
        str, typer.Option(help="Of a learned enhancer: cpu, cuda, cuda:N, or auto: cuda where there is one.")
    ] = "auto",
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    num_previewed: Annotated[
        int | None,
        typer.Option("--preview", min=1, metavar="N", help="Write a picture of N videos in all enhancers, no store."),
    ] = None,
    manifest_path: Annotated[
        Path | None,
        typer.Option("--manifest", help="Of a preview: whose train videos the learned enhancers are fitted to."),
    ] = None,
    params_path: Annotated[
        Path | None,
        typer.Option("--params", help="Of a preview: the parameters of the enhancers.", show_default=str(PARAMS_PATH)),
    ] = None,
) -> None:
    """Enhance the dark frames: the store that the teacher learns from.

    Videos, frame numbers, sizes and codec stay the same. Videos that were enhanced before with the same enhancer are
    reused.

    With --preview, a picture instead: N videos from the darkest to the brightest, as every enhancer shows them.
    Learned ones are fitted as fit_enhancer would, and kept for the next preview. With a manifest the videos are of
    train and val: test is for the scores.

    Example: dlkdd enhance --preview 6 --dark data/dark --manifest data/manifest.csv --out preview.png
    """
    if num_previewed is not None:
        _refuse("--preview", {"--workers": workers})  # --scheduler may come from the environment
        # by name: an import would make the preview, and the parameters that it reads, dependencies of this stage
        import_module("stages._preview").show(
            num_previewed,
            dark_path=dark_path,
            manifest_path=manifest_path,
            enhancer_path=enhancer_path,
            params_path=params_path or PARAMS_PATH,
            out=out,
            device=device,
        )
        return
    _refuse("an enhanced store", {"--manifest": manifest_path, "--params": params_path})
    if enhancer_path is None:
        raise ParamsError(
            "--enhancer is missing: an enhanced store is made with the model file of an enhancer",
            remedy="`dlkdd fit-enhancer` writes it, models/enhancer.safetensors; --preview N shows all enhancers first",
        )
    if is_learned(enhancer_path):
        from pipeline.core.device import choose_device  # here, since classical enhancers need no torch

        device = str(choose_device(device))
    else:
        device = "cpu"
    started = time.monotonic()
    with interruptible() as stop:
        run = shard_runner("enhance", num_workers=workers, scheduler=scheduler, stop=stop)
        enhanced = enhance(dark_path, enhancer_path, out, device=device, run=run, stop=stop)
    if enhanced.num_frames:
        rate = enhanced.num_frames / (time.monotonic() - started)
        say(f"enhance: {enhanced.num_frames:,} frames, {rate:,.0f} a second; {shares_text(enhanced.seconds)}")
    say(f"enhance: {len(enhanced.store.video_ids)} videos -> {out}")


def _refuse(what: str, options: dict[str, object]) -> None:
    """Refuse options that would be ignored."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ParamsError(f"{what} does not take {' and '.join(given)}", remedy="--help says which option is for what")
