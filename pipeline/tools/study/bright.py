"""Bright frames, of the same videos before they were darkened, as a store that stands for enhanced frames."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipeline.core.errors import StaleArtifactError
from pipeline.core.files import PARTIAL_SUFFIX, publish
from pipeline.data.frame_store import FrameStore, shard_path, write_index

LIGHT = "bright"


def adopt_bright(bright_path: Path, dark_path: Path, out: Path) -> None:
    """Publish the bright frames as made from the dark ones, which is what the stages ask of frames of a teacher.

    Raises StaleArtifactError where the videos are not the dark ones, or of another geometry.
    """
    bright, dark = FrameStore(bright_path), FrameStore(dark_path)
    findings = [
        f"{name}: {store.path} has it, {other.path} lacks it"
        for store, other in ((dark, bright), (bright, dark))
        for name in store.video_ids
        if name not in other
    ]
    findings += [
        f"{name}: {bright_path} has frames, height, width {bright.shape(name)}, {dark_path} {dark.shape(name)}"
        for name in dark.video_ids
        if name in bright and bright.shape(name) != dark.shape(name)
    ]
    if findings:
        raise StaleArtifactError(
            f"{bright_path} and {dark_path} are not the same videos in two lights",
            findings=findings,
            remedy="prepare the videos as they were before `dlkdd darken` with the same short_side, lists and names",
        )
    built = out.with_name(out.name + PARTIAL_SUFFIX)
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    for shard in sorted({row.shard for row in bright.rows}):
        source, to = shard_path(bright_path, shard), shard_path(built, shard)
        try:
            os.link(source, to)
        except OSError:  # another file system, or one without hard links
            shutil.copy2(source, to)
    origin = {"dark": dark.digest, "enhancer": bright.digest, "light": LIGHT}
    if "videos" in dark.origin:
        origin["videos"] = dark.origin["videos"]
    quality = 100 if bright.jpeg_quality is None else bright.jpeg_quality  # raw frames use none
    write_index(built, bright.rows, codec=bright.codec, jpeg_quality=quality, levels=bright.levels, origin=origin)
    publish(built, out)
