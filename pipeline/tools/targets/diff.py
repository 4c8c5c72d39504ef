"""What differs between two soft-target stores: what they were made from, their rows, and their teachers' logits.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.progress import Progress, no_progress
from pipeline.distill.store.codecs import kl_divergence
from pipeline.distill.store.rows import OF_VIEWS, Rows
from pipeline.distill.store.store import SoftTargetStore
from pipeline.tools.targets.merge import blocks

_NONE = np.zeros(())  # in place of an array that a store does not have

NUM_NAMED = 10  # of videos that only one store has, and of those that differ most


def diff(a: SoftTargetStore, b: SoftTargetStore, *, progress: Progress = no_progress) -> dict[str, Any]:
    """Compare two stores, as JSON values; raises StaleArtifactError where one of them is damaged.

    `same`: whether it is the same store: the digest covers everything. `attributes`: those that differ, dotted where
    they are nested, with both values, None for what one lacks. `num_only` and `only`: videos of one store alone, their
    number and some names. `num_common`, `num_same_views`, `num_same_rows`: of the videos that both have, and of which
    views or bytes agree.

    `divergence`, `by_class` and `most_divergent` are over the videos with the same views, where both stores have the
    same classes in the same order: KL(A ‖ B) in nats at temperature 1, of several teachers between the means of their
    logits, and how often both have the same top class. The class of a view is the top one of A.
    """
    num_only = [0, 0]
    only: tuple[list[str], list[str]] = ([], [])
    counts = dict.fromkeys(("num_common", "num_same_rows", "num_same_views"), 0)
    views_K, agreeing_K, kl_K, largest_K = np.zeros((4, len(a.class_names)))
    most: list[tuple[float, str]] = []
    with progress("diff", a.num_rows + b.num_rows, "rows") as advance:
        for rows_a, rows_b in blocks([a, b]):
            ids_a, ids_b = set(rows_a.video_ids), set(rows_b.video_ids)
            for side, names in enumerate((sorted(ids_a - ids_b), sorted(ids_b - ids_a))):
                num_only[side] += len(names)
                only[side].extend(names[: NUM_NAMED - len(only[side])])
            one, other = _common(rows_a, ids_b), _common(rows_b, ids_a)
            same = _same_views(one, other)
            counts["num_common"] += len(one)
            counts["num_same_rows"] += int((one.digests() == other.digests()).all(axis=1).sum())
            counts["num_same_views"] += len(same)
            if a.class_names == b.class_names and len(same):
                one, other = one.take(same), other.take(same)
                logits_NVK, others_NVK = (
                    rows.logits(store.codec).mean(axis=2) for rows, store in ((one, a), (other, b))
                )
                kl_NV, best_NV = kl_divergence(logits_NVK, others_NVK), logits_NVK.argmax(axis=-1)
                np.add.at(views_K, best_NV, 1)
                np.add.at(agreeing_K, best_NV, best_NV == others_NVK.argmax(axis=-1))
                np.add.at(kl_K, best_NV, kl_NV)
                np.maximum.at(largest_K, best_NV, kl_NV)
                pairs = zip(kl_NV.mean(axis=1).tolist(), one.video_ids, strict=True)
                most = heapq.nlargest(NUM_NAMED, [*most, *pairs])
            advance(len(ids_a) + len(ids_b), "")

    held_a, held_b = ({**_flat(each.attributes), "format_version": each.format_version} for each in (a, b))

    def divergence(classes: slice | NDArray[np.intp]) -> dict[str, float]:
        num_views = int(views_K[classes].sum())
        return {
            "num_views": num_views,
            "mean_kl": float(kl_K[classes].sum()) / max(num_views, 1),
            "max_kl": float(largest_K[classes].max(initial=0)),
            "top1_agreement": float(agreeing_K[classes].sum()) / max(num_views, 1),
        }

    return {
        "same": a.digest == b.digest,
        "digests": (a.digest, b.digest),
        "attributes": {
            name: (held_a.get(name), held_b.get(name))
            for name in sorted({*held_a, *held_b})
            if held_a.get(name) != held_b.get(name)
        },
        "num_only": num_only,
        "only": only,
        **counts,
        "divergence": divergence(slice(None)),
        "by_class": {
            name: divergence(np.array([label]))
            for name, label in sorted((a.class_names[label], label) for label in np.flatnonzero(views_K))
        },
        "most_divergent": [{"video_id": name, "mean_kl": kl} for kl, name in most],
    }


def _common(rows: Rows, others: set[str]) -> Rows:
    return rows.take([row for row, video_id in enumerate(rows.video_ids) if video_id in others])


def _same_views(one: Rows, other: Rows) -> NDArray[np.intp]:
    """The rows with the same views in both; both have the same videos."""
    pairs = [(one.arrays.get(name, _NONE), other.arrays.get(name, _NONE)) for name in OF_VIEWS]
    if any(array.shape != others.shape for array, others in pairs):
        return np.array([], dtype=np.intp)
    same = [(array == others).all(axis=tuple(range(1, array.ndim))) for array, others in pairs if array.ndim]
    return np.flatnonzero(np.logical_and.reduce(same))


def _flat(attributes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested attributes by dotted names, without the shards, which the rows tell; teachers.0.digest is the first's."""
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        if name == "teachers":
            value = {str(number): teacher for number, teacher in enumerate(value)}
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        elif name != "shards":
            found[prefix + name] = value
    return found
