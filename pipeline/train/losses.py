"""The loss on hard labels, which every network has; what a teacher adds to it is in pipeline/distill/student/loss.py.

Axes: B batch, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from pipeline.data.dataset import SecondLabels
from pipeline.data.listing import NO_LABEL


def hard_loss(
    logits_BK: Tensor,
    labels_B: Tensor,
    *,
    label_smoothing: float,
    weights_K: Tensor | None = None,
    labelled_share: float = 1.0,
    second: SecondLabels | None = None,
) -> Tensor:
    """Mean cross-entropy with the labels of the manifest; each clip is weighted by weights_K of its class.

    Unlike torch's class weights these are not normalised by the batch, so the losses of its parts add up. With a
    `labelled_share` below 1 clips may have NO_LABEL: the mean is over the labelled ones of a whole batch, of which that
    share is labelled and this may be a part; it is 0 where there are none. The loss of a blend is that of its own label
    and that of its partner's, `second`, by their shares.
    """
    if labelled_share == 1 and weights_K is None and second is None:
        return F.cross_entropy(at_least_float32(logits_BK), labels_B, label_smoothing=label_smoothing)
    loss_B = _loss_of_each(logits_BK, labels_B, label_smoothing, weights_K)
    if second is not None:
        second_B = _loss_of_each(logits_BK, second.labels_B, label_smoothing, weights_K)
        loss_B = torch.lerp(second_B, loss_B, second.own_share_B.to(loss_B))
    return loss_B.mean() / labelled_share if labelled_share else loss_B.mean()


def _loss_of_each(logits_BK: Tensor, labels_B: Tensor, label_smoothing: float, weights_K: Tensor | None) -> Tensor:
    """Cross-entropy of each clip by the weight of its class; 0 without a label."""
    loss_B = F.cross_entropy(
        at_least_float32(logits_BK),
        labels_B,
        label_smoothing=label_smoothing,
        reduction="none",
        ignore_index=NO_LABEL,
    )
    return loss_B if weights_K is None else loss_B * weights_K.to(loss_B, non_blocking=True)[labels_B.clamp(min=0)]


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def class_weights(labels: list[int], num_classes: int) -> Tensor:
    """Weights_K of `balanced`: inversely proportional to the samples of a class, 1 on average over the samples.

    A class without samples has the weight 1, which nothing uses.
    """
    counts_K = torch.bincount(torch.tensor(labels), minlength=num_classes).double()
    present = int((counts_K > 0).sum())
    return torch.where(counts_K > 0, len(labels) / (present * counts_K.clamp(min=1)), 1.0).float()
