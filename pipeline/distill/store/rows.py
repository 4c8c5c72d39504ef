"""Rows of a soft-target store in memory: all arrays of some videos, their digests, and what is wrong with them.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.digest import DIGEST_BYTES, digest_bytes, digest_uint64
from pipeline.data.listing import NO_LABEL
from pipeline.data.views import FULL_WEIGHT, NUM_BLEND_FIELDS, NUM_VIEW_FIELDS
from pipeline.distill.store.codecs import ArrayLayout, LogitCodec, TopK

NO_FOLD = -1  # in `fold`: the logits are the teacher's own


def row_layout(codec: LogitCodec, num_views: int, num_teachers: int, *, mixed: bool = False) -> dict[str, ArrayLayout]:
    """The arrays of a row, by name, in the order in which its digest takes them; mixed: some views are blends."""
    logits = {
        name: ArrayLayout((num_views, num_teachers, *array.inner), array.dtype, array.fill)
        for name, array in codec.arrays().items()
    }
    of_blends = {
        "partner": ArrayLayout((num_views,), np.dtype("<u8"), 0),  # 64 bits of the digest of its id; 0: no blend
        "blends": ArrayLayout((num_views, NUM_BLEND_FIELDS), np.dtype("<i4"), -1),
    }
    return {
        "views": ArrayLayout((num_views, NUM_VIEW_FIELDS), np.dtype("<i4"), -1),
        **(of_blends if mixed else {}),
        "dark_shape": ArrayLayout((3,), np.dtype("<i4"), 0),  # of the dark video: frames, height, width
        "pixel_digest": ArrayLayout((num_views, num_teachers), np.dtype("<u8"), 0),  # of each clip as a teacher saw it
        "frame_shape": ArrayLayout((num_teachers, 3), np.dtype("<i4"), 0),  # of the video that a teacher saw
        "frames_digest": ArrayLayout((num_teachers, DIGEST_BYTES), np.dtype("u1"), 0),  # of the same
        "fold": ArrayLayout((num_teachers,), np.dtype("<i2"), NO_FOLD),  # which of a teacher's folds gave the logits
        **logits,
    }


OF_VIEWS = ("views", "partner", "blends")
_OF_ALL_TEACHERS = (*OF_VIEWS, "dark_shape")
_TEACHER_AXIS = {"frame_shape": 1, "frames_digest": 1, "fold": 1}  # of the others it is the one behind N and V


@dataclass(frozen=True)
class Rows:
    """Rows of a store, in ascending order of their ids: for each array of `row_layout` one of shape (N, *inner)."""

    video_ids: tuple[str, ...]
    arrays: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        wrong = {name: array.shape for name, array in self.arrays.items() if len(array) != len(self.video_ids)}
        if wrong:
            raise ValueError(f"{len(self.video_ids)} rows of a soft-target store have arrays of other lengths: {wrong}")

    def __len__(self) -> int:
        return len(self.video_ids)

    def take(self, rows: Sequence[int] | NDArray[np.intp] | slice) -> Rows:
        """Some of the rows, in that order."""
        ids = self.video_ids[rows] if isinstance(rows, slice) else tuple(self.video_ids[row] for row in rows)
        return Rows(ids, {name: array[rows] for name, array in self.arrays.items()})

    def logits(self, codec: LogitCodec) -> NDArray[np.float32]:
        """logits_NVMK, unpacked."""
        return codec.unpack({name: self.arrays[name] for name in codec.arrays()})

    def digests(self) -> NDArray[np.uint8]:
        """(N, 16): for each row the digest of its id in UTF-8 and its arrays' bytes in the order of the layout."""
        if not self.video_ids:
            return np.zeros((0, DIGEST_BYTES), dtype=np.uint8)
        content_NX = np.concatenate(
            [np.ascontiguousarray(array).reshape(len(self), -1).view(np.uint8) for array in self.arrays.values()],
            axis=1,
        )
        digests = [
            digest_bytes(video_id.encode(), content_X.data)
            for video_id, content_X in zip(self.video_ids, content_NX, strict=True)
        ]
        return np.frombuffer(bytes.fromhex("".join(digests)), dtype=np.uint8).reshape(-1, DIGEST_BYTES)


def join_teachers(parts: Sequence[Rows]) -> Rows:
    """The rows of several stores' teachers as those of one, of the same videos and views (see `unlike_views`)."""
    first = parts[0]
    joined = {
        name: np.concatenate([part.arrays[name] for part in parts], axis=_TEACHER_AXIS.get(name, 2))
        for name in first.arrays
        if name not in _OF_ALL_TEACHERS
    }
    return Rows(first.video_ids, {name: joined.get(name, array) for name, array in first.arrays.items()})


def unlike_views(parts: Sequence[Rows]) -> list[str]:
    """Where rows of the same videos differ in what all teachers share: the views, and the dark videos' shapes."""
    first = parts[0]
    return [
        f"{first.video_ids[row]}: {name} differs"
        for name in _OF_ALL_TEACHERS
        if name in first.arrays
        for part in parts[1:]
        for row in np.flatnonzero((part.arrays[name] != first.arrays[name]).reshape(len(first), -1).any(axis=1))
    ]


def mainly_partners(rows: Rows, size: int) -> NDArray[np.bool_]:
    """Which views (N, V) show more of their partner than of their own video; size: of the clip they are drawn for."""
    if "blends" not in rows.arrays:
        return np.zeros(rows.arrays["views"].shape[:2], dtype=bool)
    weight, _top, _left, height, width = np.moveaxis(
        rows.arrays["blends"][..., NUM_VIEW_FIELDS:].astype(np.int64), -1, 0
    )
    return np.asarray(2 * (FULL_WEIGHT - weight) * height * width > FULL_WEIGHT * size**2)


def outside(views_NV7: NDArray[np.int32], dark_shape_N3: NDArray[np.int32], num_frames: int) -> NDArray[np.bool_]:
    """Which seven numbers (N, V) are no `View`, or one that leaves its video in space or time.

    A clip of `num_frames` that is longer than the video starts over.
    """
    first, stride, top, left, height, width, flip = np.moveaxis(views_NV7.astype(np.int64), -1, 0)
    video_frames, video_height, video_width = np.moveaxis(dark_shape_N3.astype(np.int64), -1, 0)[:, :, None]
    span = (num_frames - 1) * stride
    inside = (
        (np.minimum.reduce([first, top, left]) >= 0)
        & (np.minimum.reduce([stride, height, width]) >= 1)
        & ((flip == 0) | (flip == 1))
        & (top + height <= video_height)
        & (left + width <= video_width)
        & (first < video_frames)
        & ((first + span < video_frames) | (span >= video_frames))
    )
    return np.asarray(~inside)


@dataclass(frozen=True)
class MainLabels:
    """The class index of each view, of a blend that of the larger share.

    of_video: class indices by video id, NO_LABEL for none; size: of the clip that views are drawn for.
    """

    of_video: Mapping[str, int]
    size: int

    def of(self, rows: Rows) -> NDArray[np.int64]:
        """Of rows of these videos (N, V); NO_LABEL for a partner that is none of them."""
        labels_N = np.array([self.of_video[video_id] for video_id in rows.video_ids], dtype=np.int64)
        labels_NV = np.repeat(labels_N[:, None], rows.arrays["views"].shape[1], axis=1)
        mainly_NV = mainly_partners(rows, self.size)
        if mainly_NV.any():
            partners = rows.arrays["partner"][mainly_NV].tolist()
            labels_NV[mainly_NV] = [self._of_digest.get(partner, NO_LABEL) for partner in partners]
        return labels_NV

    @cached_property
    def _of_digest(self) -> dict[int, int]:
        return {digest_uint64(video_id.encode()): label for video_id, label in self.of_video.items()}


def concatenate(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one after the other."""
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    return Rows(tuple(video_id for part in parts for video_id in part.video_ids), arrays)


def pieces(parts: Iterable[Rows], num_rows: int) -> Iterator[Rows]:
    """The same rows in pieces of `num_rows`, the last one shorter; at most two pieces are held."""
    held: list[Rows] = []
    num_held = 0
    for part in parts:
        held.append(part)
        num_held += len(part)
        while num_held >= num_rows:
            rows = concatenate(held)
            yield rows.take(slice(num_rows))
            held, num_held = [rows.take(slice(num_rows, None))], num_held - num_rows
    if num_held:
        yield concatenate(held)


def check_rows(rows: Rows, layout: Mapping[str, ArrayLayout], last_id: str) -> None:
    """Raise ValueError for rows of another layout, or whose ids do not ascend from `last_id` on."""
    expected = {name: (array.inner, array.dtype) for name, array in layout.items()}
    found = {name: (array.shape[1:], array.dtype) for name, array in rows.arrays.items()}
    if list(found.items()) != list(expected.items()):
        raise ValueError(f"rows of another layout: {found}, not {expected}")
    wrong = [after for before, after in pairwise((last_id, *rows.video_ids)) if after <= before]
    if wrong:
        raise ValueError(f"rows are not in ascending order of their ids, or twice: {wrong[0]!r}")


def find_bad_rows(rows: Rows, row_digests_NX: NDArray[np.uint8], bad_N: NDArray[np.bool_], findings: list[str]) -> None:
    """Add the rows without their digest or with logits that are not finite to `bad_N`, and to `findings` by id."""
    floats = [array for array in rows.arrays.values() if array.dtype.kind == "f"]
    unwritten_N = ~np.all([np.isfinite(array).reshape(len(rows), -1).all(axis=1) for array in floats], axis=0)
    wrong_N = (rows.digests() != row_digests_NX).any(axis=1)
    for row in np.flatnonzero(unwritten_N | wrong_N):
        if not bad_N[row]:  # else its chunk is named already
            reason = "has logits that are not finite: never written" if unwritten_N[row] else "fails its digest"
            findings.append(f"{rows.video_ids[row] or 'a row without id'} {reason}")
    bad_N |= unwritten_N | wrong_N


def find_repeated_classes(rows: Rows, codec: LogitCodec, bad_N: NDArray[np.bool_], findings: list[str]) -> None:
    """Add good rows whose kept classes are not different ones of the K to `bad_N` and to `findings`."""
    if not isinstance(codec, TopK):
        return
    classes_NVMk = np.sort(rows.arrays["topk_classes"], axis=-1)
    twice_N = (classes_NVMk[..., 1:] == classes_NVMk[..., :-1]).any(axis=(1, 2, 3))
    unknown_N = (classes_NVMk >= codec.num_classes).any(axis=(1, 2, 3))
    wrong_N = (twice_N | unknown_N) & ~bad_N
    findings += [
        f"{rows.video_ids[row]}: topk_classes are not different ones of {codec.num_classes}"
        for row in np.flatnonzero(wrong_N)
    ]
    bad_N |= wrong_N


def find_misplaced_rows(rows: Rows, firsts: Sequence[str], bad_N: NDArray[np.bool_], findings: list[str]) -> None:
    """Add good rows of a shard that nobody would find there to `bad_N` and to `findings`; another writer may err so.

    `firsts` are the first ids of the shard and, if there is one, of the next.
    """
    first, *after = firsts
    last_id = ""
    for row in np.flatnonzero(~bad_N).tolist():
        video_id = rows.video_ids[row]
        if video_id < first or any(video_id >= next_first for next_first in after):
            findings.append(f"{video_id} does not belong in the shard from {first} on: rows ascend by their ids")
            bad_N[row] = True
        elif video_id <= last_id:
            findings.append(f"{video_id} comes after {last_id}: rows ascend by their ids")
            bad_N[row] = True
        else:
            last_id = video_id
