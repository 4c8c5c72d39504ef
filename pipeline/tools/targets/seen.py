"""How sure and how right each teacher is on videos that it was trained on, and on videos that it has never seen.

A teacher in folds has seen none of its videos: each row is of a model that was trained without the video's group. Of an
imported one nobody here knows. Any other has seen those of train, and none without a label.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.listing import NO_LABEL
from pipeline.distill.store.attributes import is_imported
from pipeline.distill.store.certainty import Certainty
from pipeline.distill.store.codecs import log_softmax
from pipeline.distill.store.store import SoftTargetStore

Kind = Literal["seen", "unseen", "seen or unseen"]  # the last one: not told, as a manifest would, or imported

# Clips over which a mean probability is taken: the authors' five batches of 64
SPREAD_CLIPS = 320


@dataclass
class _Counted:
    certainty: Certainty = field(default_factory=Certainty)
    num_labelled: int = 0
    num_right: int = 0


class BySeen:
    """Counts views by teacher, and by whether it was trained on their video."""

    def __init__(self, store: SoftTargetStore) -> None:
        self._has_folds_M = [bool(teacher.get("folds")) for teacher in store.attributes["teachers"]]
        self._is_imported_M = [is_imported(teacher) for teacher in store.attributes["teachers"]]
        self._some_have_no_label = store.num_unlabelled > 0
        self._counted: dict[tuple[int, Kind], _Counted] = defaultdict(_Counted)

    def add(self, logits_NVMK: NDArray[np.float32], labels_NV: NDArray[np.int64] | None) -> None:
        """Count the views of some videos; `labels_NV` are those of the views, None where they are not known."""
        for teacher in range(len(self._has_folds_M)):
            for kind, chosen_N in self._kinds(teacher, len(logits_NVMK), labels_NV):
                if not chosen_N.any():
                    continue
                counted, logits_BVK = self._counted[teacher, kind], logits_NVMK[chosen_N, :, teacher]
                counted.certainty.add(logits_BVK)
                if labels_NV is not None:
                    labels_BV = labels_NV[chosen_N]
                    counted.num_labelled += int((labels_BV != NO_LABEL).sum())
                    counted.num_right += int((logits_BVK.argmax(axis=-1) == labels_BV).sum())

    def to_list(self) -> list[dict[str, Any]]:
        """JSON values for each teacher and kind of video; `top1` is None where no view has a known label."""
        return [
            {
                "teacher": teacher,
                "videos": kind,
                "num_views": counted.certainty.num_targets,
                "top1": counted.num_right / counted.num_labelled if counted.num_labelled else None,
                "mean_entropy": counted.certainty.mean_entropy,
            }
            for (teacher, kind), counted in sorted(self._counted.items())
        ]

    def _kinds(
        self, teacher: int, num_videos: int, labels_NV: NDArray[np.int64] | None
    ) -> list[tuple[Kind, NDArray[np.bool_]]]:
        """The kinds of video, and which of them are of each."""
        every_N = np.ones(num_videos, dtype=bool)
        if self._has_folds_M[teacher]:
            return [("unseen", every_N)]
        if self._is_imported_M[teacher]:
            return [("seen or unseen", every_N)]
        if labels_NV is None:
            return [("seen or unseen" if self._some_have_no_label else "seen", every_N)]
        # a blend and its video are of one split
        has_label_N = labels_NV[:, 0] != NO_LABEL
        return [("seen", has_label_N), ("unseen", ~has_label_N)]


class Spread:
    """How much a teacher's mean probability differs between random sets of SPREAD_CLIPS clips.

    With p_k the probability of class k at temperature 1, and s_k² its variance over all views of all videos,

        spread = mean over k of √(s_k² / SPREAD_CLIPS),

    the standard deviation of the mean of so many clips that are drawn independently. Wang, Lohit, Jones and Fu, "What
    makes a 'good' data augmentation in knowledge distillation", NeurIPS 2022, draw such sets and call it T. stddev:
    over nine augmentations of one data set the student's test loss rose with it. Hard labels of K classes with as many
    clips each have √((1/K)(1 − 1/K) / SPREAD_CLIPS); softer targets have less.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_views = 0
        self._sum_K, self._squares_K = np.zeros(num_classes), np.zeros(num_classes)

    def add(self, logits_NVK: NDArray[np.float32]) -> None:
        """Count views."""
        p_BK = np.exp(log_softmax(logits_NVK)).reshape(-1, logits_NVK.shape[-1]).astype(np.float64)
        self._num_views += len(p_BK)
        self._sum_K += p_BK.sum(axis=0)
        self._squares_K += (p_BK**2).sum(axis=0)

    @property
    def value(self) -> float:
        """Of all views; 0 for a single one."""
        mean_K = self._sum_K / self._num_views
        variance_K = (self._squares_K - self._num_views * mean_K**2) / max(self._num_views - 1, 1)
        return float(np.sqrt(np.maximum(variance_K, 0) / SPREAD_CLIPS).mean())

    @property
    def of_hard_labels(self) -> float:
        """That of hard labels, of each class as many."""
        share = 1 / len(self._sum_K)
        return float(np.sqrt(share * (1 - share) / SPREAD_CLIPS))
