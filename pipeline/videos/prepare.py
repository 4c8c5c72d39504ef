"""Videos and annotation lists → manifest, quarantine and the dark frame store.

Each video is read once. A shard of the store is a task. What an earlier run read, whether it was killed, failed or
finished, is taken over video by video where the files are the same: only an added or repaired video is decoded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pipeline.core.digest import digest_file, digest_json
from pipeline.core.errors import DataError, LostDecoderError, StaleArtifactError
from pipeline.core.params import PrepareParams
from pipeline.core.progress import Stopwatch, summed
from pipeline.core.work_folder import work_folder
from pipeline.data.footage import source_id, window_id, window_starts
from pipeline.data.frame_shard import IndexRow
from pipeline.data.frame_store import shard_of
from pipeline.data.frames import Frame
from pipeline.data.leakage import STEM_LAYOUTS, Leak, find_contradictions, find_leakage
from pipeline.data.listing import SPLITS, UNLABELLED, ListedVideo, Listing
from pipeline.data.manifest import Manifest, ManifestRow, QuarantineRow, video_id, write_manifest, write_quarantine
from pipeline.data.shards import RunTasks, ShardReport, ShardTask, make_shard, new_run, publish_store, read_record
from pipeline.videos.annotations import LAYOUTS
from pipeline.videos.decoder import Windows, probe, read_frames
from pipeline.videos.images import video_files
from pipeline.videos.reader import BrokenVideoError, VideoInfo
from pipeline.videos.splits import complete_splits, left_out_notes

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
    listed = split_videos(listing.videos, params, seed)
    videos = videos_by_id(listed)
    # What a shard is made of. Its record names its videos: one of them may change without touching the other shards.
    fingerprint = params.model_dump(
        include={
            "root",
            "frames",
            "damaged",
            "short_side",
            "levels",
            "min_frames",
            "codec",
            "jpeg_quality",
            "num_shards",
        }
    )
    outs = (manifest_path, quarantine_path, dark_path)
    with work_folder("prepare", params=fingerprint, inputs={}, format_version=PREPARED_VERSION, outs=outs) as work:
        reports = run(prepare_shard, _tasks(videos, params, work.path))
        rows = [row for report in reports for row in report.rows]
        sources = {name: _source(**source) for report in reports for name, source in report.notes.items()}
        broken = [
            QuarantineRow(name, _listed(name, videos).path, str(_listed(name, videos).split), reason)
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
    notes = (
        *listing.notes,
        *left_out_notes(listing.videos, listed),
        *track_notes({row.path: sources[row.video_id].info for row in manifest.rows}),
    )
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
    """How many videos each class has in each split, and how many have no label, as lines for a person."""
    counts = Counter((row.split, row.class_name) for row in manifest.rows)
    splits = [split for split in SPLITS if manifest.rows_of(split)]
    width = max(len(name) for name in (*manifest.class_names, "class"))
    lines = [f"{'class':{width}}" + "".join(f"{split:>8}" for split in splits)]
    lines += [
        f"{name:{width}}" + "".join(f"{counts[split, name]:8}" for split in splits) for name in manifest.class_names
    ]
    lines.append(f"{'all':{width}}" + "".join(f"{len(manifest.rows_of(split)):8}" for split in splits))
    if unlabelled := len(manifest.rows_of(UNLABELLED)):
        lines.append(f"and {unlabelled} videos without a label, for the student's soft targets alone")
    return "\n".join(lines)


def read_listing(params: PrepareParams) -> Listing:
    """The data set as its layout lists it, with every video found on disk; raises DataError."""
    lists = None if params.lists is None else Path(params.lists)
    return LAYOUTS[params.layout](Path(params.root), lists, params.split, params.unlabelled)


def split_videos(videos: Sequence[ListedVideo], params: PrepareParams, seed: int) -> tuple[ListedVideo, ...]:
    """The videos, each with a split, as the parameters divide them; raises DataError where they cannot."""
    return complete_splits(
        videos,
        val_share=params.val_share,
        test_share=params.test_share,
        unlabelled_share=params.unlabelled_share,
        seed=seed,
    )


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
    paths = {row.path for row in broken}  # of a video several windows may be broken
    share = len(paths) / len(videos)
    findings = [f"{row.path} ({row.split}): {row.reason}" for row in broken]
    if share > max_share:
        raise DataError(
            f"{len(paths)} of {len(videos)} videos are broken: {share:.2%}, "
            f"more than the {max_share:.2%} of prepare.max_quarantined",
            findings=findings,
            remedy="replace them, or raise prepare.max_quarantined to leave them out; what is done is kept",
        )
    left = {(video.split, video.class_name) for video in videos.values() if video.path not in paths}
    lost = sorted({(str(video.split), video.class_name) for video in videos.values()} - left)
    if lost:
        raise DataError(
            "no usable video is left of: " + ", ".join(f"{name} in {split}" if name else split for split, name in lost),
            findings=findings,
            remedy="replace the broken videos; what is done is kept",
        )


def _listed(name: str, videos: Mapping[str, ListedVideo]) -> ListedVideo:
    """The video of a row, which may be a window of it."""
    return videos[name] if name in videos else videos[source_id(name)]


def _manifest_row(row: IndexRow, videos: Mapping[str, ListedVideo], sources: Mapping[str, Source]) -> ManifestRow:
    video, source = _listed(row.video_id, videos), sources[row.video_id]
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
        damage=source.info.damage,
    )


@dataclass(frozen=True)
class SourceVideo:
    """One video to read, or a window of one.

    listed_frames: number of frames that its list states, None where it states none. images: prepare.frames. window,
    most_windows: of footage, which is cut into windows of so many frames. first: of a window, its first frame.
    """

    video_id: str
    path: Path
    listed_frames: int | None
    images: str | None = None
    window: int | None = None
    most_windows: int | None = None
    first: int | None = None

    def starts(self, num_frames: int) -> list[int]:
        """First frames of its windows; none where it is stored as it is."""
        return [] if self.window is None else window_starts(num_frames, self.window, self.most_windows)


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
    cut = (params.footage_window, params.footage_windows)
    return [
        SourceVideo(
            name, root / video.path, video.num_frames, params.frames, *(cut if video.split == UNLABELLED else ())
        )
        for name, video in sorted(videos.items())
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
    videos = [piece for video in task.videos for piece in _pieces(video, params, before)]
    lengths = {row.video_id: row.frames for row in record.rows}
    unchanged = {
        video.video_id
        for video in videos
        if video.video_id in before
        and (video.first is None or lengths.get(video.video_id) == video.window)
        and _unchanged(video, before[video.video_id])
    }
    sources = {
        video.video_id: before[video.video_id] if video.video_id in unchanged else _found(video) for video in videos
    }
    passes: dict[Path, tuple[VideoInfo, Windows]] = {}
    infos: dict[str, VideoInfo] = {}
    watch = Stopwatch()

    def notes() -> dict[str, object]:
        _check_unchanged([video for video in videos if video.video_id not in unchanged], sources)
        read = {name: replace(sources[name], info=info) for name, info in infos.items()}
        return {name: asdict(source) for name, source in (sources | read).items()}

    return make_shard(
        task,
        {video.video_id: partial(frames_of, video, params, infos, watch, passes) for video in videos},
        record=record,
        unchanged=unchanged,
        notes=notes,
        codec=params.codec,
        jpeg_quality=params.jpeg_quality,
        watch=watch,
    )


def _pieces(video: SourceVideo, params: PrepareParams, before: Mapping[str, Source]) -> list[SourceVideo]:
    """The video, or its windows, of as many frames as an earlier run found or its packets promise."""
    if video.window is None:
        return [video]
    known = next((source for name, source in before.items() if source_id(name) == video.video_id), None)
    try:
        info = known.info if known and known.info and _unchanged(video, known) else _probed(video, params)
        num_frames = info.num_frames
        if num_frames is None:  # half frames
            num_frames = sum(1 for _ in read_frames(video.path, images=video.images))
    except (DataError, OSError):  # told where it is read
        return [video]
    windows = [
        replace(video, video_id=window_id(video.video_id, first), first=first) for first in video.starts(num_frames)
    ]
    return windows or [video]


def _probed(video: SourceVideo, params: PrepareParams) -> VideoInfo:
    return probe(video.path, images=video.images, take_damaged=params.damaged == "take")


def frames_of(
    video: SourceVideo,
    params: PrepareParams,
    infos: dict[str, VideoInfo],
    watch: Stopwatch,
    passes: dict[Path, tuple[VideoInfo, Windows]],
) -> Iterator[Frame]:
    """Yield a video's frames, or a window's, as they are stored, and note in `infos` what it is.

    Windows of one video come after each other, from one pass over it, which `passes` holds. Raises BrokenVideoError
    where it cannot be used. A damaged one can where `prepare.damaged` says so, up to the damage, which the note then
    tells.
    """
    read = partial(read_frames, video.path, short_side=params.short_side, images=video.images, levels=params.levels)
    if video.path not in passes:
        passes.clear()  # which ends the decoder of the video before
        with watch.time("decode"):
            passes[video.path] = _probed(video, params), Windows(read)
    info, windows = passes[video.path]
    if video.first is not None:
        assert video.window is not None
        infos[video.video_id] = info
        yield from watch.each("decode", windows.frames(video.first, video.window))
        return
    count = 0
    try:
        for frame in watch.each("decode", read()):
            yield frame
            count += 1
    except LostDecoderError:
        raise
    except BrokenVideoError as error:
        if params.damaged != "take":
            raise
        info = replace(info, damage=info.damage or error.message)
    infos[video.video_id] = judged(video, info, count, params)


def judged(video: SourceVideo, info: VideoInfo, num_frames: int, params: PrepareParams) -> VideoInfo:
    """What a video is, by the number of its frames as well.

    Raises BrokenVideoError where it has another one than its list states and `prepare.damaged` does not take that, or
    too few.
    """
    if video.listed_frames not in (None, num_frames):
        reason = f"its list states {video.listed_frames} frames, it has {num_frames}"
        if params.damaged != "take":
            raise BrokenVideoError(reason)
        info = replace(info, damage=info.damage or reason)
    if num_frames < params.min_frames:
        few = f"{num_frames} frames, fewer than the {params.min_frames} of prepare.min_frames"
        raise BrokenVideoError(f"{few}: {info.damage}" if info.damage else few)
    return info


def _found(video: SourceVideo) -> Source:
    try:
        stamp = _stamp(video)
        return Source(*stamp, _digest_at(video.path, video.images, stamp), video.listed_frames, None)
    except FileNotFoundError:
        raise _changed([f"{video.path}: it was there, and is gone"]) from None


def _source(*, info: dict[str, Any] | None, **values: Any) -> Source:
    return Source(info=None if info is None else VideoInfo(**info), **values)


def _is_source(video: SourceVideo, source: Source) -> bool:
    """By size and modification time, else by content: a copy of the data set has other times."""
    size, modified_ns = stamp = _stamp(video)
    same_size, same_time = size == source.size, modified_ns == source.modified_ns
    return same_size and (same_time or _digest_at(video.path, video.images, stamp) == source.digest)


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


@lru_cache(maxsize=1)
def _digest_at(path: Path, images: str | None, _stamp: tuple[int, int]) -> str:
    """Once for all windows of a file, which come after each other."""
    return digest_video(path, images)


def digest_video(path: Path, images: str | None = None) -> str:
    """Digest of a video's bytes, as the manifest has it: of its file, or of the files of a folder of images."""
    if path.is_dir():
        return digest_json([[file.name, digest_file(file)] for file in video_files(path, images)])
    return digest_file(path)
