"""Videos and annotation lists → manifest, quarantine and the dark frame store.

Each video is read once. A shard of the store is a task. What an earlier run read, whether it was killed, failed or
finished, is taken over video by video where the files are the same: only an added or repaired video is decoded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.core.digest import digest_file, digest_json
from pipeline.core.errors import DataError, StaleArtifactError
from pipeline.core.params import PrepareParams
from pipeline.core.progress import Stopwatch, summed
from pipeline.core.work_folder import work_folder
from pipeline.data.frame_shard import IndexRow
from pipeline.data.frame_store import shard_of
from pipeline.data.frames import Frame
from pipeline.data.leakage import STEM_LAYOUTS, Leak, find_contradictions, find_leakage
from pipeline.data.listing import ListedVideo, Listing
from pipeline.data.manifest import Manifest, ManifestRow, QuarantineRow, video_id, write_manifest, write_quarantine
from pipeline.data.shards import RunTasks, ShardReport, ShardTask, make_shard, new_run, publish_store, read_record
from pipeline.videos.annotations import LAYOUTS
from pipeline.videos.decoder import probe, read_frames
from pipeline.videos.images import video_files
from pipeline.videos.reader import BrokenVideoError, VideoInfo
from pipeline.videos.splits import complete_splits

SHOWN_PATHS = 5
PREPARED_VERSION = 4  # raised when the same videos come to give other frames or records


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made: the tables, what the splits share, labels that contradict each other, notes about the lists,
    and seconds of work by kind.
    """

    manifest: Manifest
    quarantine: tuple[QuarantineRow, ...]
    leaks: tuple[Leak, ...]
    contradictions: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]


def prepare(
    params: PrepareParams,
    *,
    seed: int,
    manifest_path: Path,
    quarantine_path: Path,
    dark_path: Path,
    run: RunTasks,
) -> Prepared:
    """Read every listed video once, and publish manifest, quarantine and dark frames.

    Raises DataError where lists or videos are wrong, where more than `max_quarantined` of the videos are broken, or
    where a split loses a class to the quarantine; finished shards then stay in the work folder.
    """
    listing = read_listing(params)
    listed = complete_splits(listing.videos, val_share=params.val_share, test_share=params.test_share, seed=seed)
    videos = videos_by_id(listed)
    # What a shard is made of. Its record names its videos: one of them may change without touching the other shards.
    fingerprint = params.model_dump(
        include={"root", "frames", "short_side", "levels", "min_frames", "codec", "jpeg_quality", "num_shards"}
    )
    outs = (manifest_path, quarantine_path, dark_path)
    with work_folder("prepare", params=fingerprint, inputs={}, format_version=PREPARED_VERSION, outs=outs) as work:
        reports = run(prepare_shard, _tasks(videos, params, work.path))
        rows = [row for report in reports for row in report.rows]
        sources = {name: _source(**source) for report in reports for name, source in report.notes.items()}
        broken = [
            QuarantineRow(name, videos[name].path, str(videos[name].split), reason)
            for report in reports
            for name, reason in report.broken
        ]
        check_quarantine(broken, videos, params.max_quarantined)
        manifest = write_manifest(manifest_path, [_manifest_row(row, videos, sources) for row in rows])
        write_quarantine(quarantine_path, broken)
        origin = {"videos": manifest.videos_digest}
        publish_store(
            work,
            dark_path,
            rows,
            codec=params.codec,
            jpeg_quality=params.jpeg_quality,
            levels=params.levels,
            origin=origin,
        )
    leaks = tuple(find_leakage(manifest.rows, stems=params.layout in STEM_LAYOUTS))
    contradictions = tuple(find_contradictions(manifest.rows))
    notes = (*listing.notes, *track_notes({row.path: sources[row.video_id].info for row in manifest.rows}))
    seconds = summed(report.seconds for report in reports)
    return Prepared(manifest, tuple(broken), leaks, contradictions, notes, seconds)


def track_notes(infos: Mapping[str, VideoInfo | None]) -> list[str]:
    """What to say of videos, by path, of which only one of several tracks is read; nothing where there are none."""
    several = [f"{path} ({info.width}x{info.height})" for path, info in infos.items() if info and info.num_tracks > 1]
    if not several:
        return []
    more = [f"and {len(several) - SHOWN_PATHS} more"] if len(several) > SHOWN_PATHS else []
    names = ", ".join([*several[:SHOWN_PATHS], *more])
    return [f"of several video tracks the one that ffmpeg chooses is read, of the size given: {names}"]


def counts_text(manifest: Manifest) -> str:
    """How many videos each class has in each split, as lines for a person."""
    counts = Counter((row.split, row.class_name) for row in manifest.rows)
    splits = [split for split in ("train", "val", "test") if manifest.rows_of(split)]
    width = max(len(name) for name in (*manifest.class_names, "class"))
    lines = [f"{'class':{width}}" + "".join(f"{split:>8}" for split in splits)]
    lines += [
        f"{name:{width}}" + "".join(f"{counts[split, name]:8}" for split in splits) for name in manifest.class_names
    ]
    return "\n".join([*lines, f"{'all':{width}}" + "".join(f"{len(manifest.rows_of(split)):8}" for split in splits)])


def read_listing(params: PrepareParams) -> Listing:
    """The data set as its layout lists it, with every video found on disk; raises DataError."""
    lists = None if params.lists is None else Path(params.lists)
    return LAYOUTS[params.layout](Path(params.root), lists, params.split)


def videos_by_id(listed: Sequence[ListedVideo]) -> dict[str, ListedVideo]:
    """The videos by id; raises DataError where two have the same."""
    videos: dict[str, ListedVideo] = {}
    findings = []
    for video in listed:
        before = videos.setdefault(video_id(video.path), video)
        if before is not video:
            findings.append(f"{video.line}: {video.path} has the id of {before.path} ({before.line})")
    if findings:
        raise DataError(
            "videos have the same id, which is the path without suffix",
            findings=findings,
            remedy="list one of them",
        )
    return videos


def check_quarantine(broken: Sequence[QuarantineRow], videos: Mapping[str, ListedVideo], max_share: float) -> None:
    """Raise DataError where too many videos are broken, or where a split thereby loses a class."""
    share = len(broken) / len(videos)
    findings = [f"{row.path} ({row.split}): {row.reason}" for row in broken]
    if share > max_share:
        raise DataError(
            f"{len(broken)} of {len(videos)} videos are broken: {share:.2%}, "
            f"more than the {max_share:.2%} of prepare.max_quarantined",
            findings=findings,
            remedy="replace them, or raise prepare.max_quarantined to leave them out; what is done is kept",
        )
    names = {row.video_id for row in broken}
    left = {(video.split, video.class_name) for name, video in videos.items() if name not in names}
    lost = sorted({(str(video.split), video.class_name) for video in videos.values()} - left)
    if lost:
        raise DataError(
            "no usable video is left of: " + ", ".join(f"{name} in {split}" for split, name in lost),
            findings=findings,
            remedy="replace the broken videos; what is done is kept",
        )


def _manifest_row(row: IndexRow, videos: Mapping[str, ListedVideo], sources: Mapping[str, Source]) -> ManifestRow:
    video, source = videos[row.video_id], sources[row.video_id]
    assert source.info is not None
    return ManifestRow(
        video_id=row.video_id,
        path=video.path,
        label=video.label,
        class_name=video.class_name,
        group=video.group,
        split=str(video.split),
        num_frames=row.frames,
        fps=source.info.fps,
        width=source.info.width,
        height=source.info.height,
        digest=source.digest,
    )


@dataclass(frozen=True)
class SourceVideo:
    """One video to read.

    listed_frames: number of frames that its list states, None where it states none. images: prepare.frames.
    """

    video_id: str
    path: Path
    listed_frames: int | None
    images: str | None = None


@dataclass(frozen=True)
class PrepareTask(ShardTask):
    """One shard: its videos, sorted by id, and how they are stored."""

    videos: tuple[SourceVideo, ...]
    params: PrepareParams


@dataclass(frozen=True)
class Source:
    """A video's file, or folder of images, as it was when read. `info` is None where it could not be read."""

    size: int
    modified_ns: int
    digest: str
    listed_frames: int | None
    info: VideoInfo | None


def source_videos(videos: Mapping[str, ListedVideo], params: PrepareParams) -> list[SourceVideo]:
    """The listed videos to read, sorted by id."""
    root = Path(params.root).absolute()
    return [
        SourceVideo(name, root / video.path, video.num_frames, params.frames) for name, video in sorted(videos.items())
    ]


def _tasks(videos: Mapping[str, ListedVideo], params: PrepareParams, work: Path) -> list[PrepareTask]:
    run = new_run()
    shards: dict[int, list[SourceVideo]] = defaultdict(list)
    for video in source_videos(videos, params):
        shards[shard_of(video.video_id, params.num_shards)].append(video)
    return [PrepareTask(shard, work.absolute(), run, tuple(shards[shard]), params) for shard in sorted(shards)]


def prepare_shard(task: PrepareTask) -> ShardReport:
    """Make one shard; videos that an earlier run read are taken over where their files are the same."""
    params = task.params
    record = read_record(task.work, task.shard)
    before = {name: _source(**source) for name, source in record.notes.items()}
    unchanged = {
        video.video_id
        for video in task.videos
        if video.video_id in before and _unchanged(video, before[video.video_id])
    }
    sources = {
        video.video_id: before[video.video_id] if video.video_id in unchanged else _found(video)
        for video in task.videos
    }
    infos: dict[str, VideoInfo] = {}
    watch = Stopwatch()

    def notes() -> dict[str, object]:
        _check_unchanged([video for video in task.videos if video.video_id not in unchanged], sources)
        read = {name: replace(sources[name], info=info) for name, info in infos.items()}
        return {name: asdict(source) for name, source in (sources | read).items()}

    return make_shard(
        task,
        {video.video_id: partial(_frames, video, params, infos, watch) for video in task.videos},
        record=record,
        unchanged=unchanged,
        notes=notes,
        codec=params.codec,
        jpeg_quality=params.jpeg_quality,
        watch=watch,
    )


def _frames(
    video: SourceVideo, params: PrepareParams, infos: dict[str, VideoInfo], watch: Stopwatch
) -> Iterator[Frame]:
    with watch.time("decode"):
        infos[video.video_id] = probe(video.path, images=video.images)
    count = 0
    frames = read_frames(video.path, short_side=params.short_side, images=video.images, levels=params.levels)
    for frame in watch.each("decode", frames):
        yield frame
        count += 1
    check_count(video, count, params.min_frames)


def check_count(video: SourceVideo, num_frames: int, min_frames: int) -> None:
    """Raise BrokenVideoError where a video has another number of frames than its list states, or too few."""
    if video.listed_frames not in (None, num_frames):
        raise BrokenVideoError(f"its list states {video.listed_frames} frames, it has {num_frames}")
    if num_frames < min_frames:
        raise BrokenVideoError(f"{num_frames} frames, fewer than the {min_frames} of prepare.min_frames")


def _found(video: SourceVideo) -> Source:
    try:
        return Source(*_stamp(video), digest_video(video.path, video.images), video.listed_frames, None)
    except FileNotFoundError:
        raise _changed([f"{video.path}: it was there, and is gone"]) from None


def _source(*, info: dict[str, Any] | None, **values: Any) -> Source:
    return Source(info=None if info is None else VideoInfo(**info), **values)


def _is_source(video: SourceVideo, source: Source) -> bool:
    """By size and modification time, else by content: a copy of the data set has other times."""
    size, modified_ns = _stamp(video)
    same_size, same_time = size == source.size, modified_ns == source.modified_ns
    return same_size and (same_time or digest_video(video.path, video.images) == source.digest)


def _unchanged(video: SourceVideo, source: Source) -> bool:
    try:
        return video.listed_frames == source.listed_frames and _is_source(video, source)
    except FileNotFoundError:
        return False


def _check_unchanged(videos: Iterable[SourceVideo], sources: Mapping[str, Source]) -> None:
    """Raise StaleArtifactError where files are no longer those whose digests were taken: nothing is recorded then."""
    findings = []
    for video in videos:
        try:
            if not _is_source(video, sources[video.video_id]):
                findings.append(f"{video.path}: it was written to")
        except FileNotFoundError:
            findings.append(f"{video.path}: it was there, and is gone")
    if findings:
        raise _changed(findings)


def _changed(findings: Sequence[str]) -> StaleArtifactError:
    return StaleArtifactError(
        "videos changed while they were read",
        findings=findings,
        remedy="run the same command again once nothing writes to them any more; the other shards are kept",
    )


def _stamp(video: SourceVideo) -> tuple[int, int]:
    stats = [file.stat() for file in video_files(video.path, video.images)]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def digest_video(path: Path, images: str | None = None) -> str:
    """Digest of a video's bytes, as the manifest has it: of its file, or of the files of a folder of images."""
    if path.is_dir():
        return digest_json([[file.name, digest_file(file)] for file in video_files(path, images)])
    return digest_file(path)
