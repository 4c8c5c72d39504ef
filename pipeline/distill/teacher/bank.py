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

from pipeline.core.digest import digest_uint64
from pipeline.core.params import ClipParams
from pipeline.data.dataset import ClipDataset, Sample, ViewSource, in_order, load_batches
from pipeline.data.frame_store import FrameStore
from pipeline.data.listing import NO_LABEL
from pipeline.data.views import NUM_BLEND_FIELDS, AnyView, BlendedView, pixel_digest
from pipeline.models.inference import infer
from pipeline.models.recognizer import Recognizer


@dataclass(frozen=True)
class Bank:
    """The views of videos that a teacher sees, and how many clips to a batch.

    `clip` is the geometry that the views were drawn for, `teacher_clip` that of the clips that the teacher takes. Where
    they are `mixed`, some views are blends.
    """

    frames: FrameStore
    views: ViewSource
    clip: ClipParams
    teacher_clip: ClipParams
    num_views: int
    batch_size: int
    mixed: bool


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
    samples = [Sample(video_id, NO_LABEL) for video_id in video_ids]
    dataset = ClipDataset(bank.frames, samples, bank.views, bank.clip, shown_as=bank.teacher_clip)
    batches = in_order(len(video_ids), bank.num_views, bank.batch_size)
    digests, logits = [], []
    for batch in load_batches(dataset, batches, num_workers=num_workers):
        clip_BTHWC = batch.clip_BTHWC.to(device, non_blocking=True)
        logits.append(infer(teacher, clip_BTHWC, batch_size=bank.batch_size))  # on a GPU it is still at work
        digests += [pixel_digest(clip_THWC.numpy()) for clip_THWC in batch.clip_BTHWC]
        advance(len(batch.clip_BTHWC), "")
    shape = (len(video_ids), bank.num_views)
    logits_NVK = torch.cat(logits).cpu().numpy().reshape(*shape, -1)
    return TeacherOutputs(logits_NVK, np.array(digests, dtype="<u8").reshape(shape))


def view_arrays(shown_NV: Sequence[Sequence[AnyView]], *, mixed: bool) -> dict[str, NDArray[Any]]:
    """Views as a store keeps them. A view that is no blend has the partner 0 and an empty box, at zeros."""
    own_NV = [[view.own if isinstance(view, BlendedView) else view for view in shown_V] for shown_V in shown_NV]
    arrays: dict[str, NDArray[Any]] = {"views": np.array([[view.row() for view in own_V] for own_V in own_NV], "<i4")}
    if mixed:
        none = (0,) * NUM_BLEND_FIELDS
        blend_NV = [[getattr(view, "blend", None) for view in shown_V] for shown_V in shown_NV]
        partner_NV = [[digest_uint64(blend.partner.encode()) if blend else 0 for blend in of_V] for of_V in blend_NV]
        arrays["partner"] = np.array(partner_NV, "<u8")
        arrays["blends"] = np.array([[blend.row() if blend else none for blend in of_V] for of_V in blend_NV], "<i4")
    return arrays


def bank_arrays(bank: Bank, video_ids: Sequence[str], outputs: TeacherOutputs) -> dict[str, NDArray[Any]]:
    """The arrays of these videos' rows in a store of this teacher, without those of the logits."""
    digest_of = {row.video_id: row.digest for row in bank.frames.rows}
    shown_NV = [[bank.views.lookup(video_id, number)[0] for number in range(bank.num_views)] for video_id in video_ids]
    digests_NX = [np.frombuffer(bytes.fromhex(digest_of[video_id]), dtype=np.uint8) for video_id in video_ids]
    shape_N3 = np.array([bank.frames.shape(video_id) for video_id in video_ids], dtype="<i4")
    return {
        **view_arrays(shown_NV, mixed=bank.mixed),
        "dark_shape": shape_N3,  # an enhancer keeps it
        "pixel_digest": outputs.pixel_digest_NV[:, :, None],
        "frame_shape": shape_N3[:, None],
        "frames_digest": np.stack(digests_NX)[:, None],
    }
