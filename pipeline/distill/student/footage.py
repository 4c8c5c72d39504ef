"""Which videos a student learns from: those with a label, and the footage whose soft targets agree."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.core.errors import ParamsError
from pipeline.data.dataset import Sample
from pipeline.data.listing import NO_LABEL
from pipeline.distill.store.certainty import agreement
from pipeline.distill.store.store import SoftTargetStore


def agreed_on(store: SoftTargetStore, samples: Sequence[Sample], min_agreement: float | None) -> list[Sample]:
    """The videos with a label, and the footage of which at least that share of the soft targets name one class.

    At 0 all stay, at None the labelled ones; then nothing is read. Footage that the store lacks stays: loading its soft
    targets says so. Raises ParamsError where there is footage and none of it reaches a share.
    """
    footage = {sample.video_id for sample in samples if sample.label == NO_LABEL}
    if min_agreement is None:
        return [sample for sample in samples if sample.video_id not in footage]
    if min_agreement == 0 or not footage:
        return list(samples)
    below: dict[str, float] = {}
    for shard in store.shards_of(footage):
        rows = store.read_shard(shard)
        rows = rows.take([row for row, video_id in enumerate(rows.video_ids) if video_id in footage])
        shares = zip(rows.video_ids, agreement(rows.logits(store.codec)).tolist(), strict=True)
        below.update((video_id, share) for video_id, share in shares if share < min_agreement)
    if len(below) == len(footage):
        raise ParamsError(
            f"soft_targets.min_agreement is {min_agreement:g}, and of no video without a label do as many soft targets "
            f"name one class: at most {max(below.values()):.3g} of them do",
            remedy="`dlkdd targets inspect` with --manifest prints how many reach which share: lower it, or set it to "
            "null to train on the labelled videos alone",
        )
    return [sample for sample in samples if sample.video_id not in below]
