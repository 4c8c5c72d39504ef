"""A dark copy of a folder of videos, by the low-light camera model.

The copy holds a ledger, `darken.jsonl`: its first line has everything that the dark videos depend on besides their
sources, each further line one finished video with the digests of its source and of itself. With it a killed run
resumes, and a second run with other parameters is refused.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.core.digest import digest_file
from pipeline.core.errors import BrokenVideoError, DataError, EnvironmentProblem
from pipeline.core.files import make_folder, sync_folder, write_text_whole, writing, written_whole
from pipeline.core.progress import MapTasks, Progress, interruptible, no_progress
from pipeline.core.work_folder import take_lock
from pipeline.data.camera import CameraModel, draw_shot, video_stream
from pipeline.data.frames import Frames
from pipeline.data.names import UNREAD_SUFFIXES, VIDEO_SUFFIXES, is_image
from pipeline.videos.decoder import probe, read_frames
from pipeline.videos.locate import walk
from pipeline.videos.reader import write_video

FORMAT_VERSION = 1
LEDGER = "darken.jsonl"
DARK_SUFFIX = ".mp4"


@dataclass(frozen=True)
class Darkening:
    """What a dark copy depends on besides its sources. crf: x264's quality, which crushes the dark levels."""

    camera: CameraModel
    seed: int
    crf: int

    @property
    def header(self) -> dict[str, Any]:
        """The ledger's first line, as read back from JSON."""
        values = {"format": FORMAT_VERSION, "seed": self.seed, "crf": self.crf, "camera": asdict(self.camera)}
        header: dict[str, Any] = json.loads(json.dumps(values))
        return header


@dataclass(frozen=True)
class DarkCopy:
    """Numbers of videos written now, videos kept from an earlier run, other files copied, and images skipped."""

    written: int
    kept: int
    copied: int
    images: int


@dataclass(frozen=True)
class _Job:
    how: Darkening
    source: Path
    target: Path
    video_id: str


def darken_folder(
    source: Path,
    target: Path,
    how: Darkening,
    *,
    copy_others: bool,
    run: MapTasks,
    progress: Progress = no_progress,
) -> DarkCopy:
    """Darken every video below `source` into `target`, under the same relative name with the suffix .mp4.

    Frames keep their mean rate and their displayed size, less a last odd row or column; sound is dropped. A video's
    shot depends on the seed and its relative name without suffix. `copy_others` copies files that are neither videos
    nor images, such as annotation lists. Raises DataError at the end, with every video that could not be read; and
    before the start if there are no videos, two would get one name, the folders lie in each other, or `target` holds
    anything but this same copy.
    """
    videos, others, images = _survey(source, target)
    with _ledger(target, how) as (ledger, rows), interruptible() as stop:
        jobs = [
            _Job(how, source / name, (target / name).with_suffix(DARK_SUFFIX), name.with_suffix("").as_posix())
            for name in videos
        ]
        todo = [job for job in jobs if not _is_done(job, rows.get(job.video_id))]
        with progress("darken", len(jobs), "videos") as advance:
            advance(len(jobs) - len(todo), "", earlier=True)

            def done(job: _Job, outcome: dict[str, Any] | str) -> None:
                if isinstance(outcome, dict):
                    rows[job.video_id] = {"video_id": job.video_id, **outcome}
                    ledger.write(_line(rows[job.video_id]).encode())
                    ledger.flush()
                advance(1, job.video_id)

            outcomes = run(_darken_video, todo, name=lambda job: job.video_id, done=done, stop=stop)
    ended = zip(todo, outcomes, strict=True)
    broken = [f"{job.source}: {outcome}" for job, outcome in ended if isinstance(outcome, str)]
    copied = [_copy(source / name, target / name) for name in others] if copy_others else []
    if broken:
        raise DataError(
            f"{len(broken)} of {len(videos)} videos cannot be read and have no dark copy; the others are in {target}",
            findings=broken,
            remedy="replace or remove these files, then run the same command again: it keeps what is done",
        )
    return DarkCopy(len(todo), len(jobs) - len(todo), len(copied), images)


def _survey(source: Path, target: Path) -> tuple[list[Path], list[Path], int]:
    """Videos and other files below `source`, relative and sorted, and the number of images.

    Videos that cannot be read are among them: they would be copied as they are, bright.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    inner, outer = target.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise DataError(f"{target}: the dark copy must lie outside of {source}, and not around it")
    paths = (folder / name for folder, _, names in walk(source) for name in names)
    names = sorted(path.relative_to(source) for path in paths if path.is_file())
    videos = [name for name in names if name.name.lower().endswith((*VIDEO_SUFFIXES, *UNREAD_SUFFIXES))]
    images = [name for name in names if is_image(name.name)]
    others = [name for name in names if name not in {*videos, *images}]
    if not videos:
        hint = f"; its {len(images)} images are not darkened: make videos of them first" if images else ""
        raise DataError(f"{source}: there are no videos ({', '.join(VIDEO_SUFFIXES)}){hint}")
    by_stem: dict[Path, list[Path]] = {}
    for name in videos:
        by_stem.setdefault(name.with_suffix(""), []).append(name)
    double = [" and ".join(map(str, same)) for same in by_stem.values() if len(same) > 1]
    if double:
        raise DataError(f"{source}: videos that differ only in their suffix would get one name", findings=double)
    if Path(LEDGER) in others:
        raise DataError(f"{source}: it is itself a dark copy: it holds {LEDGER}")
    return videos, others, len(images)


@contextmanager
def _ledger(target: Path, how: Darkening) -> Iterator[tuple[BinaryIO, dict[str, Any]]]:
    """The locked ledger, open for appending, and its rows by video id; a line cut off by a kill is dropped.

    In the end it is written anew, sorted and with one row a video, whatever happened on the way.
    """
    path = target / LEDGER
    if not path.exists() and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: it exists and is no dark copy of this program", remedy="name a new folder")
    with ExitStack() as stack:
        stack.enter_context(writing(path))
        make_folder(target)
        file = stack.enter_context(path.open("ab+"))
        if not take_lock(file.fileno(), path):
            raise EnvironmentProblem(f"{target}: another process is writing it", remedy="wait for it")
        file.seek(0)
        whole, newline, _ = file.read().rpartition(b"\n")
        file.truncate(len(whole + newline))
        lines = [json.loads(line) for line in whole.splitlines()]
        if not lines:
            file.write(_line(how.header).encode())
            _sync(file)
            sync_folder(target)  # before the first video: a folder of videos without a ledger is refused
        elif lines[0] != how.header:
            differences = [
                f"{key}: {lines[0].get(key)!r}, not {value!r}"
                for key, value in how.header.items()
                if lines[0].get(key) != value
            ]
            raise DataError(
                f"{target}: it was made with other parameters",
                findings=differences,
                remedy="name a new folder, or give the same options again",
            )
        rows = {row["video_id"]: row for row in lines[1:]}
        yield file, rows
        _sync(file)
        text = "".join(map(_line, (how.header, *(rows[name] for name in sorted(rows)))))
        if text != path.read_text(encoding="utf-8"):
            write_text_whole(path, text)


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values) + "\n"


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _is_done(job: _Job, row: dict[str, Any] | None) -> bool:
    """Whether the ledger's row matches the source and the dark file as they are now."""
    return (
        row is not None
        and job.target.is_file()
        and row["source_digest"] == digest_file(job.source)
        and row["digest"] == digest_file(job.target)
    )


def _darken_video(job: _Job) -> dict[str, Any] | str:
    """The video's row for the ledger, or why it cannot be read."""
    try:
        source_digest = digest_file(job.source)
        fps = probe(job.source).fps
        if fps <= 0:
            return "it states no frame rate"
        num_frames = write_video(job.target, _dark_frames(job), fps=fps, crf=job.how.crf)
    except BrokenVideoError as error:
        return str(error)
    except OSError as error:
        if error.filename is not None and Path(error.filename) == job.source:
            return f"cannot be opened: {error.strerror}"
        raise
    return {"source_digest": source_digest, "digest": digest_file(job.target), "num_frames": num_frames}


def _dark_frames(job: _Job) -> Iterator[Frames]:
    rng = video_stream(job.how.seed, "camera", job.video_id)
    shot = draw_shot(job.how.camera, rng)
    for frame in read_frames(job.source):
        height, width = (side - side % 2 for side in frame.shape[:2])
        if not height or not width:
            raise BrokenVideoError("it is one pixel wide or high")
        yield shot.expose(frame[:height, :width], rng)


def _copy(source: Path, target: Path) -> Path:
    if not target.is_file() or not filecmp.cmp(source, target, shallow=False):
        with written_whole(target) as partial:
            shutil.copyfile(source, partial)
    return target
