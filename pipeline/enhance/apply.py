"""Dark frames + an enhancer → enhanced frames of the same videos, numbers and sizes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2

from pipeline.core.digest import digest_file
from pipeline.core.errors import DataError, StaleArtifactError
from pipeline.core.progress import Stopwatch, summed
from pipeline.core.work_folder import work_folder
from pipeline.data.frame_shard import Codec, IndexRow
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import Frame, Frames
from pipeline.data.shards import RunTasks, new_run, publish_store, read_record, update_shard, write_record
from pipeline.enhance.classical import Enhancer, enhanced_batches
from pipeline.enhance.file import load_enhancer

ENHANCED_VERSION = 3  # raised when the same inputs give other enhanced frames than before


@dataclass(frozen=True)
class Enhanced:
    """The store, the number of frames enhanced in this run, and the seconds of work by kind."""

    store: FrameStore
    num_frames: int
    seconds: Mapping[str, float]


def enhance(dark_path: Path, enhancer_path: Path, out: Path, *, device: str = "cpu", run: RunTasks) -> Enhanced:
    """Enhance every video of a dark store and publish the enhanced store, in the same shards and codec.

    Videos that the same enhancer enhanced before are reused. Raises StaleArtifactError if a store or file is damaged,
    with all videos that cannot be enhanced; the others are kept in the work folder.
    """
    dark = FrameStore(dark_path)
    load_enhancer(enhancer_path)  # to refuse it here rather than in every worker
    enhancer = digest_file(enhancer_path)
    how = {"codec": dark.codec, "jpeg_quality": dark.jpeg_quality, "device": device.partition(":")[0]}
    inputs = {"enhancer": enhancer}
    with work_folder("enhance", params=how, inputs=inputs, format_version=ENHANCED_VERSION, outs=[out]) as work:
        reports = run(enhance_shard, _tasks(dark, dark_path, enhancer_path, device, work.path))
        _check_broken([item for report in reports for item in report.broken], len(dark.rows))
        rows = [row for report in reports for row in report.rows]
        origin = {"dark": dark.digest, "enhancer": enhancer}
        if "videos" in dark.origin:
            origin["videos"] = dark.origin["videos"]
        publish_store(work, out, rows, codec=dark.codec, jpeg_quality=_quality(dark), origin=origin)
    num_frames = sum(report.num_frames for report in reports)
    return Enhanced(FrameStore(out), num_frames, summed(report.seconds for report in reports))


def _check_broken(broken: Sequence[tuple[str, str]], num_videos: int) -> None:
    if broken:
        raise StaleArtifactError(
            f"{len(broken)} of {num_videos} videos could not be enhanced; the others are done and kept",
            findings=[f"{name}: {reason}" for name, reason in broken],
            remedy="restore the dark frames with `dvc checkout` or `dvc repro`, or remove these videos from the lists; "
            "then run the same command again: it does only what is missing",
        )


@dataclass(frozen=True)
class EnhanceTask:
    """One shard: its rows in the dark store, in order."""

    shard: int
    work: Path
    run: str
    dark: Path
    enhancer: Path
    device: str
    rows: tuple[IndexRow, ...]
    codec: Codec
    jpeg_quality: int

    @property
    def num_videos(self) -> int:
        """Videos of this shard."""
        return len(self.rows)

    def __str__(self) -> str:
        return f"shard {self.shard} ({self.rows[0].video_id} … {self.rows[-1].video_id})"


@dataclass(frozen=True)
class EnhanceReport:
    """The result of a task: rows of the index, and the videos that could not be enhanced, with reasons.

    num_frames, seconds: of this run, without what was reused.
    """

    rows: tuple[IndexRow, ...]
    broken: tuple[tuple[str, str], ...]
    num_frames: int
    seconds: Mapping[str, float]


def _tasks(dark: FrameStore, dark_path: Path, enhancer_path: Path, device: str, work: Path) -> list[EnhanceTask]:
    rows = sorted(dark.rows, key=lambda row: (row.shard, row.row))
    run = new_run()
    return [
        EnhanceTask(
            shard,
            work.absolute(),
            run,
            dark_path.absolute(),
            enhancer_path.absolute(),
            device,
            tuple(row for row in rows if row.shard == shard),
            dark.codec,
            _quality(dark),
        )
        for shard in sorted({row.shard for row in rows})
    ]


def _quality(store: FrameStore) -> int:
    return 100 if store.jpeg_quality is None else store.jpeg_quality  # raw frames use none


def enhance_shard(task: EnhanceTask) -> EnhanceReport:
    """Make one shard of the enhanced store, reusing videos whose dark frames have not changed."""
    record = read_record(task.work, task.shard)
    # the digest of raw frames does not include their shape
    sources = {row.video_id: [row.digest, row.frames, row.height, row.width] for row in task.rows}
    enhanced_before = {row.video_id for row in record.rows}  # not what was broken: it may be fixed now
    unchanged = {name for name in enhanced_before & sources.keys() if record.notes[name] == sources[name]}
    dark, enhancer = FrameStore(task.dark), load_enhancer(task.enhancer, device=task.device)
    _use_one_thread()
    watch, count = Stopwatch(), Counter[str]()
    result = update_shard(
        task.work,
        task.shard,
        [(name, partial(_enhance, enhancer, StoredVideo(dark, name, watch), watch, count)) for name in sources],
        record=record,
        unchanged=unchanged,
        run=task.run,
        codec=task.codec,
        jpeg_quality=task.jpeg_quality,
        watch=watch,
    )
    write_record(task.work, task.shard, result, sources)
    return EnhanceReport(result.rows, result.broken, count["frames"], watch.seconds)


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

    def read(self, numbers: Sequence[int]) -> Frames:
        """The frames with these numbers."""
        with self.watch.time("decode"):
            return self.store.read(self.video_id, numbers)


def _enhance(enhancer: Enhancer, video: StoredVideo, watch: Stopwatch, count: Counter[str]) -> Iterator[Frame]:
    try:
        for batch_THWC in watch.each("enhance", enhanced_batches(enhancer, video)):
            yield from batch_THWC
            count["frames"] += len(batch_THWC)
    except StaleArtifactError as error:  # of this video alone; the others continue
        raise DataError(str(error).partition("\n")[0]) from None
