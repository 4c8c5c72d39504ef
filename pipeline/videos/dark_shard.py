"""One shard of the dark store: each of its videos, or of their windows, read once, or taken over from an earlier run.

A video is the same where its file is, and a window where the video and the window's length are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pipeline.core.digest import digest_file, digest_json
from pipeline.core.errors import BrokenVideoError, DataError, LostDecoderError, StaleArtifactError
from pipeline.core.params import PrepareParams
from pipeline.core.progress import Stopwatch
from pipeline.data.footage import source_id, window_id, window_starts
from pipeline.data.frames import Frame
from pipeline.data.shards import ShardReport, ShardTask, make_shard, read_record
from pipeline.videos.decoder import Windows, probe, read_frames
from pipeline.videos.images import video_files
from pipeline.videos.reader import VideoInfo


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


def prepare_shard(task: PrepareTask) -> ShardReport:
    """Make one shard; videos that an earlier run read are taken over where their files are the same."""
    params = task.params
    record = read_record(task.work, task.shard)
    before = {name: source_of(**source) for name, source in record.notes.items()}
    videos = [piece for video in task.videos for piece in pieces(video, params, before)]
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


def pieces(video: SourceVideo, params: PrepareParams, before: Mapping[str, Source]) -> list[SourceVideo]:
    """The video, or its windows, of as many frames as an earlier run found or its packets promise."""
    if video.window is None:
        return [video]
    known = next((source for name, source in before.items() if source_id(name) == video.video_id), None)
    try:
        info = known.info if known and known.info and _unchanged(video, known) else probed(video, params)
        num_frames = info.num_frames
        if num_frames is None:  # half frames
            num_frames = sum(1 for _ in read_frames(video.path, images=video.images))
    except (DataError, OSError):  # told where it is read
        return [video]
    windows = [
        replace(video, video_id=window_id(video.video_id, first), first=first) for first in video.starts(num_frames)
    ]
    return windows or [video]


def probed(video: SourceVideo, params: PrepareParams) -> VideoInfo:
    """What a video's packets tell; raises BrokenVideoError where `prepare.damaged` does not take what they tell."""
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
            passes[video.path] = probed(video, params), Windows(read)
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


def source_of(*, info: dict[str, Any] | None, **values: Any) -> Source:
    """The source that a shard's record notes."""
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
    """Bytes, and when it last changed: of a folder of images also when names in it did, which no image tells."""
    stats = [file.stat() for file in video_files(video.path, video.images)]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in (video.path.stat(), *stats))


@lru_cache(maxsize=1)
def _digest_at(path: Path, images: str | None, _stamp: tuple[int, int]) -> str:
    """Once for all windows of a file, which come after each other."""
    return digest_video(path, images)


def digest_video(path: Path, images: str | None = None) -> str:
    """Digest of a video's bytes, as the manifest has it: of its file, or of the files of a folder of images."""
    if not path.is_dir():
        return digest_file(path)
    # names may be in a coding of their own: JSON is UTF-8
    files = [(os.fsencode(file.name).decode(errors="backslashreplace"), file) for file in video_files(path, images)]
    return digest_json([[name, digest_file(file)] for name, file in files])
