"""Dark frames + an enhancer → enhanced frames of the same videos, numbers and sizes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import cv2

from pipeline.core.digest import digest_file
from pipeline.core.errors import DataError, StaleArtifactError
from pipeline.core.progress import StopCheck, Stopwatch, summed
from pipeline.core.work_folder import work_folder
from pipeline.data.frame_shard import IndexRow
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import Frame, Frames, Levels
from pipeline.data.shards import (
    RunTasks,
    ShardReport,
    ShardTask,
    link_kept_shards,
    make_shard,
    new_run,
    publish_store,
    read_record,
)
from pipeline.enhance.classical import Enhancer, enhanced_batches, levels_after
from pipeline.enhance.file import load_enhancer

ENHANCED_VERSION = 3  # raised when the same inputs give other enhanced frames than before


@dataclass(frozen=True)
class Enhanced:
    """The store, the number of frames enhanced in this run, and the seconds of work by kind."""

    store: FrameStore
    num_frames: int
    seconds: Mapping[str, float]


def enhance(
    dark_path: Path,
    enhancer_path: Path,
    out: Path,
    *,
    device: str = "cpu",
    run: RunTasks,
    stop: StopCheck | None = None,
) -> Enhanced:
    """Enhance every video of a dark store and publish the enhanced store, in the same shards and codec.

    Videos that the same enhancer enhanced before are reused. Raises StaleArtifactError if a store or file is damaged,
    with all videos that cannot be enhanced; the others are kept in the work folder. `stop` as for `work_folder`.
    """
    dark = FrameStore(dark_path)
    link_kept_shards(dark_path)
    used = load_enhancer(enhancer_path)  # and refuse it here rather than in every worker
    light, levels = used.name, levels_after(used, dark.levels)
    enhancer = digest_file(enhancer_path)
    how = {"codec": dark.codec, "jpeg_quality": dark.jpeg_quality, "device": device.partition(":")[0]}
    how["levels"] = dark.levels
    inputs = {"enhancer": enhancer}
    version = ENHANCED_VERSION
    with work_folder("enhance", params=how, inputs=inputs, format_version=version, outs=[out], stop=stop) as work:
        reports = run(enhance_shard, _tasks(dark, enhancer_path, device, work.path))
        broken = [f"{name}: {reason}" for report in reports for name, reason in report.broken]
        if broken:
            raise StaleArtifactError(
                f"{len(broken)} of {len(dark.rows)} videos could not be enhanced; the others are done and kept",
                findings=broken,
                remedy="restore the dark frames with `dvc checkout` or `dvc repro`, or remove these videos from the "
                "lists; then run the same command again: it does only what is missing",
            )
        rows = [row for report in reports for row in report.rows]
        origin = {"dark": dark.digest, "enhancer": enhancer, "light": light}
        if "videos" in dark.origin:
            origin["videos"] = dark.origin["videos"]
        publish_store(work, out, rows, codec=dark.codec, jpeg_quality=_quality(dark), levels=levels, origin=origin)
    num_frames = sum(report.num_frames for report in reports)
    return Enhanced(FrameStore(out), num_frames, summed(report.seconds for report in reports))


@dataclass(frozen=True)
class EnhanceTask(ShardTask):
    """One shard: its rows in the dark store, in order."""

    videos: tuple[IndexRow, ...]
    dark: Path
    enhancer: Path
    device: str


def _tasks(dark: FrameStore, enhancer_path: Path, device: str, work: Path) -> list[EnhanceTask]:
    run, paths = new_run(), (dark.path.absolute(), enhancer_path.absolute())
    rows = sorted(dark.rows, key=lambda row: (row.shard, row.row))
    return [
        EnhanceTask(shard, work.absolute(), run, tuple(of_shard), *paths, device)
        for shard, of_shard in groupby(rows, key=lambda row: row.shard)
    ]


def _quality(store: FrameStore) -> int:
    return 100 if store.jpeg_quality is None else store.jpeg_quality  # raw frames use none


def enhance_shard(task: EnhanceTask) -> ShardReport:
    """Make one shard of the enhanced store, reusing videos whose dark frames have not changed."""
    record = read_record(task.work, task.shard)
    # the digest of raw frames does not include their shape
    sources = {row.video_id: [row.digest, row.frames, row.height, row.width] for row in task.videos}
    enhanced_before = {row.video_id for row in record.rows}  # not what was broken: it may be fixed now
    dark, enhancer = FrameStore(task.dark), load_enhancer(task.enhancer, device=task.device)
    _use_one_thread()
    watch = Stopwatch()
    return make_shard(
        task,
        {name: partial(_enhance, enhancer, StoredVideo(dark, name, watch), watch) for name in sources},
        record=record,
        unchanged={name for name in enhanced_before & sources.keys() if record.notes[name] == sources[name]},
        notes=lambda: sources,
        codec=dark.codec,
        jpeg_quality=_quality(dark),
        watch=watch,
    )


def _use_one_thread() -> None:
    """One thread per worker; by default the libraries start one for each CPU in every worker."""
    cv2.setNumThreads(1)
    if "torch" in sys.modules:  # a learned enhancer's
        sys.modules["torch"].set_num_threads(1)


@dataclass(frozen=True)
class StoredVideo:
    """A video of the dark store, as an enhancer reads it."""

    store: FrameStore
    video_id: str
    watch: Stopwatch

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, H, W)."""
        return self.store.shape(self.video_id)

    @property
    def levels(self) -> Levels:
        """What the bytes of its frames mean."""
        return self.store.levels

    def read(self, numbers: Sequence[int]) -> Frames:
        """The frames with these numbers."""
        with self.watch.time("decode"):
            return self.store.read(self.video_id, numbers)


def _enhance(enhancer: Enhancer, video: StoredVideo, watch: Stopwatch) -> Iterator[Frame]:
    try:
        for batch_THWC in watch.each("enhance", enhanced_batches(enhancer, video)):
            yield from batch_THWC
    except StaleArtifactError as error:  # of this video alone; the others continue
        raise DataError(str(error).partition("\n")[0]) from None
