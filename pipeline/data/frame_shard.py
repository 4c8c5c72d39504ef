"""One shard of a frame store: an HDF5 file of many videos, written whole and read by position. Format version 1.

HDF5 gives the structure, but frames are read from the plain file, each checked against its CRC-32C: HDF5's own strided
selections of chunks were hundreds of times slower (benchmarks/frame_store.py), and a descriptor survives forks.
The only module that imports h5py.

Axes: T frames, H rows, W columns, C the channels red, green, blue; uint8 throughout.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import google_crc32c
import h5py
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.core.digest import DIGEST_BYTES
from pipeline.core.errors import DataError, StaleArtifactError, in_one_line
from pipeline.core.files import written_whole
from pipeline.core.progress import Stopwatch
from pipeline.data.frames import Frame

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

FORMAT = "dlkdd frame store"
FORMAT_VERSION = 1
REMEDY = "make it again with `dvc repro`, or `dvc checkout` it"

Codec = Literal["raw", "jpeg"]
OpenFrames = Callable[[], Iterator["Frame | EncodedFrame"]]

# Half the colour resolution (4:2:0) saves a sixth of the bytes and costs 0.7 dB on lifted dark frames, 2 to 5 on
# frames that were lifted before (benchmarks/frame_store.py)
_CHROMA = "444"
_COPY_BYTES = 1 << 24
_TABLES = {"video_id": "S", "frames": "i", "frame_end": "i", "crc32c": "u"}  # by kind of their type


@dataclass(frozen=True)
class IndexRow:
    """One video of a store: its shard, its row there, its size, and the digest of its stored bytes."""

    video_id: str
    shard: int
    row: int
    frames: int
    height: int
    width: int
    digest: str


@dataclass(frozen=True)
class EncodedFrame:
    """A frame as a shard of the same codec holds it: it goes into another shard as it is."""

    content: bytes
    height: int
    width: int


@dataclass(frozen=True)
class ShardResult:
    """What a shard holds, and the videos that could not enter it, each with the reason."""

    rows: tuple[IndexRow, ...]
    broken: tuple[tuple[str, str], ...]


def write_shard(
    path: Path,
    videos: Iterable[tuple[str, OpenFrames]],
    *,
    shard: int,
    codec: Codec,
    jpeg_quality: int,
    watch: Stopwatch | None = None,
) -> ShardResult:
    """Write one shard whole, from pairs of video id and a function that yields its (H, W, C) frames, or encoded ones.

    A video goes through a scratch file beside the shard and enters only when its last frame is there; one that raises
    DataError, changes its size or has no frame is left out and reported. The same videos give the same bytes; a shard
    without any video is not written. Memory holds a frame, whatever the videos' length.
    `watch` is told of the seconds of `encode` and `write`.
    """
    watch = watch or Stopwatch()
    rows: list[IndexRow] = []
    taken: list[_Taken] = []
    broken: list[tuple[str, str]] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        written_whole(path) as partial,
        _new_shard(partial) as file,
        tempfile.TemporaryFile(dir=path.parent) as scratch,
    ):
        for video_id, open_frames in videos:
            try:
                video = _take(open_frames(), scratch, watch, codec, jpeg_quality)
            except DataError as error:
                broken.append((video_id, in_one_line(error)))
                continue
            with watch.time("write"):
                _store(file, len(rows), video, scratch, codec)
            rows.append(IndexRow(video_id, shard, len(rows), len(video.frame_ends), *video.size, video.digest))
            taken.append(video)
        _store_tables(file, rows, taken, codec)
    if not rows:
        path.unlink()
    return ShardResult(tuple(rows), tuple(broken))


@dataclass(frozen=True)
class _Taken:
    """A whole video in the scratch file."""

    size: tuple[int, int]
    frame_ends: list[int]  # where each frame's bytes end in the scratch file
    checksums: list[int]
    digest: str


def _take(
    frames: Iterator[Frame | EncodedFrame],
    scratch: io.BufferedRandom,
    watch: Stopwatch,
    codec: Codec,
    jpeg_quality: int,
) -> _Taken:
    scratch.seek(0)  # and over what an earlier video left, without new pages
    size: tuple[int, int] | None = None
    ends: list[int] = []
    checksums: list[int] = []
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for frame in frames:
        with watch.time("encode"):
            encoded = frame if isinstance(frame, EncodedFrame) else _encode(frame, codec, jpeg_quality)
            checksums.append(google_crc32c.value(encoded.content))
            digest.update(encoded.content)
        size = size or (encoded.height, encoded.width)
        if (encoded.height, encoded.width) != size:
            raise DataError(f"frame {len(ends)} is {encoded.width}×{encoded.height}, those before {size[1]}×{size[0]}")
        with watch.time("write"):
            scratch.write(encoded.content)
        ends.append((ends[-1] if ends else 0) + len(encoded.content))
    if size is None:
        raise DataError("it has no frame")
    return _Taken(size, ends, checksums, digest.hexdigest())


def _encode(frame: Frame, codec: Codec, jpeg_quality: int) -> EncodedFrame:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise TypeError(f"a frame must be (H, W, 3) uint8, not {frame.shape} {frame.dtype}")
    frame = np.ascontiguousarray(frame)
    if codec == "raw":
        content = frame.tobytes()
    else:
        content = simplejpeg.encode_jpeg(frame, quality=jpeg_quality, colorspace="RGB", colorsubsampling=_CHROMA)
    return EncodedFrame(content, *frame.shape[:2])


@contextmanager
def _new_shard(path: Path) -> Iterator[h5py.File]:
    """A shard to fill; raises the first error of the disk when it is left."""
    with path.open("wb+", buffering=0) as raw:
        file = _NeverFailing(raw)
        # The structures of version 1.10: every reader since 2016 opens them, and newer libraries write the same bytes.
        with h5py.File(file, "w", libver=("v110", "v110"), track_order=False) as shard:
            yield shard
        if file.error is not None:
            raise file.error


class _NeverFailing(io.RawIOBase):
    """A file that keeps the error of a write to itself: HDF5 crashes when it closes a file that it could not write."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        """Write all of it, unless something failed before."""
        rest = memoryview(data).cast("B")
        num_bytes = len(rest)
        with self._noticing():
            while rest and self.error is None:
                rest = rest[self._file.write(rest) :]
        return num_bytes

    def truncate(self, size: int | None = None) -> int:
        """Change the length, unless something failed before."""
        with self._noticing():
            if self.error is None:
                self._file.truncate(size)
        return self.tell() if size is None else size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As a file's."""
        return self._file.seek(offset, whence)

    def readinto(self, data: WriteableBuffer) -> int:
        """As a file's."""
        return self._file.readinto(data)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error


def _store(file: h5py.File, row: int, taken: _Taken, scratch: io.BufferedRandom, codec: Codec) -> None:
    """Copy a video from the scratch file into a contiguous dataset of its own."""
    num_bytes = taken.frame_ends[-1]
    shape = (len(taken.frame_ends), *taken.size, 3) if codec == "raw" else (num_bytes,)
    dataset = file.create_dataset(_row_name(row), shape=shape, dtype=np.uint8, track_times=False)
    item_bytes = num_bytes // shape[0]
    step = max(1, _COPY_BYTES // item_bytes)
    items = np.empty((min(step, shape[0]), *shape[1:]), np.uint8)
    scratch.seek(0)
    for start in range(0, shape[0], step):
        count = min(step, shape[0] - start)
        scratch.readinto(items[:count].data)
        dataset[start : start + count] = items[:count]


def _row_name(row: int) -> str:
    return f"{row:06d}"


def _store_tables(file: h5py.File, rows: Sequence[IndexRow], taken: Sequence[_Taken], codec: Codec) -> None:
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["codec"] = codec
    names = [row.video_id.encode() for row in rows]
    width = max(map(len, names), default=1)
    tables: tuple[NDArray[Any], ...] = (
        np.array(names, h5py.string_dtype("utf-8", width)),
        np.array([len(video.frame_ends) for video in taken], np.int64),
        np.array([end for video in taken for end in video.frame_ends], np.int64),
        np.array([checksum for video in taken for checksum in video.checksums], np.uint32),
    )
    for name, values in zip(_TABLES, tables, strict=True):
        file.create_dataset(name, data=values, track_times=False)
    file.attrs["tables_crc32c"] = _checksum(tables)


def _checksum(tables: Iterable[NDArray[Any]]) -> int:
    return int(google_crc32c.value(b"".join(table.tobytes() for table in tables)))


def decode_frame(content: bytes, row: IndexRow, codec: Codec) -> Frame:
    """The frame (H, W, C) of stored bytes; raises ValueError where they are not one of the size that the index says."""
    if codec == "raw":
        return np.frombuffer(content, np.uint8).reshape(row.height, row.width, 3)
    if simplejpeg.decode_jpeg_header(content)[:2] != (row.height, row.width):
        raise ValueError("a frame has another size than the index says")
    frame: Frame = simplejpeg.decode_jpeg(content, colorspace="RGB")
    return frame


class Shard:
    """A shard's tables in memory and a descriptor of its file; frames are read by position.

    Raises StaleArtifactError where the file is missing, damaged or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        try:
            with h5py.File(path, "r", locking=False) as file:  # a published shard never changes
                if (file.attrs["format"], file.attrs["format_version"]) != (FORMAT, FORMAT_VERSION):
                    raise damaged(path, "it is not a shard of this format")
                num_bytes = path.stat().st_size
                tables = [_contiguous(file, name, kind, num_bytes)[()] for name, kind in _TABLES.items()]
                if _checksum(tables) != file.attrs["tables_crc32c"]:
                    raise damaged(path, "its tables do not have their checksum")
                video_id, frames, self._end, self._checksum = tables
                self._video_ids = [name.decode() for name in video_id]
                self._first = np.concatenate([[0], np.cumsum(frames)])
                if not len(frames) == len(video_id) or (frames < 1).any() or self._first[-1] != len(self._end):
                    raise ValueError("its tables have other lengths than they state")
                rows = [_contiguous(file, _row_name(row), "u", num_bytes) for row in range(len(video_id))]
                self._offset = [row.id.get_offset() for row in rows]
                self._num_bytes = [row.nbytes for row in rows]
            self._descriptor = os.open(path, os.O_RDONLY)
        except _HDF5_ERRORS as error:
            raise damaged(path, str(error)) from None

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def content(self, row: IndexRow, number: int) -> bytes:
        """The stored bytes of one frame, checked against their checksum."""
        if not self._holds(row):
            raise damaged(self.path, f"its row {row.row} is not the {row.video_id} that the index names")
        place = int(self._first[row.row]) + number
        start, end = 0 if number == 0 else int(self._end[place - 1]), int(self._end[place])
        if not 0 <= start <= end <= self._num_bytes[row.row]:
            raise damaged(self.path, f"frame {number} of {row.video_id} lies outside of its video")
        content = os.pread(self._descriptor, end - start, self._offset[row.row] + start)
        if google_crc32c.value(content) != self._checksum[place]:
            raise damaged(self.path, f"frame {number} of {row.video_id} does not have its checksum")
        return content

    def encoded_frames(self, row: IndexRow) -> Iterator[EncodedFrame]:
        """The frames of one video as they are stored.

        Raises StaleArtifactError where they are damaged or, after the last one, where they are not those of the row.
        """
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for number in range(row.frames):
            content = self.content(row, number)
            digest.update(content)
            yield EncodedFrame(content, row.height, row.width)
        if digest.hexdigest() != row.digest:
            raise damaged(self.path, f"{row.video_id} does not have the digest that the index names")

    def _holds(self, row: IndexRow) -> bool:
        return (
            row.row < len(self._video_ids)
            and self._video_ids[row.row] == row.video_id
            and self._first[row.row + 1] - self._first[row.row] == row.frames
        )


# What h5py raises for a damaged file; some are of its own conversions of what it found
_HDF5_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, ArithmeticError, MemoryError)


def _contiguous(file: h5py.File, name: str, kind: str, num_bytes: int) -> h5py.Dataset:
    """A dataset that lies in the file itself, in one piece and of plain numbers or texts, as the writer makes them.

    A link to another file, storage outside, virtual or chunked data and objects are refused before any byte is read,
    and so is what would be larger than the file.
    """
    link = file.get(name, getlink=True)
    if link is None or type(link) is not h5py.HardLink:
        raise ValueError(f"{name} is not in the file itself")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != kind or dataset.dtype.hasobject:
        raise ValueError(f"{name} is no table of its type")
    made = dataset.id.get_create_plist()
    if made.get_layout() != h5py.h5d.CONTIGUOUS or made.get_external_count():
        raise ValueError(f"{name} is not stored in one piece")
    offset = dataset.id.get_offset()
    if dataset.nbytes and (offset is None or offset + dataset.nbytes > num_bytes):
        raise ValueError(f"{name} reaches behind the end of the file")
    return dataset


def damaged(path: Path, reason: str) -> StaleArtifactError:
    """The error for a part of a store that cannot be used."""
    return StaleArtifactError(f"{path}: damaged: {reason}", remedy=REMEDY)
