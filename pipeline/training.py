"""The training loop that teacher, student and baseline share, with checkpoints it goes on from bit by bit.

Training is in float32: PyTorch's bfloat16 Conv3d has wrong weight gradients on some CPUs when a clip is shorter than
the temporal kernel.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pipeline.checkpoint import load_checkpoint, save_checkpoint
from pipeline.dataset import Batch, ClipDataset, EpochPlan, Sample, UniformViews, ViewSource, in_order, load_batches
from pipeline.errors import Interrupted, ParamsError
from pipeline.frames import FrameStore
from pipeline.models import Recognizer
from pipeline.params import TrainParams
from pipeline.work import Advance, StopCheck

LossFunction = Callable[[Tensor, Batch, float], Tensor]  # logits_BK, the batch, epochs done with their fraction
Curve = list[dict[str, float]]


@dataclass(frozen=True)
class TrainingData:
    """What a network learns from, and what it is chosen on; an online teacher sees the views of `teacher_frames`."""

    frames: FrameStore
    train: Sequence[Sample]
    val: Sequence[Sample]
    source: ViewSource
    teacher_frames: FrameStore | None = None


@dataclass
class Progress:
    """Where a training stands between two steps; with weights, optimiser and random state it makes a checkpoint."""

    step: int = 0
    loss_sum: float = 0.0  # over the samples of the epoch so far
    num_correct: int = 0
    curve: Curve = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """The network with the weights of its best epoch on val, and the curve of all epochs."""

    recognizer: Recognizer
    curve: Curve
    best_epoch: int
    data_wait: float  # share of the time in which the loop waited for clips


class Trainer:
    """Trains one network; `run` does everything. AdamW, warm-up, then a cosine to zero; the best epoch on val wins.

    A checkpoint is written every `checkpoint_seconds`, and before an interrupt.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        data: TrainingData,
        params: TrainParams,
        loss: LossFunction,
        *,
        seed: int,
        device: torch.device,
        checkpoint_path: Path,
        checkpoint_seconds: float,
    ) -> None:
        self.recognizer = recognizer.to(device)
        self.data = data
        self.params = params
        self.loss = loss
        self.device = device
        self.checkpoint_path = checkpoint_path
        self.checkpoint_seconds = checkpoint_seconds
        self.plan = EpochPlan(len(data.train), params.batch_size, seed)
        self.optimizer = torch.optim.AdamW(_parameter_groups(recognizer, params.weight_decay), lr=params.learning_rate)
        self.progress = Progress()
        self.best_weights: dict[str, Tensor] = {}
        torch.manual_seed(seed)  # for dropout, all that is drawn outside of named streams

    def run(self, *, stop: StopCheck, advance: Advance) -> Trained:
        """Train to the end, from the checkpoint where there is one.

        `stop` raises Interrupted when the run must end: then the progress is saved first. `advance` is told of every
        step. Raises ParamsError when the loss or a gradient is not finite.
        """
        self._load_checkpoint()
        progress, epochs = self.progress, self.params.epochs
        if progress.step:
            advance(progress.step, "from the checkpoint", earlier=True)
        clip = self.recognizer.architecture.clip
        data = self.data
        dataset = ClipDataset(data.frames, data.train, data.source, clip, data.teacher_frames)
        batches = self.plan.batches_from(progress.step, epochs)
        started = saved = waiting_since = time.monotonic()
        waited = 0.0
        for batch in load_batches(dataset, batches, num_workers=self.params.num_workers):
            waited += time.monotonic() - waiting_since
            self._step(batch)
            if progress.step % self.plan.steps_per_epoch == 0:
                self._end_epoch()
            advance(1, _note(progress))
            saved = self._save_when_due(saved, stop)
            waiting_since = time.monotonic()
        self.recognizer.load_state_dict(self.best_weights)
        best_epoch = max(range(epochs), key=lambda epoch: _rank(progress.curve[epoch]))
        data_wait = waited / max(time.monotonic() - started, 1e-9)
        return Trained(self.recognizer.cpu().eval(), progress.curve, best_epoch, data_wait)

    def _step(self, batch: Batch) -> None:
        progress, params = self.progress, self.params
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(progress.step, self.plan.steps_per_epoch, params)
        self.recognizer.train()
        batch = batch.to(self.device)
        logits_BK = self.recognizer(batch.clip_BTHWC)
        loss = self.loss(logits_BK, batch, progress.step / self.plan.steps_per_epoch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.recognizer.parameters(), params.clip_grad_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise ParamsError(
                f"step {progress.step}: the loss is {loss.item()}, the norm of its gradient {norm.item()}; its videos:",
                findings=batch.video_ids,
                remedy="lower learning_rate; if it happens again, look at these videos",
            )
        self.optimizer.step()
        progress.step += 1
        progress.loss_sum += loss.item() * len(batch.labels_B)
        progress.num_correct += int((logits_BK.argmax(dim=1) == batch.labels_B).sum())

    def _end_epoch(self) -> None:
        progress, num_train = self.progress, len(self.data.train)
        val_loss, val_top1 = self._validate()
        row = {
            "epoch": progress.step // self.plan.steps_per_epoch - 1,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": progress.loss_sum / num_train,
            "train_top1": progress.num_correct / num_train,
            "val_loss": val_loss,
            "val_top1": val_top1,
        }
        if not progress.curve or _rank(row) > max(map(_rank, progress.curve)):
            self.best_weights = {name: value.clone() for name, value in self.recognizer.state_dict().items()}
        progress.curve.append(row)
        progress.loss_sum, progress.num_correct = 0.0, 0

    def _validate(self) -> tuple[float, float]:
        """Mean cross-entropy and top-1 over the middle clip of every val video."""
        frames, val = self.data.frames, self.data.val
        clip = self.recognizer.architecture.clip
        dataset = ClipDataset(frames, val, UniformViews(frames, clip, num_clips=1), clip)
        keys = in_order(len(val), 1, 2 * self.params.batch_size)
        loss_sum, num_correct = 0.0, 0
        self.recognizer.eval()
        with torch.inference_mode():
            for batch in load_batches(dataset, keys, num_workers=0):
                there = batch.to(self.device)
                logits_BK = self.recognizer(there.clip_BTHWC)
                loss_sum += torch.nn.functional.cross_entropy(logits_BK, there.labels_B, reduction="sum").item()
                num_correct += int((logits_BK.argmax(dim=1) == there.labels_B).sum())
        return loss_sum / len(val), num_correct / len(val)

    def _save_when_due(self, saved: float, stop: StopCheck) -> float:
        """Save now and then, and before an interrupt goes on its way; returns when it was saved last."""
        try:
            stop()
        except Interrupted:
            self._save_checkpoint()
            raise
        if time.monotonic() - saved < self.checkpoint_seconds:
            return saved
        self._save_checkpoint()
        return time.monotonic()

    def _save_checkpoint(self) -> None:
        state = {
            "progress": asdict(self.progress),
            "weights": self.recognizer.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "random_state": torch.get_rng_state(),
            "cuda_random_states": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        save_checkpoint(self.checkpoint_path, state)

    def _load_checkpoint(self) -> None:
        state = load_checkpoint(self.checkpoint_path)
        if state is None:
            return
        self.progress = Progress(**state["progress"])
        self.recognizer.load_state_dict(state["weights"])
        self.best_weights = {name: value.to(self.device) for name, value in state["best_weights"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random_state"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["cuda_random_states"])


def learning_rate(step: int, steps_per_epoch: int, params: TrainParams) -> float:
    """Linear warm-up over warmup_epochs, then a cosine from learning_rate to zero at the end of the last epoch."""
    warmup, total = params.warmup_epochs * steps_per_epoch, params.epochs * steps_per_epoch
    if step < warmup:
        return params.learning_rate * (step + 1) / (warmup + 1)
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def _parameter_groups(recognizer: Recognizer, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels; none for biases and the scales of normalisations; frozen ones left out."""
    parameters = [parameter for parameter in recognizer.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def _rank(row: dict[str, float]) -> tuple[float, float]:
    """Epochs by val top-1; the lower loss breaks ties."""
    return row["val_top1"], -row["val_loss"]


def _note(progress: Progress) -> str:
    if not progress.curve:
        return ""
    row = progress.curve[-1]
    return (
        f"epoch {row['epoch']:.0f}: loss {row['train_loss']:.3f}, "
        f"top-1 {row['train_top1']:.1%}, val top-1 {row['val_top1']:.1%}"
    )
