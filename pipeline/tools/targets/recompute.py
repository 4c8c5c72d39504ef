"""Teacher inference repeated for some rows of a soft-target store, and what differs from what the store holds.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.params import ClipParams, ViewsParams
from pipeline.core.progress import Advance
from pipeline.data.dataset import BANK, DrawnViews
from pipeline.data.frame_store import FrameStore
from pipeline.data.views import VIEW_POLICY_VERSION, View
from pipeline.distill.store.codecs import LogitCodec
from pipeline.distill.store.rows import Rows
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.teacher.bank import Bank, infer_views
from pipeline.models.recognizer import ModelFile

# Another device, or another number of threads, rounds sums differently: how far a logit may move, over the largest
# |logit| of its view. Factors of 11 bits, as TF32 has them, moved those of r2plus1d_slim and x3d_s by 0.0001, those of
# r2plus1d_18 by up to 0.001 (simulated on the CPU).
RELATIVE_TOLERANCE = 2e-3

_MOST = float(np.finfo(np.float32).max)  # stands for what is not finite, which JSON has no word for


def recompute(
    store: SoftTargetStore,
    rows: Rows,
    teachers: Sequence[ModelFile],
    frames: FrameStore,
    device: torch.device,
    advance: Advance,
) -> tuple[dict[str, float], list[str]]:
    """Run teachers of the store, given in any order, on rows of it; returns what was compared, and what differs.

    Are frames, drawn views, pixels and logits the same? Views are drawn where the store's policy is of this program's
    version; logits are compared where frames and pixels are the same, and may differ by what `compare_logits` allows.
    Of the `num_views` views that were compared, of `num_videos` videos, `num_equal` have the same bits;
    `max_difference` is between logits packed in the same way, so 0 where all bits are the same, and `max_relative` is
    it over the largest |logit| of its view. Raises StaleArtifactError for frames that cannot be read.
    """
    findings: list[str] = []
    rows = _with_same_frames(rows, frames, findings)
    findings += _other_views(store, rows, frames)
    if not len(rows):
        return dict.fromkeys(("num_videos", "num_views", "num_equal", "max_difference", "max_relative"), 0), findings
    recorded = [teacher["digest"] for teacher in store.attributes["teachers"]]
    axes = sorted({recorded.index(teacher.digest): teacher for teacher in teachers}.items())
    clip, batch_size = ClipParams(**store.attributes["clip"]), store.attributes["batch_size"]
    outputs = infer_views(
        [teacher.recognizer.to(device).eval() for _, teacher in axes],
        Bank(frames, _StoredViews(rows), clip, store.num_views, batch_size),
        rows.video_ids,
        device=device,
        num_workers=0,
        advance=advance,
    )
    stored = {name: rows.arrays[name][:, :, [axis for axis, _ in axes]] for name in store.codec.arrays()}
    logits = compare_logits(store.codec, stored, outputs.logits_NVMK)
    same_NV = outputs.pixel_digest_NV == rows.arrays["pixel_digest"]
    for row, video_id in enumerate(rows.video_ids):
        if not same_NV[row].all():
            views = np.flatnonzero(~same_NV[row]).tolist()
            findings.append(f"{video_id}: pixel_digest: the teacher saw other pixels in views {views}")
        for place, (axis, _) in enumerate(axes):
            far_V = same_NV[row] & ~logits.close_NVM[row, :, place]
            if far_V.any():
                findings.append(
                    f"{video_id}: the logits of teacher {axis} in views {np.flatnonzero(far_V).tolist()} differ by "
                    f"up to {logits.difference_NVM[row, far_V, place].max():.3g}, more than rounding explains"
                )
    return {
        "num_videos": len(rows),
        "num_views": int(same_NV.sum()),
        "num_equal": int((logits.equal_NVM.all(axis=2) & same_NV).sum()),
        "max_difference": float(logits.difference_NVM[same_NV].max(initial=0)),
        "max_relative": float(logits.relative_NVM[same_NV].max(initial=0)),
    }, findings


def _with_same_frames(rows: Rows, frames: FrameStore, findings: list[str]) -> Rows:
    """The rows whose frames are those that the teacher saw; the others are added to the findings."""
    known = {row.video_id: (row.digest, tuple(frames.shape(row.video_id))) for row in frames.rows}
    same = []
    for number, (video_id, digest, shape) in enumerate(
        zip(rows.video_ids, rows.arrays["frames_digest"], rows.arrays["frame_shape"].tolist(), strict=True)
    ):
        seen, found = (digest.tobytes().hex(), tuple(shape)), known.get(video_id)
        if found == seen:
            same.append(number)
        else:
            findings.append(f"{video_id}: frames: the teacher saw {seen}, {frames.path} has {found or 'no such video'}")
    return rows.take(same)


def _other_views(store: SoftTargetStore, rows: Rows, frames: FrameStore) -> list[str]:
    """Views that are not those that the store's policy draws; none for a policy of another version."""
    policy = dict(store.attributes["view_policy"])
    if policy.pop("version") != VIEW_POLICY_VERSION:
        return []
    clip, seed = ClipParams(**store.attributes["clip"]), policy.pop("seed")
    drawn_views = DrawnViews(frames, clip, ViewsParams(**policy), seed, purpose=BANK)
    return [
        f"{video_id}: view {number} is {tuple(view)}, the policy draws {drawn}"
        for video_id, views in zip(rows.video_ids, rows.arrays["views"].tolist(), strict=True)
        for number, view in enumerate(views)
        if tuple(view) != (drawn := drawn_views.lookup(video_id, number)[0].row())
    ]


class _StoredViews:
    """The views that rows of a store name; a ViewSource."""

    def __init__(self, rows: Rows) -> None:
        self._views = dict(zip(rows.video_ids, rows.arrays["views"].tolist(), strict=True))

    def lookup(self, video_id: str, number: int) -> tuple[View, None]:
        return View(*self._views[video_id][number]), None


@dataclass(frozen=True)
class LogitComparison:
    """For each view of each teacher: the same bits; the largest difference; that over the largest |logit|; close."""

    equal_NVM: NDArray[np.bool_]
    difference_NVM: NDArray[np.float64]
    relative_NVM: NDArray[np.float64]
    close_NVM: NDArray[np.bool_]


def compare_logits(
    codec: LogitCodec, stored: Mapping[str, NDArray[Any]], teacher_NVMK: NDArray[np.float32]
) -> LogitComparison:
    """Packed logits against a teacher's, which are packed in the same way.

    Close are those that differ by at most RELATIVE_TOLERANCE of the largest |logit| of the view, for another device or
    number of threads, plus one unit in the last place of the stored type, half of it for either rounding. From a top-k
    codec three things are compared: the logits of the kept classes, the k largest logits whatever their classes, since
    near ties may change places, and the logsumexp of the others. None of them moves further than the logits do.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # logits that are not finite are not close
        packed = codec.pack(teacher_NVMK)
        pairs = (
            [(stored["logits"], packed["logits"])] if "logits" in packed else _topk_pairs(stored, packed, teacher_NVMK)
        )
        largest_NVM = np.maximum(np.abs(teacher_NVMK).max(axis=-1).astype(np.float64), np.finfo(np.float32).tiny)
        difference_NVM = np.zeros(largest_NVM.shape)
        close_NVM = np.ones(largest_NVM.shape, dtype=bool)
        for found, expected in pairs:
            difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
            allowed = (
                np.spacing(np.maximum(np.abs(found), np.abs(expected))).astype(np.float64)
                + RELATIVE_TOLERANCE * largest_NVM[..., None]
            )
            close_NVM &= (difference <= allowed).all(axis=-1)
            difference_NVM = np.maximum(difference_NVM, np.nan_to_num(difference, nan=_MOST, posinf=_MOST).max(axis=-1))
    equal = [(array == packed[name]).reshape(*largest_NVM.shape, -1).all(axis=-1) for name, array in stored.items()]
    return LogitComparison(np.logical_and.reduce(equal), difference_NVM, difference_NVM / largest_NVM, close_NVM)


def _topk_pairs(
    stored: Mapping[str, NDArray[Any]], packed: Mapping[str, NDArray[Any]], teacher_NVMK: NDArray[np.float32]
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    kept, classes = stored["topk_logits"], stored["topk_classes"].astype(np.int64)
    others = teacher_NVMK.astype(np.float64)
    np.put_along_axis(others, classes, -np.inf, axis=-1)
    largest = others.max(axis=-1, keepdims=True)
    rest = largest + np.log(np.exp(others - largest).sum(axis=-1, keepdims=True))
    return [
        (kept, np.take_along_axis(teacher_NVMK, classes, axis=-1).astype(kept.dtype)),
        (kept, packed["topk_logits"]),
        (stored["rest_logsumexp"][..., None], rest.astype(stored["rest_logsumexp"].dtype)),
    ]
