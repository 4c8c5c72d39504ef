"""How much each of several teachers is worth beside the others: weights of their logits, chosen on val.

Axes: N videos, M teachers, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.distill.store.codecs import log_softmax

_CLOSE_ENOUGH = 1e-6  # nats above the best
_MOST_STEPS = 10_000
_DECIMALS = 3


def choose_weights(logits_NMK: NDArray[np.floating[Any]], labels: Sequence[int]) -> list[float]:
    """The weights_M, none negative, with sum 1, that make the mean cross-entropy of softmax(Σ w_m z_m) smallest.

    To three decimals, so their sum may be off by as much. The loss is convex in the weights. Exponentiated gradient
    (Kivinen and Warmuth, 1997) from equal weights, with steps that shrink until the loss falls, ends where the loss is
    provably within 1e-6 nats of the best: that is how far it could still fall along its tangent. Of teachers that are
    the same each gets the same.
    """
    logits_NMK = logits_NMK.astype(np.float64)
    of_labels_NM = logits_NMK[np.arange(len(labels)), :, labels]

    def loss_and_gradient(weights_M: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_p_NK = log_softmax(np.einsum("nmk,m->nk", logits_NMK, weights_M))
        loss = -log_p_NK[np.arange(len(labels)), labels].mean()
        expected_NM = np.einsum("nmk,nk->nm", logits_NMK, np.exp(log_p_NK))
        return float(loss), (expected_NM - of_labels_NM).mean(axis=0)

    weights_M = np.full(logits_NMK.shape[1], 1 / logits_NMK.shape[1])
    loss, gradient_M = loss_and_gradient(weights_M)
    step = 1.0
    for _ in range(_MOST_STEPS):
        if weights_M @ gradient_M - gradient_M.min() <= _CLOSE_ENOUGH:
            break
        moved_M = weights_M * np.exp(-step * (gradient_M - gradient_M.min()))
        moved_M /= moved_M.sum()
        new_loss, new_gradient_M = loss_and_gradient(moved_M)
        if new_loss < loss:
            weights_M, loss, gradient_M = moved_M, new_loss, new_gradient_M
            step *= 2
        else:
            step /= 4
    rounded: list[float] = weights_M.round(_DECIMALS).tolist()
    return rounded


def on_val(logits_NMK: NDArray[np.floating[Any]], labels: Sequence[int]) -> list[dict[str, float]]:
    """What a store records of each of several teachers: its `weight`, and how often it is right alone."""
    top1_M = (logits_NMK.argmax(axis=2) == np.array(labels)[:, None]).mean(axis=0)
    pairs = zip(choose_weights(logits_NMK, labels), top1_M.tolist(), strict=True)
    return [{"weight": weight, "top1_on_val": round(top1, 6)} for weight, top1 in pairs]
