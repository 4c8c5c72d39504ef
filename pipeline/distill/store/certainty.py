"""How sure soft targets are at temperature 1 (their entropy, how many are hardly more than a label), and how far they
agree on a video.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.distill.store.codecs import log_softmax

# Probability of the largest class above which a soft target is nearly a hard label. −log 0.99 is 0.01 nats: no more
# than packing may cost by default (precompute_soft_targets.max_kl).
NEARLY_HARD = 0.99


def entropy(logits_K: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Entropy in nats of the softmax over the last axis."""
    return _entropy(log_softmax(logits_K.astype(np.float32)))


def _entropy(log_p_K: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(-(np.exp(log_p_K) * log_p_K).sum(axis=-1), 0))


def agreement(logits_NVMK: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Of each video the share of its soft targets, V views of M teachers, that name the class that most of them do."""
    num_videos, num_views, num_teachers, _ = logits_NVMK.shape
    best_NT = logits_NVMK.argmax(axis=-1).reshape(num_videos, num_views * num_teachers)
    counts_N = np.array([np.bincount(best_T).max() for best_T in best_NT], dtype=np.float64)
    return counts_N / np.float64(num_views * num_teachers)


@dataclass
class Certainty:
    """Of the soft targets that were added: their number, the sum of their entropy, and how many are nearly hard."""

    num_targets: int = 0
    nats: float = 0.0
    num_hard: int = 0

    def add(self, logits_K: NDArray[np.floating[Any]]) -> None:
        """Count logits whose last axis is the classes; they are finite."""
        log_p_K = log_softmax(logits_K.astype(np.float32))
        entropy_N = _entropy(log_p_K)
        self.num_targets += entropy_N.size
        self.nats += float(entropy_N.sum())
        self.num_hard += int((log_p_K.max(axis=-1) > np.log(NEARLY_HARD)).sum())

    @property
    def mean_entropy(self) -> float:
        """In nats."""
        return self.nats / self.num_targets

    @property
    def share_hard(self) -> float:
        """The share of the soft targets that are nearly hard labels."""
        return self.num_hard / self.num_targets

    @property
    def warning(self) -> str | None:
        """One line with what to try where most are nearly hard, else None."""
        if self.share_hard <= 0.5:
            return None
        return (
            f"{self.share_hard:.0%} of the soft targets are nearly hard labels (a probability above {NEARLY_HARD}): "
            "there is little in them to learn beyond the labels. Train the teacher for fewer train_teacher.epochs, "
            "with patience or with mixup, or add to `more_teachers`; docs/troubleshooting.md says why"
        )
