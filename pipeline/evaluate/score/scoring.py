"""A model's probabilities for every video of a split, averaged over several views.

Axes: N videos, V views, K classes, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pipeline.core.errors import DataError
from pipeline.core.progress import StopCheck
from pipeline.data.dataset import ClipDataset, Sample, UniformViews, in_order, load_batches
from pipeline.data.frame_store import FrameStore
from pipeline.data.views import named_views
from pipeline.evaluate.score.predictions import Predictions
from pipeline.models.recognizer import Recognizer


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

    Raises DataError naming the videos and views where a logit is not finite.
    """
    clip, num_views = recognizer.architecture.clip, num_clips * num_crops
    dataset = ClipDataset(frames, samples, UniformViews(frames, clip, num_clips, num_crops), clip)
    recognizer = recognizer.to(device).eval()
    probs = []
    with torch.inference_mode():
        for batch in load_batches(dataset, in_order(len(samples), num_views, batch_size), num_workers=0):
            logits_BK = recognizer(batch.to(device).clip_BTHWC)
            probs.append(logits_BK.double().softmax(dim=1).cpu())
            advance(len(batch.labels_B), "")
            stop()
    probs_NVK = torch.cat(probs).numpy().reshape(len(samples), num_views, -1)
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
