"""Is a soft-target store whole? At three depths, each including those before it.

- attributes: they are complete and agree with each other; a local store has all of its files, no other, and every
  description is as the writer writes it.
- checksums: every chunk and every row; views lie inside their videos.
- teacher: inference repeated for a sample of the videos sees the same pixels and gives the same logits.

Axes: N videos, V views, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.digest import digest_uint64
from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.progress import Advance, Progress, no_progress
from pipeline.data.frame_store import FrameStore
from pipeline.data.views import FULL_WEIGHT, NUM_VIEW_FIELDS, VIEW_POLICY_VERSION
from pipeline.distill.store import store as soft_targets
from pipeline.distill.store.attributes import is_imported
from pipeline.distill.store.rows import NO_FOLD, Rows, concatenate, outside
from pipeline.distill.store.store import (
    Examined,
    SoftTargetStore,
    description_differences,
    files_of,
    read_attributes,
)
from pipeline.models.recognizer import ModelFile
from pipeline.tools.targets.recompute import model_places, recompute, rows_of_model

Depth = Literal["attributes", "checksums", "teacher"]

CARD_NAME = "README.md"  # the one file of a store's folder that is no part of it

_CPU = torch.device("cpu")


@dataclass
class Verdict:
    """What a verification found: nothing wrong, or all that is.

    `digest` is None where the store cannot be opened; `notes` say what was not checked, and why; `teacher` is what
    `recompute` compared.
    """

    location: str
    depth: Depth
    digest: str | None = None
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_rows: int = 0
    num_unlabelled: int = 0
    num_rows_checked: int = 0
    num_rows_bad: int = 0
    num_chunks_checked: int = 0
    teacher: dict[str, float] | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "whole": self.whole}


def verify(
    location: Path | str,
    depth: Depth,
    *,
    teachers: Sequence[ModelFile] = (),
    frames: Sequence[FrameStore] = (),
    num_sampled: int = 32,
    seed: int = 0,
    device: torch.device = _CPU,
    progress: Progress = no_progress,
) -> Verdict:
    """Check a store at a path or an fsspec URL. All that is wrong is in the verdict; nothing is changed.

    The depth "teacher" runs the given teachers, one or more of the store's, each with the models of its folds, on
    `num_sampled` of its videos, drawn by `seed`, on those of the `frames` that the store names for each; the same kind
    of device gives the same bits, and `recompute.compare_logits` has what others may differ by. Raises
    EnvironmentProblem where a URL cannot be reached, ParamsError where that depth lacks teachers, models of folds or
    frames, StaleArtifactError where the frames are damaged.
    """
    verdict = Verdict(str(location), depth)
    store = _open(location, verdict)
    if store is None or depth == "attributes":
        return verdict
    if depth == "teacher":
        _require_teachers(store, teachers, frames, verdict)
    rng = np.random.default_rng([seed, digest_uint64(b"verify")])
    sample = np.sort(rng.choice(store.num_rows, size=min(num_sampled, store.num_rows), replace=False))
    with progress("checksums", store.num_rows, "rows") as advance:
        sampled = _check_rows(store, verdict, sample, advance)
    if depth == "teacher":
        _compare_teachers(store, verdict, sampled, teachers, frames, device, progress)
    return verdict


# Attributes and files


def _open(location: Path | str, verdict: Verdict) -> SoftTargetStore | None:
    """The store, if it can be opened; what is wrong with its attributes and, where it is local, its files."""
    try:
        attributes = read_attributes(location)
        if "://" not in str(location):
            verdict.findings += file_findings(Path(location), attributes)
        store = SoftTargetStore(location)
    except StaleArtifactError as error:
        named = error.findings or [str(error).partition("\n")[0]]
        verdict.findings = list(dict.fromkeys([*named, *verdict.findings]))
        verdict.notes.append("no row was read: the store cannot be opened")
        return None
    verdict.digest, verdict.num_rows, verdict.num_unlabelled = store.digest, store.num_rows, store.num_unlabelled
    return store


def file_findings(folder: Path, attributes: Mapping[str, Any]) -> list[str]:
    """Files of a local store that are missing or do not belong to it, and descriptions that are not the writer's."""
    expected = files_of(attributes)
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    findings = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    findings += [f"{name} is no part of the store" for name in sorted(found.keys() - expected.keys() - {CARD_NAME})]
    for name in sorted(expected.keys() & found.keys()):
        if found[name].stat().st_size == 0:
            findings.append(f"{name} is empty")
        elif expected[name] is not None:
            held = None
            with suppress(OSError, ValueError, RecursionError):
                held = json.loads(found[name].read_text(encoding="utf-8"))
            findings += [f"{name}: {difference}" for difference in description_differences(held, expected[name])]
    return findings


# Rows


def _check_rows(store: SoftTargetStore, verdict: Verdict, sample: NDArray[np.intp], advance: Advance) -> Rows:
    """Read every shard; returns the rows at the places in `sample`, those that are whole."""
    sampled = []
    blends = _Blends(store)
    for shard in range(store.num_shards):
        examined = store.examine_shard(shard)
        verdict.findings += examined.findings
        bad_N = examined.bad_N | _check_values(examined, store, verdict.findings)
        if store.has_blends:
            blends.add(examined.rows.take(np.flatnonzero(~bad_N)))
        places = sample[(sample >= examined.start) & (sample < examined.start + len(bad_N))] - examined.start
        sampled.append(examined.rows.take(places[~bad_N[places]]))
        verdict.num_rows_checked += len(bad_N)
        verdict.num_rows_bad += int(bad_N.sum())
        # the arrays of the layout, the ids and the row digests
        verdict.num_chunks_checked += -(-len(bad_N) // soft_targets.CHUNK_ROWS) * (len(store.file_layout) + 2)
        advance(len(bad_N), "")
    if not verdict.num_rows_bad:  # else partners may be among the rows that cannot be used
        verdict.findings += blends.findings()
    return concatenate(sampled)


def _check_values(examined: Examined, store: SoftTargetStore, findings: list[str]) -> NDArray[np.bool_]:
    """Which rows, whole as they are, hold what no store can hold."""
    arrays, video_ids = examined.rows.arrays, examined.rows.video_ids
    outside_NV = outside(arrays["views"], arrays["dark_shape"], int(store.attributes["clip"]["num_frames"]))
    wrong_N = outside_NV.any(axis=1) & ~examined.bad_N
    for row in np.flatnonzero(wrong_N):
        number = int(outside_NV[row].argmax())
        view, shape = tuple(arrays["views"][row, number].tolist()), tuple(arrays["dark_shape"][row].tolist())
        findings.append(f"{video_ids[row]}: view {number} {view} is no view of a video of {shape}")
    num_folds_M = np.array([len(teacher.get("folds", ())) for teacher in store.attributes["teachers"]])
    unknown_N = ((arrays["fold"] < NO_FOLD) | (arrays["fold"] >= num_folds_M)).any(axis=1)
    for row in np.flatnonzero(unknown_N & ~examined.bad_N & ~wrong_N):
        findings.append(
            f"{video_ids[row]}: folds {arrays['fold'][row].tolist()} of teachers that have {num_folds_M.tolist()}"
        )
        wrong_N[row] = True
    return wrong_N


class _Blends:
    """The blends of all rows, to see when all are known whether each shows a view of a video of the store."""

    def __init__(self, store: SoftTargetStore) -> None:
        clip = store.attributes["clip"]
        self._num_frames, self._size = int(clip["num_frames"]), int(clip["size"])
        self._shape_of: dict[int, list[int]] = {}  # by the digest of the id
        self._named: list[str] = []
        self._partners: list[NDArray[np.uint64]] = []
        self._numbers: list[NDArray[np.int32]] = []

    def add(self, rows: Rows) -> None:
        """Take the blends of some rows."""
        names = [digest_uint64(video_id.encode()) for video_id in rows.video_ids]
        self._shape_of.update(zip(names, rows.arrays["dark_shape"].tolist(), strict=True))
        blended_NV = rows.arrays["partner"] != 0
        empty_NV = (rows.arrays["blends"] == 0).all(axis=-1)
        # what should be empty is kept as well: it is found to be no blend
        row_M, view_M = np.nonzero(blended_NV | ~empty_NV)
        self._named += [f"{rows.video_ids[row]}: view {view}" for row, view in zip(row_M, view_M, strict=True)]
        self._partners.append(rows.arrays["partner"][row_M, view_M])
        self._numbers.append(rows.arrays["blends"][row_M, view_M])

    def findings(self) -> list[str]:
        """What is no blend, or one with a video that the store does not have, or with no view of it."""
        if not self._named:
            return []
        partners, numbers_MX = np.concatenate(self._partners), np.concatenate(self._numbers).astype(np.int64)
        shape_M3 = np.array([self._shape_of.get(partner, [0, 0, 0]) for partner in partners.tolist()], np.int32)
        weight, top, left, height, width = np.moveaxis(numbers_MX[:, NUM_VIEW_FIELDS:], -1, 0)
        wrong_M = outside(numbers_MX[:, None, :NUM_VIEW_FIELDS].astype(np.int32), shape_M3, self._num_frames)[:, 0]
        wrong_M |= (weight < 0) | (weight >= FULL_WEIGHT) | (np.minimum(top, left) < 0)
        wrong_M |= (np.minimum(height, width) < 1) | (np.maximum(top + height, left + width) > self._size)
        return [
            f"{self._named[place]} {tuple(numbers_MX[place].tolist())} is no blend with a video of the store"
            for place in np.flatnonzero(wrong_M).tolist()
        ]


# Teacher


def _require_teachers(
    store: SoftTargetStore, teachers: Sequence[ModelFile], frames: Sequence[FrameStore], verdict: Verdict
) -> None:
    """Raise ParamsError where no teacher can be run: none is given, or those of the store are other programs'."""
    imported = [f"{each['name']} {each['digest']}" for each in store.attributes["teachers"] if is_imported(each)]
    if len(imported) == store.num_teachers:
        raise ParamsError(
            f"{store.location}: its teachers cannot be run here: another program gave their logits",
            findings=imported,
            remedy="--depth checksums checks all that the store tells; whoever has the teacher can import its logits "
            "again, and `dlkdd targets diff` compares",
        )
    verdict.notes += [f"not run, since another program gave its logits: {each}" for each in imported]
    if not (teachers and frames):
        raise ParamsError("the depth teacher repeats teacher inference: it takes --teacher and --enhanced")


def _compare_teachers(
    store: SoftTargetStore,
    verdict: Verdict,
    sampled: Rows,
    teachers: Sequence[ModelFile],
    frames: Sequence[FrameStore],
    device: torch.device,
    progress: Progress,
) -> None:
    places = model_places(store)
    recorded = {digest: store.attributes["teachers"][axis]["frames"] for digest, (axis, _) in places.items()}
    verdict.findings += [
        f"teacher {given.digest} is none of the store's: {', '.join(sorted(recorded))}"
        for given in teachers
        if given.digest not in recorded
    ]
    of_store = {given.digest: given for given in teachers if given.digest in recorded}
    given_frames = {given.digest: given for given in frames}
    seen_by: list[tuple[ModelFile, FrameStore]] = []
    for digest, teacher in of_store.items():
        seen = given_frames.get(recorded[digest])
        if seen is None:
            others = ", ".join(f"{given.path} {given.digest}" for given in frames)
            verdict.findings.append(f"teachers.frames: teacher {digest} saw {recorded[digest]}, given: {others}")
        seen_by.append((teacher, seen or frames[0]))
    _require_folds(sampled, places, set(of_store))
    if seen_by:
        num_rows = sum(len(rows_of_model(sampled, places[teacher.digest])) for teacher, _ in seen_by)
        with progress("teacher", num_rows * store.num_views, "clips") as advance:
            verdict.teacher, differing = recompute(store, sampled, seen_by, device, advance)
        verdict.findings += differing
    if store.attributes["view_policy"]["version"] != VIEW_POLICY_VERSION:
        verdict.notes.append("views were not drawn again: the store's policy is of another version")


def _require_folds(sampled: Rows, places: Mapping[str, tuple[int, int]], given: set[str]) -> None:
    """Raise ParamsError where rows of a teacher that was given are of models, as those of its folds, that were not."""
    axes = {places[digest][0] for digest in given}
    missing = {digest: place for digest, place in places.items() if digest not in given and place[0] in axes}
    findings = [
        f"teacher {axis}{'' if fold == NO_FOLD else f', fold {fold}'}: {digest}, of {number} sampled videos"
        for digest, (axis, fold) in missing.items()
        if (number := len(rows_of_model(sampled, (axis, fold))))
    ]
    if findings:
        raise ParamsError(
            "the depth teacher takes all models of a teacher, which has folds",
            findings=findings,
            remedy="give --teacher once more with the folder of the folds, as models/teacher_folds, or with the file",
        )
