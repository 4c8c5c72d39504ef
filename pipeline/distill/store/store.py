"""The soft-target store: the teacher's logits for a bank of views of every training video, in zarr format 3.

Raw logits, before any temperature, keyed by video id, with the views that the teacher saw. The store names everything
that it was made from, and refuses to be used with what it does not fit. docs/soft-target-store.md is the format's
specification. This is the only module that imports zarr.

Digests form a chain: a row's digest covers the row, a shard's digest its rows' digests, and the digest of the
attributes, which is the store's, covers the shards' digests. So a reader that fetches one shard can check it against
the name of the whole.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.errors import BaseZarrError
from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore

from pipeline.core.digest import DIGEST_BYTES, digest_bytes, digest_json
from pipeline.core.errors import EnvironmentProblem, StaleArtifactError, shortened
from pipeline.distill.store.attributes import FORMAT, FORMAT_VERSION, attribute_findings, has_blends
from pipeline.distill.store.codecs import ArrayLayout, LogitCodec, codec_of
from pipeline.distill.store.rows import (
    Rows,
    check_rows,
    find_bad_rows,
    find_misplaced_rows,
    find_repeated_classes,
    pieces,
    row_layout,
)
from pipeline.distill.store.urls import URL_REMEDY, url_options
from pipeline.distill.store.version_2 import current_attributes, current_rows, version_2_layout

CHUNK_ROWS = 512  # what a damaged byte costs; a quarter of it takes twice as long to read
SHARD_ROWS = 8192  # unit of writing and reading, and of the digests in the attributes

MAKE_REMEDY = (
    "`dvc repro precompute_soft_targets` makes it again, with the rows that its work folder still holds; "
    "`dvc checkout` or `dvc pull` brings it back"
)

_MOST_CHUNK_BYTES = 1 << 30  # five times what 300 views of 700 classes take

_ATTRIBUTES_DIGEST = "attributes_digest"  # of all other attributes: the digest of the store
_IDS, _ROW_DIGESTS = "video_id", "row_digest"


def write_store(
    path: Path,
    parts: Iterable[Rows],
    *,
    codec: LogitCodec,
    num_rows: int,
    num_views: int,
    num_teachers: int,
    attributes: Mapping[str, Any],
) -> str:
    """Write a whole store into a new folder: rows shard by shard, attributes last. Returns the store's digest.

    `parts` are rows in ascending order of their ids, in pieces of any length; at most two shards are held. Of
    `attributes` the view policy is read first and all else last, so that what is measured on the way can be among them.
    The same rows and attributes give the same bytes. Raises ValueError for rows in another order, twice, or of another
    layout.
    """
    layout = row_layout(codec, num_views, num_teachers, mixed=has_blends(attributes))
    group = zarr.open_group(path, mode="w-", zarr_format=3)
    arrays = _create_arrays(group, layout, num_rows)
    shards: list[dict[str, str]] = []
    written, last_id = 0, ""
    for rows in pieces(parts, SHARD_ROWS):
        check_rows(rows, layout, last_id)
        digests = rows.digests()
        stop = written + len(rows)
        if stop > num_rows:
            break
        arrays[_IDS][written:stop] = np.array(rows.video_ids, dtype=object)
        arrays[_ROW_DIGESTS][written:stop] = digests
        for name, array in rows.arrays.items():
            arrays[name][written:stop] = array
        shards.append({"first": rows.video_ids[0], "digest": digest_bytes(digests.tobytes())})
        written, last_id = stop, rows.video_ids[-1]
    else:
        stop = written
    if stop != num_rows:
        raise ValueError(f"{stop} rows were given for a store of {num_rows}")
    whole = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "codec": codec.attributes(),
        "num_rows": num_rows,
        "num_views": num_views,
        "num_teachers": num_teachers,
        "rows_per_shard": _shard_rows(num_rows)[1],
        "shards": shards,
        **attributes,
    }
    digest = whole[_ATTRIBUTES_DIGEST] = digest_json(whole)
    group.attrs.put(json.loads(json.dumps(whole, sort_keys=True)))  # sorted at every level
    return digest


def files_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The files of a store with these attributes, by name: a description's JSON value, and None for a shard."""
    described: dict[str, Buffer] = {}
    group = zarr.group(MemoryStore(described), zarr_format=3)
    codec = codec_of(attributes["codec"], len(attributes["class_names"]))
    layout = _file_layout(attributes, codec)
    arrays = _create_arrays(group, layout, attributes["num_rows"])
    group.attrs.put(dict(attributes))
    shards = {
        f"{name}/{array.metadata.encode_chunk_key((shard, *(0 for _ in array.shape[1:])))}": None
        for name, array in arrays.items()
        for shard in range(len(attributes["shards"]))
    }
    return {**{name: json.loads(content.to_bytes()) for name, content in described.items()}, **shards}


def _file_layout(attributes: Mapping[str, Any], codec: LogitCodec) -> dict[str, ArrayLayout]:
    """The arrays of the rows of a store as it is on disk."""
    num_views, num_teachers = attributes["num_views"], attributes["num_teachers"]
    if attributes["format_version"] == 2:
        return version_2_layout(codec, num_views, num_teachers)
    return row_layout(codec, num_views, num_teachers, mixed=has_blends(attributes))


def _shard_rows(num_rows: int) -> tuple[int, int]:
    """Rows of a chunk and of a shard: a small store is one chunk, a shard is whole chunks."""
    chunk_rows = min(CHUNK_ROWS, num_rows)
    return chunk_rows, min(SHARD_ROWS, -(-num_rows // chunk_rows) * chunk_rows)


def _create_arrays(group: zarr.Group, layout: Mapping[str, ArrayLayout], num_rows: int) -> dict[str, zarr.Array[Any]]:
    chunk_rows, shard_rows = _shard_rows(num_rows)
    described: dict[str, tuple[tuple[int, ...], Any, Any]] = {
        _IDS: ((), str, ""),
        _ROW_DIGESTS: ((DIGEST_BYTES,), np.dtype("u1"), 0),
        **{name: (array.inner, array.dtype, array.fill) for name, array in layout.items()},
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
        for name, (inner, dtype, fill) in described.items()
    }


def read_arrays(path: Path, names: Iterable[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and attributes of any zarr group, those of the arrays that it has; raises ValueError where it is none."""
    try:
        group = zarr.open_group(path, mode="r")
        return {name: np.asarray(group[name]) for name in names if name in group}, dict(group.attrs)
    except _READ_ERRORS as error:
        raise ValueError(_short(error)) from error


def damaged(location: str, reason: str, findings: Sequence[str] = ()) -> StaleArtifactError:
    """The error for a store that is not whole."""
    return StaleArtifactError(
        f"{location}: not a whole soft-target store: {reason}",
        findings=findings,
        remedy=f"{MAKE_REMEDY}; `dlkdd targets verify` lists all that is wrong",
    )


def read_attributes(location: Path | str) -> dict[str, Any]:
    """The attributes of a store as they are there, with their digest, checked; raises as `SoftTargetStore` does."""
    return _open_group(str(location))[1]


def _open_group(location: str) -> tuple[zarr.Group, dict[str, Any]]:
    try:
        group = zarr.open_group(_storage(location), mode="r", zarr_format=3)
        attributes: dict[str, Any] = dict(group.attrs)
        found = (attributes.get("format"), attributes.get("format_version"))
        digest = digest_json({name: value for name, value in attributes.items() if name != _ATTRIBUTES_DIGEST})
    except _READ_ERRORS as error:
        raise damaged(location, f"zarr.json cannot be read: {_short(error)}") from error
    if found not in ((FORMAT, 2), (FORMAT, FORMAT_VERSION)):
        raise StaleArtifactError(
            f"{location}: expected {FORMAT} of format version 2 or {FORMAT_VERSION}, found {found[0]} {found[1]}",
            remedy="`dvc repro precompute_soft_targets` makes a store of this version",
        )
    if attributes.get(_ATTRIBUTES_DIGEST) != digest:
        raise damaged(location, "the attributes do not have their digest")
    findings = attribute_findings(current_attributes(attributes))
    if findings:
        raise damaged(location, "its attributes are incomplete or contradict each other", findings)
    num_rows, per_shard = attributes["num_rows"], attributes["rows_per_shard"]
    if per_shard != _shard_rows(num_rows)[1]:
        raise damaged(location, f"of {num_rows} rows a shard holds {_shard_rows(num_rows)[1]}, not {per_shard}")
    return group, attributes


@dataclass(frozen=True)
class Examined:
    """One shard of a store as it was found: its rows, which of them cannot be trusted, and why."""

    start: int
    rows: Rows  # a bad row holds whatever was read; its id may be empty
    bad_N: NDArray[np.bool_]
    findings: tuple[str, ...]


class SoftTargetStore:
    """A store at a path or an fsspec URL, opened and checked, no row of which is in memory.

    Opening checks the format, the digest of the attributes and that every array is described as they say.
    `read_shard` gives rows, each checked against its digest and the shard's; nothing else gives any. Raises
    StaleArtifactError where the store is missing, damaged or of another format, EnvironmentProblem where a URL cannot
    be reached. Writes nothing.

    `attributes` and rows are of the current version whatever the version of the store, which is `format_version`;
    `file_layout` has the arrays that it really has.
    """

    def __init__(self, location: Path | str) -> None:
        self.location = str(location)
        group, attributes = _open_group(self.location)
        self.digest: str = attributes.pop(_ATTRIBUTES_DIGEST)
        self.format_version: int = attributes["format_version"]
        self.attributes = current_attributes(attributes)
        self.codec = codec_of(self.attributes["codec"], len(self.attributes["class_names"]))
        self.num_rows: int = self.attributes["num_rows"]
        self.num_views: int = self.attributes["num_views"]
        self.num_teachers: int = self.attributes["num_teachers"]
        self.num_unlabelled: int = self.attributes.get("num_unlabelled", 0)
        self.has_blends = self.format_version > 2 and has_blends(self.attributes)
        self.layout = row_layout(self.codec, self.num_views, self.num_teachers, mixed=self.has_blends)
        self.file_layout = _file_layout(attributes, self.codec)
        self._first_ids: list[str] = [shard["first"] for shard in self.attributes["shards"]]
        try:
            _check_chunks(self.file_layout, self.num_rows)
            self._arrays = self._open_arrays(group)
        except _READ_ERRORS as error:
            raise damaged(self.location, _short(error)) from error

    @property
    def num_shards(self) -> int:
        """Units of reading with a digest of their own."""
        return len(self._first_ids)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the logits."""
        return tuple(self.attributes["class_names"])

    def shards_of(self, video_ids: Iterable[str]) -> list[int]:
        """Numbers of the shards that hold these videos, if any does; reads nothing."""
        return sorted({max(bisect_right(self._first_ids, video_id) - 1, 0) for video_id in video_ids})

    def read_shard(self, shard: int) -> Rows:
        """The rows of a shard; raises StaleArtifactError that names every row which fails its checks."""
        examined = self.examine_shard(shard)
        if examined.findings:
            raise damaged(
                self.location,
                f"{int(examined.bad_N.sum())} of the {len(examined.rows)} rows from {examined.start} on cannot be used",
                examined.findings,
            )
        return examined.rows

    def examine_shard(self, shard: int) -> Examined:
        """The rows of a shard with all that is wrong with them: a damaged chunk costs its rows, not the shard."""
        per_shard = self.attributes["rows_per_shard"]
        start, stop = shard * per_shard, min((shard + 1) * per_shard, self.num_rows)
        bad_N = np.zeros(stop - start, dtype=bool)
        findings: list[str] = []
        read = {name: self._read(name, start, stop, bad_N, findings) for name in self._arrays}
        rows = Rows(tuple(map(str, read.pop(_IDS))), {name: read[name] for name in self.file_layout})
        row_digests = read[_ROW_DIGESTS]
        find_bad_rows(rows, row_digests, bad_N, findings)
        expected = self.attributes["shards"][shard]
        whole = (rows.video_ids[0], digest_bytes(row_digests.tobytes())) == (expected["first"], expected["digest"])
        if not whole and not findings:
            # every row is right by itself, but they are not the rows that the attributes name
            findings.append(f"rows {start} to {stop - 1} are not the rows that the attributes name")
            bad_N[:] = True
        find_repeated_classes(rows, self.codec, bad_N, findings)
        find_misplaced_rows(rows, self._first_ids[shard : shard + 2], bad_N, findings)
        if self.format_version == 2:
            rows = current_rows(rows, self.num_teachers)
        return Examined(start, rows, bad_N, tuple(findings))

    def _open_arrays(self, group: zarr.Group) -> dict[str, zarr.Array[Any]]:
        """The arrays, each described exactly as the writer would: shape, type, chunks, shards, codecs, fill value."""
        as_written = _create_arrays(zarr.group(MemoryStore(), zarr_format=3), self.file_layout, self.num_rows)
        opened: dict[str, Any] = {name: group[name] for name in as_written}
        findings = [
            f"{name}/zarr.json: {difference}"
            for name, array in opened.items()
            for difference in _described_otherwise(array, as_written[name])
        ]
        if findings:
            raise damaged(self.location, "its arrays are described in another way", findings)
        return opened

    def _read(self, name: str, start: int, stop: int, bad_N: NDArray[np.bool_], findings: list[str]) -> NDArray[Any]:
        """Rows of one array; where a shard cannot be read, chunk by chunk, with fill values for what is lost."""
        array = self._arrays[name]
        try:
            return np.asarray(array[start:stop])
        except _READ_ERRORS:
            pass
        whole = np.full(
            (stop - start, *array.shape[1:]), array.fill_value, dtype=object if name == _IDS else array.dtype
        )
        for first in range(start, stop, array.chunks[0]):
            end = min(first + array.chunks[0], stop)
            try:
                whole[first - start : end - start] = array[first:end]
            except _READ_ERRORS as error:
                findings.append(f"{name}: rows {first} to {end - 1} cannot be read: {_short(error)}")
                bad_N[first - start : end - start] = True
        return whole


def _check_chunks(layout: Mapping[str, ArrayLayout], num_rows: int) -> None:
    """Raise ValueError for chunks that no store needs, before memory is taken for them."""
    rows = _shard_rows(num_rows)[0]
    for name, array in layout.items():
        num_bytes = rows * math.prod(array.inner) * array.dtype.itemsize
        if num_bytes > _MOST_CHUNK_BYTES:
            raise ValueError(f"a chunk of {name} would have {num_bytes:,} bytes, more than {_MOST_CHUNK_BYTES:,}")


# What zarr raises for a damaged store
_READ_ERRORS = (
    BaseZarrError,
    OSError,
    KeyError,
    ValueError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    IndexError,
    AttributeError,
    ImportError,  # of a codec that is not installed
    MemoryError,
    UserWarning,  # where warnings are errors
)


class _WholeObjects(WrapperStore[Store]):
    """Fetches each object once and whole: a shard is the unit of reading, and not every web server knows ranges.

    A missing object is None, as for any store; any other error is one of the connection.
    """

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The object, or the requested part of it."""
        held_key, held = getattr(self, "_held", ("", None))
        if held_key != key:
            try:
                held = await self._store.get(key, prototype)
            except Exception as error:
                raise EnvironmentProblem(
                    f"{getattr(self._store, 'path', '')}/{key}: cannot be fetched: {_short(error)}",
                    remedy="check the address, the network and your rights there, then run the same command again",
                ) from error
            self._held = (key, held)
        if held is None or byte_range is None:
            return held
        if isinstance(byte_range, RangeByteRequest):
            first, last = byte_range.start, byte_range.end
        elif isinstance(byte_range, OffsetByteRequest):
            first, last = byte_range.offset, len(held)
        else:
            first, last = max(len(held) - byte_range.suffix, 0), len(held)
        part: Buffer = held[first:last]
        return part


def _storage(location: str) -> Store:
    if "://" not in location:
        return LocalStore(Path(location).absolute(), read_only=True)
    try:
        return _WholeObjects(FsspecStore.from_url(location, storage_options=url_options(location), read_only=True))
    except (ImportError, ValueError) as error:
        raise EnvironmentProblem(
            f"{location}: cannot be opened: {_short(error)}",
            remedy=URL_REMEDY,
        ) from error


def _described_otherwise(array: object, expected: zarr.Array[Any]) -> list[str]:
    if not isinstance(array, zarr.Array):
        return ["describes no array"]
    return description_differences(*(_description(each) for each in (array, expected)))


def _description(array: zarr.Array[Any]) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(json.dumps(array.metadata.to_dict(), default=str))
    return described


def description_differences(found: object, expected: Mapping[str, Any]) -> list[str]:
    """Where the description of an array or a group, as JSON values, is not the writer's, field by field."""
    held = found if isinstance(found, dict) else {}

    def text(values: Mapping[str, Any], name: str) -> str:
        return json.dumps(values[name], sort_keys=True) if name in values else "missing"

    pairs = ((name, text(held, name), text(expected, name)) for name in sorted({*held, *expected}))
    return [f"{name} is {shortened(one)}, expected {shortened(other)}" for name, one, other in pairs if one != other]


def _short(error: BaseException) -> str:
    text = str(error) or repr(error)
    return f"{type(error).__name__}: {text[:300]}"
