"""Fit the enhancer to the dark training videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.digest import digest_file
from pipeline.core.errors import ParamsError
from pipeline.core.files import publish
from pipeline.core.params import load_params
from pipeline.core.progress import interruptible
from pipeline.core.tables import read_curve, write_curve
from pipeline.core.work_folder import out_lock
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest
from pipeline.enhance.file import ENHANCERS, LEARNED, classical_from_params, save_enhancer
from pipeline.enhance.fit import CURVE, MODEL, Fit, fitted
from stages._shell import (
    CHECKPOINT_SECONDS,
    PARAMS_PATH,
    CheckpointOption,
    DeviceOption,
    ManifestOption,
    ParamsOption,
    progress,
    say,
)


def main(
    *,
    dark_path: Annotated[Path, typer.Option("--dark", help="The dark frames.")],
    manifest_path: ManifestOption,
    out: Annotated[Path, typer.Option(help="The enhancer's model file to write.")],
    curve_path: Annotated[Path, typer.Option("--curve", help="The table of losses to write, for `dvc plots`.")],
    chosen: Annotated[
        str | None, typer.Option("--enhancer", help="Fit this one, not the parameters' `enhancer`.")
    ] = None,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
    checkpoint_seconds: CheckpointOption = CHECKPOINT_SECONDS,
) -> None:
    """Fit the enhancer to the dark training videos.

    Classical ones have nothing to fit: their file holds their parameters.

    zero_dce, zero_dce_pp and sci learn from the dark frames of the train split alone, without bright references, or
    take their weights from the file that fit_enhancer.weights names.
    """
    params = load_params(params_path)
    name, options = chosen or params.enhancer, params.fit_enhancer
    if name not in ENHANCERS:
        raise ParamsError(f"--enhancer {name}: there is no such enhancer; there are: {', '.join(ENHANCERS)}")
    frames = FrameStore(dark_path)
    train = tuple(row.video_id for row in read_manifest(manifest_path).rows_of("train"))
    if name in LEARNED and options.weights is None:
        from pipeline.core.device import choose_device  # here and below: classical ones need no torch

        fit = Fit(name, options, params.seed, frames, train, choose_device(device))
        every, outs = checkpoint_seconds, (out, curve_path)
        with (
            interruptible() as stop,
            fitted("fit_enhancer", fit, stop=stop, progress=progress, checkpoint_seconds=every, outs=outs) as work,
        ):
            losses = [point["loss"] for point in read_curve(work.path / CURVE)]
            publish(work.path / CURVE, curve_path)
            publish(work.path / MODEL, out)
            work.finish()
        say(f"fit_enhancer: {name}, loss {losses[0]:.4f} to {losses[-1]:.4f} -> {out}")
        return
    with out_lock("fit_enhancer", out):
        if name not in LEARNED:
            save_enhancer(out, classical_from_params(name, options), fitted_on={})
            source = ""
        else:
            from pipeline.enhance.outside_weights import enhancer_from_weights

            weights = Path(str(options.weights))
            enhancer = enhancer_from_weights(
                weights, name, curve_reduction=options.curve_reduction, precision=options.precision
            )
            save_enhancer(out, enhancer, fitted_on={"weights": digest_file(weights)})
            source = f" with the weights of {weights}"
        write_curve(curve_path, [], if_empty=("step", "loss"))
    say(f"fit_enhancer: {name}{source} -> {out}")
