"""The teachers' logits for every view of every video to learn from: computed part by part, then packed into a store.

A part, some videos with all of their views for one teacher, is a task for one process, and whole in the teacher's work
folder before that process begins the next. A row depends on nothing but its video and the teacher, so the store is the
same for any size and order of parts and any number of processes.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.digest import digest_json
from pipeline.core.errors import DataError, ParamsError, StaleArtifactError
from pipeline.core.params import ClipParams, PrecomputeSoftTargetsParams, ViewsParams
from pipeline.data.dataset import BANK, DrawnViews, UniformViews, ViewSource
from pipeline.data.frame_store import FrameStore
from pipeline.data.listing import NO_LABEL
from pipeline.data.views import NOT_MIXED, Partners, named_views
from pipeline.distill.store.certainty import Certainty
from pipeline.distill.store.codecs import CodecLoss, LogitCodec, codec_of
from pipeline.distill.store.rows import NO_FOLD, MainLabels, Rows, concatenate, join_teachers, row_layout
from pipeline.distill.store.store import write_store
from pipeline.distill.teacher.bank import Bank, bank_arrays, infer_views
from pipeline.distill.teacher.row_cache import PARTNERS, Key, RowCache, write_part
from pipeline.models.recognizer import Recognizer, load_model

CLIPS_PER_PART = 512  # some seconds on a CPU
ON_GPU = 16  # times as many: each part starts data loader processes of its own
VAL = "val"  # the split, and in a teacher's folder that of its outputs for it: their rows have another length
_ROWS_AT_ONCE = 512  # packed; a fixed number, since what they cost is summed in floats, in this order

Artifact = tuple[Path, str]  # an absolute path, and the digest that is expected there


@dataclass(frozen=True)
class TeacherInference:
    """How the inference of one teacher runs, and where its outputs go."""

    name: str  # for messages
    teacher: Artifact
    frames: Artifact
    folder: Path
    clip: ClipParams
    views: ViewsParams | None  # None: one in the middle of each video, as a validation's
    seed: int
    batch_size: int
    device: str
    num_workers: int

    @property
    def num_views(self) -> int:
        """Of each video."""
        return 1 if self.views is None else self.views.num_views

    def view_source(self, frames: FrameStore, partners: Partners) -> ViewSource:
        """The views that the teacher sees; partners: of those that are blends."""
        if self.views is None:
            return UniformViews(frames, self.clip, num_clips=1)
        return DrawnViews(frames, self.clip, self.views, self.seed, BANK, partners)


@dataclass(frozen=True)
class Part:
    """Videos for one task; partners: of these, where views are mixed."""

    video_ids: tuple[str, ...]
    how: TeacherInference
    partners: Partners = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.how.name}: videos {self.video_ids[0]} to {self.video_ids[-1]}"


def parts_of(video_ids: Sequence[str], how: TeacherInference, partners: Partners = NOT_MIXED) -> list[Part]:
    """Cut videos into parts of about CLIPS_PER_PART clips of the device; partners: empty where views are not mixed."""
    num_clips = CLIPS_PER_PART * (ON_GPU if torch.device(how.device).type == "cuda" else 1)
    size = max(1, num_clips // how.num_views)
    parts = [tuple(video_ids[start : start + size]) for start in range(0, len(video_ids), size)]
    return [Part(ids, how, {name: partners[name] for name in ids} if partners else NOT_MIXED) for ids in parts]


def compute_part(part: Part) -> tuple[str, ...]:
    """Run the teacher on a part and write its rows into the folder, but none of videos with logits that are not finite.

    Returns those videos, each with its views, in words that begin with the teacher.
    """
    how, device = part.how, torch.device(part.how.device)
    frames = _frames(how.frames)
    teacher = _teacher(how.teacher, device)
    views, teacher_clip = how.view_source(frames, part.partners), teacher.architecture.clip
    mixed = bool(part.partners)
    bank = Bank(frames, views, how.clip, teacher_clip, how.num_views, how.batch_size, mixed)
    outputs = infer_views(
        teacher,
        bank,
        part.video_ids,
        device=device,
        num_workers=how.num_workers,
        advance=lambda _count, _note: None,
    )
    logits_NVMK = outputs.logits_NVK[:, :, None]
    finite_NV = _finite(logits_NVMK)
    finite_N = finite_NV.all(axis=1)
    arrays = {**bank_arrays(bank, part.video_ids, outputs), "logits": logits_NVMK}
    if mixed:
        keys = keys_of(part.video_ids, frames, part.partners)
        arrays[PARTNERS] = np.array([list(bytes.fromhex(of_partners)) for *_, of_partners in keys], np.uint8)
    rows = Rows(part.video_ids, arrays)
    if finite_N.any():
        write_part(how.folder, rows.take(np.flatnonzero(finite_N)))
    return tuple(f"{how.name}, {video}" for video in named_views(part.video_ids, ~finite_NV))


def refuse_not_finite(videos: Sequence[str]) -> None:
    """Raise DataError where there are videos, named by `compute_part`, of which a logit is not finite."""
    if videos:
        raise DataError(
            f"a teacher's logits are not finite on {len(videos)} videos:",
            findings=videos,
            remedy="train the teacher again with a lower train_teacher.learning_rate",
        )


def keys_of(video_ids: Sequence[str], frames: FrameStore, partners: Partners = NOT_MIXED) -> list[Key]:
    """The keys under which these videos' rows are cached."""
    digest_of = {row.video_id: row.digest for row in frames.rows}

    def of_partners(video_id: str) -> str:
        return digest_json([name and [name, digest_of[name], *frames.shape(name)] for name in partners[video_id]])

    return [
        (video_id, digest_of[video_id], frames.shape(video_id), of_partners(video_id) if partners else "")
        for video_id in video_ids
    ]


@lru_cache(maxsize=1)
def _teacher(teacher: Artifact, device: torch.device) -> Recognizer:
    model = load_model(teacher[0])
    _require_unchanged(teacher, model.digest)
    return model.recognizer.to(device)


@lru_cache(maxsize=1)
def _frames(frames: Artifact) -> FrameStore:
    store = FrameStore(frames[0])
    _require_unchanged(frames, store.digest)
    return store


def _require_unchanged(artifact: Artifact, found: str) -> None:
    path, expected = artifact
    if found != expected:
        raise StaleArtifactError(
            f"{path}: has another digest here, {found}, than where the stage began, {expected}",
            remedy="workers must see the same files under the same paths, and nothing may change them during the run",
        )


class TeacherRows(Protocol):
    """Rows of one teacher, with `logits` (N, V, M, K) float32, in the order of the videos."""

    @property
    def video_ids(self) -> Sequence[str]: ...  # noqa: D102

    def rows(self, start: int, stop: int) -> Rows: ...  # noqa: D102


@dataclass(frozen=True)
class CachedTeacher:
    """The rows of one teacher: where they are cached, and the keys of those to pack, in the order of the videos.

    Rows of videos in `fold_of` are those of a fold's model, each of which has a cache in `folds`.
    """

    cache: RowCache
    keys: Sequence[Key]
    folds: Sequence[RowCache] = ()
    fold_of: Mapping[str, int] = field(default_factory=dict)

    @property
    def video_ids(self) -> Sequence[str]:
        """Of all rows."""
        return [key[0] for key in self.keys]

    def missing(self, fold: int = NO_FOLD) -> list[str]:
        """The videos whose rows the teacher, or a fold's model, has still to compute."""
        cache = self.cache_of(fold)
        return [key[0] for key in self.keys if self._fold(key) == fold and key not in cache]

    def refresh(self) -> None:
        """Find the rows that were computed since."""
        for cache in (self.cache, *self.folds):
            cache.refresh()

    def rows(self, start: int, stop: int) -> Rows:
        """The rows of some of the keys, in their order."""
        keys = self.keys[start:stop]
        found = concatenate(
            [rows for fold, those in groupby(keys, key=self._fold) for rows in self.cache_of(fold).rows(those)]
        )
        fold_NM = np.array([[self._fold(key)] for key in keys], dtype="<i2")
        return Rows(found.video_ids, {**found.arrays, "fold": fold_NM})

    def remove_others(self) -> None:
        """Remove the cached files that hold none of these rows."""
        for fold in range(NO_FOLD, len(self.folds)):
            self.cache_of(fold).remove_others(key for key in self.keys if self._fold(key) == fold)

    def _fold(self, key: Key) -> int:
        return self.fold_of.get(key[0], NO_FOLD)

    def cache_of(self, fold: int) -> RowCache:
        """Where the rows of the teacher, or of a fold's model, are cached."""
        return self.cache if fold == NO_FOLD else self.folds[fold]

    def logits(self) -> NDArray[np.float32]:
        """The first view's logits_NK, in the order of the videos."""
        rows = concatenate(list(self.cache.rows(self.keys)))
        return np.asarray(rows.arrays["logits"][:, 0, 0])


@dataclass
class Packing:
    """Packs rows of the teachers' caches into rows of a store, and measures what that costs.

    All teachers have the same videos; `labels` are these videos' class indices, for the teachers' accuracy. mixed_at:
    where some views are blends, the size of the clip that views are drawn for.
    """

    teachers: Sequence[TeacherRows]
    labels: Sequence[int]
    codec: LogitCodec
    mixed_at: int | None = None
    error: CodecLoss = field(default_factory=CodecLoss)
    certainty: Certainty = field(default_factory=Certainty)
    num_labelled: int = 0  # views
    too_large: list[str] = field(default_factory=list)  # videos and views of logits that the codec's type cannot hold

    def __post_init__(self) -> None:
        self.num_correct_M = np.zeros(len(self.teachers), dtype=np.int64)

    def rows(self) -> Iterator[Rows]:
        """Packed rows in the order of the videos."""
        for start in range(0, len(self.labels), _ROWS_AT_ONCE):
            rows = join_teachers([teacher.rows(start, start + _ROWS_AT_ONCE) for teacher in self.teachers])
            logits_NVMK = rows.arrays["logits"]
            packed = self.codec.pack(logits_NVMK)
            unpacked_NVMK = self.codec.unpack(packed)
            finite_NV = _finite(unpacked_NVMK)
            finite_N = finite_NV.all(axis=1)
            self.too_large += named_views(rows.video_ids, ~finite_NV)
            if finite_N.any():
                self.error.add(logits_NVMK[finite_N], unpacked_NVMK[finite_N])
                self.certainty.add(logits_NVMK[finite_N].mean(axis=2))  # as a student takes them, by default
            labels_NV = self._main_labels.of(rows)
            self.num_correct_M += (logits_NVMK.argmax(axis=-1) == labels_NV[:, :, None]).sum(axis=(0, 1))
            self.num_labelled += int((labels_NV != NO_LABEL).sum())
            arrays = {**rows.arrays, **packed}
            layout = row_layout(self.codec, *logits_NVMK.shape[1:3], mixed=self.mixed_at is not None)
            yield Rows(rows.video_ids, {name: arrays[name] for name in layout})

    @cached_property
    def _main_labels(self) -> MainLabels:
        of_video = dict(zip(self.teachers[0].video_ids, self.labels, strict=True))
        return MainLabels(of_video, self.mixed_at or 0)  # without blends no size is looked at

    @property
    def top1_on_views(self) -> list[float]:
        """Each teacher's accuracy on the views that were packed and have a label."""
        return [round(num_correct / self.num_labelled, 6) for num_correct in self.num_correct_M.tolist()]

    def require_small_error(self, max_kl: float) -> None:
        """Raise DataError where the codec cannot hold some logits, or costs too much.

        That is where the mean of KL(teacher ‖ unpacked) is above so many nats at any of the temperatures.
        """
        if self.too_large:
            raise DataError(
                f"a teacher's logits are too large for the codec {self.codec.attributes()['name']} on "
                f"{len(self.too_large)} videos:",
                findings=self.too_large,
                remedy="set precompute_soft_targets.codec to float32, which needs no new teacher inference, or train "
                "the teacher with a lower train_teacher.learning_rate",
            )
        means = [total / self.error.num_views for total in self.error.kl_sums]
        findings = [
            f"at temperature {temperature:g}: {mean:.3g} nats"
            for temperature, mean in zip(CodecLoss.TEMPERATURES, means, strict=True)
            if mean > max_kl
        ]
        if findings:
            raise DataError(
                f"the codec {self.codec.attributes()['name']} costs more than precompute_soft_targets.max_kl, which is "
                f"{max_kl:g} nats of KL(teacher ‖ unpacked) on average:",
                findings=findings,
                remedy="set a dense codec, a larger top_k, or a larger max_kl; the logits are kept: the next run "
                "needs no teacher inference",
            )


def chosen_codec(options: PrecomputeSoftTargetsParams, num_classes: int) -> LogitCodec:
    """The codec of the parameters; raises ParamsError where it does not go with so many classes."""
    try:
        return codec_of({"name": options.codec, "k": options.top_k}, num_classes)
    except ValueError as error:
        raise ParamsError(
            f"precompute_soft_targets: {error}", remedy="choose the codec float16, or a smaller top_k"
        ) from None


def pack_store(path: Path, packing: Packing, attributes: Mapping[str, Any], *, max_kl: float) -> str:
    """Write the store of all teachers into a new folder; returns its digest.

    To the given attributes come what packing costs, the teachers' accuracies, and the digests of what the attributes
    spell out. Raises DataError where packing costs more than `max_kl`, or logits are too large for the codec.
    """
    whole = dict(attributes)

    def rows() -> Iterator[Rows]:
        yield from packing.rows()
        packing.require_small_error(max_kl)
        accuracies = zip(attributes["teachers"], packing.top1_on_views, strict=True)
        whole["teachers"] = [{**teacher, "top1_on_views": top1} for teacher, top1 in accuracies]
        whole["codec_error"] = packing.error.attributes()

    whole["digests"] = {
        **attributes["digests"],
        "class_names": digest_json(attributes["class_names"]),
        "view_policy": digest_json(attributes["view_policy"]),
    }
    return write_store(
        path,
        rows(),
        codec=packing.codec,
        num_rows=len(packing.labels),
        num_views=attributes["view_policy"]["num_views"],
        num_teachers=len(packing.teachers),
        attributes=whole,
    )


def _finite(logits_NVMK: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(logits_NVMK).all(axis=(2, 3)))
