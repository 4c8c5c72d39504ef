"""What the three scoring stages share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.dataset import samples_of
from pipeline.errors import StaleArtifactError
from pipeline.frames import FrameStore
from pipeline.manifest import read_manifest
from pipeline.models import load_model
from pipeline.params import ScoreParams
from pipeline.predictions import write_predictions
from pipeline.scoring import score
from pipeline.work import interruptible
from stages._device import choose_device
from stages._shell import progress, say

ManifestOption = Annotated[Path, typer.Option("--manifest", help="The manifest that `prepare` wrote.")]
FramesOption = Annotated[Path, typer.Option("--frames", help="The frame store of the kind that the model knows.")]
ModelOption = Annotated[Path, typer.Option("--model", help="The model file.")]
OutOption = Annotated[Path, typer.Option("--out", help="The table of predictions to write.")]


def score_model(
    stage: str,
    *,
    manifest_path: Path,
    frames_path: Path,
    model_path: Path,
    out: Path,
    options: ScoreParams,
    device_name: str,
) -> None:
    """Write a model's probabilities for every test video; raises StaleArtifactError where it knows other classes."""
    manifest, frames, model = read_manifest(manifest_path), FrameStore(frames_path), load_model(model_path)
    if model.class_names != manifest.class_names:
        raise StaleArtifactError(
            f"{model_path}: knows other classes than the manifest",
            findings=[f"model: {list(model.class_names)}", f"manifest: {list(manifest.class_names)}"],
            remedy="`dvc repro` trains it again on this manifest",
        )
    samples = samples_of(manifest, frames, "test")
    with interruptible() as stop, progress(stage, len(samples) * options.num_clips, "clips") as advance:
        predictions = score(
            model.recognizer,
            frames,
            samples,
            class_names=manifest.class_names,
            num_clips=options.num_clips,
            batch_size=options.batch_size,
            device=choose_device(device_name),
            stop=stop,
            advance=advance,
        )
    write_predictions(out, predictions)
    say(f"{stage}: {len(samples)} test videos, {options.num_clips} views each -> {out}")
