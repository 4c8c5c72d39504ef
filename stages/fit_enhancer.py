"""Fit the enhancer to the dark training videos; classical ones are their parameters."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.digest import digest_file, digest_json
from pipeline.enhancer_file import LEARNED, classical_from_params, save_enhancer
from pipeline.frames import FrameStore
from pipeline.manifest import read_manifest
from pipeline.params import EnhancerName, FitEnhancerParams, load_params, stage_values
from pipeline.work import interruptible, publish, work_folder, written_whole
from stages._shell import PARAMS_PATH, ParamsOption, progress, say

if TYPE_CHECKING:
    from pipeline.enhancer_fitting import Curve

FITTED_VERSION = 1  # raised when the same frames come to give other weights
CHECKPOINT_SECONDS = 20.0


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
    """Fit the enhancer to the dark training videos; classical ones are their parameters.

    zero_dce, zero_dce_pp and sci learn from the dark frames of the train split alone, without bright references; or
    take the weights of the file that fit_enhancer.weights names.
    """
    params = load_params(params_path)
    name, options = params.enhancer, params.fit_enhancer
    frames = FrameStore(dark_path)
    train = [row.video_id for row in read_manifest(manifest_path).rows_of("train")]
    if name not in LEARNED:
        save_enhancer(out, classical_from_params(name, options), fitted_on={})
        _write_curve(curve_path, [])
        say(f"fit_enhancer: {name} -> {out}")
    elif options.weights is not None:
        _take_weights(name, options, out)
        _write_curve(curve_path, [])
        say(f"fit_enhancer: {name} with the weights of {options.weights} -> {out}")
    else:
        curve = _fit(name, options, frames, train, params.seed, device, checkpoint_seconds, out, curve_path)
        say(f"fit_enhancer: {name}, loss {curve[0]['loss']:.4f} to {curve[-1]['loss']:.4f} -> {out}")


def _take_weights(name: EnhancerName, options: FitEnhancerParams, out: Path) -> None:
    from pipeline.enhancer_weights import enhancer_from_weights  # here and below: classical ones need no torch

    weights = Path(str(options.weights))
    enhancer = enhancer_from_weights(
        weights, name, curve_reduction=options.curve_reduction, precision=options.precision
    )
    save_enhancer(out, enhancer, fitted_on={"weights": digest_file(weights)})


def _fit(
    name: EnhancerName,
    options: FitEnhancerParams,
    frames: FrameStore,
    train: list[str],
    seed: int,
    device_name: str,
    checkpoint_seconds: float,
    out: Path,
    curve_path: Path,
) -> Curve:
    """Fit in the stage's work folder, and publish the model and its curve."""
    from pipeline.enhancer_fitting import Fitter
    from stages._device import choose_device

    device = choose_device(device_name)
    inputs = {"dark": frames.digest, "train": digest_json(train)}
    values = {**stage_values(options, seed=seed, enhancer=name), "device": device.type}
    with (
        work_folder("fit_enhancer", params=values, inputs=inputs, format_version=FITTED_VERSION) as work,
        interruptible() as stop,
    ):
        fitter = Fitter(
            name,
            frames,
            train,
            options,
            seed=seed,
            device=device,
            checkpoint_path=work.path / "checkpoint.pt",
            checkpoint_seconds=checkpoint_seconds,
        )
        with progress("fit_enhancer", options.steps, "steps") as advance:
            enhancer, curve = fitter.run(stop=stop, advance=advance)
        built_model, built_curve = work.path / "enhancer.safetensors", work.path / "curve.csv"
        save_enhancer(built_model, enhancer, fitted_on={**inputs, "seed": seed, "steps": options.steps})
        _write_curve(built_curve, curve)
        publish(built_curve, curve_path)
        publish(built_model, out)
        work.finish()
    return curve


def _write_curve(path: Path, curve: Curve) -> None:
    """The losses, a line a point; the heading alone where nothing was fitted."""
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(curve[0]) if curve else ["step", "loss"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in curve)
