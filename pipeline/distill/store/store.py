"""The soft-target store: the teacher's logits for a bank of views of every training video, in zarr format 3.

Raw logits, before any temperature, keyed by video id, with the views that the teacher was asked about. The store names
everything it was made from, and refuses to be used with what it does not fit. docs/soft-target-store.md is the format's
specification. This is the only module that imports zarr.

Digests form a chain: a row's digest covers the row, a shard's digest its rows' digests, and the digest of the
attributes, which is the store's, covers the shards' digests. So a reader that fetches one shard can check it against
the name of the whole.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.errors import BaseZarrError
from zarr.storage import FsspecStore, LocalStore, MemoryStore, WrapperStore

from pipeline.core.digest import DIGEST_BYTES, digest_bytes, digest_json
from pipeline.core.errors import EnvironmentProblem, StaleArtifactError
from pipeline.data.views import NUM_VIEW_FIELDS
from pipeline.distill.store.codecs import ArrayLayout, LogitCodec, codec_of

if TYPE_CHECKING:
    import aiohttp

FORMAT = "dlkdd-soft-targets"
FORMAT_VERSION = 2

CHUNK_ROWS = 512  # what a damaged byte costs; a quarter of it takes twice as long to read
SHARD_ROWS = 8192  # unit of writing and reading, and of the digests in the attributes

MAKE_REMEDY = (
    "`dvc repro precompute_soft_targets` makes it again, with the rows that its work folder still holds; "
    "`dvc checkout` or `dvc pull` brings it back"
)

_MOST_CHUNK_BYTES = 1 << 30  # five times what 300 views of 700 classes take

_ATTRIBUTES_DIGEST = "attributes_digest"  # of all other attributes: the digest of the store
_IDS, _ROW_DIGESTS = "video_id", "row_digest"


def row_layout(codec: LogitCodec, num_views: int, num_teachers: int) -> dict[str, ArrayLayout]:
    """The arrays of a row, by name, in the order in which its digest takes them."""
    logits = {
        name: ArrayLayout((num_views, num_teachers, *array.inner), array.dtype, array.fill)
        for name, array in codec.arrays().items()
    }
    return {
        "views": ArrayLayout((num_views, NUM_VIEW_FIELDS), np.dtype("<i4"), -1),
        "pixel_digest": ArrayLayout((num_views,), np.dtype("<u8"), 0),  # of each clip that the teacher saw
        "frame_shape": ArrayLayout((3,), np.dtype("<i4"), 0),  # of the stored video: frames, height, width
        "frames_digest": ArrayLayout((DIGEST_BYTES,), np.dtype("u1"), 0),  # of the stored video that the teacher saw
        **logits,
    }


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


def concatenate(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one after the other."""
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    return Rows(tuple(video_id for part in parts for video_id in part.video_ids), arrays)


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

    `parts` are rows in ascending order of their ids, in pieces of any length; at most two shards are held. `attributes`
    are read last, so that what is measured on the way can be among them. The same rows and attributes give the same
    bytes. Raises ValueError for rows in another order, twice, or of another layout.
    """
    layout = row_layout(codec, num_views, num_teachers)
    group = zarr.open_group(path, mode="w-", zarr_format=3)
    arrays = _create_arrays(group, layout, num_rows)
    shards: list[dict[str, str]] = []
    written, last_id = 0, ""
    for rows in _whole_shards(parts):
        _check_rows(rows, layout, last_id)
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
    layout = row_layout(codec, attributes["num_views"], attributes["num_teachers"])
    arrays = _create_arrays(group, layout, attributes["num_rows"])
    group.attrs.put(dict(attributes))
    shards = {
        f"{name}/{array.metadata.encode_chunk_key((shard, *(0 for _ in array.shape[1:])))}": None
        for name, array in arrays.items()
        for shard in range(len(attributes["shards"]))
    }
    return {**{name: json.loads(content.to_bytes()) for name, content in described.items()}, **shards}


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


def _check_rows(rows: Rows, layout: Mapping[str, ArrayLayout], last_id: str) -> None:
    expected = {name: (array.inner, array.dtype) for name, array in layout.items()}
    found = {name: (array.shape[1:], array.dtype) for name, array in rows.arrays.items()}
    if list(found.items()) != list(expected.items()):
        raise ValueError(f"rows of another layout: {found}, not {expected}")
    ids = (last_id, *rows.video_ids)
    wrong = [after for before, after in pairwise(ids) if after <= before]
    if wrong:
        raise ValueError(f"rows are not in ascending order of their ids, or twice: {wrong[0]!r}")


def _whole_shards(parts: Iterable[Rows]) -> Iterator[Rows]:
    """The same rows in pieces of SHARD_ROWS, the last one shorter."""
    held: list[Rows] = []
    num_held = 0
    for part in parts:
        held.append(part)
        num_held += len(part)
        while num_held >= SHARD_ROWS:
            rows = concatenate(held)
            yield rows.take(slice(SHARD_ROWS))
            held, num_held = [rows.take(slice(SHARD_ROWS, None))], num_held - SHARD_ROWS
    if num_held:
        yield concatenate(held)


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
    """

    def __init__(self, location: Path | str) -> None:
        self.location = str(location)
        try:
            group = zarr.open_group(_storage(self.location), mode="r", zarr_format=3)
            attributes: dict[str, Any] = dict(group.attrs)
            found_digest = attributes.pop(_ATTRIBUTES_DIGEST, None)
            self._check_format(attributes)
            self.digest = digest_json(attributes)
            if found_digest != self.digest:
                raise self.damaged("its attributes do not have the digest that was written with them")
            self.attributes = attributes
            _check_sizes(attributes)
            self.codec = codec_of(attributes["codec"], len(attributes["class_names"]))
            self.num_rows, self.num_views = int(attributes["num_rows"]), int(attributes["num_views"])
            self.num_teachers = int(attributes["num_teachers"])
            self.layout = row_layout(self.codec, self.num_views, self.num_teachers)
            _check_chunks(self.layout, self.num_rows)
            self._arrays = self._open_arrays(group)
            self._first_ids: list[str] = [shard["first"] for shard in attributes["shards"]]
        except _READ_ERRORS as error:
            raise self.damaged(_short(error)) from error

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
            raise self.damaged(
                f"{int(examined.bad_N.sum())} of the {len(examined.rows)} rows from {examined.start} on cannot be used",
                examined.findings,
            )
        return examined.rows

    def examine_shard(self, shard: int) -> Examined:
        """The rows of a shard with all that is wrong with them: a damaged chunk costs its rows, not the shard."""
        per_shard = int(self.attributes["rows_per_shard"])
        start, stop = shard * per_shard, min((shard + 1) * per_shard, self.num_rows)
        bad_N = np.zeros(stop - start, dtype=bool)
        findings: list[str] = []
        read = {name: self._read(name, start, stop, bad_N, findings) for name in self._arrays}
        rows = Rows(tuple(map(str, read.pop(_IDS))), {name: read[name] for name in self.layout})
        row_digests = read[_ROW_DIGESTS]
        self._examine_rows(rows, row_digests, bad_N, findings)
        expected = self.attributes["shards"][shard]
        whole = (rows.video_ids[0], digest_bytes(row_digests.tobytes())) == (expected["first"], expected["digest"])
        if not whole and not findings:
            # every row is right by itself, but they are not the rows that the attributes name
            findings.append(f"rows {start} to {stop - 1} are not the rows that the attributes name")
            bad_N[:] = True
        self._examine_order(rows, shard, bad_N, findings)
        return Examined(start, rows, bad_N, tuple(findings))

    def damaged(self, reason: str, findings: Sequence[str] = ()) -> StaleArtifactError:
        """The error for a store that is not whole."""
        return StaleArtifactError(
            f"{self.location}: not a whole soft-target store: {reason}",
            findings=findings,
            remedy=f"{MAKE_REMEDY}; `dlkdd targets verify` lists all that is wrong",
        )

    def require(self, *names: str) -> None:
        """Raise StaleArtifactError where attributes that only some readers need are not there."""
        missing = [name for name in names if name not in self.attributes]
        if missing:
            raise self.damaged(f"its attributes lack {', '.join(missing)}")

    def _check_format(self, attributes: Mapping[str, object]) -> None:
        found = (attributes.get("format"), attributes.get("format_version"))
        if found != (FORMAT, FORMAT_VERSION):
            raise StaleArtifactError(
                f"{self.location}: expected {FORMAT} of format version {FORMAT_VERSION}, found {found[0]} {found[1]}",
                remedy="`dvc repro precompute_soft_targets` makes a store of this version",
            )

    def _open_arrays(self, group: zarr.Group) -> dict[str, zarr.Array[Any]]:
        """The arrays, each described exactly as the writer would: shape, type, chunks, shards, codecs, fill value."""
        as_written = _create_arrays(zarr.group(MemoryStore(), zarr_format=3), self.layout, self.num_rows)
        opened: dict[str, zarr.Array[Any]] = {}
        findings = []
        for name, expected in as_written.items():
            array = group[name]
            if not isinstance(array, zarr.Array) or _description(array) != _description(expected):
                findings.append(f"{name}/zarr.json does not describe the array that the attributes name")
                continue
            opened[name] = array
        if findings:
            raise self.damaged("its arrays are described in another way", findings)
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

    def _examine_rows(
        self, rows: Rows, row_digests: NDArray[np.uint8], bad_N: NDArray[np.bool_], findings: list[str]
    ) -> None:
        floats = [array for array in rows.arrays.values() if array.dtype.kind == "f"]
        unwritten_N = ~np.all([np.isfinite(array).reshape(len(rows), -1).all(axis=1) for array in floats], axis=0)
        wrong_N = (rows.digests() != row_digests).any(axis=1)
        for row in np.flatnonzero(unwritten_N | wrong_N):
            if not bad_N[row]:  # else its chunk is named already
                reason = "has logits that are not finite: never written" if unwritten_N[row] else "fails its digest"
                findings.append(f"{rows.video_ids[row] or 'a row without id'} {reason}")
        bad_N |= unwritten_N | wrong_N

    def _examine_order(self, rows: Rows, shard: int, bad_N: NDArray[np.bool_], findings: list[str]) -> None:
        """Another writer might give right digests to rows in an order in which nobody would find them."""
        first, *after = self._first_ids[shard : shard + 2]
        last_id = ""
        for row in np.flatnonzero(~bad_N).tolist():
            video_id = rows.video_ids[row]
            if video_id < first or any(video_id >= next_first for next_first in after):
                findings.append(f"{video_id} does not belong into the shard from {first} on: rows ascend by their ids")
                bad_N[row] = True
            elif video_id <= last_id:
                findings.append(f"{video_id} comes after {last_id}: rows ascend by their ids")
                bad_N[row] = True
            else:
                last_id = video_id


def _check_sizes(attributes: Mapping[str, Any]) -> None:
    """Raise ValueError where counts, names and shards are not what the writer makes of each other."""
    names, num_rows = attributes["class_names"], attributes["num_rows"]
    counts = [attributes[name] for name in ("num_rows", "num_views", "num_teachers", "rows_per_shard")]
    if not all(type(count) is int and count > 0 for count in counts):
        raise ValueError(f"rows, views, teachers and rows of a shard are whole numbers above 0, not {counts}")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names are not texts")
    per_shard = _shard_rows(num_rows)[1]
    firsts = [shard["first"] for shard in attributes["shards"]]
    if attributes["rows_per_shard"] != per_shard or len(firsts) != -(-num_rows // per_shard):
        raise ValueError(f"{len(firsts)} shards of {attributes['rows_per_shard']} rows do not hold {num_rows}")
    if not all(isinstance(first, str) for first in firsts):
        raise ValueError("its shards do not name their first ids")
    digests, teachers = attributes.get("digests", {}), attributes.get("teachers", [])
    if not isinstance(digests, dict) or not all({"name", "digest"} <= teacher.keys() for teacher in teachers):
        raise ValueError("digests or teachers have no names")


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

_TIMEOUT_SECONDS = 60  # without a connection, or without a byte of an object


class _WholeObjects(WrapperStore[Store]):
    """Fetches each object once and whole: a shard is the unit of reading, and not every web server knows ranges.

    An object that is not there is None, as for any store; whatever else goes wrong lies between here and the store.
    """

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The object, or the asked part of it."""
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
    options = _http_options() if location.startswith(("http://", "https://")) else None
    try:
        return _WholeObjects(FsspecStore.from_url(location, storage_options=options, read_only=True))
    except (ImportError, ValueError) as error:
        raise EnvironmentProblem(
            f"{location}: cannot be opened: {_short(error)}",
            remedy="check the address; s3:// needs the package s3fs, gs:// gcsfs, az:// adlfs",
        ) from error


def _http_options() -> dict[str, Any]:
    import aiohttp  # slow to import, and a path needs none of it

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT_SECONDS, sock_read=_TIMEOUT_SECONDS)
    return {"client_kwargs": {"timeout": timeout}, "get_client": _http_session}


async def _http_session(**options: Any) -> aiohttp.ClientSession:
    """A session that is closed at exit, before zarr stops the loop that it lives in; fsspec would leave it open."""
    import aiohttp
    from fsspec.implementations.http import HTTPFileSystem  # type: ignore[import-untyped]  # ships no types

    session = aiohttp.ClientSession(**options)
    atexit.register(HTTPFileSystem.close_session, asyncio.get_running_loop(), session)
    return session


def _description(array: zarr.Array[Any]) -> str:
    return json.dumps(array.metadata.to_dict(), sort_keys=True, default=str)


def _short(error: BaseException) -> str:
    text = str(error) or repr(error)
    return f"{type(error).__name__}: {text[:300]}"
