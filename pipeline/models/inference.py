"""A trained network's logits, which depend on the clip and the network alone.

Kernels choose their order of summation by the size of the batch and the number of threads. With a fixed batch size, and
one thread on the CPU, a clip's logits are the same bits whatever its neighbours, its place and the padding: tried with
r2plus1d_slim and r3d_18. MKL guarantees it in its strict mode, which the command sets (stages/__main__.py). Between
batch sizes logits differed by up to 6e-7, between one thread and two by up to 7e-9. To use many cores, clips are
shared among processes instead.

Axes: B batch, T frames, H height, W width, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pipeline.models.recognizer import Recognizer


def infer(recognizer: Recognizer, clip_BTHWC: Tensor, *, batch_size: int) -> Tensor:
    """Float32 logits_BK of any number of uint8 clips, on their device.

    Every batch has `batch_size` clips; the last is padded with black clips.
    """
    with torch.no_grad(), _one_thread():
        return torch.cat([_infer_batch(recognizer, part, batch_size) for part in torch.split(clip_BTHWC, batch_size)])


def _infer_batch(recognizer: Recognizer, clip_BTHWC: Tensor, batch_size: int) -> Tensor:
    num_clips = len(clip_BTHWC)
    if num_clips < batch_size:
        black_BTHWC = clip_BTHWC.new_zeros((batch_size - num_clips, *clip_BTHWC.shape[1:]))
        clip_BTHWC = torch.cat([clip_BTHWC, black_BTHWC])
    logits_BK: Tensor = recognizer(clip_BTHWC)[:num_clips].float()
    return logits_BK


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
