"""How sure and how right each teacher is on videos that it was trained on, and on videos that it has never seen.

A teacher in folds has seen none of its videos: each row is of a model that was trained without the video's group. Any
other has seen those of train, and none without a label.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.distill.store.certainty import Certainty
from pipeline.distill.store.codecs import log_softmax
from pipeline.distill.store.store import SoftTargetStore

Kind = Literal["seen", "unseen", "seen or unseen"]  # the last one: not told, as a manifest would

# Clips over which a mean probability is taken: the authors' five batches of 64
SPREAD_CLIPS = 320


@dataclass
class _Counted:
    certainty: Certainty = field(default_factory=Certainty)
    num_labelled: int = 0
    num_right: int = 0


class BySeen:
    """Counts views by teacher, and by whether it was trained on their video."""

    def __init__(self, store: SoftTargetStore, labels: Mapping[str, str] | None) -> None:
        """`labels` are class names by video id, empty for a video without a label; None where they are not known."""
        self._labels = labels
        self._class_of = {name: index for index, name in enumerate(store.class_names)}
        self._has_folds_M = [bool(teacher.get("folds")) for teacher in store.attributes["teachers"]]
        self._some_have_no_label = store.num_unlabelled > 0
        self._counted: dict[tuple[int, Kind], _Counted] = defaultdict(_Counted)

    def add(self, video_ids: Sequence[str], logits_NVMK: NDArray[np.float32]) -> None:
        """Count the views of some videos."""
        for teacher in range(len(self._has_folds_M)):
            for video_id, logits_VK in zip(video_ids, logits_NVMK[:, :, teacher], strict=True):
                counted = self._counted[teacher, self._kind(teacher, video_id)]
                counted.certainty.add(logits_VK)
                label = self._labels[video_id] if self._labels is not None else ""
                if label:
                    counted.num_labelled += len(logits_VK)
                    counted.num_right += int((logits_VK.argmax(axis=-1) == self._class_of[label]).sum())

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

    def _kind(self, teacher: int, video_id: str) -> Kind:
        if self._has_folds_M[teacher]:
            return "unseen"
        if self._labels is not None:
            return "seen" if self._labels[video_id] else "unseen"
        return "seen or unseen" if self._some_have_no_label else "seen"


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
