"""What a training is given, where it stands, and what it tells while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.core.params import ClipParams
from pipeline.core.progress import Advance
from pipeline.core.tables import Curve
from pipeline.data.dataset import Sample, ViewSource
from pipeline.data.frame_store import FrameStore
from pipeline.models.recognizer import Recognizer


@dataclass(frozen=True)
class TrainingData:
    """What a network is trained and validated on; an online teacher sees the views in `teacher_frames`.

    It sees them as clips of the geometry `teacher_clip`, None: the network's. num_clips: of an epoch; None: one
    clip of each video.
    """

    frames: FrameStore
    train: Sequence[Sample]
    val: Sequence[Sample]
    source: ViewSource
    teacher_frames: FrameStore | None = None
    teacher_clip: ClipParams | None = None
    num_clips: int | None = None


@dataclass
class TrainingState:
    """Where a training stands between two steps; a checkpoint has it beside weights and optimiser."""

    step: int = 0
    loss_sum: float = 0.0  # over the samples of the epoch so far
    num_correct: float = 0.0
    num_seen: int = 0
    num_unlabelled: int = 0  # of those seen
    num_skipped: int = 0  # steps without a finite loss and gradient
    curve: Curve = field(default_factory=list)

    @property
    def top1(self) -> float:
        """Of the clips with a label."""
        return self.num_correct / max(self.num_seen - self.num_unlabelled, 1)


@dataclass(frozen=True)
class Epoch:
    """An epoch that has ended: its row of the curve, and its pace, which is no part of the result."""

    row: dict[str, float]
    clips_per_second: float
    data_wait: float  # share of the time that the loop waited for clips


EpochWriter = Callable[[Epoch], None]


@dataclass(frozen=True)
class Trained:
    """The network with the weights of its best epoch on val, and the curve of all epochs."""

    recognizer: Recognizer
    curve: Curve
    best_epoch: int
    num_skipped: int
    data_wait: float


@dataclass
class Listener:
    """Called while a training runs: `advance` after every step, `epoch` after every epoch, `warn` for skipped steps."""

    advance: Advance
    epoch: EpochWriter = lambda _epoch: None
    warn: Callable[[str], None] = lambda _message: None


@dataclass
class Pace:
    """Seconds and clips since an epoch began, or since this run did."""

    started: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    clips: int = 0

    @property
    def seconds(self) -> float:
        """Since it began."""
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def data_wait(self) -> float:
        """The share of them in which the loop waited for clips."""
        return self.waited / self.seconds


def best_epoch(curve: Curve) -> int:
    """The first of the epochs that rank highest."""
    return max(range(len(curve)), key=lambda epoch: rank_of_epoch(curve[epoch]))


def rank_of_epoch(row: dict[str, float]) -> tuple[float, float]:
    """Epochs rank by val top-1, then by the lower loss; one whose loss is not finite comes last."""
    if not math.isfinite(row["val_loss"]):
        return -1.0, 0.0
    return row["val_top1"], -row["val_loss"]


def progress_note(progress: TrainingState, pace: Pace) -> str:
    """Numbers of the epoch so far, or of the one that has just ended, and of val."""
    curve = progress.curve
    if progress.num_seen:
        loss, top1 = progress.loss_sum / progress.num_seen, progress.top1
    elif curve:
        loss, top1 = curve[-1]["train_loss"], curve[-1]["train_top1"]
    else:
        return ""
    val = f", val top-1 {curve[-1]['val_top1']:.1%}" if curve else ""
    return f"loss {loss:.3f}, top-1 {top1:.1%}{val}, waits {pace.data_wait:.1%}"
