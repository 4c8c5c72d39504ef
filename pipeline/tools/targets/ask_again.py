"""The teachers of a soft-target store, asked again about some of its videos: to compare, or to replace lost rows.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.params import ClipParams, ViewsParams
from pipeline.core.progress import Advance
from pipeline.data.dataset import BANK, DrawnViews, ViewSource
from pipeline.data.frame_store import FrameStore
from pipeline.data.views import VIEW_POLICY_VERSION, View
from pipeline.distill.store.codecs import LogitCodec, TopK
from pipeline.distill.store.store import Rows, SoftTargetStore
from pipeline.distill.teacher.bank import Bank, TeacherOutputs, bank_arrays, infer_views
from pipeline.models.recognizer import ModelFile

# Another device, or another number of threads, rounds sums differently: how far a logit may move, over the largest
# |logit| of its view. Factors of 11 bits, as TF32 has them, moved those of r2plus1d_slim and x3d_s by 0.0001, those of
# r2plus1d_18 by up to 0.001 (simulated on the CPU).
RELATIVE_TOLERANCE = 2e-3

_MOST = float(np.finfo(np.float32).max)  # stands for what is not finite, which JSON has no word for


@dataclass(frozen=True)
class Comparison:
    """What the teachers said when asked again, beside what the store says.

    Of `num_views` compared views `num_equal` have the same bits. `max_difference` is between packed logits, so 0 where
    all bits are the same; `max_relative` is it over the largest |logit| of its view.
    """

    num_videos: int
    num_views: int
    num_equal: int
    max_difference: float
    max_relative: float
    findings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values of the numbers; the findings are those of the verdict that holds it."""
        return {name: value for name, value in asdict(self).items() if name != "findings"}


@dataclass(frozen=True)
class Asker:
    """Asks teachers of a store, given in any order, as they were asked when it was made.

    Whether they and the frames are those of the store is the caller's to check; frames that cannot be read raise
    StaleArtifactError.
    """

    store: SoftTargetStore
    teachers: Sequence[ModelFile]
    frames: FrameStore
    device: torch.device

    @cached_property
    def drawn_views(self) -> DrawnViews | None:
        """The views of the store's policy, drawn anew by name; None where this program draws others."""
        policy = dict(self.store.attributes["view_policy"])
        if policy.pop("version") != VIEW_POLICY_VERSION:
            return None
        seed = policy.pop("seed")
        return DrawnViews(self.frames, self._clip, ViewsParams(**policy), seed, purpose=BANK)

    def rows(self, video_ids: Sequence[str], advance: Advance) -> Rows:
        """The rows of these videos, made as the store's were, with the logits of all its teachers."""
        views = self.drawn_views
        assert views is not None
        assert len(self.teachers) == self.store.num_teachers
        bank = self._bank(views)
        outputs = self._ask(video_ids, bank, advance)
        arrays = {**bank_arrays(bank, video_ids, outputs), **self.store.codec.pack(outputs.logits_NVMK)}
        return Rows(tuple(video_ids), {name: arrays[name] for name in self.store.layout})

    def compare(self, rows: Rows, advance: Advance) -> Comparison:
        """Ask about rows of the store again: the same frames, the same views drawn, the same pixels and logits?

        Logits are compared where frames and pixels are the same, and may differ by what `compare_logits` allows.
        """
        findings: list[str] = []
        other_N = self._other_frames(rows, findings)
        rows = rows.take(np.flatnonzero(~other_N))
        findings += self._view_findings(rows)
        if not len(rows):
            return Comparison(0, 0, 0, 0.0, 0.0, tuple(findings))
        outputs = self._ask(rows.video_ids, self._bank(_StoredViews(rows)), advance)
        axes = [axis for axis, _ in self._ordered]
        stored = {name: rows.arrays[name][:, :, axes] for name in self.store.codec.arrays()}
        logits = compare_logits(self.store.codec, stored, outputs.logits_NVMK)
        seen_NV = outputs.pixel_digest_NV == rows.arrays["pixel_digest"]
        for row, video_id in enumerate(rows.video_ids):
            if not seen_NV[row].all():
                views = np.flatnonzero(~seen_NV[row]).tolist()
                findings.append(f"{video_id}: pixel_digest: the teacher saw other pixels in views {views}")
            for place, axis in enumerate(axes):
                far_V = seen_NV[row] & ~logits.close_NVM[row, :, place]
                if far_V.any():
                    findings.append(
                        f"{video_id}: the logits of teacher {axis} in views {np.flatnonzero(far_V).tolist()} differ by "
                        f"up to {logits.difference_NVM[row, far_V, place].max():.3g}, more than rounding explains"
                    )
        return Comparison(
            num_videos=len(rows),
            num_views=int(seen_NV.sum()),
            num_equal=int((logits.equal_NVM.all(axis=2) & seen_NV).sum()),
            max_difference=float(logits.difference_NVM[seen_NV].max(initial=0)),
            max_relative=float(logits.relative_NVM[seen_NV].max(initial=0)),
            findings=tuple(findings),
        )

    @property
    def _clip(self) -> ClipParams:
        return ClipParams(**self.store.attributes["clip"])

    @cached_property
    def _ordered(self) -> list[tuple[int, ModelFile]]:
        """The given teachers in the order of the store's, each with its place there."""
        digests = [teacher["digest"] for teacher in self.store.attributes["teachers"]]
        return sorted(((digests.index(given.digest), given) for given in self.teachers), key=lambda pair: pair[0])

    @cached_property
    def frames_digests(self) -> dict[str, NDArray[np.uint8]]:
        """The bytes of each stored video's digest, by id."""
        return {row.video_id: np.frombuffer(bytes.fromhex(row.digest), dtype=np.uint8) for row in self.frames.rows}

    def _other_frames(self, rows: Rows, findings: list[str]) -> NDArray[np.bool_]:
        """Whose frames are not those that the teacher saw."""
        other_N = np.zeros(len(rows), dtype=bool)
        for row, video_id in enumerate(rows.video_ids):
            before = len(findings)
            if video_id not in self.frames_digests:
                findings.append(f"{video_id}: {self.frames.path} does not have it")
            else:
                if (rows.arrays["frames_digest"][row] != self.frames_digests[video_id]).any():
                    findings.append(f"{video_id}: frames_digest: the teacher saw other frames")
                shape, found = tuple(rows.arrays["frame_shape"][row].tolist()), self.frames.shape(video_id)
                if shape != found:
                    findings.append(f"{video_id}: frame_shape: the store has {shape}, the frames are {found}")
            other_N[row] = len(findings) > before
        return other_N

    def _view_findings(self, rows: Rows) -> list[str]:
        """Views that are not those that the store's policy draws."""
        if self.drawn_views is None:
            return []
        return [
            f"{video_id}: view {number} is {tuple(view)}, the policy draws {drawn}"
            for video_id, views in zip(rows.video_ids, rows.arrays["views"].tolist(), strict=True)
            for number, view in enumerate(views)
            if tuple(view) != (drawn := self.drawn_views.lookup(video_id, number)[0].row())
        ]

    def _bank(self, views: ViewSource) -> Bank:
        return Bank(self.frames, views, self._clip, self.store.num_views, int(self.store.attributes["batch_size"]))

    def _ask(self, video_ids: Sequence[str], bank: Bank, advance: Advance) -> TeacherOutputs:
        """Logits of the given teachers in the order of the store."""
        recognizers = [teacher.recognizer.to(self.device).eval() for _, teacher in self._ordered]
        return infer_views(recognizers, bank, video_ids, device=self.device, num_workers=0, advance=advance)


@dataclass(frozen=True)
class _StoredViews:
    """The views that rows of a store name."""

    rows: Rows

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {video_id: row for row, video_id in enumerate(self.rows.video_ids)}

    def lookup(self, video_id: str, number: int) -> tuple[View, None]:
        return View(*self.rows.arrays["views"][self._row_of[video_id], number].tolist()), None


@dataclass(frozen=True)
class LogitComparison:
    """For each view of each teacher: the same bits; the largest difference; that over the largest |logit|; close."""

    equal_NVM: NDArray[np.bool_]
    difference_NVM: NDArray[np.float64]
    relative_NVM: NDArray[np.float64]
    close_NVM: NDArray[np.bool_]


def compare_logits(
    codec: LogitCodec, stored: Mapping[str, NDArray[Any]], asked_NVMK: NDArray[np.float32]
) -> LogitComparison:
    """Packed logits against asked ones, which are rounded in the same way.

    Close are those that differ by at most RELATIVE_TOLERANCE of the largest |logit| of the view, for another device or
    number of threads, plus one unit in the last place of the stored type, half of it for either rounding. From a top-k
    codec three things are compared: the logits of the kept classes, the k largest logits whatever their classes, since
    near ties may change places, and the logsumexp of the others. None of them moves further than the logits do.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # asked logits that are not finite are not close
        packed = codec.pack(asked_NVMK)
        pairs = (
            _topk_pairs(stored, packed, asked_NVMK)
            if isinstance(codec, TopK)
            else [(stored["logits"], packed["logits"])]
        )
        largest_NVM = np.maximum(np.abs(asked_NVMK).max(axis=-1).astype(np.float64), np.finfo(np.float32).tiny)
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
    stored: Mapping[str, NDArray[Any]], packed: Mapping[str, NDArray[Any]], asked_NVMK: NDArray[np.float32]
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    kept, classes = stored["topk_logits"], stored["topk_classes"].astype(np.int64)
    others = asked_NVMK.astype(np.float64)
    np.put_along_axis(others, classes, -np.inf, axis=-1)
    largest = others.max(axis=-1, keepdims=True)
    rest = largest + np.log(np.exp(others - largest).sum(axis=-1, keepdims=True))
    return [
        (kept, np.take_along_axis(asked_NVMK, classes, axis=-1).astype(kept.dtype)),
        (kept, packed["topk_logits"]),
        (stored["rest_logsumexp"][..., None], rest.astype(stored["rest_logsumexp"].dtype)),
    ]
