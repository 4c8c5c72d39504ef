"""The loss on hard labels, which every network has; what a teacher adds to it is in pipeline/distillation.py.

Axes: B batch, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


def hard_loss(logits_BK: Tensor, labels_B: Tensor, *, label_smoothing: float) -> Tensor:
    """Cross-entropy with the labels of the manifest, the mean over the batch."""
    return F.cross_entropy(raised(logits_BK), labels_B, label_smoothing=label_smoothing)


def raised(values: Tensor) -> Tensor:
    """Half precision as float32; others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
