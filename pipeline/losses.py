"""Losses of a student that learns from hard labels and cached teacher logits.

Axes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor


def kl_loss(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """T²·KL(softmax(teacher/T) ‖ softmax(student/T)), the mean over the batch.

    Takes logits. The factor T² keeps the size of the gradient comparable between temperatures. Hinton, Vinyals and
    Dean, "Distilling the knowledge in a neural network", 2015.
    """
    student_log_probs = F.log_softmax(student_BK.float() / temperature, dim=1)
    teacher_log_probs = F.log_softmax(teacher_BK.float() / temperature, dim=1)
    divergence = F.kl_div(student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True)
    return divergence * temperature**2


SOFT_LOSSES: dict[str, Callable[..., Tensor]] = {"kl": kl_loss}


def hard_loss(logits_BK: Tensor, labels_B: Tensor, *, label_smoothing: float) -> Tensor:
    """Cross-entropy with the labels of the manifest, the mean over the batch."""
    return F.cross_entropy(logits_BK.float(), labels_B, label_smoothing=label_smoothing)


def distillation_loss(
    student_BK: Tensor,
    labels_B: Tensor,
    teacher_BK: Tensor,
    *,
    soft_loss: str,
    temperature: float,
    soft_weight: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """(1 − soft_weight) · hard loss + soft_weight · soft loss; at soft_weight 0 exactly the baseline's loss.

    Raises ValueError for shapes that do not fit (one teacher class would broadcast in silence), a temperature that is
    not positive, and a weight outside of [0, 1]: each of them gives a plausible number otherwise.
    """
    if student_BK.ndim != 2 or student_BK.shape != teacher_BK.shape:
        raise ValueError(f"logits of student {tuple(student_BK.shape)} and teacher {tuple(teacher_BK.shape)} differ")
    if labels_B.shape != student_BK.shape[:1]:
        raise ValueError(f"labels {tuple(labels_B.shape)} do not fit logits {tuple(student_BK.shape)}")
    if not (temperature > 0 and temperature < float("inf")):
        raise ValueError(f"temperature must be positive and finite, not {temperature}")
    if not 0 <= soft_weight <= 1:
        raise ValueError(f"soft_weight must be in [0, 1], not {soft_weight}")
    hard = hard_loss(student_BK, labels_B, label_smoothing=label_smoothing)
    if soft_weight == 0:
        return hard
    soft = SOFT_LOSSES[soft_loss](student_BK, teacher_BK, temperature=temperature)
    return (1 - soft_weight) * hard + soft_weight * soft
