"""What a frame store holds, how dark it is, and whether it is whole: `dlkdd frames inspect` and `verify`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import StaleArtifactError
from pipeline.core.progress import Progress, no_progress
from pipeline.data.frame_store import FrameStore
from pipeline.evaluate.light import spread_places, video_luma


def summarise_frames(store: FrameStore, *, num_sampled: int, progress: Progress = no_progress) -> dict[str, Any]:
    """Count what the index names, and measure the light of at most `num_sampled` videos; JSON values.

    `sizes` are the most frequent first; `frames_per_video` (least, median, most) and `luma` (the quartiles of the
    videos' mean lumas) are None in a store without videos. Raises StaleArtifactError where a frame that is read is
    damaged.
    """
    lengths = [row.frames for row in store.rows]
    sizes = Counter((row.height, row.width) for row in store.rows)
    by_count = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    sampled = [store.video_ids[place] for place in spread_places(len(lengths), num_sampled)]
    means = list(video_luma(store, sampled, progress=progress).values())
    return {
        "location": str(store.path),
        "digest": store.digest,
        "codec": store.codec,
        "jpeg_quality": store.jpeg_quality,
        "levels": store.levels,
        "num_videos": len(lengths),
        "num_frames": sum(lengths),
        "frames_per_video": {"least": min(lengths), "median": float(np.median(lengths)), "most": max(lengths)}
        if lengths
        else None,
        "sizes": [{"height": height, "width": width, "num_videos": count} for (height, width), count in by_count],
        "num_shards": len({row.shard for row in store.rows}),
        "bytes_on_disk": sum(path.stat().st_size for path in store.path.iterdir() if path.is_file()),
        "luma": {"num_videos": len(means), "quartiles": np.quantile(means, (0.25, 0.5, 0.75)).round(2).tolist()}
        if means
        else None,
        "origin": store.origin,
    }


def check_frames(path: Path, *, progress: Progress = no_progress) -> dict[str, Any]:
    """Read every frame of a store again; JSON values, with a finding for each damaged video.

    `digest` is None where the store cannot be opened, which is then the one finding.
    """
    found = {"location": str(path), "digest": None, "num_videos": 0, "num_frames": 0}
    findings: list[str] = []
    try:
        store = FrameStore(path)
        num_frames = sum(row.frames for row in store.rows)
        found |= {"digest": store.digest, "num_videos": len(store.rows), "num_frames": num_frames}
        with progress("verify", len(store.rows), "videos") as advance:
            store.verify(advance)
    except StaleArtifactError as error:
        findings = list(error.findings) if found["digest"] else [str(error).partition("\n")[0]]
    return {**found, "findings": findings, "whole": not findings}
