"""What a soft-target store holds: how certain its teachers are, how accurate, and what packing cost.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import StaleArtifactError
from pipeline.core.progress import Progress, no_progress
from pipeline.data.listing import NO_LABEL, TAUGHT
from pipeline.data.manifest import Manifest
from pipeline.distill.store.certainty import Certainty, agreement, entropy
from pipeline.distill.store.codecs import bytes_per_view
from pipeline.distill.store.rows import MainLabels
from pipeline.distill.store.store import SoftTargetStore, damaged
from pipeline.distill.student.cached_targets import differences
from pipeline.tools.targets.seen import SPREAD_CLIPS, BySeen, Spread

AGREEMENTS = (0.5, 0.7, 0.9)
NUM_BINS = 1000  # the quartiles of the entropy are known to a thousandth of its range


def summarise(
    store: SoftTargetStore,
    *,
    temperatures: Sequence[float] = (1.0,),
    manifest: Manifest | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Read all of a store, shard by shard, and sum it up in JSON values.

    `bytes_on_disk` is None for a URL. `entropy` has for each temperature that of the teachers' mean soft targets in
    nats: 0 is certainty, `most` (log K) is chance; `counts` are views in NUM_BINS equal steps from 0 to `most`.
    `by_seen` has for each teacher how sure and right it is on videos that it was trained on, and on others; `spread` is
    that of `Spread`, beside that of hard labels.
    `nearly_hard` is the share of them that are hardly more than labels at temperature 1, `warning` what to try where
    most are, or None. `top1_by_class` has of each class its views and the share of them that is right, and is None
    without a manifest. `footage_agreement` has how many videos without a label reach each of AGREEMENTS (see
    `agreement`), and is None without a manifest, where all have labels, and where views are blends.
    Raises StaleArtifactError with all that is damaged, for another manifest, and for videos that it does not train on.
    """
    labels: MainLabels | None = None
    if manifest is not None:
        wanted = {"digests.manifest": manifest.digest, "class_names": list(manifest.class_names)}
        if others := differences(store, wanted):
            raise StaleArtifactError(
                f"{store.location}: was made for another manifest",
                findings=others,
                remedy="give the manifest of the repository that made the store, or omit --manifest",
            )
        of_video = {row.video_id: manifest.class_index(row) for row in manifest.rows_of(*TAUGHT)}
        labels = MainLabels(of_video, store.attributes["clip"]["size"])
    most = math.log(max(store.codec.num_classes, 2))
    counts = {temperature: np.zeros(NUM_BINS, dtype=np.int64) for temperature in temperatures}
    totals = dict.fromkeys(counts, 0.0)
    views_K, correct_K = np.zeros((2, store.codec.num_classes), dtype=np.int64)
    agreed: list[float] = []
    certainty, by_seen, spread = Certainty(), BySeen(store), Spread(store.codec.num_classes)
    findings: list[str] = []
    with progress("inspect", store.num_rows, "rows") as advance:
        for shard in range(store.num_shards):
            examined = store.examine_shard(shard)
            findings += examined.findings
            if labels is not None:
                others = [name for name in examined.rows.video_ids if name and name not in labels.of_video]
                findings += [f"{name} is no train video of the manifest" for name in others]
            if not findings:
                logits_NVMK = examined.rows.logits(store.codec)
                labels_NV = None if labels is None else labels.of(examined.rows)
                by_seen.add(logits_NVMK, labels_NV)
                logits_NVK = logits_NVMK.mean(axis=2)
                certainty.add(logits_NVK)
                spread.add(logits_NVK)
                for temperature, counts_B in counts.items():
                    entropy_NV = entropy(logits_NVK / temperature)
                    totals[temperature] += float(entropy_NV.sum())
                    counts_B += np.histogram(np.minimum(entropy_NV / most, 1), bins=NUM_BINS, range=(0, 1))[0]
                if labels_NV is not None:
                    if not store.has_blends:  # a blend may well be called another class than the video
                        agreed += agreement(logits_NVMK[labels_NV[:, 0] == NO_LABEL]).tolist()
                    known_NV, right_NV = labels_NV != NO_LABEL, logits_NVK.argmax(axis=-1) == labels_NV
                    views_K += np.bincount(labels_NV[known_NV], minlength=len(views_K))
                    correct_K += np.bincount(labels_NV[known_NV & right_NV], minlength=len(views_K))
            advance(len(examined.rows), "")
    if findings:
        raise damaged(store.location, "some of its rows cannot be used", findings)
    size = None
    if "://" not in store.location:
        size = sum(path.stat().st_size for path in Path(store.location).rglob("*") if path.is_file())
    numbers = zip(store.class_names, views_K.tolist(), correct_K.tolist(), strict=True)
    by_class = {name: {"num_views": count, "top1": right / count} for name, count, right in sorted(numbers) if count}
    return {
        "location": store.location,
        "digest": store.digest,
        "format_version": store.format_version,
        "attributes": store.attributes,
        "bytes_per_view": bytes_per_view(store.codec),
        "bytes_on_disk": size,
        "entropy": [
            {
                "temperature": temperature,
                "most": most,
                "mean": totals[temperature] / counts_B.sum(),
                "quartiles": _quartiles(counts_B, most),
                "counts": counts_B.tolist(),
            }
            for temperature, counts_B in counts.items()
        ],
        "by_seen": by_seen.to_list(),
        "spread": {"value": spread.value, "of_hard_labels": spread.of_hard_labels, "num_clips": SPREAD_CLIPS},
        "nearly_hard": certainty.share_hard,
        "warning": certainty.warning,
        "top1_by_class": None if labels is None else by_class,
        "footage_agreement": {f"{least:g}": sum(share >= least for share in agreed) for least in AGREEMENTS}
        if agreed
        else None,
    }


def _quartiles(counts_B: NDArray[np.int64], most: float) -> list[float]:
    """Middles of the bins in which the quarters end."""
    bins = np.searchsorted(np.cumsum(counts_B) / counts_B.sum(), (0.25, 0.5, 0.75))
    return [round((place + 0.5) / NUM_BINS * most, 4) for place in bins.tolist()]
