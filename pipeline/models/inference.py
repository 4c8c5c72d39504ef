"""Asking teachers about clips, so that a clip's logits depend on the clip and the teacher alone.

Kernels choose their order of summation by the size of the batch and the number of threads. With one size, and on the
CPU one thread, a clip's logits are the same bits whatever its neighbours, its place and the padding: tried with
r2plus1d_slim and r3d_18. MKL keeps to it in its strict mode, which the command sets (stages/__main__.py). Between
sizes they differed by up to 6e-7, between one thread and two by up to 7e-9. Work on many cores is shared among
processes instead, clip by clip.

Axes: N videos, V views, M teachers, B batch, T frames, H height, W width, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.params import ClipParams
from pipeline.data.dataset import ClipDataset, Sample, ViewSource, in_order, load_batches
from pipeline.data.frame_store import FrameStore
from pipeline.data.views import pixel_digest
from pipeline.models.recognizer import Recognizer


def ask(teacher: Recognizer, clip_BTHWC: Tensor, *, batch_size: int) -> Tensor:
    """The teacher's float32 logits_BK for uint8 clips, on their device; any number of clips.

    The teacher is asked about `batch_size` clips at once; the last batch is filled up with black ones.
    """
    with torch.no_grad(), _one_thread():
        return torch.cat([_ask_whole(teacher, part, batch_size) for part in torch.split(clip_BTHWC, batch_size)])


def _ask_whole(teacher: Recognizer, clip_BTHWC: Tensor, batch_size: int) -> Tensor:
    num_clips = len(clip_BTHWC)
    if num_clips < batch_size:
        black_BTHWC = clip_BTHWC.new_zeros((batch_size - num_clips, *clip_BTHWC.shape[1:]))
        clip_BTHWC = torch.cat([clip_BTHWC, black_BTHWC])
    logits_BK: Tensor = teacher(clip_BTHWC)[:num_clips].float()
    return logits_BK


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Bank:
    """Views of videos that teachers are asked about, and how many clips at once."""

    frames: FrameStore
    views: ViewSource
    clip: ClipParams
    num_views: int
    batch_size: int


@dataclass(frozen=True)
class Answers:
    """What teachers said about all views of some videos: float32 logits_NVMK, and digests of the pixels they saw."""

    logits_NVMK: NDArray[np.float32]
    pixel_digest_NV: NDArray[np.uint64]


def ask_views(
    teachers: Sequence[Recognizer],
    bank: Bank,
    video_ids: Sequence[str],
    *,
    device: torch.device,
    num_workers: int,
    advance: Callable[[int, str], None],
) -> Answers:
    """Ask teachers, which are on the device, about the views of some videos; `advance` counts the clips."""
    dataset = ClipDataset(bank.frames, [Sample(video_id, 0) for video_id in video_ids], bank.views, bank.clip)
    batches = in_order(len(video_ids), bank.num_views, bank.batch_size)
    digests, logits = [], []
    for batch in load_batches(dataset, batches, num_workers=num_workers):
        digests += [pixel_digest(clip_THWC.numpy()) for clip_THWC in batch.clip_BTHWC]
        clip_BTHWC = batch.clip_BTHWC.to(device)
        asked = [ask(teacher, clip_BTHWC, batch_size=bank.batch_size).cpu() for teacher in teachers]
        logits.append(torch.stack(asked, dim=1))
        advance(len(clip_BTHWC), "")
    shape = (len(video_ids), bank.num_views)
    return Answers(
        torch.cat(logits).numpy().reshape(*shape, len(teachers), -1), np.array(digests, dtype="<u8").reshape(shape)
    )


def named_views(video_ids: Sequence[str], chosen_NV: NDArray[np.bool_]) -> list[str]:
    """The videos with a chosen view, each with the numbers of these views, for messages."""
    return [
        f"{video_ids[row]}: view {', '.join(map(str, np.flatnonzero(chosen_NV[row])))}"
        for row in np.flatnonzero(chosen_NV.any(axis=1)).tolist()
    ]


def described(bank: Bank, video_ids: Sequence[str], answers: Answers) -> dict[str, NDArray[Any]]:
    """The arrays of these videos' rows in a store, without those of the logits."""
    digest_of = {row.video_id: row.digest for row in bank.frames.rows}
    views_NV7 = [
        [bank.views.lookup(video_id, number)[0].row() for number in range(bank.num_views)] for video_id in video_ids
    ]
    digests_NX = [np.frombuffer(bytes.fromhex(digest_of[video_id]), dtype=np.uint8) for video_id in video_ids]
    return {
        "views": np.array(views_NV7, dtype="<i4"),
        "pixel_digest": answers.pixel_digest_NV,
        "frame_shape": np.array([bank.frames.shape(video_id) for video_id in video_ids], dtype="<i4"),
        "frames_digest": np.stack(digests_NX),
    }
