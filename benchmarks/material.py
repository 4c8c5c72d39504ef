"""What the benchmarks measure on: dark videos of the built-in demo, and how time and memory are read."""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pipeline.core.params import load_section
from pipeline.data.frame_shard import Codec, IndexRow, OpenFrames, write_shard
from pipeline.data.frame_store import FrameStore, shard_of, shard_path, write_index
from pipeline.tools.demo.render import DemoVideosParams, film, list_videos
from pipeline.tools.export.latency import peak_resident_bytes
from pipeline.videos.reader import read_frames, write_video

DEMO_PARAMS = Path(__file__).parent.parent / "demo/params.yaml"
REPEATS = 5


def render_videos(folder: Path, count: int, *, width: int, height: int, num_frames: int) -> list[Path]:
    """Videos as dark as ARID's of four actions, as H.264 files, each of another performer."""
    wanted = {
        "classes": ["Drink", "Jump", "Push", "Wave"],
        "num_groups": max(2, -(-count // 4)),
        "num_test_groups": 1,
        "clips_per_group": 1,
        "width": width,
        "height": height,
        "min_frames": num_frames,
        "max_frames": num_frames,
        "fps": 30.0,
        "exposure": 0.0,
    }
    shipped = load_section(DEMO_PARAMS, "demo_videos", DemoVideosParams)
    params = DemoVideosParams.model_validate({**shipped.model_dump(), **wanted})
    paths = []
    for video in list_videos(params)[:count]:
        paths.append(folder / f"{video.stem}.mp4")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        write_video(paths[-1], film(params, video), fps=params.fps, crf=params.crf)
    return paths


def write_store(
    paths: Sequence[Path],
    folder: Path,
    *,
    num_shards: int,
    codec: Codec = "raw",
    jpeg_quality: int = 0,
    short_side: int | None = None,
) -> FrameStore:
    """A store of these videos, by the names of their files, as `prepare` writes it."""
    shards: dict[int, list[tuple[str, OpenFrames]]] = defaultdict(list)
    for path in paths:
        shards[shard_of(path.stem, num_shards)].append((path.stem, partial(read_frames, path, short_side=short_side)))
    rows: list[IndexRow] = []
    for shard, videos in sorted(shards.items()):
        target = shard_path(folder, shard)
        rows += write_shard(target, videos, shard=shard, codec=codec, jpeg_quality=jpeg_quality).rows
    write_index(folder, rows, codec=codec, jpeg_quality=jpeg_quality, origin={})
    return FrameStore(folder)


def best_seconds(function: Callable[[], object], *, number: int) -> float:
    """CPU seconds of a call: the best of some repeats, the one least disturbed."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        for _ in range(number):
            function()
        times.append((time.process_time() - start) / number)
    return min(times)


def used_cpu_seconds() -> float:
    """CPU seconds of this process, and of those that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_mib() -> float:
    """The most memory that this process has held."""
    return peak_resident_bytes() / 2**20
