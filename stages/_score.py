"""What the three scoring stages and evaluate_model share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.device import choose_device
from pipeline.core.errors import StaleArtifactError
from pipeline.core.files import require_writable
from pipeline.core.params import ScoreParams
from pipeline.core.progress import interruptible
from pipeline.data.dataset import samples_of
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import Manifest, read_manifest
from pipeline.evaluate.score.predictions import Origin, Predictions, views_text, write_predictions
from pipeline.evaluate.score.scoring import score
from pipeline.models.recognizer import ModelFile, load_model
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
    require_writable(out)
    manifest, frames = read_manifest(manifest_path), FrameStore(frames_path)
    model = load_model_for(manifest, model_path)
    predictions = predict(stage, model, manifest, frames, split="test", options=options, device_name=device_name)
    write_predictions(out, predictions)
    views = f"{options.num_clips} × {options.num_crops} views (clips × crops)"
    say(f"{stage}: {len(predictions.video_ids)} test videos, {views} each -> {out}")


def load_model_for(manifest: Manifest, path: Path) -> ModelFile:
    """The model of a file; raises StaleArtifactError where it knows other classes than the manifest."""
    model = load_model(path)
    if model.class_names != manifest.class_names:
        raise StaleArtifactError(
            f"{path}: knows other classes than the manifest",
            findings=[f"model: {list(model.class_names)}", f"manifest: {list(manifest.class_names)}"],
            remedy="`dvc repro` trains it again on this manifest",
        )
    return model


def predict(
    stage: str,
    model: ModelFile,
    manifest: Manifest,
    frames: FrameStore,
    *,
    split: str,
    options: ScoreParams,
    device_name: str,
) -> Predictions:
    """A model's probabilities for every video of a split, with progress."""
    samples = samples_of(manifest, frames, split)
    num_views = options.num_clips * options.num_crops
    with interruptible() as stop, progress(stage, len(samples) * num_views, "clips") as advance:
        scored = score(
            model.recognizer,
            frames,
            samples,
            class_names=manifest.class_names,
            num_clips=options.num_clips,
            num_crops=options.num_crops,
            batch_size=options.batch_size,
            device=choose_device(device_name),
            stop=stop,
            advance=advance,
        )
    views = views_text(options.num_clips, options.num_crops)
    return replace(scored, origin=Origin(model.digest, manifest.digest, views))
