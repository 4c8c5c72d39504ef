"""Frames of a store → H.264 files for any player: each video alone, or beside the same video of another store.

Axes: T frames, H rows, W columns, C the channels red, green, blue; uint8 throughout.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError, ParamsError, StaleArtifactError
from pipeline.core.progress import Progress, no_progress
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import Frame, Frames
from pipeline.data.manifest import Manifest
from pipeline.data.names import path_problem
from pipeline.enhance.classical import frame_batches
from pipeline.videos.reader import write_video


def export_videos(
    store: FrameStore,
    out: Path,
    *,
    video_ids: Sequence[str] = (),
    beside: FrameStore | None = None,
    manifest: Manifest | None = None,
    fps: float,
    crf: int,
    limit: int | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> tuple[list[Path], int]:
    """Write videos to files in folders by their ids; returns the files and the number of frames.

    Each is whole or not there; memory holds a few frames, however long a video is. video_ids: all if none are given; of
    these the first `limit`. fps: of videos whose rate the manifest does not state.

    Before the first file is written, raises ParamsError for unknown videos and existing files, DataError for ids that
    lead out of `out`, StaleArtifactError if the two stores, or store and manifest, do not match; each with all
    findings. Raises StaleArtifactError with every video whose frames are damaged, when the others are written.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ParamsError(f"--fps is a number above 0, not {fps}")
    _check_known(store, video_ids)
    chosen = list(dict.fromkeys(video_ids)) or list(store.video_ids)
    if beside is not None:
        _check_alike(store, beside, chosen if video_ids else sorted({*chosen, *beside.video_ids}))
    paths = {name: out / f"{name}.mp4" for name in chosen[:limit]}
    rates = _rates(list(paths), manifest, fps)
    _check_inside(out, paths)
    _check_free(out, paths, force)
    num_frames, damaged = 0, []
    with progress("export", len(paths), "videos") as advance:
        for name, path in paths.items():
            try:
                num_frames += write_video(path, _frames(store, beside, name), fps=rates[name], crf=crf)
            except StaleArtifactError as error:
                damaged.append(f"{name}: {str(error).partition(chr(10))[0]}")
            advance(1, name)
    if damaged:
        raise StaleArtifactError(
            f"{len(damaged)} of {len(paths)} videos are damaged and were not written; the others are in {out}",
            findings=damaged,
            remedy="`dlkdd frames verify` names all that is damaged; `dvc repro` makes it again",
        )
    return list(paths.values()), num_frames


def _check_known(store: FrameStore, video_ids: Sequence[str]) -> None:
    findings = []
    for name in video_ids:
        if name not in store:
            nearest = difflib.get_close_matches(name, store.video_ids, n=1)
            findings.append(f"{name}{f': did you mean {nearest[0]}?' if nearest else ''}")
    if findings:
        raise ParamsError(
            f"{store.path}: has no such videos: {len(findings)}",
            findings=findings,
            remedy=f"its ids are the first column of {store.path / 'index.csv'}",
        )


def _check_alike(store: FrameStore, beside: FrameStore, video_ids: Sequence[str]) -> None:
    findings = []
    for name in video_ids:
        if name not in store or name not in beside:
            findings.append(f"{name}: only in {store.path if name in store else beside.path}")
        elif store.shape(name) != beside.shape(name):
            findings.append(f"{name}: {_shape_text(store, name)} and {_shape_text(beside, name)}")
    if findings:
        raise StaleArtifactError(
            f"{store.path} and {beside.path} do not hold the same videos: {len(findings)} differ",
            findings=findings,
            remedy="`dvc repro enhance` makes them alike again; or name videos that are the same in both",
        )


def _shape_text(store: FrameStore, video_id: str) -> str:
    num_frames, height, width = store.shape(video_id)
    return f"{num_frames} frames of {width}×{height}"


def _rates(video_ids: Sequence[str], manifest: Manifest | None, fps: float) -> dict[str, float]:
    if manifest is None:
        return dict.fromkeys(video_ids, fps)
    missing = [name for name in video_ids if name not in manifest.by_id]
    if missing:
        raise StaleArtifactError(
            f"the manifest lacks {len(missing)} of the store's videos",
            findings=missing,
            remedy="give the manifest that was made with the store, or --fps alone",
        )
    return {name: manifest.by_id[name].fps or fps for name in video_ids}  # 0.0: none is stated


def _check_inside(out: Path, paths: Mapping[str, Path]) -> None:
    """Ids are checked here although they come from paths of videos: a store may come from anywhere."""
    findings, root, taken = [], out.resolve(), dict[Path, str]()
    for name, path in paths.items():
        problem = path_problem(name)
        if problem is None and not path.resolve().is_relative_to(root):
            problem = f"{name!r} leads out of it by a link"
        if problem is None and taken.setdefault(path, name) != name:
            problem = f"{name!r} and {taken[path]!r} name the same file"
        if problem:
            findings.append(problem)
    if findings:
        raise DataError(
            f"{out}: ids of videos that name no file in it: {len(findings)}",
            findings=findings,
            remedy="export the other videos by their ids",
        )


def _check_free(out: Path, paths: Mapping[str, Path], force: bool) -> None:
    """Check that no file is in the way unless `force` replaces it; folders are never replaced."""
    blocked = {
        place: "is not a folder"
        for name, path in paths.items()
        for place in (out, *path.parents[: name.count("/")])
        if place.exists() and not place.is_dir()
    }
    for path in paths.values():
        if path.is_dir():
            blocked[path] = "is a folder"
        elif not force and (path.exists() or path.is_symlink()):
            blocked[path] = "already exists"
    if blocked:
        raise ParamsError(
            f"{out}: nothing was written; paths in the way: {len(blocked)}",
            findings=[f"{path}: {reason}" for path, reason in blocked.items()],
            remedy="choose another folder, or add --force to replace files",
        )


def _frames(store: FrameStore, beside: FrameStore | None, video_id: str) -> Iterator[Frame]:
    """Frames (H, W, C) of even size: the store's, with those of the other store to their right."""
    stores = [store] if beside is None else [store, beside]
    for numbers in frame_batches(store.shape(video_id)):
        yield from np.concatenate([_evened(each.read_shown(video_id, numbers)) for each in stores], axis=2)


def _evened(frames_THWC: Frames) -> Frames:
    """Repeat an odd last row or column: H.264 halves the colour planes and needs even sizes."""
    _, height, width, _ = frames_THWC.shape
    return np.pad(frames_THWC, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
