"""The bank of views, and the outputs of a teacher for it.

Axes: N videos, V views, B batch, T frames, H height, W width, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.params import ClipParams
from pipeline.data.dataset import ClipDataset, Sample, ViewSource, in_order, load_batches
from pipeline.data.frame_store import FrameStore
from pipeline.data.views import pixel_digest
from pipeline.models.inference import infer
from pipeline.models.recognizer import Recognizer


@dataclass(frozen=True)
class Bank:
    """The views of videos that a teacher sees, and how many clips to a batch.

    `clip` is the geometry that the views were drawn for, `teacher_clip` that of the clips that the teacher takes.
    """

    frames: FrameStore
    views: ViewSource
    clip: ClipParams
    teacher_clip: ClipParams
    num_views: int
    batch_size: int


@dataclass(frozen=True)
class TeacherOutputs:
    """The float32 logits_NVK of a teacher for all views of some videos, and digests of the pixels that it saw."""

    logits_NVK: NDArray[np.float32]
    pixel_digest_NV: NDArray[np.uint64]


def infer_views(
    teacher: Recognizer,
    bank: Bank,
    video_ids: Sequence[str],
    *,
    device: torch.device,
    num_workers: int,
    advance: Callable[[int, str], None],
) -> TeacherOutputs:
    """Run a teacher, which is on the device, on the views of some videos; `advance` counts the clips."""
    samples = [Sample(video_id, 0) for video_id in video_ids]
    dataset = ClipDataset(bank.frames, samples, bank.views, bank.clip, shown_as=bank.teacher_clip)
    batches = in_order(len(video_ids), bank.num_views, bank.batch_size)
    digests, logits = [], []
    for batch in load_batches(dataset, batches, num_workers=num_workers):
        digests += [pixel_digest(clip_THWC.numpy()) for clip_THWC in batch.clip_BTHWC]
        logits.append(infer(teacher, batch.clip_BTHWC.to(device), batch_size=bank.batch_size).cpu())
        advance(len(batch.clip_BTHWC), "")
    shape = (len(video_ids), bank.num_views)
    return TeacherOutputs(torch.cat(logits).numpy().reshape(*shape, -1), np.array(digests, dtype="<u8").reshape(shape))


def bank_arrays(bank: Bank, video_ids: Sequence[str], outputs: TeacherOutputs) -> dict[str, NDArray[Any]]:
    """The arrays of these videos' rows in a store of this teacher, without those of the logits."""
    digest_of = {row.video_id: row.digest for row in bank.frames.rows}
    views_NV7 = [
        [bank.views.lookup(video_id, number)[0].row() for number in range(bank.num_views)] for video_id in video_ids
    ]
    digests_NX = [np.frombuffer(bytes.fromhex(digest_of[video_id]), dtype=np.uint8) for video_id in video_ids]
    shape_N3 = np.array([bank.frames.shape(video_id) for video_id in video_ids], dtype="<i4")
    return {
        "views": np.array(views_NV7, dtype="<i4"),
        "dark_shape": shape_N3,  # an enhancer keeps it
        "pixel_digest": outputs.pixel_digest_NV[:, :, None],
        "frame_shape": shape_N3[:, None],
        "frames_digest": np.stack(digests_NX)[:, None],
    }
