"""The soft-target store: the teacher's logits for a bank of views of every training video, in zarr format 3.

Raw float16 logits, before any temperature, keyed by video id, with the views that the teacher was asked about. The
store names everything it was made from, and refuses to be used with what it does not fit. This is the only module that
imports zarr.

Axes: N videos, V views, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.errors import BaseZarrError

from pipeline.digest import DIGEST_BYTES, digest_bytes, digest_json
from pipeline.errors import StaleArtifactError
from pipeline.views import NUM_VIEW_FIELDS, View

FORMAT = "dlkdd-soft-targets"
FORMAT_VERSION = 1

CHUNK_ROWS = 128  # unit of reading
_ATTRIBUTES_DIGEST = "attributes_digest"  # of all other attributes
SHARD_ROWS = 8192  # unit of writing: one writer writes one whole shard


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a store. `logits_NVK` is float32 as the teacher gave it, float16 as the store keeps it."""

    video_ids: tuple[str, ...]
    logits_NVK: NDArray[np.floating[Any]]
    views_NV7: NDArray[np.int32]
    pixel_digest_NV: NDArray[np.uint64]

    def __post_init__(self) -> None:
        num_rows, num_views = self.pixel_digest_NV.shape
        fit = (
            len(self.video_ids) == num_rows
            and self.logits_NVK.shape[:2] == (num_rows, num_views)
            and self.views_NV7.shape == (num_rows, num_views, NUM_VIEW_FIELDS)
        )
        if not fit:
            raise ValueError("rows of a soft-target store: ids, logits, views and pixel digests have different shapes")

    def row_digests(self) -> NDArray[np.uint8]:
        """(N, 16) bytes: for each row the digest of its id, logits, views and pixel digests, little-endian."""
        digests = [
            digest_bytes(
                video_id.encode(),
                np.ascontiguousarray(self.logits_NVK[row], dtype="<f2").data,
                np.ascontiguousarray(self.views_NV7[row], dtype="<i4").data,
                np.ascontiguousarray(self.pixel_digest_NV[row], dtype="<u8").data,
            )
            for row, video_id in enumerate(self.video_ids)
        ]
        return np.frombuffer(bytes.fromhex("".join(digests)), dtype=np.uint8).reshape(-1, DIGEST_BYTES)


def write_store(
    path: Path, parts: Iterable[Rows], *, num_rows: int, num_views: int, num_classes: int, attributes: Mapping[str, Any]
) -> None:
    """Write a whole store into a new folder: rows shard by shard, attributes last.

    `parts` are rows in the order of the store, in pieces of any length; at most one shard is held. The same rows and
    attributes give the same bytes.
    """
    group = zarr.open_group(path, mode="w-", zarr_format=3)
    arrays = _create_arrays(group, num_rows, num_views, num_classes)
    written = 0
    for shard in _whole_shards(parts):
        _write_rows(arrays, written, shard)
        written += len(shard.video_ids)
    if written != num_rows:
        raise ValueError(f"{written} rows were given for a store of {num_rows}")
    whole = {"format": FORMAT, "format_version": FORMAT_VERSION, **attributes}
    whole[_ATTRIBUTES_DIGEST] = digest_json(whole)
    group.attrs.put(json.loads(json.dumps(whole, sort_keys=True)))  # sorted at every level


def _create_arrays(group: zarr.Group, num_rows: int, num_views: int, num_classes: int) -> dict[str, zarr.Array[Any]]:
    chunk_rows = min(CHUNK_ROWS, num_rows)
    shard_rows = min(SHARD_ROWS, -(-num_rows // chunk_rows) * chunk_rows)
    layout: dict[str, tuple[tuple[int, ...], Any, Any]] = {
        "logits": ((num_views, num_classes), np.float16, np.nan),  # a row that was never written reads as NaN
        "views": ((num_views, NUM_VIEW_FIELDS), np.int32, -1),
        "video_id": ((), str, ""),
        "row_digest": ((DIGEST_BYTES,), np.uint8, 0),
        "pixel_digest": ((num_views,), np.uint64, 0),
    }
    return {
        name: group.create_array(
            name,
            shape=(num_rows, *inner),
            dtype=dtype,
            chunks=(chunk_rows, *inner),
            shards=(shard_rows, *inner),
            compressors=(ZstdCodec(level=3), Crc32cCodec()),
            fill_value=fill,
            config={"write_empty_chunks": True},
        )
        for name, (inner, dtype, fill) in layout.items()
    }


def _write_rows(arrays: Mapping[str, zarr.Array[Any]], start: int, rows: Rows) -> None:
    stop = start + len(rows.video_ids)
    arrays["logits"][start:stop] = rows.logits_NVK.astype(np.float16)
    arrays["views"][start:stop] = rows.views_NV7
    arrays["video_id"][start:stop] = np.array(rows.video_ids, dtype=object)
    arrays["row_digest"][start:stop] = rows.row_digests()
    arrays["pixel_digest"][start:stop] = rows.pixel_digest_NV


def _whole_shards(parts: Iterable[Rows]) -> Iterator[Rows]:
    """The same rows in pieces of SHARD_ROWS, the last one shorter."""
    held: list[Rows] = []
    for part in parts:
        held.append(part)
        while sum(len(rows.video_ids) for rows in held) >= SHARD_ROWS:
            rows = _concatenate(held)
            yield _piece(rows, slice(SHARD_ROWS))
            held = [_piece(rows, slice(SHARD_ROWS, None))]
    if sum(len(rows.video_ids) for rows in held):
        yield _concatenate(held)


def _concatenate(parts: Sequence[Rows]) -> Rows:
    return Rows(
        tuple(video_id for part in parts for video_id in part.video_ids),
        np.concatenate([part.logits_NVK for part in parts]),
        np.concatenate([part.views_NV7 for part in parts]),
        np.concatenate([part.pixel_digest_NV for part in parts]),
    )


def _piece(rows: Rows, where: slice) -> Rows:
    return Rows(rows.video_ids[where], rows.logits_NVK[where], rows.views_NV7[where], rows.pixel_digest_NV[where])


class SoftTargetStore:
    """A store in memory, checked whole: format, unwritten rows, and every row's digest.

    `lookup(video_id, number)` is the one way to ask it; nothing addresses rows by index. Raises StaleArtifactError
    when the store is missing, damaged or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            group = zarr.open_group(path, mode="r", zarr_format=3)
            self.attributes: dict[str, Any] = dict(group.attrs)
            self._check_format(self.attributes.pop(_ATTRIBUTES_DIGEST, None))
            video_ids = tuple(str(video_id) for video_id in _read(group, "video_id"))
            self.rows = Rows(video_ids, _read(group, "logits"), _read(group, "views"), _read(group, "pixel_digest"))
            row_digests = _read(group, "row_digest")
        except (BaseZarrError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error
        self._check_rows(row_digests)
        self._row_of = {video_id: row for row, video_id in enumerate(self.rows.video_ids)}
        self.digest = digest_bytes(digest_json(self.attributes).encode(), row_digests.tobytes())

    @property
    def num_views(self) -> int:
        """Views of each video."""
        return int(self.rows.logits_NVK.shape[1])

    @property
    def video_ids(self) -> tuple[str, ...]:
        """The training videos, in the order of the rows."""
        return self.rows.video_ids

    def lookup(self, video_id: str, number: int) -> tuple[View, NDArray[np.float16]]:
        """View `number` (modulo the number of views) of a video, and the teacher's logits_K for it."""
        row = self._row_of[video_id]
        view = number % self.num_views
        return View(*map(int, self.rows.views_NV7[row, view])), self.rows.logits_NVK[row, view]

    def require(self, wanted: Mapping[str, object], *, remedy: str) -> None:
        """Refuse to be used with what the store was not made from: raises StaleArtifactError naming every difference.

        `wanted` maps names of attributes to the values that the run declares.
        """
        findings = [
            f"{name}: the store has {self.attributes.get(name)!r}, this run {value!r}"
            for name, value in wanted.items()
            if self.attributes.get(name) != value
        ]
        if findings:
            raise StaleArtifactError(f"{self.path}: made for another run", findings=findings, remedy=remedy)

    def require_videos(self, video_ids: Sequence[str]) -> None:
        """Raise StaleArtifactError where the store has no row for some of these videos."""
        missing = [video_id for video_id in video_ids if video_id not in self._row_of]
        if missing:
            raise self._damaged(f"no row for {len(missing)} of {len(video_ids)} videos", _first_ten(missing))

    def _check_format(self, attributes_digest: object) -> None:
        found = (self.attributes.get("format"), self.attributes.get("format_version"))
        if found != (FORMAT, FORMAT_VERSION):
            raise StaleArtifactError(
                f"{self.path}: expected {FORMAT} of format version {FORMAT_VERSION}, found {found[0]} {found[1]}",
                remedy="`dvc repro precompute_soft_targets` makes a store of this version",
            )
        if digest_json(self.attributes) != attributes_digest:
            raise self._damaged("its attributes do not have the digest that was written with them")

    def _check_rows(self, row_digests: NDArray[np.uint8]) -> None:
        rows = self.rows
        if row_digests.shape != (len(rows.video_ids), DIGEST_BYTES):
            raise self._damaged(f"{len(rows.video_ids)} rows, and digests of shape {row_digests.shape}")
        unwritten = ~np.isfinite(rows.logits_NVK).all(axis=(1, 2))
        wrong = (rows.row_digests() != row_digests).any(axis=1) | unwritten
        if wrong.any():
            bad = [rows.video_ids[row] for row in np.flatnonzero(wrong)]
            raise self._damaged(
                f"{len(bad)} of {len(wrong)} rows are unwritten or do not match their digest", _first_ten(bad)
            )

    def _damaged(self, reason: str, findings: Sequence[str] = ()) -> StaleArtifactError:
        return StaleArtifactError(
            f"{self.path}: not a whole soft-target store: {reason}",
            findings=findings,
            remedy="`dvc repro precompute_soft_targets` makes it, `dvc checkout` or `dvc pull` brings it back",
        )


def _first_ten(names: Sequence[str]) -> list[str]:
    return [*names[:10], f"… and {len(names) - 10} more"] if len(names) > 10 else list(names)


def _read(group: zarr.Group, name: str) -> NDArray[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is not an array")
    return np.asarray(array[:])
