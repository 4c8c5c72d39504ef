"""Check of the disk: what the frame stores will need and what is free; and what the work folder holds."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.params import ClipParams, Params, PrecomputeSoftTargetsParams, PrepareParams, TrainParams
from pipeline.core.work_folder import has_locks, work_root
from pipeline.tools.check.data import Seen
from pipeline.tools.check.findings import Group, age_text, size_text
from pipeline.tools.check.machine import dvc_cache, dvc_config
from pipeline.tools.check.work_folders import work_folders

# JPEG's share of the raw bytes, dark and enhanced, up to a quality: docs/frame-store.md, rounded up
JPEG_SHARES = ((90, 0.06, 0.11), (95, 0.09, 0.16), (98, 0.12, 0.24), (100, 0.25, 0.45))
MOUNTS = Path("/proc/self/mounts")
REFLINKING = ("btrfs", "xfs", "bcachefs")  # two files may share their blocks there
SHARED_MEMORY = Path("/dev/shm")
BATCHES_AHEAD = 2  # of each data loader process: torch's prefetch_factor


def check_space(group: Group, params: Params, seen: Sequence[Seen], *, dvc_root: Path | None) -> None:
    """Compare what a run from scratch stores with what is free, for each file system."""
    counted = [found for found in seen if found.info is not None and found.num_frames is not None]
    if not counted:
        reason = "no video states its number of frames" if seen else "no video could be looked at"
        group.fact(f"the size of the frame stores is not known: {reason}")
        return
    # videos that state no number of frames count as average ones
    dark, enhanced = (size * len(seen) / len(counted) for size in frame_bytes(params.prepare, counted))
    enhanced *= 1 + len(params.more_teachers)  # each has frames of its own
    needed: dict[Path, float] = defaultdict(float)
    needed[Path()] += dark + enhanced
    if dvc_root is not None:
        cache = dvc_cache(dvc_root)
        if _copies(dvc_root, cache):
            # where DVC replaces the out's file, the work folder has the published one alone, until the store is read
            needed[cache] += dark + enhanced
            needed[work_root()] += dark + enhanced
    stores = f"frame stores of about {size_text(dark)} dark and {size_text(enhanced)} enhanced"
    if len(needed) > 1:
        total = size_text(sum(needed.values()))
        stores += f"; with the copies of DVC's cache and of the work folder a run from scratch needs {total}"
    group.fact(stores)
    _compare(group, needed, reused=sum(folder.num_bytes for folder in work_folders()))


def _copies(dvc_root: Path, cache: Path) -> bool:
    """Whether DVC's cache holds copies of the outs, rather than the same blocks."""
    together = _device(cache) == _device(Path())
    works = {
        "reflink": together and _file_system(Path()) in REFLINKING,
        "hardlink": together,
        "symlink": True,
        "copy": True,
    }
    kinds = dvc_config(dvc_root).get("cache", "type", fallback="reflink,copy").replace(" ", "").split(",")
    return next((kind for kind in kinds if works.get(kind)), "copy") == "copy"  # DVC takes the first that works


def frame_bytes(params: PrepareParams, counted: Sequence[Seen]) -> tuple[float, float]:
    """Bytes of the dark and of the enhanced store of videos whose frames are counted."""
    pixels = 0.0
    for found in counted:
        assert found.info is not None
        assert found.num_frames is not None
        sides = sorted((found.info.width, found.info.height))
        pixels += found.num_frames * params.short_side * round(params.short_side * sides[1] / sides[0])
    if params.codec == "raw":
        return 3 * pixels, 3 * pixels
    dark, enhanced = next(shares for quality, *shares in JPEG_SHARES if params.jpeg_quality <= quality)
    return 3 * pixels * dark, 3 * pixels * enhanced


def _compare(group: Group, needed: dict[Path, float], *, reused: int) -> None:
    by_device: dict[int, list[tuple[Path, float]]] = defaultdict(list)
    for place, size in needed.items():
        by_device[_device(place)].append((_existing(place), size))
    for places in by_device.values():
        inside, size = places[0][0], sum(size for _, size in places)
        free = shutil.disk_usage(inside).free
        name = str(inside.absolute())
        if size > free + reused:
            group.problem(
                f"{name}: {size_text(size)} are needed, {size_text(free)} are free",
                remedy="free space, move the project, lower prepare.short_side, or set prepare.codec to jpeg; "
                "where DVC's cache holds copies, `dvc config cache.type` hardlink or symlink saves two of three",
            )
        else:
            group.fact(f"{name}: {size_text(free)} are free")
        if not os.access(inside, os.W_OK):
            group.problem(f"{name}: cannot be written to", remedy="make the folder writable")


def _clip_bytes(clip: ClipParams) -> int:
    return 3 * clip.num_frames * clip.size**2


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _device(path: Path) -> int:
    """The file system that a path is on, or will be."""
    return _existing(path).stat().st_dev


def _file_system(path: Path) -> str:
    """The type of the file system that a path is on, such as ext4; empty where it is not known."""
    if not MOUNTS.is_file():
        return ""
    mounts = [line.split(" ") for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()]
    inside = [mount for mount in mounts if len(mount) > 2 and path.absolute().is_relative_to(mount[1])]
    return max(inside, key=lambda mount: len(mount[1]))[2] if inside else ""


def check_work(group: Group) -> None:
    """Tell what the work folder holds: who works there now, what was not finished, how large it is.

    And where nothing can tell who works there.
    """
    project = work_root().parent
    if not has_locks(project / "dvc.yaml"):
        group.warning(
            f"{project.absolute()}: this file system has no locks, so nothing keeps two runs of one stage apart",
            remedy="start no stage twice, or mount it with locks (Lustre: -o flock; NFS: lockd). Where DVC cannot "
            "acquire its own: `dvc config core.hardlink_lock true`, and remove .dvc/tmp/lock and .dvc/tmp/rwlock.lock",
        )
    folders = work_folders()
    if not folders:
        return
    total = size_text(sum(folder.num_bytes for folder in folders))
    group.fact(f"{work_root()}: {total} in {len(folders)} folders, from which later runs go on")
    held = [folder for folder in folders if folder.holder is not None]
    if held:
        group.warning(
            "stages are at work here now; the same ones cannot be started",
            details=[f"{folder.stage}: {folder.holder}" for folder in held],
            remedy="wait for them, or stop these processes: they go on later where they stopped",
        )
    left = [folder for folder in folders if folder.holder is None and folder.unfinished]
    if left:
        group.warning(
            "runs were not finished",
            details=[
                f"{folder.path}: {size_text(folder.num_bytes)}, {age_text(folder.age_seconds)} old" for folder in left
            ],
            remedy="with the same parameters and inputs they go on; `dlkdd work clear` removes what you gave up on",
        )


def check_shared_memory(group: Group, params: Params) -> None:
    """Data loader processes pass batches of clips through shared memory, of which containers often have 64 MiB."""
    clips = params.clips()
    clips["precompute_soft_targets"] = max(clips.values(), key=_clip_bytes)
    sections: dict[str, TrainParams | PrecomputeSoftTargetsParams] = {**params.trainings()}
    sections["precompute_soft_targets"] = params.precompute_soft_targets
    wanted = {
        section: options.num_workers * BATCHES_AHEAD * options.batch_size * _clip_bytes(clips[section])
        for section, options in sections.items()
        if options.num_workers
    }
    if not wanted:
        return
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    for section, size in wanted.items():
        if size > free:
            group.problem(
                f"{section}.num_workers: batches in flight take {size_text(size)} of shared memory, "
                f"{SHARED_MEMORY} has {size_text(free)}",
                remedy="give the container more (docker run --shm-size 8g), or lower num_workers or batch_size",
            )
    if max(wanted.values()) <= free:
        group.fact(f"{SHARED_MEMORY}: {size_text(free)} are free for {size_text(max(wanted.values()))} of batches")
