"""The teacher's logits for every view of every training video, worked out part by part.

A part, some videos with all of their views, is the unit of work: it lies whole in the work folder before the next one
begins, so that a killed run goes on with the part that it was at.

Axes: N videos, V views, K classes, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.dataset import ClipDataset, DrawnViews, Sample, load_batches
from pipeline.errors import DataError, StaleArtifactError
from pipeline.models import Recognizer
from pipeline.soft_targets import Rows
from pipeline.views import pixel_digest
from pipeline.weights import load_weights, save_weights
from pipeline.work import StopCheck

CLIPS_PER_PART = 512
BATCH_SIZE = 64


@dataclass(frozen=True)
class Bank:
    """The views of the training videos that the teacher is asked about."""

    samples: Sequence[Sample]
    views: DrawnViews

    @property
    def num_views(self) -> int:
        """Views of each video."""
        return self.views.views.num_views

    def parts(self) -> list[tuple[int, int]]:
        """First and last-but-one row of each part."""
        size = max(1, CLIPS_PER_PART // self.num_views)
        return [(start, min(start + size, len(self.samples))) for start in range(0, len(self.samples), size)]


def compute_parts(
    teacher: Recognizer,
    bank: Bank,
    folder: Path,
    *,
    device: torch.device,
    num_workers: int,
    stop: StopCheck,
    advance: Callable[[int, str], None],
) -> list[Path]:
    """Write the parts that are not there yet; returns the files of all, in the order of the rows.

    `stop` raises Interrupted between two parts when the run must end. Raises DataError where a logit is not finite.
    """
    teacher = teacher.to(device).eval()
    paths = []
    for start, end in bank.parts():
        path = folder / f"part-{start:08d}.safetensors"
        if not _is_whole(path):
            _write_part(path, _compute(teacher, bank, start, end, device, num_workers))
        paths.append(path)
        advance(end - start, "")
        stop()
    return paths


def read_parts(paths: Sequence[Path]) -> Iterator[Rows]:
    """The rows of each part, with the teacher's float32 logits."""
    for path in paths:
        arrays, attributes = load_weights(path)
        yield Rows(tuple(attributes["video_ids"]), arrays["logits"], arrays["views"], arrays["pixel_digest"])


@dataclass
class Quality:
    """What packing to float16 costs, and how right the teacher is on these views; gathered part by part."""

    num_views: int = 0
    num_agreeing: int = 0
    num_correct: int = 0
    kl_sums: tuple[float, ...] = (0.0, 0.0)
    kl_max: tuple[float, ...] = (0.0, 0.0)

    TEMPERATURES = (1.0, 4.0)

    def add(self, logits_NVK: NDArray[np.float32], labels_N: NDArray[np.int64]) -> None:
        """Count in the rows of one part."""
        packed_NVK = logits_NVK.astype(np.float16).astype(np.float32)
        best_NV = logits_NVK.argmax(axis=2)
        self.num_views += best_NV.size
        self.num_agreeing += int((best_NV == packed_NVK.argmax(axis=2)).sum())
        self.num_correct += int((best_NV == labels_N[:, None]).sum())
        kl = [_kl(logits_NVK / temperature, packed_NVK / temperature) for temperature in self.TEMPERATURES]
        self.kl_sums = tuple(total + float(kl_NV.sum()) for total, kl_NV in zip(self.kl_sums, kl, strict=True))
        self.kl_max = tuple(max(most, float(kl_NV.max())) for most, kl_NV in zip(self.kl_max, kl, strict=True))

    def attributes(self) -> dict[str, object]:
        """For the store: the teacher's top-1 on its views and the codec's error, rounded to what is meaningful."""
        error: dict[str, object] = {"name": "float16", "top1_agreement": self.num_agreeing / self.num_views}
        for temperature, total, most in zip(self.TEMPERATURES, self.kl_sums, self.kl_max, strict=True):
            error[f"mean_kl_at_{temperature:g}"] = float(f"{total / self.num_views:.3g}")
            error[f"max_kl_at_{temperature:g}"] = float(f"{most:.3g}")
        return {"codec": error, "teacher_top1_on_views": round(self.num_correct / self.num_views, 6)}


def _kl(p_logits_NVK: NDArray[np.float32], q_logits_NVK: NDArray[np.float32]) -> NDArray[np.float64]:
    log_p = _log_softmax(p_logits_NVK)
    return np.asarray((np.exp(log_p) * (log_p - _log_softmax(q_logits_NVK))).sum(axis=2))


def _log_softmax(logits_NVK: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits_NVK.astype(np.float64) - logits_NVK.max(axis=2, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True)))


def _compute(teacher: Recognizer, bank: Bank, start: int, end: int, device: torch.device, num_workers: int) -> Rows:
    samples, num_views = bank.samples[start:end], bank.num_views
    dataset = ClipDataset(bank.views.frames, samples, bank.views, bank.views.clip)
    keys = [(row, number) for row in range(len(samples)) for number in range(num_views)]
    batches = iter([keys[first : first + BATCH_SIZE] for first in range(0, len(keys), BATCH_SIZE)])
    logits, digests = [], []
    with torch.inference_mode():
        for batch in load_batches(dataset, batches, num_workers=num_workers):
            digests += [pixel_digest(clip.numpy()) for clip in batch.clip_BTHWC]
            logits.append(teacher(batch.to(device).clip_BTHWC).float().cpu())
    logits_NVK = torch.cat(logits).numpy().reshape(len(samples), num_views, -1)
    views = [[bank.views.lookup(s.video_id, number)[0].row() for number in range(num_views)] for s in samples]
    _check_finite(logits_NVK, samples)
    return Rows(
        tuple(sample.video_id for sample in samples),
        logits_NVK,
        np.array(views, dtype=np.int32),
        np.array(digests, dtype=np.uint64).reshape(len(samples), num_views),
    )


def _check_finite(logits_NVK: NDArray[np.float32], samples: Sequence[Sample]) -> None:
    with np.errstate(over="ignore"):
        finite_N = np.isfinite(logits_NVK.astype(np.float16)).all(axis=(1, 2))
    if not finite_N.all():
        raise DataError(
            "the teacher's logits are not finite, or too large for float16, on these videos:",
            findings=[samples[row].video_id for row in np.flatnonzero(~finite_N).tolist()],
            remedy="train the teacher again with a lower train_teacher.learning_rate",
        )


def _write_part(path: Path, rows: Rows) -> None:
    arrays = {"logits": rows.logits_NVK, "views": rows.views_NV7, "pixel_digest": rows.pixel_digest_NV}
    save_weights(path, arrays, {"video_ids": list(rows.video_ids)})


def _is_whole(path: Path) -> bool:
    """Parts are progress, not artifacts: one that was damaged on disk is simply worked out again."""
    if not path.exists():
        return False
    try:
        load_weights(path)
    except StaleArtifactError:
        return False
    return True
