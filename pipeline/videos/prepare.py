"""Videos and annotation lists → manifest, quarantine and the dark frame store.

Each video is read once. A shard of the store is a task. What an earlier run read, whether it was killed, failed or
finished, is taken over video by video where the files are the same: only an added or repaired video is decoded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DataError
from pipeline.core.params import PrepareParams
from pipeline.core.progress import StopCheck, summed
from pipeline.core.work_folder import work_folder
from pipeline.data.footage import source_id
from pipeline.data.frame_shard import IndexRow
from pipeline.data.frame_store import shard_of
from pipeline.data.leakage import STEM_LAYOUTS, Leak, find_contradictions, find_leakage
from pipeline.data.listing import SPLITS, UNLABELLED, ListedVideo, Listing
from pipeline.data.manifest import Manifest, ManifestRow, QuarantineRow, video_id, write_manifest, write_quarantine
from pipeline.data.shards import RunTasks, new_run, publish_store
from pipeline.videos.annotations import LAYOUTS
from pipeline.videos.dark_shard import PrepareTask, Source, SourceVideo, prepare_shard, source_of
from pipeline.videos.reader import VideoInfo
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
    stop: StopCheck | None = None,
) -> Prepared:
    """Read every listed video once, and publish manifest, quarantine and dark frames.

    Raises DataError where lists or videos are wrong, where more than `max_quarantined` of the videos are broken, or
    where a split loses a class to the quarantine; finished shards then stay in the work folder. `stop` as for
    `work_folder`.
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
    version = PREPARED_VERSION
    with work_folder("prepare", params=fingerprint, inputs={}, format_version=version, outs=outs, stop=stop) as work:
        reports = run(prepare_shard, _tasks(videos, params, work.path))
        rows = [row for report in reports for row in report.rows]
        sources = {name: source_of(**source) for report in reports for name, source in report.notes.items()}
        broken = [
            QuarantineRow(name, _listed(name, videos).path, str(_listed(name, videos).split), reason)
            for report in reports
            for name, reason in report.broken
        ]
        used = {_listed(row.video_id, videos).path for row in rows}
        check_quarantine(broken, videos, params.max_quarantined, used=used)
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


def check_quarantine(
    broken: Sequence[QuarantineRow], videos: Mapping[str, ListedVideo], max_share: float, *, used: Collection[str]
) -> None:
    """Raise DataError where too many videos are broken, or where a split thereby loses a class.

    used: paths of the videos that are not broken, or of which some windows are not.
    """
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
    left = {(video.split, video.class_name) for video in videos.values() if video.path in used}
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
