"""Two or more soft-target stores made one: several teachers over the same views, or the rows of different videos.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.progress import Progress, no_progress
from pipeline.data.frame_store import FrameStore
from pipeline.data.listing import TAUGHT, UNLABELLED
from pipeline.data.manifest import Manifest
from pipeline.distill.store.rows import Rows, concatenate, join_teachers, unlike_views
from pipeline.distill.store.store import SoftTargetStore, write_store

_REMEDY = "`dlkdd targets diff` shows two stores side by side"

# What both kinds of merge need to be the same, and what each needs beyond that
_COMMON = ("class_names", "clip", "view_policy", "batch_size", "codec", "num_views")
_ENSEMBLE = ("num_rows", "digests.manifest", "digests.dark")


def merge_teachers(stores: Sequence[SoftTargetStore], path: Path, *, progress: Progress = no_progress) -> str:
    """Write an ensemble: the teachers of all stores, in their order, over the views that all have; returns its digest.

    The teachers may have seen different lights. Raises StaleArtifactError with all that differs: the stores must have
    the same dark videos, views and codec.
    """
    teachers = [_without_weight(teacher) for store in stores for teacher in store.attributes["teachers"]]
    digests = [digest for teacher in teachers for digest in (teacher["digest"], *teacher.get("folds", ()))]
    twice = sorted({digest for digest in digests if digests.count(digest) > 1})
    _refuse(
        [
            *_differences(stores, (*_COMMON, *_ENSEMBLE)),
            *(f"teacher {digest} is in more than one store" for digest in twice),
        ]
    )

    def rows() -> Iterator[Rows]:
        differing: list[str] = []
        with progress("merge", stores[0].num_rows, "rows") as advance:
            for parts in blocks(stores):
                differing += _unlike(parts)
                if not differing:
                    joined = join_teachers(parts)
                    differing += _unlike_pixels(joined, [teacher["clip"] for teacher in teachers])
                    yield joined
                advance(len(parts[0]), "")
        _refuse(differing)

    known = [store.attributes["digests"] for store in stores if store.attributes["digests"]["dark"] is not None]
    digests = (known or [stores[0].attributes["digests"]])[0]
    changed = {"teachers": teachers, "digests": digests, **_unlabelled(stores[0].num_unlabelled)}
    return _write(path, stores, rows(), stores[0].num_rows, changed)


def merge_videos(
    stores: Sequence[SoftTargetStore],
    path: Path,
    *,
    manifest: Manifest,
    frames: Sequence[FrameStore] = (),
    progress: Progress = no_progress,
) -> str:
    """Write one store with the rows of all, whose videos are those that the manifest teaches by; returns its digest.

    The stores must be of the same teachers and views. Where they were made from different frame stores, `frames` are
    ones that hold all of their videos, bit for bit: of each teacher one, or one of all. Raises StaleArtifactError with
    all that differs, ParamsError for another number of frame stores.
    """
    findings = _differences(stores, (*_COMMON, "teachers"))
    findings += [
        f"{store.location}: its views are blends of two of its videos; over all videos others would be drawn"
        for store in stores
        if store.has_blends
    ]
    expected = [row.video_id for row in manifest.rows_of(*TAUGHT)]
    if list(manifest.class_names) != stores[0].attributes["class_names"]:
        had = stores[0].attributes["class_names"]
        findings.append(f"class_names: {stores[0].location} has {had}, the manifest {list(manifest.class_names)}")
    seen = [tuple(teacher["frames"] for teacher in store.attributes["teachers"]) for store in stores]
    if len(set(seen)) > 1 and not frames:
        every = sorted({digest for digests in seen for digest in digests})
        findings.append(f"teachers.frames: {', '.join(every)}: frame stores that hold all are needed")
    _refuse(findings)
    of_teachers = _frames_of_teachers(frames, stores[0].num_teachers)
    known = [(store.path, {row.video_id: row.digest for row in store.rows}) for store in of_teachers]

    def rows() -> Iterator[Rows]:
        wrong: list[str] = []
        start = 0
        with progress("merge", len(expected), "rows") as advance:
            for parts in blocks(stores):
                whole = concatenate([part for part in parts if len(part)])
                whole = whole.take(np.argsort(np.array(whole.video_ids), kind="stable"))
                stop = bisect_right(expected, whole.video_ids[-1])
                wrong += _unlike_manifest(whole.video_ids, expected[start:stop])
                wrong += _unlike_frames(whole, known)
                start = stop
                advance(len(whole), "")
                if not wrong:
                    yield whole
        _refuse([*wrong, *_unlike_manifest((), expected[start:])])

    dark = {store.attributes["digests"]["dark"] for store in stores}
    digests = dict(stores[0].attributes["digests"], manifest=manifest.digest)
    if of_teachers:
        digests["dark"] = of_teachers[0].origin.get("dark")
    elif len(dark) > 1:
        digests["dark"] = None
    labelled = [store.num_rows - store.num_unlabelled for store in stores]
    right = [[teacher["top1_on_views"] for teacher in store.attributes["teachers"]] for store in stores]
    teachers = [
        {**_without_weight(teacher), "top1_on_views": _mean(stores, [each[axis] for each in right], labelled)}
        for axis, teacher in enumerate(stores[0].attributes["teachers"])
    ]
    for teacher, store in zip(teachers, of_teachers, strict=False):
        teacher["frames"] = store.digest
    changed = {"teachers": teachers, "digests": digests, **_unlabelled(len(manifest.rows_of(UNLABELLED)))}
    return _write(path, stores, rows(), len(expected), changed)


def _frames_of_teachers(frames: Sequence[FrameStore], num_teachers: int) -> Sequence[FrameStore]:
    """The frames that each teacher saw; none where none are given."""
    if len(frames) not in (0, 1, num_teachers):
        raise ParamsError(
            f"--enhanced is given {len(frames)} times for {num_teachers} teachers: once, or once for each"
        )
    return frames if len(frames) != 1 else [*frames] * num_teachers


def _unlike_frames(rows: Rows, known: Sequence[tuple[Path, Mapping[str, str]]]) -> list[str]:
    """Videos of which a teacher saw other frames than a store has: its path, and the digests in it by video id."""
    wrong = []
    for axis, (path, digest_of) in enumerate(known):
        digests = rows.arrays["frames_digest"][:, axis]
        wrong += [
            f"{video_id}: {path} has not the frames that teacher {axis} saw"
            for video_id, digest in zip(rows.video_ids, digests, strict=True)
            if digest_of.get(video_id) != digest.tobytes().hex()
        ]
    return wrong


def same_videos(stores: Sequence[SoftTargetStore]) -> bool:
    """Whether merging is of teachers: the stores were made for one manifest."""
    return len({store.attributes["digests"]["manifest"] for store in stores}) == 1


def blocks(stores: Sequence[SoftTargetStore]) -> Iterator[list[Rows]]:
    """All rows of all stores side by side, with a few shards in memory.

    From one block to the next ids ascend; in each block a store may have any number of rows. Raises StaleArtifactError
    for a row that fails its checks.
    """
    shards = [map(store.read_shard, range(store.num_shards)) for store in stores]
    held = [next(each) for each in shards]
    while any(map(len, held)):
        bound = min(rows.video_ids[-1] for rows in held if len(rows))
        ends = [bisect_right(rows.video_ids, bound) for rows in held]
        yield [rows.take(slice(end)) for rows, end in zip(held, ends, strict=True)]
        for index, end in enumerate(ends):
            held[index] = held[index].take(slice(end, None))
            if not len(held[index]):
                held[index] = next(shards[index], held[index])


def _write(
    path: Path, stores: Sequence[SoftTargetStore], rows: Iterator[Rows], num_rows: int, changes: Mapping[str, Any]
) -> str:
    """Write the merged store: attributes of the first one, those that sum up all, and the changes."""
    first = stores[0]
    attributes = {
        **{name: first.attributes[name] for name in ("class_names", "clip", "view_policy", "batch_size", "digests")},
        "codec_error": _codec_error(stores),
        "merged_from": [store.digest for store in stores],
        **changes,
    }
    sizes = {"num_rows": num_rows, "num_views": first.num_views, "num_teachers": len(attributes["teachers"])}
    return write_store(path, rows, codec=first.codec, attributes=attributes, **sizes)


def _differences(stores: Sequence[SoftTargetStore], names: Sequence[str]) -> list[str]:
    """Each attribute in which the stores differ, with every value; of `teachers` also of enhancers and folds.

    Old stores do not name their dark frames: what is not named differs from nothing.
    """
    if len(stores) < 2:
        raise ParamsError("merging takes at least two stores")
    findings = []
    for name in names:
        values: list[Any] = [store.attributes[name.partition(".")[0]] for store in stores]
        if name == "teachers":
            values = [
                [(each["digest"], each["enhancer"], *each.get("folds", ())) for each in teachers] for teachers in values
            ]
        elif "." in name:
            values = [digests[name.partition(".")[2]] for digests in values]
        named = [value for value in values if value is not None]
        if any(value != named[0] for value in named):
            shown = "; ".join(f"{store.location} has {value}" for store, value in zip(stores, values, strict=True))
            findings.append(f"{name}: {shown}")
    return findings


def _refuse(findings: Sequence[str]) -> None:
    if findings:
        raise StaleArtifactError("these stores cannot be merged", findings=findings, remedy=_REMEDY)


def _unlike(parts: Sequence[Rows]) -> list[str]:
    """Rows of a block that are not of the same videos and views."""
    first = parts[0]
    if any(part.video_ids != first.video_ids for part in parts):
        names = set.union(*(set(part.video_ids) for part in parts))
        return [
            f"{name} is not in every store" for name in sorted(names) if any(name not in p.video_ids for p in parts)
        ]
    return unlike_views(parts)


def _unlike_pixels(rows: Rows, clips: Sequence[Mapping[str, int]]) -> list[str]:
    """Rows of which two teachers, of the same frames and the same geometry, saw other pixels: by another program."""
    frames, pixels = rows.arrays["frames_digest"], rows.arrays["pixel_digest"]
    differing_N = np.zeros(len(rows), dtype=bool)
    for one, other in combinations(range(len(clips)), 2):
        if clips[one] == clips[other]:
            same_frames_N = (frames[:, one] == frames[:, other]).all(axis=1)
            differing_N |= same_frames_N & (pixels[:, :, one] != pixels[:, :, other]).any(axis=1)
    return [f"{rows.video_ids[row]}: pixel_digest differs" for row in np.flatnonzero(differing_N)]


def _unlike_manifest(video_ids: Sequence[str], expected: Sequence[str]) -> list[str]:
    """Videos of the stores that are not the manifest's, are there twice, or are missing; both ascend."""
    return [
        *(f"{name} is in more than one store" for name, after in pairwise(video_ids) if name == after),
        *(f"{name} is no train video of the manifest" for name in sorted({*video_ids} - {*expected})),
        *(f"{name} is a train video of the manifest and in no store" for name in sorted({*expected} - {*video_ids})),
    ]


def _without_weight(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Weights were chosen beside other teachers, or on other val videos, than the merged store's."""
    return {name: value for name, value in teacher.items() if name not in ("weight", "top1_on_val")}


def _unlabelled(number: int) -> dict[str, int]:
    """The attribute, which stores have that have such rows."""
    return {"num_unlabelled": number} if number else {}


def _mean(stores: Sequence[SoftTargetStore], values: Sequence[float], num_rows: Sequence[int] | None = None) -> float:
    """Over the views of all stores, from the mean of each over all of its rows, or over so many."""
    counts = num_rows or [store.num_rows for store in stores]
    weights = [count * store.num_teachers for count, store in zip(counts, stores, strict=True)]
    return round(float(np.average(values, weights=weights)), 6)


def _codec_error(stores: Sequence[SoftTargetStore]) -> dict[str, Any]:
    """Largest of the largest, means weighted by the views: to the three digits that stores keep.

    At the temperatures that all have: another writer may measure at others.
    """
    errors = [store.attributes["codec_error"] for store in stores]
    weights = [store.num_rows * store.num_teachers for store in stores]
    temperatures = [key for key in errors[0]["mean_kl"] if all(key in error["mean_kl"] for error in errors)]
    return {
        "top1_agreement": _mean(stores, [error["top1_agreement"] for error in errors]),
        "mean_kl": {
            key: float(f"{np.average([error['mean_kl'][key] for error in errors], weights=weights):.3g}")
            for key in temperatures
        },
        "max_kl": {key: max(error["max_kl"][key] for error in errors) for key in temperatures},
    }
