"""The loss of a student that learns from hard labels and cached teacher logits, and the schedule of its soft_weight.

Axes: B batch, K classes.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.core.errors import ParamsError
from pipeline.core.params import DistillationParams
from pipeline.data.dataset import SecondLabels
from pipeline.data.listing import NO_LABEL
from pipeline.distill.student.soft_losses import NEED_LABELS, SOFT_LOSSES, standardized
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


def require_labels(soft_loss: str, num_footage: int, *, mixed: bool = False) -> None:
    """Raise ParamsError where a soft loss looks at labels, and videos have none, or views are blends and have two."""
    if soft_loss in NEED_LABELS and mixed:
        raise ParamsError(
            f"soft_loss {soft_loss} looks at the label of each clip; views that are blends of two videos have two",
            remedy="choose kl, dist, wttm or mse, or a store of views that are not mixed (views.mix: none)",
        )
    if soft_loss in NEED_LABELS and num_footage:
        raise ParamsError(
            f"soft_loss {soft_loss} looks at the label of each clip; {num_footage} videos have none",
            remedy="choose kl, dist, wttm or mse, or leave these videos out by soft_targets.min_agreement: null",
        )


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
    labelled_share: float = 1.0,
    second: SecondLabels | None = None,
) -> Tensor:
    """(1 − soft_weight) · hard loss + soft_weight · soft loss; at soft_weight 0 exactly the baseline's loss.

    The hard loss is the mean over the clips that have a label (`hard_loss` has what `labelled_share` and `second` are),
    the soft loss that over all.

    With standardize both logits are standardised by row before the soft loss; with extra_temperatures it is the mean
    over `temperature` and these, as the instance-level part of Jin et al., "Multi-level logit distillation", CVPR 2023.

    Raises ValueError for shapes that do not fit (one teacher class would silently broadcast), fewer than two classes,
    labels that are no class, clips without a label where all should have one or where the loss needs it, a loss that is
    not known, a temperature that is not positive, and a weight outside of [0, 1]: most of them give a plausible number
    otherwise. Labels that lie on a GPU are not looked at, since that would wait for it: its cross-entropy refuses them.
    """
    lowest = 0 if labelled_share == 1 or soft_loss in NEED_LABELS else NO_LABEL
    _check_tensors(student_BK, labels_B, teacher_BK, lowest)
    if second is not None:
        _check_second(labels_B, second, soft_loss, student_BK.shape[1])
    if not (temperature > 0 and temperature < float("inf")):
        raise ValueError(f"temperature must be positive and finite, not {temperature}")
    if not 0 <= soft_weight <= 1:
        raise ValueError(f"soft_weight must be in [0, 1], not {soft_weight}")
    if soft_loss not in SOFT_LOSSES:
        raise ValueError(f"soft_loss must be one of {', '.join(SOFT_LOSSES)}, not {soft_loss}")
    hard = hard_loss(
        student_BK,
        labels_B,
        label_smoothing=label_smoothing,
        weights_K=class_weights_K,
        labelled_share=labelled_share,
        second=second,
    )
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


def _check_tensors(student_BK: Tensor, labels_B: Tensor, teacher_BK: Tensor, lowest: int) -> None:
    if student_BK.ndim != 2 or student_BK.shape != teacher_BK.shape:
        raise ValueError(f"logits of student {tuple(student_BK.shape)} and teacher {tuple(teacher_BK.shape)} differ")
    if labels_B.shape != student_BK.shape[:1]:
        raise ValueError(f"labels {tuple(labels_B.shape)} do not fit logits {tuple(student_BK.shape)}")
    num_classes = student_BK.shape[1]
    if num_classes < 2:
        raise ValueError(f"wanted logits of at least 2 classes, got {num_classes}")
    if labels_B.device.type == "cpu" and bool(((labels_B < lowest) | (labels_B >= num_classes)).any()):
        raise ValueError(f"labels must be in {lowest} … {num_classes - 1}, got {labels_B.min()} … {labels_B.max()}")


def _check_second(labels_B: Tensor, second: SecondLabels, soft_loss: str, num_classes: int) -> None:
    if soft_loss in NEED_LABELS:
        raise ValueError(f"soft_loss {soft_loss} looks at one label, and blends have two")
    if labels_B.device.type != "cpu":
        return
    partners_B, without_B = second.labels_B, labels_B == NO_LABEL
    if bool(((partners_B == NO_LABEL) != without_B).any() | (partners_B >= num_classes).any()):
        raise ValueError("partners of blends must have a label where their video has one, and one of the classes")
