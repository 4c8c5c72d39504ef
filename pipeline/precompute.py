"""The teacher's logits for every view of every training video: asked for part by part, then packed into a store.

A part, some videos with all of their views, is a task for one process; it lies whole in the work folder before the next
one begins. What the rows of a part hold depends on nothing but the videos and the teacher, so the parts' size, their
order and the number of processes do not show in the store.

Axes: N videos, V views, M teachers (here one), K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.asking import Bank, ask_views, described
from pipeline.dataset import BANK, DrawnViews, Sample
from pipeline.digest import digest_json
from pipeline.errors import DataError, StaleArtifactError
from pipeline.frames import FrameStore
from pipeline.logit_codecs import LogitCodec, PackingError
from pipeline.models import ModelFile, Recognizer, load_model
from pipeline.params import ClipParams, ViewsParams
from pipeline.row_cache import Key, RowCache, write_part
from pipeline.soft_targets import Rows, row_layout, write_store

CLIPS_PER_PART = 512

Artifact = tuple[Path, str]  # an absolute path, and the digest that is expected there


@dataclass(frozen=True)
class Asking:
    """How the teacher is asked, and where its answers go."""

    teacher: Artifact
    frames: Artifact
    folder: Path
    clip: ClipParams
    views: ViewsParams
    seed: int
    batch_size: int
    device: str
    num_workers: int


@dataclass(frozen=True)
class Part:
    """Videos that one process asks about."""

    video_ids: tuple[str, ...]
    how: Asking

    def __str__(self) -> str:
        return f"videos {self.video_ids[0]} to {self.video_ids[-1]}"


def parts_of(video_ids: Sequence[str], how: Asking) -> list[Part]:
    """Cut videos into parts of about CLIPS_PER_PART clips."""
    size = max(1, CLIPS_PER_PART // how.views.num_views)
    return [Part(tuple(video_ids[start : start + size]), how) for start in range(0, len(video_ids), size)]


def compute_part(part: Part) -> None:
    """Ask the teacher, and write the rows into the folder; raises DataError where a logit is not finite."""
    how, device = part.how, torch.device(part.how.device)
    frames = _frames(how.frames)
    views = DrawnViews(frames, how.clip, how.views, how.seed, purpose=BANK)
    bank = Bank(frames, views, how.clip, how.views.num_views, how.batch_size)
    answers = ask_views(
        [_teacher(how.teacher, device)],
        bank,
        part.video_ids,
        device=device,
        num_workers=how.num_workers,
        advance=lambda _count, _note: None,
    )
    _require_finite(answers.logits_NVMK, part.video_ids, "not finite")
    arrays = {**described(bank, part.video_ids, answers), "logits": answers.logits_NVMK}
    write_part(how.folder, Rows(part.video_ids, arrays))


def keys_of(samples: Sequence[Sample], frames: FrameStore) -> list[Key]:
    """The keys under which these videos' rows are cached."""
    digest_of = {row.video_id: row.digest for row in frames.rows}
    return [(sample.video_id, digest_of[sample.video_id]) for sample in samples]


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
            remedy="workers must see the same files under the same paths, and nothing may change them meanwhile",
        )


@dataclass
class Packing:
    """Rows of a store made from rows of the cache; what packing costs is measured on the way.

    `labels` are the class indices of the keys, for the teacher's accuracy.
    """

    cache: RowCache
    keys: Sequence[Key]
    labels: Sequence[int]
    codec: LogitCodec
    error: PackingError = field(default_factory=PackingError)
    num_correct: int = 0

    def rows(self) -> Iterator[Rows]:
        """Packed rows in the order of the keys; raises DataError for logits that are too large for the codec."""
        start = 0
        for rows in self.cache.rows(self.keys):
            logits_NVMK = rows.arrays["logits"]
            packed = self.codec.pack(logits_NVMK)
            unpacked_NVMK = self.codec.unpack(packed)
            _require_finite(unpacked_NVMK, rows.video_ids, "too large for the codec")
            labels_N11 = np.array(self.labels[start : start + len(rows)])[:, None, None]
            self.error.add(logits_NVMK, unpacked_NVMK)
            self.num_correct += int((logits_NVMK.argmax(axis=-1) == labels_N11).sum())
            start += len(rows)
            arrays = {**rows.arrays, **packed}
            layout = row_layout(self.codec, *logits_NVMK.shape[1:3])
            yield Rows(rows.video_ids, {name: arrays[name] for name in layout})

    @property
    def top1_on_views(self) -> float:
        """The teacher's accuracy on the views that were packed."""
        return round(self.num_correct / self.error.num_views, 6)

    def require_small_error(self, max_kl: float) -> None:
        """Raise DataError where the mean of KL(teacher ‖ unpacked) is above so many nats at any of the temperatures."""
        means = [total / self.error.num_views for total in self.error.kl_sums]
        findings = [
            f"at temperature {temperature:g}: {mean:.3g} nats"
            for temperature, mean in zip(PackingError.TEMPERATURES, means, strict=True)
            if mean > max_kl
        ]
        if findings:
            raise DataError(
                f"the codec {self.codec.attributes()['name']} costs more than precompute_soft_targets.max_kl, which is "
                f"{max_kl:g} nats of KL(teacher ‖ unpacked) on average:",
                findings=findings,
                remedy="set a dense codec, a larger top_k, or a larger max_kl; the logits are kept, so that the next "
                "run asks no teacher",
            )


def pack_store(
    path: Path, packing: Packing, teacher: ModelFile, attributes: Mapping[str, Any], *, max_kl: float
) -> str:
    """Write the store of one teacher into a new folder; returns its digest.

    To the given attributes come what packing costs, the teacher, and the digests of what the attributes spell out.
    Raises DataError where packing costs more than `max_kl`, or logits are too large for the codec.
    """
    whole = dict(attributes)

    def rows() -> Iterator[Rows]:
        yield from packing.rows()
        packing.require_small_error(max_kl)
        name, top1 = teacher.recognizer.architecture.name, packing.top1_on_views
        whole["teachers"] = [{"name": name, "digest": teacher.digest, "top1_on_views": top1}]
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
        num_rows=len(packing.keys),
        num_views=attributes["view_policy"]["num_views"],
        num_teachers=1,
        attributes=whole,
    )


def _require_finite(logits_NVMK: NDArray[np.float32], video_ids: Sequence[str], what: str) -> None:
    finite_N = np.isfinite(logits_NVMK).all(axis=(1, 2, 3))
    if not finite_N.all():
        raise DataError(
            f"the teacher's logits are {what} on these videos:",
            findings=[video_ids[row] for row in np.flatnonzero(~finite_N).tolist()],
            remedy="train the teacher again with a lower train_teacher.learning_rate",
        )
