"""Teacher inference repeated for some rows of a soft-target store, and what differs from what the store holds.

Axes: N videos, V views, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.digest import digest_uint64
from pipeline.core.params import ClipParams, ViewsParams
from pipeline.core.progress import Advance
from pipeline.data.dataset import BANK, DrawnViews
from pipeline.data.frame_store import FrameStore
from pipeline.data.views import (
    NOT_MIXED,
    VIEW_POLICY_VERSION,
    AnyView,
    BlendedView,
    Partners,
    View,
    blend_of_row,
)
from pipeline.distill.store.codecs import LogitCodec
from pipeline.distill.store.rows import NO_FOLD, Rows
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
    teachers: Sequence[tuple[ModelFile, FrameStore]],
    device: torch.device,
    advance: Advance,
) -> tuple[dict[str, float], list[str]]:
    """Run teachers of the store, each on its frames, on rows of it; returns what was compared, and what differs.

    Are frames, drawn views, pixels and logits the same? Views are drawn where the store's policy is of this program's
    version; logits are compared where frames and pixels are the same, and may differ by what `compare_logits` allows.
    Of the `num_views` views that were compared, each for each teacher, of `num_videos` videos, `num_equal` have the
    same bits; `max_difference` is between logits packed in the same way, so 0 where all bits are the same, and
    `max_relative` is it over the largest |logit| of its view. Raises StaleArtifactError for frames that cannot be read.
    """
    findings: list[str] = []
    total: dict[str, float] = dict.fromkeys(
        ("num_videos", "num_views", "num_equal", "max_difference", "max_relative"), 0
    )
    places, compared = model_places(store), set[str]()
    for teacher, frames in teachers:
        place = places[teacher.digest]
        its_rows = _with_same_frames(rows_of_model(rows, place), place[0], frames, findings)
        compared.update(its_rows.video_ids)
        found = _recompute_one(store, its_rows, place[0], teacher, frames, device, advance, findings)
        for name, value in found.items():
            total[name] = total[name] + value if name in ("num_views", "num_equal") else max(total[name], value)
    total["num_videos"] = len(compared)
    return total, list(dict.fromkeys(findings))  # views that several teachers' frames show to be others: once


def model_places(store: SoftTargetStore) -> dict[str, tuple[int, int]]:
    """By the digest of a model's file the place of its teacher in the store, and its fold or NO_FOLD."""
    return {
        digest: (axis, fold)
        for axis, teacher in enumerate(store.attributes["teachers"])
        for fold, digest in enumerate((teacher["digest"], *teacher.get("folds", ())), start=NO_FOLD)
    }


def rows_of_model(rows: Rows, place: tuple[int, int]) -> Rows:
    """The rows whose logits of a teacher are of the model at that place."""
    axis, fold = place
    return rows.take(np.flatnonzero(rows.arrays["fold"][:, axis] == fold))


def _recompute_one(
    store: SoftTargetStore,
    rows: Rows,
    axis: int,
    teacher: ModelFile,
    frames: FrameStore,
    device: torch.device,
    advance: Advance,
    findings: list[str],
) -> dict[str, float]:
    """What `recompute` returns but the number of videos, of one model of the teacher at a place of the axis."""
    rows = _with_partners(rows, frames, findings)
    stored_views = _StoredViews(rows, frames)
    findings += _other_views(store, rows, frames, stored_views)
    if not len(rows):
        return {}
    clip, teacher_clip = (ClipParams(**held["clip"]) for held in (store.attributes, store.attributes["teachers"][axis]))
    batch_size = store.attributes["batch_size"]
    bank = Bank(frames, stored_views, clip, teacher_clip, store.num_views, batch_size, store.has_blends)
    outputs = infer_views(
        teacher.recognizer.to(device).eval(),
        bank,
        rows.video_ids,
        device=device,
        num_workers=0,
        advance=advance,
    )
    stored = {name: rows.arrays[name][:, :, axis] for name in store.codec.arrays()}
    logits = compare_logits(store.codec, stored, outputs.logits_NVK)
    same_NV = outputs.pixel_digest_NV == rows.arrays["pixel_digest"][:, :, axis]
    for row, video_id in enumerate(rows.video_ids):
        if not same_NV[row].all():
            views = np.flatnonzero(~same_NV[row]).tolist()
            findings.append(f"{video_id}: pixel_digest: teacher {axis} saw other pixels in views {views}")
        far_V = same_NV[row] & ~logits.close_NV[row]
        if far_V.any():
            findings.append(
                f"{video_id}: the logits of teacher {axis} in views {np.flatnonzero(far_V).tolist()} differ by "
                f"up to {logits.difference_NV[row, far_V].max():.3g}, more than rounding explains"
            )
    return {
        "num_views": int(same_NV.sum()),
        "num_equal": int((logits.equal_NV & same_NV).sum()),
        "max_difference": float(logits.difference_NV[same_NV].max(initial=0)),
        "max_relative": float(logits.relative_NV[same_NV].max(initial=0)),
    }


def _with_same_frames(rows: Rows, axis: int, frames: FrameStore, findings: list[str]) -> Rows:
    """The rows whose frames are those that a teacher saw; the others are added to the findings."""
    known = {row.video_id: (row.digest, tuple(frames.shape(row.video_id))) for row in frames.rows}
    digests, shapes = rows.arrays["frames_digest"][:, axis], rows.arrays["frame_shape"][:, axis].tolist()
    same = []
    for number, (video_id, digest, shape) in enumerate(zip(rows.video_ids, digests, shapes, strict=True)):
        seen, found = (digest.tobytes().hex(), tuple(shape)), known.get(video_id)
        if found == seen:
            same.append(number)
        else:
            findings.append(
                f"{video_id}: frames: teacher {axis} saw {seen}, {frames.path} has {found or 'no such video'}"
            )
    return rows.take(same)


def _with_partners(rows: Rows, frames: FrameStore, findings: list[str]) -> Rows:
    """The rows whose partners the frames have as well; the others are added to the findings."""
    if "partner" not in rows.arrays:
        return rows
    known = [0, *(digest_uint64(video_id.encode()) for video_id in frames.video_ids)]
    known_N = np.isin(rows.arrays["partner"], np.array(known, dtype="<u8")).all(axis=1)
    findings += [
        f"{rows.video_ids[row]}: frames: {frames.path} lacks a video that it is blended with"
        for row in np.flatnonzero(~known_N)
    ]
    return rows.take(np.flatnonzero(known_N))


def _other_views(store: SoftTargetStore, rows: Rows, frames: FrameStore, stored: _StoredViews) -> list[str]:
    """Views that are not those that the store's policy draws, for the partners that it has; none for a policy of
    another version.
    """
    policy = dict(store.attributes["view_policy"])
    if policy.pop("version") != VIEW_POLICY_VERSION:
        return []
    clip, seed = ClipParams(**store.attributes["clip"]), policy.pop("seed")
    drawn_views = DrawnViews(frames, clip, ViewsParams.of_policy(policy), seed, BANK, stored.partners())
    return [
        f"{video_id}: view {number} is {view.row()}, the policy draws {drawn.row()}"
        for video_id in rows.video_ids
        for number in range(store.num_views)
        if (view := stored.lookup(video_id, number)[0]) != (drawn := drawn_views.lookup(video_id, number)[0])
    ]


class _StoredViews:
    """The views that rows of a store name; a ViewSource. The frames are of stores that have the partners, too."""

    def __init__(self, rows: Rows, frames: FrameStore) -> None:
        self._row_of = {video_id: row for row, video_id in enumerate(rows.video_ids)}
        self._arrays = rows.arrays
        names = frames.video_ids if "partner" in rows.arrays else ()
        self._name_of = {digest_uint64(video_id.encode()): video_id for video_id in names}

    def lookup(self, video_id: str, number: int) -> tuple[AnyView, None]:
        row = self._row_of[video_id]
        own, partner = View(*self._arrays["views"][row, number].tolist()), self._partner(row, number)
        if partner is None:
            return own, None
        return BlendedView(own, blend_of_row(partner, self._arrays["blends"][row, number].tolist())), None

    def partners(self) -> Partners:
        """The partners of all views."""
        if "partner" not in self._arrays:
            return NOT_MIXED
        num_views = self._arrays["partner"].shape[1]
        return {
            video_id: tuple(self._partner(row, number) for number in range(num_views))
            for video_id, row in self._row_of.items()
        }

    def _partner(self, row: int, number: int) -> str | None:
        return self._name_of.get(int(self._arrays["partner"][row, number])) if self._name_of else None


@dataclass(frozen=True)
class LogitComparison:
    """For each view: the same bits; the largest difference; that over the largest |logit|; close."""

    equal_NV: NDArray[np.bool_]
    difference_NV: NDArray[np.float64]
    relative_NV: NDArray[np.float64]
    close_NV: NDArray[np.bool_]


def compare_logits(
    codec: LogitCodec, stored: Mapping[str, NDArray[Any]], teacher_NVK: NDArray[np.float32]
) -> LogitComparison:
    """Packed logits against a teacher's, which are packed in the same way.

    Close are those that differ by at most RELATIVE_TOLERANCE of the largest |logit| of the view, for another device or
    number of threads, plus one unit in the last place of the stored type, half of it for either rounding. From a top-k
    codec three things are compared: the logits of the kept classes, the k largest logits whatever their classes, since
    near ties may change places, and the logsumexp of the others. None of them moves further than the logits do.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # logits that are not finite are not close
        packed = codec.pack(teacher_NVK)
        pairs = (
            [(stored["logits"], packed["logits"])] if "logits" in packed else _topk_pairs(stored, packed, teacher_NVK)
        )
        largest_NV = np.maximum(np.abs(teacher_NVK).max(axis=-1).astype(np.float64), np.finfo(np.float32).tiny)
        difference_NV = np.zeros(largest_NV.shape)
        close_NV = np.ones(largest_NV.shape, dtype=bool)
        for found, expected in pairs:
            difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
            allowed = (
                np.spacing(np.maximum(np.abs(found), np.abs(expected))).astype(np.float64)
                + RELATIVE_TOLERANCE * largest_NV[..., None]
            )
            close_NV &= (difference <= allowed).all(axis=-1)
            difference_NV = np.maximum(difference_NV, np.nan_to_num(difference, nan=_MOST, posinf=_MOST).max(axis=-1))
    equal = [(array == packed[name]).reshape(*largest_NV.shape, -1).all(axis=-1) for name, array in stored.items()]
    return LogitComparison(np.logical_and.reduce(equal), difference_NV, difference_NV / largest_NV, close_NV)


def _topk_pairs(
    stored: Mapping[str, NDArray[Any]], packed: Mapping[str, NDArray[Any]], teacher_NVK: NDArray[np.float32]
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    kept, classes = stored["topk_logits"], stored["topk_classes"].astype(np.int64)
    others = teacher_NVK.astype(np.float64)
    np.put_along_axis(others, classes, -np.inf, axis=-1)
    largest = others.max(axis=-1, keepdims=True)
    rest = largest + np.log(np.exp(others - largest).sum(axis=-1, keepdims=True))
    return [
        (kept, np.take_along_axis(teacher_NVK, classes, axis=-1).astype(kept.dtype)),
        (kept, packed["topk_logits"]),
        (stored["rest_logsumexp"][..., None], rest.astype(stored["rest_logsumexp"].dtype)),
    ]
