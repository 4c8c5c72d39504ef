"""The loss of a student that learns from hard labels and cached teacher logits, and the schedule of its soft_weight.

Axes: B batch, K classes.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.core.params import DistillationParams
from pipeline.distill.student.soft_losses import SOFT_LOSSES, standardized
from pipeline.train.losses import at_least_float32, hard_loss


def soft_weight_at(epoch: float, *, soft_weight: float, epochs: int, options: DistillationParams) -> float:
    """The weight at `epoch`, the number of passes over the data so far, with its fraction.

    constant: soft_weight. warmup: from 0 linearly up to it over the first schedule_epochs. decay: from it linearly
    down to 0 over the last schedule_epochs.
    """
    if options.schedule == "constant" or options.schedule_epochs == 0:
        return soft_weight
    done = epoch if options.schedule == "warmup" else epochs - epoch
    return soft_weight * min(done / options.schedule_epochs, 1.0)


def distillation_loss(
    student_BK: Tensor,
    labels_B: Tensor,
    teacher_BK: Tensor,
    *,
    soft_loss: str,
    temperature: float,
    soft_weight: float,
    options: DistillationParams,
    label_smoothing: float = 0.0,
    class_weights_K: Tensor | None = None,
) -> Tensor:
    """(1 − soft_weight) · hard loss + soft_weight · soft loss; at soft_weight 0 exactly the baseline's loss.

    With standardize both logits are standardised by row before the soft loss; with extra_temperatures it is the mean
    over `temperature` and these, as the instance-level part of Jin et al., "Multi-level logit distillation", CVPR 2023.

    Raises ValueError for shapes that do not fit (one teacher class would silently broadcast), fewer than two classes,
    labels that are no class, a loss that is not known, a temperature that is not positive, and a weight outside of
    [0, 1]: most of them give a plausible number otherwise.
    """
    _check_tensors(student_BK, labels_B, teacher_BK)
    if not (temperature > 0 and temperature < float("inf")):
        raise ValueError(f"temperature must be positive and finite, not {temperature}")
    if not 0 <= soft_weight <= 1:
        raise ValueError(f"soft_weight must be in [0, 1], not {soft_weight}")
    if soft_loss not in SOFT_LOSSES:
        raise ValueError(f"soft_loss must be one of {', '.join(SOFT_LOSSES)}, not {soft_loss}")
    hard = hard_loss(student_BK, labels_B, label_smoothing=label_smoothing, weights_K=class_weights_K)
    if soft_weight == 0:
        return hard
    soft = _soft_loss(student_BK, labels_B, teacher_BK, soft_loss, temperature, options)
    return (1 - soft_weight) * hard + soft_weight * soft


def _soft_loss(
    student_BK: Tensor, labels_B: Tensor, teacher_BK: Tensor, name: str, temperature: float, options: DistillationParams
) -> Tensor:
    student_BK, teacher_BK = at_least_float32(student_BK), at_least_float32(teacher_BK)
    if options.standardize:
        student_BK, teacher_BK = standardized(student_BK), standardized(teacher_BK)
    loss, extra = SOFT_LOSSES[name], options.extra_temperatures or []
    total = loss(student_BK, teacher_BK, labels_B, temperature, options)
    for other in extra:
        total = total + loss(student_BK, teacher_BK, labels_B, other, options)
    return total / (1 + len(extra))


def _check_tensors(student_BK: Tensor, labels_B: Tensor, teacher_BK: Tensor) -> None:
    if student_BK.ndim != 2 or student_BK.shape != teacher_BK.shape:
        raise ValueError(f"logits of student {tuple(student_BK.shape)} and teacher {tuple(teacher_BK.shape)} differ")
    if labels_B.shape != student_BK.shape[:1]:
        raise ValueError(f"labels {tuple(labels_B.shape)} do not fit logits {tuple(student_BK.shape)}")
    num_classes = student_BK.shape[1]
    if num_classes < 2:
        raise ValueError(f"wanted logits of at least 2 classes, got {num_classes}")
    if bool(((labels_B < 0) | (labels_B >= num_classes)).any()):
        raise ValueError(f"labels must be in 0 … {num_classes - 1}, got {labels_B.min()} … {labels_B.max()}")
