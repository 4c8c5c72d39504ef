"""Shards as tasks that may run on any worker, run twice, or have run before: until killed, or with other videos.

A task writes its shard into the stage's work folder and then a record beside it: what the shard holds, and what it was
made from. Shards and records stay there when the store is published (as hard links: the bytes are there once), since
DVC deletes a stage's outs before the stage runs again. The next run takes over row by row what is still right; what it
takes it reads and checks, so that damage is made again rather than handed on. A shard is replaced, never written to:
it may be the cache's file as well.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import google_crc32c

from pipeline.core.digest import has_valid_digest, with_digest
from pipeline.core.errors import DataError, StaleArtifactError
from pipeline.core.files import PARTIAL_SUFFIX, publish, write_text_whole
from pipeline.core.progress import Stopwatch
from pipeline.core.work_folder import WorkFolder, kept_folders
from pipeline.data.frame_shard import Codec, EncodedFrame, IndexRow, OpenFrames, Shard, ShardResult, write_shard
from pipeline.data.frame_store import shard_path, write_index
from pipeline.data.frames import Frame, Levels

_READ_BYTES = 1 << 20
MAX_DEATHS = 2  # processes that may die with a video before it is given up; dask gives a task four


@dataclass(frozen=True)
class ShardTask:
    """One shard to make in a stage's work folder: its videos in order, each with a `video_id`; `run` is `new_run()`."""

    shard: int
    work: Path
    run: str
    videos: tuple[Any, ...]

    def __str__(self) -> str:
        return f"shard {self.shard} ({self.videos[0].video_id} … {self.videos[-1].video_id})"


@dataclass(frozen=True)
class ShardReport:
    """What a shard holds: rows of the index, broken videos with their reasons, and the notes of its record.

    num_frames, seconds: made and spent in this run, by kind of work; none where all was taken over from an earlier one.
    """

    rows: tuple[IndexRow, ...]
    broken: tuple[tuple[str, str], ...]
    notes: Mapping[str, Any]
    num_frames: int
    seconds: Mapping[str, float]


# Runs a function on tasks: here, on processes, or on a cluster; gives its reports in the order of the tasks.
RunTasks = Callable[[Callable[[Any], ShardReport], Sequence[ShardTask]], list[ShardReport]]


@dataclass(frozen=True)
class Record:
    """What a shard of an earlier run holds: rows, broken videos with their reasons, and what the stage noted.

    checksum: of the shard's file; None where it has no videos.
    """

    rows: tuple[IndexRow, ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    checksum: str | None = None


def read_record(work: Path, shard: int) -> Record:
    """The record of a shard; an empty one where there is none, or none that is whole: then all is made again."""
    try:
        values = json.loads(_record_path(work, shard).read_bytes())
    except (OSError, ValueError):
        return Record()
    if not has_valid_digest(values):
        return Record()
    rows = tuple(IndexRow(**row) for row in values["rows"])
    return Record(rows, tuple((name, reason) for name, reason in values["broken"]), values["notes"], values["shard"])


def make_shard(
    task: ShardTask,
    videos: Mapping[str, OpenFrames],
    *,
    record: Record,
    unchanged: Collection[str],
    notes: Callable[[], Mapping[str, Any]],
    codec: Codec,
    jpeg_quality: int,
    watch: Stopwatch,
) -> ShardReport:
    """Make a shard of these videos; of the `unchanged` ones the record's rows, or reasons, are taken over.

    A video with which processes of this run died again and again is left out and reported, as a broken one. At the end
    the shard gets a new record, with the `notes`, JSON values of the stage's own; where these raise, it gets none. The
    record knows no video with which processes died: memory may have been short, so the next run tries it again.
    """
    path = shard_path(frames_folder(task.work), task.shard)
    broken = {name: reason for name, reason in record.broken if name in unchanged}
    rows = [row for row in record.rows if row.video_id in unchanged]
    attempts = _Attempts(task)
    is_whole = _checksum_of(path) == record.checksum
    # the checksum is of all bytes; without it each row is looked at, and right rows go into a right file
    kept = {row.video_id: row for row in rows} if is_whole else _whole_rows(path, rows)
    if is_whole and sorted(videos) == sorted([*kept, *broken]) and len(record.rows) == len(kept):
        result = ShardResult(tuple(kept.values()), tuple(broken.items()))
    else:
        stored = lru_cache(Shard)  # opened once, and only where rows are taken over

        def frames_of(name: str, make: OpenFrames) -> Iterator[Frame | EncodedFrame]:
            if name in kept:
                yield from stored(path).encoded_frames(kept[name])
            elif name in broken:
                raise DataError(broken[name])
            else:
                attempts.begin(name)
                yield from make()

        openers = [(name, partial(frames_of, name, make)) for name, make in videos.items()]
        result = write_shard(path, openers, shard=task.shard, codec=codec, jpeg_quality=jpeg_quality, watch=watch)
        attempts.end()
    noted = dict(notes())
    values = {
        "rows": [asdict(row) for row in result.rows],
        "broken": [(name, reason) for name, reason in result.broken if name not in attempts.given_up],
        "notes": noted,
        "shard": _checksum_of(path),
    }
    write_text_whole(_record_path(task.work, task.shard), json.dumps(with_digest(values), sort_keys=True, indent=1))
    num_frames = sum(row.frames for row in result.rows if row.video_id not in kept)
    return ShardReport(result.rows, result.broken, noted, num_frames, watch.seconds)


def _checksum_of(path: Path) -> str | None:
    """Length and CRC-32C of a shard's file: a digest would take longer than writing it, and its rows have theirs."""
    if not path.exists():
        return None
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while content := file.read(_READ_BYTES):
            checksum = google_crc32c.extend(checksum, content)
        return f"{file.tell()} {checksum:08x}"


def _whole_rows(path: Path, rows: Sequence[IndexRow]) -> dict[str, IndexRow]:
    """Those rows whose bytes are in the shard, and undamaged."""
    whole: dict[str, IndexRow] = {}
    try:
        stored = Shard(path)
    except StaleArtifactError:
        return whole
    for row in rows:
        try:
            for _ in stored.encoded_frames(row):
                pass
        except StaleArtifactError:
            continue
        whole[row.video_id] = row
    return whole


class _Attempts:
    """Records the video that a task works on: if its process dies, the next to take the task knows with which.

    Only deaths within one run count, which goes on when a worker dies: killing the run itself says nothing about
    its video.
    """

    def __init__(self, task: ShardTask) -> None:
        self._path = _record_path(task.work, task.shard).with_suffix(".attempt.json")
        self._run = run = task.run
        self._deaths: dict[str, int] = {}
        self.given_up: set[str] = set()
        try:
            before = json.loads(self._path.read_bytes())
            if before["run"] == run:
                self._deaths = {**before["deaths"], before["at"]: before["deaths"].get(before["at"], 0) + 1}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return  # it died while it wrote the note

    def begin(self, video_id: str) -> None:
        """Note the video; raises DataError where too many processes died with it."""
        deaths = self._deaths.get(video_id, 0)
        if deaths >= MAX_DEATHS:
            self.given_up.add(video_id)
            raise DataError(f"{deaths} processes died while they worked on it")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        note = {"run": self._run, "at": video_id, "deaths": self._deaths}
        self._path.write_text(json.dumps(note), encoding="utf-8")

    def end(self) -> None:
        """The task is done."""
        self._path.unlink(missing_ok=True)


def new_run() -> str:
    """A name for one run of a stage; it enters no artifact."""
    return uuid.uuid4().hex


def frames_folder(work: Path) -> Path:
    """Where the shards lie in a work folder."""
    return work / "frames"


def publish_store(
    work: WorkFolder,
    out: Path,
    rows: Sequence[IndexRow],
    *,
    codec: Codec,
    jpeg_quality: int,
    levels: Levels = "linear",
    origin: Mapping[str, str],
) -> None:
    """Publish the shards that hold these rows as a store, and leave them in the work folder for the next run."""
    shards, built = frames_folder(work.path), work.path / "built"
    named = {shard_path(shards, row.shard) for row in rows}
    for path in set(shards.glob("*.h5")) - named:
        path.unlink()  # of earlier runs with other videos
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir()
    for path in named:
        try:
            os.link(path, built / path.name)
        except OSError:  # a file system without hard links
            shutil.copy2(path, built / path.name)
    write_index(built, rows, codec=codec, jpeg_quality=jpeg_quality, levels=levels, origin=origin)
    publish(built, out)
    work.keep()


def link_kept_shards(store: Path) -> None:
    """Make the shards that the work folder keeps of a store links to the store's, so that their bytes are there once.

    They were, until DVC put copies or links of its cache's into the store's place. Nothing happens to other bytes, on
    another file system, and where a process is at work.
    """
    for folder in kept_folders(store):
        for kept in frames_folder(folder).glob("*.h5"):
            _link_if_equal((store / kept.name).resolve(), kept)


def _link_if_equal(path: Path, to: Path) -> None:
    if not path.exists() or path.samefile(to):
        return
    beside = to.with_name(to.name + PARTIAL_SUFFIX)
    beside.unlink(missing_ok=True)
    try:
        os.link(path, beside)
    except OSError:  # another file system, or one without hard links
        return
    if filecmp.cmp(beside, to, shallow=False):
        beside.replace(to)
    else:
        beside.unlink()


def _record_path(work: Path, shard: int) -> Path:
    return work / "records" / f"{shard:03d}.json"
