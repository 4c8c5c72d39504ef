"""Mixup and CutMix over clips that keep their views: each clip is mixed with its neighbour in the batch.

The loss of a mixed clip is the mix of the losses towards both labels and both soft targets. In cross-entropy, kl and
mse that is the loss towards the mixed target, but for a number that does not depend on the student: its gradient is the
same. It needs no knowledge of the loss, and a loss that looks at the label (dkd) has one to look at.

Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018; Yun et al., "CutMix: Regularization strategy to
train strong classifiers with localizable features", ICCV 2019; over all frames of a clip: Yun et al., "VideoMix:
Rethinking data augmentation for video classification", 2020. Axes: B batch, T frames, H, W, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.core.digest import digest_uint64
from pipeline.data.dataset import Batch


@dataclass(frozen=True)
class Mix:
    """`weight` of each clip, the rest is its neighbour's; in CutMix `box` (top, bottom, left, right) shows that one."""

    weight: float
    box: tuple[int, int, int, int] | None

    def clips(self, clip_BTHWC: Tensor) -> Tensor:
        """Mixed clips: uint8 where a box is cut, float32 where they are blended."""
        neighbour_BTHWC = clip_BTHWC.roll(1, dims=0)
        if self.box is None:
            return torch.lerp(neighbour_BTHWC.float(), clip_BTHWC.float(), self.weight)
        top, bottom, left, right = self.box
        mixed_BTHWC = clip_BTHWC.clone()
        mixed_BTHWC[:, :, top:bottom, left:right] = neighbour_BTHWC[:, :, top:bottom, left:right]
        return mixed_BTHWC


def draw_mix(*, seed: int, step: int, mixup: float, cutmix: float, size: int) -> Mix | None:
    """What happens to the clips of a step, by its name; `mixup` and `cutmix` are alphas of Beta distributions.

    With both, each step draws one of them. None where both are 0.
    """
    if not (mixup or cutmix):
        return None
    rng = np.random.default_rng([seed, digest_uint64(b"mix"), step])
    cut = bool(cutmix) and (not mixup or rng.random() < 0.5)
    alpha = cutmix if cut else mixup
    weight = float(rng.beta(alpha, alpha))
    if not cut:
        return Mix(weight, None)
    half = round(size * (1 - weight) ** 0.5 / 2)
    row, column = (int(value) for value in rng.integers(size, size=2))
    top, bottom, left, right = (
        max(row - half, 0),
        min(row + half, size),
        max(column - half, 0),
        min(column + half, size),
    )
    return Mix(1 - (bottom - top) * (right - left) / size**2, (top, bottom, left, right))


def neighbours(batch: Batch) -> Batch:
    """The batch whose clips, labels and soft targets are each those of the neighbour."""

    def moved(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.roll(1, dims=0)

    return Batch(
        batch.clip_BTHWC.roll(1, dims=0),
        batch.labels_B.roll(1, dims=0),
        moved(batch.teacher_BK),
        moved(batch.teacher_clip_BTHWC),
        batch.video_ids[-1:] + batch.video_ids[:-1],
    )
