"""Fit the enhancer to the dark training videos; classical ones have nothing to fit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.digest import digest_file
from pipeline.core.files import publish
from pipeline.core.params import EnhancerName, FitEnhancerParams, load_params
from pipeline.core.progress import interruptible
from pipeline.core.tables import read_table, write_curve
from pipeline.core.work_folder import out_lock
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest
from pipeline.enhance.file import LEARNED, classical_from_params, save_enhancer
from pipeline.enhance.fit import CHECKPOINT_SECONDS, CURVE, MODEL, Fit, fitted
from stages._shell import PARAMS_PATH, ParamsOption, progress, say


def main(
    *,
    dark_path: Annotated[Path, typer.Option("--dark", help="The dark frames.")],
    manifest_path: Annotated[Path, typer.Option("--manifest", help="The manifest that `prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="The enhancer's model file to write.")],
    curve_path: Annotated[Path, typer.Option("--curve", help="The table of losses to write, for `dvc plots`.")],
    params_path: ParamsOption = PARAMS_PATH,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: cuda where there is one.")] = "auto",
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, help="Time between two checkpoints; 0: after every step.")
    ] = CHECKPOINT_SECONDS,
) -> None:
    """Fit the enhancer to the dark training videos; classical ones have nothing to fit.

    zero_dce, zero_dce_pp and sci learn from the dark frames of the train split alone, without bright references, or
    take their weights from the file that fit_enhancer.weights names.
    """
    params = load_params(params_path)
    name, options = params.enhancer, params.fit_enhancer
    frames = FrameStore(dark_path)
    train = tuple(row.video_id for row in read_manifest(manifest_path).rows_of("train"))
    if name not in LEARNED or options.weights is not None:
        with out_lock("fit_enhancer", out):
            _take_as_it_is(name, options, out)
            write_curve(curve_path, [], if_empty=("step", "loss"))
        source = f" with the weights of {options.weights}" if name in LEARNED else ""
        say(f"fit_enhancer: {name}{source} -> {out}")
    else:
        from pipeline.core.device import choose_device  # here and below: classical ones need no torch

        fit = Fit(name, options, params.seed, frames, train, choose_device(device))
        losses = _fit(fit, checkpoint_seconds, out, curve_path)
        say(f"fit_enhancer: {name}, loss {losses[0]:.4f} to {losses[-1]:.4f} -> {out}")


def _fit(fit: Fit, checkpoint_seconds: float, out: Path, curve_path: Path) -> list[float]:
    """Publish the fitted model and its curve; returns the losses."""
    every, outs = checkpoint_seconds, (out, curve_path)
    with (
        interruptible() as stop,
        fitted("fit_enhancer", fit, stop=stop, progress=progress, checkpoint_seconds=every, outs=outs) as work,
    ):
        losses = [point["loss"] for point in read_table(work.path / CURVE, float)]
        publish(work.path / CURVE, curve_path)
        publish(work.path / MODEL, out)
        work.finish()
    return losses


def _take_as_it_is(name: EnhancerName, options: FitEnhancerParams, out: Path) -> None:
    """Write an enhancer without fitting: a classical one's parameters, or weights from a file."""
    if name not in LEARNED:
        save_enhancer(out, classical_from_params(name, options), fitted_on={})
        return
    from pipeline.enhance.outside_weights import enhancer_from_weights

    weights = Path(str(options.weights))
    enhancer = enhancer_from_weights(
        weights, name, curve_reduction=options.curve_reduction, precision=options.precision
    )
    save_enhancer(out, enhancer, fitted_on={"weights": digest_file(weights)})
