"""Dark frames + an enhancer → enhanced frames: the same videos, frame numbers and sizes; only the light differs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import cv2

from pipeline.digest import digest_file, digest_json
from pipeline.enhance import Enhancer, Frames, enhanced_batches
from pipeline.enhancer_file import load_enhancer
from pipeline.frames import Codec, Frame, FrameStore, IndexRow, shard_path, write_index, write_shard
from pipeline.shards import RunTasks, frames_folder, read_record, remove_strangers, write_record
from pipeline.work import publish, work_folder

ENHANCED_VERSION = 1  # raised when the same dark frames come to give other enhanced ones


def enhance(dark_path: Path, enhancer_path: Path, out: Path, *, run: RunTasks) -> FrameStore:
    """Enhance every video of a dark store and publish the enhanced store, in the same shards and codec.

    Raises StaleArtifactError where store or enhancer are damaged. Shards that are done stay in the work folder then.
    """
    dark = FrameStore(dark_path)
    load_enhancer(enhancer_path)  # refused here rather than by every worker
    origin = {"dark": dark.digest, "enhancer": digest_file(enhancer_path)}
    inputs = {**origin, "shards": digest_json([astuple(row) for row in dark.rows])}
    coding = {"codec": dark.codec, "jpeg_quality": dark.jpeg_quality}
    with work_folder("enhance", params=coding, inputs=inputs, format_version=ENHANCED_VERSION) as work:
        rows = [row for shard in run(enhance_shard, _tasks(dark, dark_path, enhancer_path, work.path)) for row in shard]
        built = frames_folder(work.path)
        remove_strangers(work.path, rows)
        write_index(built, rows, codec=dark.codec, jpeg_quality=_quality(dark), origin=origin)
        publish(built, out)
        work.finish()
    return FrameStore(out)


@dataclass(frozen=True)
class EnhanceTask:
    """One shard: its rows in the dark store, in order."""

    shard: int
    work: Path
    dark: Path
    enhancer: Path
    rows: tuple[IndexRow, ...]
    codec: Codec
    jpeg_quality: int

    @property
    def num_videos(self) -> int:
        """Videos of this shard."""
        return len(self.rows)

    def __str__(self) -> str:
        return f"shard {self.shard} ({self.rows[0].video_id} … {self.rows[-1].video_id})"


def _tasks(dark: FrameStore, dark_path: Path, enhancer_path: Path, work: Path) -> list[EnhanceTask]:
    rows = sorted(dark.rows, key=lambda row: (row.shard, row.row))
    return [
        EnhanceTask(
            shard,
            work.absolute(),
            dark_path.absolute(),
            enhancer_path.absolute(),
            tuple(row for row in rows if row.shard == shard),
            dark.codec,
            _quality(dark),
        )
        for shard in sorted({row.shard for row in rows})
    ]


def _quality(store: FrameStore) -> int:
    return 100 if store.jpeg_quality is None else store.jpeg_quality  # raw frames use none


def enhance_shard(task: EnhanceTask) -> tuple[IndexRow, ...]:
    """Make one shard of the enhanced store, or keep the one that is there."""
    kept = read_record(task.work, task.shard)
    if kept is not None:
        return kept[0]
    cv2.setNumThreads(1)  # a worker is one thread of work; OpenCV would start one for each CPU in all of them
    dark, enhancer = FrameStore(task.dark), load_enhancer(task.enhancer)
    result = write_shard(
        shard_path(frames_folder(task.work), task.shard),
        [(row.video_id, partial(_enhanced, enhancer, _StoredVideo(dark, row.video_id))) for row in task.rows],
        shard=task.shard,
        codec=task.codec,
        jpeg_quality=task.jpeg_quality,
        min_frames=1,
    )
    assert not result.broken, result.broken
    write_record(task.work, task.shard, result.rows)
    return result.rows


@dataclass(frozen=True)
class _StoredVideo:
    """A video of the dark store, as an enhancer reads it."""

    store: FrameStore
    video_id: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, H, W)."""
        return self.store.shape(self.video_id)

    def read(self, numbers: Sequence[int]) -> Frames:
        """The frames with these numbers."""
        return self.store.read(self.video_id, numbers)


def _enhanced(enhancer: Enhancer, video: _StoredVideo) -> Iterator[Frame]:
    for batch_THWC in enhanced_batches(enhancer, video):
        yield from batch_THWC
