"""Check of the data: what `prepare` would refuse or put into quarantine, from the lists and the videos' headers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DataError
from pipeline.core.params import ClipParams, PrepareParams
from pipeline.core.progress import MapTasks, Progress
from pipeline.data.leakage import STEM_LAYOUTS, find_leakage
from pipeline.data.listing import ListedVideo, Listing, MissingVideosError
from pipeline.data.manifest import QuarantineRow, read_manifest
from pipeline.tools.check.findings import Group
from pipeline.videos.decoder import probe, read_frames
from pipeline.videos.prepare import check_quarantine, digest_video, read_listing, videos_by_id
from pipeline.videos.reader import BrokenVideoError, VideoInfo
from pipeline.videos.splits import complete_splits

DEMO_CHAIN = Path("demo/dvc.yaml")  # whose outs are rendered before `prepare`, as it depends on them


@dataclass(frozen=True)
class Look:
    """One video to look at. `every_frame`: decode it all, as `prepare` does; else its header and first frame."""

    video_id: str
    path: Path
    listed_frames: int | None
    min_frames: int
    short_side: int
    every_frame: bool


@dataclass(frozen=True)
class Seen:
    """What a video states, with its frames counted where they were decoded; or why it cannot be used."""

    info: VideoInfo | None
    num_frames: int | None
    reason: str | None


@dataclass(frozen=True)
class Data:
    """What other checks use; None what could not be found out. `seen` has the videos that can be used."""

    listing: Listing | None
    splits: Mapping[str, int] | None
    seen: Sequence[Seen] = ()


def check_data(
    group: Group,
    params: PrepareParams,
    clip: ClipParams,
    *,
    seed: int,
    every_frame: bool,
    run: MapTasks,
    progress: Progress,
) -> Data:
    """Read the lists, divide the videos into splits, and look at every video that is there."""
    if not Path(params.root).is_dir():
        _report_no_root(group, params.root)
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
    with group.catching():
        listed = complete_splits(listing.videos, val_share=params.val_share, test_share=params.test_share, seed=seed)
        splits = Counter(str(video.split) for video in listed)
        _check_splits(group, listed, splits, params)
        videos = videos_by_id([video for video in listed if video.path not in missing])
        seen = _look_at_all(group, videos, params, every_frame, run, progress)
        _check_lengths(group, seen, clip)
    return Data(listing, splits, seen)


def check_manifest(group: Group, root: Path, manifest_path: Path) -> None:
    """Compare every video with the digest that it had when `prepare` read it: so is damage seen that still decodes."""
    with group.catching():
        manifest = read_manifest(manifest_path)
        changed, gone = [], []
        for row in manifest.rows:
            path = root / row.path
            if not path.exists():
                gone.append(row.path)
            elif digest_video(path) != row.digest:
                changed.append(row.path)
        for paths, what in ((changed, "have other bytes than when they were prepared"), (gone, "are missing")):
            if paths:
                group.problem(
                    f"{len(paths)} of {len(manifest.rows)} videos of {manifest_path} {what}",
                    details=paths,
                    remedy="restore them from a copy; or, if they were changed on purpose, run `dvc repro -f prepare`",
                )
        if not changed and not gone:
            group.fact(f"all {len(manifest.rows)} videos have the digests of {manifest_path}")


def _report_no_root(group: Group, root: str) -> None:
    if _is_rendered(root):
        group.advice(
            f"{root}: the videos of the demo are not rendered yet, so they were not looked at",
            remedy="`dvc repro` renders them first; `dvc repro demo/dvc.yaml` does nothing else",
        )
    else:
        group.problem(f"prepare.root: {root}: no such folder", remedy="set it to the data set's folder")


def _is_rendered(root: str) -> bool:
    """Whether the root is an out of the demo's own chain."""
    wanted = f"- {Path(root)}"
    return DEMO_CHAIN.is_file() and any(
        line.strip() == wanted for line in DEMO_CHAIN.read_text(encoding="utf-8").splitlines()
    )


def _check_splits(
    group: Group, listed: Sequence[ListedVideo], splits: Mapping[str, int], params: PrepareParams
) -> None:
    num_classes = len({video.label for video in listed})
    counted = ", ".join(f"{splits[split]} {split}" for split in ("train", "val", "test") if splits.get(split))
    group.fact(f"{len(listed)} videos of {num_classes} classes: {counted}")
    leaks = find_leakage(listed, stems=params.layout in STEM_LAYOUTS)
    if leaks:
        group.advice(
            "splits have something in common, so that what is measured may be memory",
            details=[str(leak) for leak in leaks],
            remedy="state this with your results where the lists are official; else let every group be in one split",
        )
    else:
        group.fact("no path or group is in two splits")


def _look_at_all(
    group: Group,
    videos: Mapping[str, ListedVideo],
    params: PrepareParams,
    every_frame: bool,
    run: MapTasks,
    progress: Progress,
) -> list[Seen]:
    root = Path(params.root)
    jobs = [
        Look(name, root / video.path, video.num_frames, params.min_frames, params.short_side, every_frame)
        for name, video in sorted(videos.items())
    ]
    good: list[Seen] = []
    broken: list[QuarantineRow] = []
    with progress("check", len(jobs), "videos") as advance:
        seen = run(
            look, jobs, name=lambda job: job.video_id, done=lambda job, _: advance(1, job.video_id), stop=lambda: None
        )
    for job, found in zip(jobs, seen, strict=True):
        if found.reason is None:
            good.append(found)
        else:
            video = videos[job.video_id]
            broken.append(QuarantineRow(job.video_id, video.path, str(video.split), found.reason))
    how = "decoded from end to end" if every_frame else "header and first frame are sound"
    if good:
        group.fact(f"{len(good)} of {len(jobs)} videos: {how}")
    if broken:
        _report_broken(group, broken, videos, params)
    return good


def _report_broken(
    group: Group, broken: Sequence[QuarantineRow], videos: Mapping[str, ListedVideo], params: PrepareParams
) -> None:
    """A problem where `prepare` would fail, else an advice."""
    try:
        check_quarantine(broken, videos, params.max_quarantined)
    except DataError as error:
        group.problem(
            error.message,
            details=[f"{row.path} ({row.split}): {row.reason}" for row in broken],
            remedy="replace them, or raise prepare.max_quarantined to leave them out",
        )
        return
    group.advice(
        f"{len(broken)} of {len(videos)} videos are broken: `prepare` will put them into quarantine",
        details=[f"{row.path} ({row.split}): {row.reason}" for row in broken],
        remedy="replace them, or do without them",
    )


def look(job: Look) -> Seen:
    """Look at one video; runs in a process of its own."""
    try:
        info = probe(job.path)
        num_frames = info.num_frames
        if job.every_frame:
            num_frames = sum(1 for _ in read_frames(job.path, short_side=job.short_side))
    except DataError as error:
        reason = error.message if isinstance(error, BrokenVideoError) else f"cannot be read: {error.message}"
        return Seen(None, None, reason)
    if num_frames is not None and num_frames < job.min_frames:
        return Seen(info, num_frames, f"{num_frames} frames are fewer than prepare.min_frames, {job.min_frames}")
    if num_frames is not None and job.listed_frames not in (None, num_frames):
        return Seen(info, num_frames, f"its list states {job.listed_frames} frames, it has {num_frames}")
    return Seen(info, num_frames, None)


def _check_lengths(group: Group, seen: Sequence[Seen], clip: ClipParams) -> None:
    """Say how many videos are too short for the clip that was asked for; pipeline.data.views has the rest."""
    span = (clip.num_frames - 1) * clip.frame_stride + 1
    known = [found.num_frames for found in seen if found.num_frames is not None]
    short = [count for count in known if count < span]
    if short:
        group.advice(
            f"{len(short)} of {len(known)} videos have fewer frames than a clip spans ({span}): their clips have a "
            f"smaller stride, or start over; the shortest has {min(short)}",
            remedy="lower clip.frame_stride or clip.num_frames, if this is more than a few",
        )
