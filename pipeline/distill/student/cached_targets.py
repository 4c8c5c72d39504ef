"""The soft targets of one training: the rows of its videos, where all data loader processes share them.

Packed as in the store, in a few flat arrays: in memory where they are within the budget, else in files of the work
folder that are mapped into memory. No Python object is kept for a row, so nothing is copied into a forked process.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.core.digest import digest_file, digest_json, digest_uint64
from pipeline.core.errors import StaleArtifactError
from pipeline.core.files import write_text_whole, written_whole
from pipeline.data.frame_store import FrameStore
from pipeline.data.views import AnyView, BlendedView, View, blend_of_row, named_views
from pipeline.distill.store.codecs import LogitCodec
from pipeline.distill.store.rows import OF_VIEWS, Rows, outside
from pipeline.distill.store.store import SoftTargetStore

Teachers = Literal["mean", "draw", "weighted"]

REMEDY = "`dvc repro precompute_soft_targets` makes a store for this run"

_IDS = "video_ids"  # in UTF-8, which sorts as the texts do
_NO_PARTNER = -1  # `partner` has rows of these arrays here
_CONTENTS = "contents.json"  # written last: what the files hold, with their digests


@dataclass(frozen=True)
class CachedTargets:
    """Views of videos with the teachers' logits; a ViewSource.

    Of several teachers, `mean` gives the mean of their logits: the softmax of that, at any temperature, is the
    normalised geometric mean of their probabilities. `draw` gives the logits of one, drawn by name for each clip:
    cross-entropy being linear in its target, the expected gradient is that of the arithmetic mean of their
    probabilities. Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015, name both means.
    `weighted` gives the mean by the weights that the store was given on val.
    """

    codec: LogitCodec
    teachers: Teachers
    seed: int
    weights: tuple[float, ...]  # of the teachers, for `weighted`; empty where the store has none
    folder: Path | None  # of the mapped files; None: in memory
    arrays: Mapping[str, NDArray[Any]]

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is None:
            return CachedTargets, (self.codec, self.teachers, self.seed, self.weights, None, self.arrays)
        return _mapped, (self.codec, self.teachers, self.seed, self.weights, self.folder)

    def lookup(self, video_id: str, number: int) -> tuple[AnyView, NDArray[np.float32]]:
        """View `number` modulo V, and its logits_K; raises KeyError for a video that was not loaded."""
        row = self._row(video_id)
        views_V7 = self.arrays["views"][row]
        view = number % len(views_V7)
        logits_MK = self.codec.unpack({name: self.arrays[name][row, view] for name in self.codec.arrays()})
        if self.teachers == "mean":
            logits_K = logits_MK.mean(axis=0)
        elif self.teachers == "weighted":
            logits_K = np.average(logits_MK, axis=0, weights=self.weights).astype(np.float32)
        else:
            rng = np.random.default_rng([self.seed, digest_uint64(b"teacher", b"\0", video_id.encode()), number])
            logits_K = logits_MK[rng.integers(len(logits_MK))]
        return self._view(row, view), logits_K

    def _view(self, row: int, view: int) -> AnyView:
        own = View(*self.arrays["views"][row, view].tolist())
        partner = self.arrays["partner"][row, view] if "partner" in self.arrays else _NO_PARTNER
        if partner == _NO_PARTNER:
            return own
        name = self.arrays[_IDS][partner].decode()
        return BlendedView(own, blend_of_row(name, self.arrays["blends"][row, view].tolist()))

    def _row(self, video_id: str) -> int:
        ids, name = self.arrays[_IDS], video_id.encode()
        row = int(np.searchsorted(ids, name))
        if row == len(ids) or ids[row] != name:
            raise KeyError(video_id)
        return row


def differences(store: SoftTargetStore, wanted: Mapping[str, object]) -> list[str]:
    """Where a run declares something else than the store was made from, with both values.

    `wanted` maps attributes to values: `class_names`, `clip`, `digests.manifest` and so on; `teachers.name`,
    `teachers.digest` and `teachers.frames` must be those of one of the store's teachers.
    """
    attributes = store.attributes
    held = {
        **attributes,
        **{f"digests.{name}": digest for name, digest in attributes["digests"].items()},
        **{
            f"teachers.{field}": [teacher[field] for teacher in attributes["teachers"]]
            for field in ("name", "digest", "frames")
        },
    }

    def text(value: object) -> str:
        return json.dumps(value, sort_keys=True)

    return [
        f"{name}: the store has {text(held.get(name))}, this run {text(value)}"
        for name, value in wanted.items()
        if not (value in held[name] if name.startswith("teachers.") else value == held.get(name))
    ]


def load_targets(
    store: SoftTargetStore,
    video_ids: Iterable[str],
    *,
    memory_bytes: int,
    folder: Path,
    teachers: Teachers,
    seed: int,
    frames: FrameStore | None = None,
    findings: Sequence[str] = (),
) -> CachedTargets:
    """The rows of these videos: in memory, or in files of `folder` where they take more than `memory_bytes`.

    Only shards that hold some of the videos are read, each once and checked. Files of an earlier run are used again
    where they are whole and of the same store and videos. With `frames` the views must fit these videos: number of
    frames, height and width are compared, and no view leaves its video. Raises one StaleArtifactError with the caller's
    `findings`, the weights that `weighted` lacks, the videos that do not fit, the missing ones, and those blended with
    one that is not among these.
    """
    weights = _weights(store)
    if teachers == "weighted" and not weights:
        lacking = f"the store has no weights of its {store.num_teachers} teachers, as one that was merged"
        findings = [*findings, f"soft_targets.teachers is weighted: {lacking}; mean and draw need none"]
    wanted = sorted(set(video_ids))
    shapes = _array_shapes(store, wanted)
    if sum(dtype.itemsize * math.prod(shape) for shape, dtype in shapes.values()) <= memory_bytes:
        arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in shapes.items()}
        filled = dict.fromkeys(arrays, 0)
        for part in _parts(store, wanted, frames, findings):
            for name, array in part.items():
                arrays[name][filled[name] : filled[name] + len(array)] = array
                filled[name] += len(array)
        return CachedTargets(store.codec, teachers, seed, weights, None, arrays)
    contents = {
        "store": store.digest,
        "videos": digest_json([[video_id, *(frames.shape(video_id) if frames else ())] for video_id in wanted]),
    }
    if findings or not _is_whole(folder, contents, shapes):
        with ExitStack() as stack:
            files = {name: _new_file(stack, folder, name, *described) for name, described in shapes.items()}
            for part in _parts(store, wanted, frames, findings):
                for name, array in part.items():
                    files[name].write(np.ascontiguousarray(array, shapes[name][1]).data)
        digests = {name: digest_file(_file(folder, name)) for name in shapes}
        write_text_whole(folder / _CONTENTS, json.dumps({**contents, "digests": digests}, indent=1))
    return _mapped(store.codec, teachers, seed, weights, folder)


def _weights(store: SoftTargetStore) -> tuple[float, ...]:
    """Of the teachers; none where the store has none."""
    if store.num_teachers == 1:
        return (1.0,)
    return tuple(teacher["weight"] for teacher in store.attributes["teachers"] if "weight" in teacher)


def _array_shapes(store: SoftTargetStore, wanted: Sequence[str]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    shapes = {name: ((len(wanted), *store.layout[name].inner), store.layout[name].dtype) for name in _names(store)}
    if "partner" in shapes:
        shapes["partner"] = (shapes["partner"][0], np.dtype("<i4"))
    longest = max((len(video_id.encode()) for video_id in wanted), default=1)
    return {_IDS: ((len(wanted),), np.dtype(f"S{longest}")), **shapes}


def _names(store: SoftTargetStore) -> list[str]:
    """The arrays that a student needs."""
    return [name for name in store.layout if name in OF_VIEWS or name in store.codec.arrays()]


def _parts(
    store: SoftTargetStore, wanted: Sequence[str], frames: FrameStore | None, findings: Sequence[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """The arrays of wanted rows, shard by shard; ends with the error where there are findings."""
    missing = set(wanted)
    others: list[str] = []
    place_of = {
        digest_uint64(video_id.encode()): row for row, video_id in enumerate(wanted if store.has_blends else ())
    }
    for shard in store.shards_of(wanted):
        rows = store.read_shard(shard)
        rows = rows.take([row for row, video_id in enumerate(rows.video_ids) if video_id in missing])
        missing.difference_update(rows.video_ids)
        others += [] if frames is None else _unfit(rows, frames, int(store.attributes["clip"]["num_frames"]))
        packed = {name: rows.arrays[name] for name in _names(store)}
        if store.has_blends:
            packed["partner"] = _rows_of_partners(rows, place_of, others)
        yield {_IDS: np.array([video_id.encode() for video_id in rows.video_ids], np.bytes_), **packed}
    lacking = [f"lacks {len(missing)} of the {len(wanted)} videos:"] if missing else []
    findings = [*findings, *others, *lacking, *sorted(missing)]
    if findings:
        raise StaleArtifactError(f"{store.location}: does not fit this run", findings=findings, remedy=REMEDY)


def _rows_of_partners(rows: Rows, place_of: Mapping[int, int], findings: list[str]) -> NDArray[np.int32]:
    """The row (N, V) that each view's partner has among those that are loaded, or _NO_PARTNER."""
    lost = -2
    partner_NV = rows.arrays["partner"]
    places = {0: _NO_PARTNER, **place_of}
    place_NV = np.array([places.get(partner, lost) for partner in partner_NV.ravel().tolist()], np.int32)
    place_NV = place_NV.reshape(partner_NV.shape)
    findings += [
        f"{video}: blended with a video that is none of these"
        for video in named_views(rows.video_ids, place_NV == lost)
    ]
    return place_NV


def _unfit(rows: Rows, frames: FrameStore, num_frames: int) -> list[str]:
    """The videos of another shape, and those with views that leave them; num_frames: of a clip."""
    left_N = np.asarray(outside(rows.arrays["views"], rows.arrays["dark_shape"], num_frames).any(axis=1))
    findings = []
    for video_id, shape, left in zip(rows.video_ids, rows.arrays["dark_shape"].tolist(), left_N, strict=True):
        if tuple(shape) != frames.shape(video_id):
            findings.append(
                f"{video_id}: the store has frames, height, width {tuple(shape)}, this run {frames.shape(video_id)}"
            )
        elif left:
            findings.append(f"{video_id}: has views that leave the video; `dlkdd targets verify` names them")
    return findings


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _new_file(stack: ExitStack, folder: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> IO[bytes]:
    """An array's file with its header; whole and durable when the stack is left.

    Written, not mapped: on a full disk writing to a mapping kills the process.
    """
    partial = stack.enter_context(written_whole(_file(folder, name)))
    file = stack.enter_context(partial.open("wb"))
    np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return file


def _is_whole(folder: Path, contents: Mapping[str, str], names: Iterable[str]) -> bool:
    try:
        found = json.loads((folder / _CONTENTS).read_text(encoding="utf-8"))
        digests = found.pop("digests")
        return bool(found == contents) and all(digest_file(_file(folder, name)) == digests[name] for name in names)
    except (OSError, ValueError, KeyError):
        return False


def _mapped(
    codec: LogitCodec, teachers: Teachers, seed: int, weights: tuple[float, ...], folder: Path
) -> CachedTargets:
    names = json.loads((folder / _CONTENTS).read_text(encoding="utf-8"))["digests"]
    arrays = {name: np.asarray(np.load(_file(folder, name), mmap_mode="r")) for name in names}
    return CachedTargets(codec, teachers, seed, weights, folder, arrays)
