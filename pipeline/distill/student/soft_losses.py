"""Losses between the logits of a student and a teacher: one function each, the mean over the batch.

All take logits of student and teacher (B, K). Half precision is raised to float32, double stays double.
Axes: B batch, K classes, R the classes that are not the label (K − 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from pipeline.core.params import DistillationParams
from pipeline.train.losses import at_least_float32

STD_FLOOR = 1e-7  # added to a standard deviation, as the authors of logit standardisation do
NORM_FLOOR = 1e-8  # a constant row or column has no direction: its correlation is 0


def standardized(logits_BK: Tensor) -> Tensor:
    """(z − mean) / std of each row; a constant row becomes zeros.

    Sun et al., "Logit standardization in knowledge distillation", CVPR 2024.
    """
    centred_BK = logits_BK - logits_BK.mean(dim=1, keepdim=True)
    return centred_BK / (logits_BK.std(dim=1, keepdim=True) + STD_FLOOR)


def kl_loss(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """T²·KL(softmax(teacher/T) ‖ softmax(student/T)), the mean over the batch.

    Takes logits. The factor T² keeps the size of the gradient comparable between temperatures. Hinton, Vinyals and
    Dean, "Distilling the knowledge in a neural network", 2015.
    """
    student_log_probs = F.log_softmax(at_least_float32(student_BK) / temperature, dim=1)
    teacher_log_probs = F.log_softmax(at_least_float32(teacher_BK) / temperature, dim=1)
    divergence = F.kl_div(student_log_probs, teacher_log_probs, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def dkd_loss(
    student_BK: Tensor, teacher_BK: Tensor, labels_B: Tensor, *, temperature: float, alpha: float, beta: float
) -> Tensor:
    """T²·(α·TCKD + β·NCKD), p at temperature T.

    TCKD is the KL of (p_label, 1 − p_label), NCKD the KL over the classes that are not the label, normalised among
    themselves; KL = TCKD + (1 − teacher's p_label)·NCKD. Zhao et al., "Decoupled knowledge distillation", CVPR 2022.
    The label's column is left out, not masked by a large number: so it is exact for one-hot teachers too.
    """
    student_B2, student_BR = _decoupled(at_least_float32(student_BK) / temperature, labels_B)
    teacher_B2, teacher_BR = _decoupled(at_least_float32(teacher_BK) / temperature, labels_B)
    target = F.kl_div(student_B2, teacher_B2, reduction="batchmean", log_target=True)
    others = F.kl_div(student_BR, teacher_BR, reduction="batchmean", log_target=True)
    return (alpha * target + beta * others) * temperature**2


def _decoupled(logits_BK: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (label, not label), and of the others among themselves."""
    others_R = torch.arange(logits_BK.shape[1] - 1, device=logits_BK.device)
    others_BR = others_R + (others_R >= labels_B[:, None])
    log_probs_BK = F.log_softmax(logits_BK, dim=1)
    label_B1 = log_probs_BK.gather(1, labels_B[:, None])
    rest_B1 = log_probs_BK.gather(1, others_BR).logsumexp(dim=1, keepdim=True)
    return torch.cat([label_B1, rest_B1], dim=1), F.log_softmax(logits_BK.gather(1, others_BR), dim=1)


def dist_loss(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float, inter: float, intra: float) -> Tensor:
    """T²·(inter·(1 − r of rows) + intra·(1 − r of columns)), r the mean Pearson correlation of probabilities at T.

    Huang et al., "Knowledge distillation from a stronger teacher", NeurIPS 2022. A constant row or column has r = 0.
    Raises ValueError for one row with intra above 0, since a column of one value has no correlation.
    """
    if len(student_BK) < 2 and intra > 0:
        raise ValueError("dist compares columns: wanted a batch of at least 2 rows (or dist_intra 0), got 1")
    student_probs_BK = F.softmax(at_least_float32(student_BK) / temperature, dim=1)
    teacher_probs_BK = F.softmax(at_least_float32(teacher_BK) / temperature, dim=1)
    loss = inter * (1 - _correlation(student_probs_BK, teacher_probs_BK, dim=1))
    if intra > 0:
        loss = loss + intra * (1 - _correlation(student_probs_BK, teacher_probs_BK, dim=0))
    return loss * temperature**2


def _correlation(first: Tensor, second: Tensor, *, dim: int) -> Tensor:
    return (_direction(first, dim) * _direction(second, dim)).sum(dim=dim).mean()


def _direction(values: Tensor, dim: int) -> Tensor:
    centred = values - values.mean(dim=dim, keepdim=True)
    norm: Tensor = torch.linalg.vector_norm(centred, dim=dim, keepdim=True)
    return centred / norm.clamp_min(NORM_FLOOR)


def wttm_loss(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """U·KL(p^(1/T) normalised ‖ softmax(student)), p = softmax(teacher), weight U of a row = sum over K of p^(1/T).

    The student has no temperature, and there is no factor T². Zheng and Yang, "Knowledge distillation based on
    transformed teacher matching", ICLR 2024.
    """
    powers_BK = F.log_softmax(at_least_float32(teacher_BK), dim=1) / temperature
    student_log_probs_BK = F.log_softmax(at_least_float32(student_BK), dim=1)
    teacher_log_probs_BK = F.log_softmax(powers_BK, dim=1)
    divergence_BK = F.kl_div(student_log_probs_BK, teacher_log_probs_BK, reduction="none", log_target=True)
    return (powers_BK.logsumexp(dim=1).exp() * divergence_BK.sum(dim=1)).mean()


def mse_loss(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Mean over B and K of the squared difference of logits, each row centred first; it has no temperature.

    Ba and Caruana, "Do deep nets really need to be deep?", NeurIPS 2014. Centred, since a constant added to a row
    changes no probability and should cost nothing.
    """
    difference_BK = at_least_float32(student_BK) - at_least_float32(teacher_BK)
    return (difference_BK - difference_BK.mean(dim=1, keepdim=True)).square().mean()


SoftLoss = Callable[[Tensor, Tensor, Tensor, float, DistillationParams], Tensor]

SOFT_LOSSES: dict[str, SoftLoss] = {
    "kl": lambda student, teacher, labels, t, options: kl_loss(student, teacher, temperature=t),
    "dkd": lambda student, teacher, labels, t, options: dkd_loss(
        student, teacher, labels, temperature=t, alpha=options.dkd_alpha, beta=options.dkd_beta
    ),
    "dist": lambda student, teacher, labels, t, options: dist_loss(
        student, teacher, temperature=t, inter=options.dist_inter, intra=options.dist_intra
    ),
    "wttm": lambda student, teacher, labels, t, options: wttm_loss(student, teacher, temperature=t),
    "mse": lambda student, teacher, labels, t, options: mse_loss(student, teacher),
}

NEED_LABELS = ("dkd",)  # they look at the label of a clip, which footage has none of
