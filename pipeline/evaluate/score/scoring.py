"""A model's probabilities for every video of a split, averaged over several views.

Axes: N videos, V views, K classes, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.core.device import choose_device
from pipeline.core.errors import DataError, StaleArtifactError
from pipeline.core.params import ScoreParams
from pipeline.core.progress import Progress, StopCheck, interruptible
from pipeline.data.dataset import ClipDataset, Sample, UniformViews, in_order, load_batches, samples_of
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import Manifest
from pipeline.data.views import named_views
from pipeline.evaluate.score.predictions import Origin, Predictions, views_text
from pipeline.models.recognizer import ModelFile, Recognizer, load_model, require_levels


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


def score_split(
    model: ModelFile,
    manifest: Manifest,
    frames: FrameStore,
    *,
    split: str,
    options: ScoreParams,
    device_name: str,
    stage: str,
    progress: Progress,
) -> Predictions:
    """A model's probabilities for every video of a split, and their origin. `stage` names it in the progress."""
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


def score(
    recognizer: Recognizer,
    frames: FrameStore,
    samples: Sequence[Sample],
    *,
    class_names: Sequence[str],
    num_clips: int,
    num_crops: int,
    batch_size: int,
    device: torch.device,
    stop: StopCheck,
    advance: Callable[[int, str], None],
) -> Predictions:
    """Mean of the probabilities over `num_clips` × `num_crops` uniform views of each video.

    Raises DataError naming the videos and views where a logit is not finite, StaleArtifactError for frames of other
    levels than the network's.
    """
    require_levels(recognizer, frames.path, frames.levels)
    clip, num_views = recognizer.architecture.clip, num_clips * num_crops
    dataset = ClipDataset(frames, samples, UniformViews(frames, clip, num_clips, num_crops), clip)
    recognizer = recognizer.to(device).eval()
    probs = []
    with torch.inference_mode():
        for batch in load_batches(dataset, in_order(len(samples), num_views, batch_size), num_workers=0):
            logits_BK = recognizer(batch.to(device).clip_BTHWC)
            probs.append(logits_BK.double().softmax(dim=1))
            advance(len(batch.labels_B), "")
            stop()
    probs_NVK = torch.cat(probs).cpu().numpy().reshape(len(samples), num_views, -1)
    video_ids = tuple(sample.video_id for sample in samples)
    broken = named_views(video_ids, ~np.isfinite(probs_NVK).all(axis=2))
    if broken:
        raise DataError(
            f"the model's logits are not finite on {len(broken)} videos:",
            findings=broken,
            remedy="train it again with a lower learning_rate",
        )
    return Predictions(
        video_ids,
        np.array([sample.label for sample in samples], dtype=np.int64),
        probs_NVK.mean(axis=1),
        tuple(class_names),
    )
