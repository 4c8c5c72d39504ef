"""The frame store: a folder of HDF5 shards, an index and a description. Format version 1, docs/frame-store.md.

A shard is written whole by one task; the description is written last, so that a store that has one is complete.

Axes: T frames, H rows, W columns, C the channels red, green, blue; uint8 throughout.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.core.digest import digest_file, digest_json, digest_uint64, has_valid_digest, with_digest
from pipeline.core.errors import StaleArtifactError
from pipeline.core.files import write_text_whole
from pipeline.core.progress import Advance
from pipeline.core.tables import Reader, read_table, whole_number, write_table
from pipeline.data.frame_shard import FORMAT, FORMAT_VERSION, REMEDY, Codec, IndexRow, Shard, damaged, decode_frame
from pipeline.data.frames import Frame, Frames, Levels, shown

_INDEX_NAME = "index.csv"
_DESCRIPTION_NAME = "store.json"
_MAX_OPEN_SHARDS = 64  # descriptors kept open in a process: far below the usual limits of 256 and 1024
_DESCRIBED = {"format", "format_version", "codec", "jpeg_quality", "num_videos", "origin", "index_digest"}
_INDEX_COLUMNS: dict[str, Reader] = {
    field.name: str if field.name in ("video_id", "digest") else whole_number for field in fields(IndexRow)
}


def shard_of(video_id: str, num_shards: int) -> int:
    """The shard of a video, by its id alone: a new video touches one shard."""
    return digest_uint64(video_id.encode()) % num_shards


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{shard:03d}.h5"


def write_index(
    folder: Path,
    rows: Iterable[IndexRow],
    *,
    codec: Codec,
    jpeg_quality: int,
    levels: Levels = "linear",
    origin: Mapping[str, str],
) -> None:
    """Complete a store whose shards are all there: the index, then the description that says that it is whole.

    `levels`: what the frames' bytes mean (pipeline/data/frames.py). `origin` are the digests of what the store was made
    from, by name; and `light`, the enhancer's name.
    """
    ordered = sorted(rows, key=lambda row: row.video_id)
    if len({row.video_id for row in ordered}) != len(ordered):
        raise ValueError("a video id occurs in two rows of a frame store")
    write_table(folder / _INDEX_NAME, _INDEX_COLUMNS, map(astuple, ordered))
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "codec": codec,
        "jpeg_quality": jpeg_quality if codec == "jpeg" else None,
        "levels": levels,
        "num_videos": len(ordered),
        "origin": dict(sorted(origin.items())),
        "index_digest": digest_file(folder / _INDEX_NAME),
    }
    write_text_whole(folder / _DESCRIPTION_NAME, json.dumps(with_digest(description), indent=1) + "\n")


class FrameStore:
    """A frame store, open for reading.

    `video_ids` are sorted; `digest` names the content: ids, sizes, codec and stored bytes of all videos, whatever the
    number of shards; `levels` says what the frames' bytes mean, display values or codes of them
    (pipeline/data/frames.py); `origin` has the digests of what the store was made from. Files are opened when first
    read. A store may be used after a fork and may be pickled.
    Raises StaleArtifactError where the folder is not a whole store of this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        description, self._rows = _read_index(path)
        self.codec: Codec = description["codec"]
        self.jpeg_quality: int | None = description["jpeg_quality"]
        self.levels: Levels = description.get("levels", "linear")  # the first stores did not state it
        self.origin: dict[str, str] = description["origin"]
        self._open: OrderedDict[int, Shard] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __contains__(self, video_id: str) -> bool:
        return video_id in self._rows

    @property
    def video_ids(self) -> tuple[str, ...]:
        """The ids of the videos, sorted."""
        return tuple(self._rows)

    @property
    def rows(self) -> tuple[IndexRow, ...]:
        """The index, sorted by video id."""
        return tuple(self._rows.values())

    @cached_property
    def digest(self) -> str:
        """Digest of the content; independent of how the videos are spread over shards."""
        videos = [[row.video_id, row.frames, row.height, row.width, row.digest] for row in self.rows]
        # linear ones have the digest that they had before there were others
        levels = [] if self.levels == "linear" else [self.levels]
        return digest_json([FORMAT, FORMAT_VERSION, self.codec, videos, *levels])

    def shape(self, video_id: str) -> tuple[int, int, int]:
        """(T, H, W) of a video."""
        row = self._row(video_id)
        return row.frames, row.height, row.width

    def read(
        self,
        video_id: str,
        frames: Sequence[int] | NDArray[np.integer[Any]],
        *,
        top: int = 0,
        left: int = 0,
        height: int | None = None,
        width: int | None = None,
    ) -> Frames:
        """The frames with these numbers, in this order, repeated where repeated: (T, height, width, C).

        The box is cut out of the frames; without height or width it reaches to the border. Only these frames are read.
        Raises StaleArtifactError for an unknown video or a damaged shard, IndexError outside of the video.
        """
        row = self._row(video_id)
        height = row.height - top if height is None else height
        width = row.width - left if width is None else width
        if not (0 <= top < top + height <= row.height and 0 <= left < left + width <= row.width):
            box = f"top {top}, left {left}, height {height}, width {width}"
            raise IndexError(f"{video_id}: the box ({box}) leaves the {row.width}×{row.height} frame")
        numbers = [int(number) for number in frames]
        for number in numbers:
            if not 0 <= number < row.frames:
                raise IndexError(f"{video_id}: there is no frame {number} among {row.frames}")
        shard = self._shard(row)
        clip_THWC = np.empty((0, height, width, 3), np.uint8)
        for position, number in enumerate(numbers):
            frame = self._decode(row, shard.content(row, number))
            if position == 0:  # the first frame shows that the index tells the size: no memory is taken before
                clip_THWC = np.empty((len(numbers), height, width, 3), np.uint8)
            clip_THWC[position] = frame[top : top + height, left : left + width]
        return clip_THWC

    def read_shown(self, video_id: str, frames: Sequence[int] | NDArray[np.integer[Any]]) -> Frames:
        """What `read` gives, as people see it: display values, rounded."""
        return shown(self.read(video_id, frames), self.levels)

    def verify(self, advance: Advance | None = None) -> None:
        """Read everything again and compare with the index; `advance` is told of each video.

        Raises StaleArtifactError whose findings name every damaged video.
        """
        findings: list[str] = []
        for row in self.rows:
            try:
                for frame in self._shard(row).encoded_frames(row):
                    self._decode(row, frame.content)
            except StaleArtifactError as error:
                findings.append(f"{row.video_id}: {str(error).partition(chr(10))[0]}")
            if advance is not None:
                advance(1, row.video_id)
        if findings:
            raise StaleArtifactError(
                f"{self.path}: {len(findings)} of {len(self.rows)} videos are damaged",
                findings=findings,
                remedy=REMEDY,
            )

    def _row(self, video_id: str) -> IndexRow:
        try:
            return self._rows[video_id]
        except KeyError:
            raise StaleArtifactError(
                f"{self.path}: has no video {video_id!r} among its {len(self._rows)}",
                remedy="the store was made from other videos: `dvc repro` brings store and manifest together",
            ) from None

    def _shard(self, row: IndexRow) -> Shard:
        shard = self._open.get(row.shard)
        if shard is None:
            shard = self._open[row.shard] = Shard(shard_path(self.path, row.shard))
            if len(self._open) > _MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(row.shard)
        return shard

    def _decode(self, row: IndexRow, content: bytes) -> Frame:
        try:
            return decode_frame(content, row, self.codec)
        except ValueError as error:
            raise damaged(shard_path(self.path, row.shard), f"{row.video_id}: {error}") from None


def _read_index(folder: Path) -> tuple[dict[str, Any], dict[str, IndexRow]]:
    described, index = folder / _DESCRIPTION_NAME, folder / _INDEX_NAME
    try:
        description, index_digest = json.loads(described.read_bytes()), digest_file(index)
    except (FileNotFoundError, NotADirectoryError):
        raise StaleArtifactError(
            f"{folder}: no whole frame store: {_DESCRIPTION_NAME} or {_INDEX_NAME} is missing",
            remedy="`dvc repro` or `dvc pull` makes it",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(described, str(error)) from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise damaged(described, f"it does not say that its format is {FORMAT!r}")
    if description.get("format_version") != FORMAT_VERSION:
        found = description.get("format_version")
        raise StaleArtifactError(
            f"{folder}: frame store of format version {found}, this program reads {FORMAT_VERSION}",
            remedy="make it again with `dvc repro`, or use the program that wrote it",
        )
    if not _is_description(description):
        raise damaged(described, "it is not the description that the store was completed with")
    if description["index_digest"] != index_digest:
        raise damaged(index, "it is not the index that the store was completed with")
    try:
        rows = [IndexRow(**row) for row in read_table(index, _INDEX_COLUMNS)]
    except (OSError, ValueError) as error:
        raise damaged(index, str(error)) from None
    if any(min(row.shard, row.row, row.frames - 1, row.height - 1, row.width - 1) < 0 for row in rows):
        raise damaged(index, "a video has a number that none can have")
    return description, {row.video_id: row for row in rows}


def _is_description(found: dict[str, Any]) -> bool:
    """Whether it has the fields and digest that it was written with; the first had no digest, the next no levels."""
    stated = found.keys() - {"digest", "levels"} == _DESCRIBED
    if not stated or not (found.keys() == _DESCRIBED or has_valid_digest(found)):
        return False
    if found.get("levels", "linear") not in get_args(Levels):
        return False
    fits = found["codec"] in get_args(Codec) and isinstance(found["origin"], dict)
    return fits and (found["jpeg_quality"] is None) == (found["codec"] == "raw")
