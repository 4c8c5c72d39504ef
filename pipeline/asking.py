"""Asking a teacher about clips, always as many at once, so that a clip's logits depend on the clip alone.

Kernels choose their order of summation by the size of the batch. With one size, on one device and number of threads, a
clip's logits are the same bits whatever its neighbours, its place and the padding: tried on the CPU with r2plus1d_slim
and r3d_18. Between sizes they differed by up to 6e-7.

Axes: B batch, T frames, H height, W width, C channels, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.models import Recognizer


def ask(teacher: Recognizer, clip_BTHWC: Tensor, *, batch_size: int) -> Tensor:
    """The teacher's float32 logits_BK for uint8 clips, on their device; any number of clips.

    The teacher is asked about `batch_size` clips at once; the last batch is filled up with black ones.
    """
    logits = [_ask_whole(teacher, part_BTHWC, batch_size) for part_BTHWC in torch.split(clip_BTHWC, batch_size)]
    return torch.cat(logits)


@torch.no_grad()
def _ask_whole(teacher: Recognizer, clip_BTHWC: Tensor, batch_size: int) -> Tensor:
    num_clips = len(clip_BTHWC)
    if num_clips < batch_size:
        black_BTHWC = clip_BTHWC.new_zeros((batch_size - num_clips, *clip_BTHWC.shape[1:]))
        clip_BTHWC = torch.cat([clip_BTHWC, black_BTHWC])
    logits_BK: Tensor = teacher(clip_BTHWC)[:num_clips].float()
    return logits_BK
