"""What a frame store holds, how dark it is, and whether it is whole: `dlkdd frames inspect` and `verify`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import StaleArtifactError
from pipeline.core.progress import Progress, no_progress
from pipeline.data.frame_store import FrameStore
from pipeline.enhance.classical import count_luma, mean_level
from pipeline.evaluate.light import spread_places


@dataclass(frozen=True)
class Size:
    """A size of frames in pixels, and how many videos have it."""

    height: int
    width: int
    num_videos: int


@dataclass(frozen=True)
class Spread:
    """Of frames per video."""

    least: int
    median: float
    most: int


@dataclass(frozen=True)
class Luma:
    """Mean luma of the middle frames of `num_videos` videos: lower quartile, median and upper quartile of the means."""

    num_videos: int
    quartiles: tuple[float, float, float]


@dataclass(frozen=True)
class FrameSummary:
    """A store's index and description in numbers; what is of videos is None where it has none."""

    location: str
    digest: str
    codec: str
    jpeg_quality: int | None
    num_videos: int
    num_frames: int
    frames_per_video: Spread | None
    sizes: tuple[Size, ...]  # the most frequent first
    num_shards: int
    bytes_on_disk: int
    luma: Luma | None
    origin: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def summarise_frames(store: FrameStore, *, num_sampled: int, progress: Progress = no_progress) -> FrameSummary:
    """Count what the index names, and measure the light of at most `num_sampled` videos.

    Raises StaleArtifactError where a frame that is read is damaged.
    """
    lengths = [row.frames for row in store.rows]
    sizes = Counter((row.height, row.width) for row in store.rows)
    by_count = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    means = list(sampled_luma(store, store.video_ids, num_sampled=num_sampled, progress=progress).values())
    return FrameSummary(
        location=str(store.path),
        digest=store.digest,
        codec=store.codec,
        jpeg_quality=store.jpeg_quality,
        num_videos=len(lengths),
        num_frames=sum(lengths),
        frames_per_video=Spread(min(lengths), float(np.median(lengths)), max(lengths)) if lengths else None,
        sizes=tuple(Size(*size, count) for size, count in by_count),
        num_shards=len({row.shard for row in store.rows}),
        bytes_on_disk=sum(path.stat().st_size for path in store.path.iterdir() if path.is_file()),
        luma=Luma(len(means), _quartiles(means)) if means else None,
        origin=store.origin,
    )


def sampled_luma(
    store: FrameStore, video_ids: Sequence[str], *, num_sampled: int, progress: Progress = no_progress
) -> dict[str, float]:
    """Mean luma of the middle frame, by video id, of up to `num_sampled` of these videos, evenly spread over them.

    Raises StaleArtifactError where the store lacks a video, or a frame that is read is damaged.
    """
    places = spread_places(len(video_ids), num_sampled)
    means = {}
    with progress("luma", len(places), "videos") as advance:
        for name in (video_ids[place] for place in places):
            means[name] = mean_level(count_luma(store.read(name, [store.shape(name)[0] // 2])[0]))
            advance(1, "")
    return means


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    first, second, third = (round(float(value), 2) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return first, second, third


@dataclass(frozen=True)
class Verdict:
    """Whether a store is whole: a finding for each damaged video, or the one that keeps it from being opened."""

    location: str
    digest: str | None  # None where it cannot be opened
    num_videos: int
    num_frames: int
    findings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "whole": not self.findings}


def check_frames(path: Path, *, progress: Progress = no_progress) -> Verdict:
    """Read every frame of a store again; all that is wrong is in the verdict."""
    try:
        store = FrameStore(path)
    except StaleArtifactError as error:
        return Verdict(str(path), None, 0, 0, (str(error).partition("\n")[0],))
    findings: tuple[str, ...] = ()
    try:
        with progress("verify", len(store.rows), "videos") as advance:
            store.verify(advance)
    except StaleArtifactError as error:
        findings = error.findings
    return Verdict(str(path), store.digest, len(store.rows), sum(row.frames for row in store.rows), findings)
