"""Check of the data: what `prepare` would refuse or quarantine, judged by the lists and the videos' packets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DataError, in_one_line
from pipeline.core.params import ClipParams, PrepareParams
from pipeline.core.progress import MapTasks, Progress, Stopwatch
from pipeline.data.leakage import STEM_LAYOUTS, find_leakage
from pipeline.data.listing import ALL_SPLITS, NO_LABEL, ListedVideo, Listing
from pipeline.data.manifest import QuarantineRow, read_manifest
from pipeline.tools.check.findings import Group
from pipeline.videos.dark_shard import SourceVideo, digest_video, frames_of, judged, pieces, probed
from pipeline.videos.decoder import Windows
from pipeline.videos.locate import MissingVideosError
from pipeline.videos.prepare import (
    check_quarantine,
    read_listing,
    source_videos,
    split_videos,
    track_notes,
    videos_by_id,
)
from pipeline.videos.reader import VideoInfo
from pipeline.videos.splits import left_out_notes


@dataclass(frozen=True)
class Look:
    """One video to look at. `every_frame`: decode all of it, as `prepare` does; else its first frame alone."""

    video: SourceVideo
    params: PrepareParams
    every_frame: bool


@dataclass(frozen=True)
class Seen:
    """What a video has, its frames counted by its packets or decoded, or in its windows; and why it is not used.

    Of footage some windows may be used, and others not.
    """

    info: VideoInfo | None  # None where nothing of it is used
    num_frames: int | None
    reason: str | None


@dataclass(frozen=True)
class Data:
    """What other checks use; None where it is unknown. `seen` has the videos that can be used, `train` those of it."""

    listing: Listing | None
    splits: Mapping[str, int] | None
    seen: Sequence[Seen] = ()
    train: Sequence[ListedVideo] = ()


def check_data(
    group: Group,
    params: PrepareParams,
    clip: ClipParams,
    *,
    rendered: Sequence[str],
    seed: int,
    every_frame: bool,
    run: MapTasks,
    progress: Progress,
) -> Data:
    """Read the lists, divide the videos into splits, and look at every video that exists.

    rendered: roots of built-in videos, which need not be there yet.
    """
    if not Path(params.root).is_dir():
        _report_no_root(group, params.root, rendered)
        return Data(None, None)
    missing: frozenset[str] = frozenset()
    try:
        listing = read_listing(params)
    except MissingVideosError as error:
        group.problem(error.message, remedy=error.remedy, details=error.findings)
        listing = error.listing
        missing = frozenset(video.path for video in listing.videos) - error.found
    except DataError as error:
        group.problem(error.message, remedy=error.remedy, details=error.findings)
        return Data(None, None)
    for note in listing.notes:
        group.fact(note)
    splits: Counter[str] | None = None
    seen: list[Seen] = []
    train: list[ListedVideo] = []
    with group.catching():
        listed = split_videos(listing.videos, params, seed)
        for note in left_out_notes(listing.videos, listed):
            group.fact(note)
        splits = Counter(str(video.split) for video in listed)
        train = [video for video in listed if video.split == "train"]
        _check_splits(group, listed, splits, params)
        videos = videos_by_id([video for video in listed if video.path not in missing])
        seen = _look_at_all(group, videos, params, every_frame, run, progress)
        _check_lengths(group, seen, clip)
    return Data(listing, splits, seen, train)


def check_manifest(group: Group, params: PrepareParams, manifest_path: Path) -> None:
    """Compare every video with its digest when `prepare` read it, which also finds damage that still decodes."""
    with group.catching():
        manifest = read_manifest(manifest_path)
        changed, gone = [], []
        rows = {row.path: row for row in manifest.rows}.values()  # windows of one file have one digest
        for row in rows:
            path = Path(params.root, row.path)
            if not path.exists():
                gone.append(row.path)
            elif digest_video(path, params.frames) != row.digest:
                changed.append(row.path)
        for paths, what in ((changed, "have other bytes than when they were prepared"), (gone, "are missing")):
            if paths:
                group.problem(
                    f"{len(paths)} of {len(rows)} videos of {manifest_path} {what}",
                    details=paths,
                    remedy="restore them from a copy; if they were changed on purpose, run `dvc repro -f prepare`",
                )
        if not changed and not gone:
            group.fact(f"all {len(rows)} videos have the digests of {manifest_path}")


def _report_no_root(group: Group, root: str, rendered: Sequence[str]) -> None:
    if root in rendered:
        group.warning(
            f"{root}: the videos of the demo are not rendered yet, so they were not looked at",
            remedy="`dvc repro` renders them first; `dvc repro demo/dvc.yaml` does nothing else",
        )
    else:
        group.problem(f"prepare.root: {root}: no such folder", remedy="set it to the data set's folder")


def _check_splits(
    group: Group, listed: Sequence[ListedVideo], splits: Mapping[str, int], params: PrepareParams
) -> None:
    num_classes = len({video.label for video in listed} - {NO_LABEL})
    counted = ", ".join(f"{splits[split]} {split}" for split in ALL_SPLITS if splits.get(split))
    group.fact(f"{len(listed)} videos of {num_classes} classes: {counted}")
    leaks = find_leakage(listed, stems=params.layout in STEM_LAYOUTS)
    if leaks:
        group.warning(
            "splits have something in common, so test scores may reflect memory",
            details=[str(leak) for leak in leaks],
            remedy="state this with your results where the lists are official; else keep every group in one split",
        )
    else:
        group.fact("no path or group is in two splits")


def _name_of(job: Look) -> str:
    return job.video.video_id


def _look_at_all(
    group: Group,
    videos: Mapping[str, ListedVideo],
    params: PrepareParams,
    every_frame: bool,
    run: MapTasks,
    progress: Progress,
) -> list[Seen]:
    jobs = [Look(video, params, every_frame) for video in source_videos(videos, params)]
    with progress("check", len(jobs), "videos") as advance:
        seen = run(look, jobs, name=_name_of, done=lambda job, _: advance(1, _name_of(job)), stop=lambda: None)
    found = dict(zip(map(_name_of, jobs), seen, strict=True))
    broken = [
        QuarantineRow(name, videos[name].path, str(videos[name].split), each.reason)
        for name, each in found.items()
        if each.reason is not None
    ]
    num_whole = len(jobs) - len(broken)
    if num_whole and every_frame:
        group.fact(f"{num_whole} of {len(jobs)} videos: decoded from end to end")
    elif num_whole:
        group.fact(
            f"{num_whole} of {len(jobs)} videos: no packet is missing and the first frame decodes; the others were not "
            "decoded, as `prepare` and --every-frame do"
        )
    infos = {videos[name].path: each.info for name, each in found.items()}
    for note in track_notes(infos):
        group.fact(note)
    damaged = [f"{path}: {info.damage}" for path, info in infos.items() if info and info.damage]
    if damaged:
        group.warning(
            f"{len(damaged)} of {len(videos)} videos are damaged: `prepare` will take their frames before the damage",
            details=damaged,
            remedy="replace them, or set `prepare.damaged: quarantine` to leave them out",
        )
    if broken:
        used = {path for path, info in infos.items() if info is not None}
        _report_broken(group, broken, videos, params, used)
    return [each for each in seen if each.info is not None]


def _report_broken(
    group: Group,
    broken: Sequence[QuarantineRow],
    videos: Mapping[str, ListedVideo],
    params: PrepareParams,
    used: Collection[str],
) -> None:
    """A problem where `prepare` would fail, else a warning."""
    details = [f"{row.path} ({row.split}): {row.reason}" for row in broken]
    try:
        check_quarantine(broken, videos, params.max_quarantined, used=used)
    except DataError as error:
        remedy = "replace them, or raise prepare.max_quarantined to leave them out"
        group.problem(error.message, details=details, remedy=remedy)
    else:
        message = f"{len(broken)} of {len(videos)} videos are broken: `prepare` will quarantine them"
        group.warning(message, details=details, remedy="replace them, or do without them")


def look(job: Look) -> Seen:
    """Look at one video; runs in a process of its own."""
    if job.every_frame:
        return _decoded(job)
    try:
        info = probed(job.video, job.params)
        num_frames = info.num_frames
        if num_frames is not None:
            info = judged(job.video, info, num_frames, job.params)
            if starts := job.video.starts(num_frames):
                num_frames = len(starts) * (job.video.window or 0)
    except DataError as error:
        return Seen(None, None, in_one_line(error))
    return Seen(info, num_frames, None)


def _decoded(job: Look) -> Seen:
    """A video by all its frames, or by all its windows, as `prepare` reads them."""
    infos: dict[str, VideoInfo] = {}
    passes: dict[Path, tuple[VideoInfo, Windows]] = {}
    num_frames, reason = 0, None
    for piece in pieces(job.video, job.params, {}):
        try:
            num_frames += sum(1 for _ in frames_of(piece, job.params, infos, Stopwatch(), passes))
        except DataError as error:
            reason = reason or in_one_line(error)
    if not num_frames:
        return Seen(None, None, reason)
    return Seen(next(iter(infos.values())), num_frames, reason)


def _check_lengths(group: Group, seen: Sequence[Seen], clip: ClipParams) -> None:
    """Tell how many videos are shorter than a clip; pipeline/data/views.py has what becomes of those."""
    span = (clip.num_frames - 1) * clip.frame_stride + 1
    known = [found.num_frames for found in seen if found.num_frames is not None]
    short = [count for count in known if count < span]
    if short:
        group.warning(
            f"{len(short)} of {len(known)} videos have fewer frames than a clip spans ({span}): their clips have a "
            f"smaller stride, or start over; the shortest has {min(short)}",
            remedy="lower clip.frame_stride or clip.num_frames, if this is more than a few",
        )
