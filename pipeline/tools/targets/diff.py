"""What differs between two soft-target stores: what they were made from, their rows, and their teachers' logits.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.progress import Progress, no_progress
from pipeline.distill.store.codecs import kl_divergence
from pipeline.distill.store.rows import Rows
from pipeline.distill.store.store import SoftTargetStore
from pipeline.tools.targets.merge import blocks

NUM_NAMED = 10  # of videos that only one store has, and of those that differ most


@dataclass
class Divergence:
    """KL(A ‖ B) in nats over some views, and how often both have the same top class."""

    num_views: int = 0
    kl_sum: float = 0.0
    kl_max: float = 0.0
    num_agreeing: int = 0

    def add(self, kl: NDArray[np.float64], agreeing: NDArray[np.bool_]) -> None:
        """Add some views."""
        self.num_views += kl.size
        self.kl_sum += float(kl.sum())
        self.kl_max = max(self.kl_max, float(kl.max(initial=0)))
        self.num_agreeing += int(agreeing.sum())

    def to_dict(self) -> dict[str, float]:
        """JSON values."""
        views = max(self.num_views, 1)
        return {
            "num_views": self.num_views,
            "mean_kl": self.kl_sum / views,
            "max_kl": self.kl_max,
            "top1_agreement": self.num_agreeing / views,
        }


@dataclass
class Difference:
    """Two stores side by side; `whole` and `by_class` are over the videos that both have with the same views.

    Of several teachers the mean of their logits is compared, at temperature 1. The class of a view is the top one of
    A. `attributes` are those that differ, dotted where they are nested, with both values.
    """

    digests: tuple[str, str]
    attributes: dict[str, tuple[Any, Any]]
    num_only: list[int] = field(default_factory=lambda: [0, 0])
    only: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    num_common: int = 0
    num_same_views: int = 0
    num_same_rows: int = 0
    whole: Divergence = field(default_factory=Divergence)
    by_class: dict[str, Divergence] = field(default_factory=dict)
    most: list[tuple[float, str]] = field(default_factory=list)  # mean KL over the views, and the video

    @property
    def same(self) -> bool:
        """Whether it is the same store: the digest covers everything."""
        return self.digests[0] == self.digests[1]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        values = {name: value for name, value in asdict(self).items() if name not in ("whole", "by_class", "most")}
        return {
            "same": self.same,
            **values,
            "divergence": self.whole.to_dict(),
            "by_class": {name: self.by_class[name].to_dict() for name in sorted(self.by_class)},
            "most_divergent": [{"video_id": name, "mean_kl": kl} for kl, name in sorted(self.most, reverse=True)],
        }


def diff(a: SoftTargetStore, b: SoftTargetStore, *, progress: Progress = no_progress) -> Difference:
    """Compare two stores; raises StaleArtifactError where one of them is damaged.

    Logits are compared where both have the same classes in the same order.
    """
    found = Difference((a.digest, b.digest), attribute_differences(a.attributes, b.attributes))
    with progress("diff", a.num_rows + b.num_rows, "rows") as advance:
        for rows_a, rows_b in blocks([a, b]):
            ids_a, ids_b = set(rows_a.video_ids), set(rows_b.video_ids)
            for side, names in enumerate((sorted(ids_a - ids_b), sorted(ids_b - ids_a))):
                found.num_only[side] += len(names)
                found.only[side].extend(names[: NUM_NAMED - len(found.only[side])])
            common = ids_a & ids_b
            if common:
                one, other = (
                    rows.take([row for row, video_id in enumerate(rows.video_ids) if video_id in common])
                    for rows in (rows_a, rows_b)
                )
                _compare(found, a, one, b, other)
            advance(len(ids_a) + len(ids_b), "")
    return found


def attribute_differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Attributes with other values, by their dotted names; what one lacks is None. Shards are told by the rows.

    Teachers have their numbers as names: teachers.0.digest.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for name in sorted({*a, *b} - ({"shards"} if not prefix else set())):
        one, other = a.get(name), b.get(name)
        if name == "teachers":
            one, other = ({str(number): teacher for number, teacher in enumerate(each)} for each in (a[name], b[name]))
        if isinstance(one, dict) and isinstance(other, dict):
            found |= attribute_differences(one, other, f"{prefix}{name}.")
        elif one != other:
            found[prefix + name] = (one, other)
    return found


def _compare(found: Difference, a: SoftTargetStore, rows_a: Rows, b: SoftTargetStore, rows_b: Rows) -> None:
    found.num_common += len(rows_a)
    found.num_same_rows += int((rows_a.digests() == rows_b.digests()).all(axis=1).sum())
    views_a, views_b = rows_a.arrays["views"], rows_b.arrays["views"]
    if views_a.shape[1] != views_b.shape[1]:
        return
    same = np.flatnonzero((views_a == views_b).all(axis=(1, 2)))
    found.num_same_views += len(same)
    if a.class_names != b.class_names or not len(same):
        return
    rows_a, rows_b = rows_a.take(same), rows_b.take(same)
    logits_a, logits_b = rows_a.logits(a.codec).mean(axis=2), rows_b.logits(b.codec).mean(axis=2)
    kl_NV, best_NV = kl_divergence(logits_a, logits_b), logits_a.argmax(axis=-1)
    agreeing_NV = best_NV == logits_b.argmax(axis=-1)
    found.whole.add(kl_NV, agreeing_NV)
    for label in np.unique(best_NV).tolist():
        of_class = best_NV == label
        divergence = found.by_class.setdefault(a.class_names[label], Divergence())
        divergence.add(kl_NV[of_class], agreeing_NV[of_class])
    pairs = zip(kl_NV.mean(axis=1).tolist(), rows_a.video_ids, strict=True)
    found.most = heapq.nlargest(NUM_NAMED, [*found.most, *pairs])
