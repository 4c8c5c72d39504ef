"""The training loop that teacher, student and baseline share; it resumes from checkpoints bit by bit.

Everything random is drawn by name: the order by (seed, epoch), a view by its video and number, dropout by (seed, step,
rank). A checkpoint therefore holds no random state, and a resumed run sees exactly what it would have seen.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.checkpoint import load_checkpoint, save_checkpoint
from pipeline.core.device import Ranks
from pipeline.core.digest import digest_uint64
from pipeline.core.errors import EnvironmentProblem, Interrupted, ParamsError
from pipeline.core.params import TrainParams
from pipeline.core.progress import StopCheck
from pipeline.data.dataset import Batch, ClipDataset, EpochPlan, UniformViews, load_batches
from pipeline.data.listing import NO_LABEL
from pipeline.models.recognizer import Recognizer
from pipeline.train.augmentation import Mix, draw_mix, light_augmentation, neighbours
from pipeline.train.execution import autocast_dtype, check_shares, wrap_model
from pipeline.train.optimization import (
    AveragedWeights,
    BatchStatistics,
    learning_rate,
    load_optimizer,
    make_optimizer,
    set_learning_rate,
    step_if,
)
from pipeline.train.state import (
    Epoch,
    Listener,
    Pace,
    Trained,
    TrainingData,
    TrainingState,
    best_epoch,
    progress_note,
    rank_of_epoch,
)
from pipeline.train.transfer import Numbers, Sender

LossFunction = Callable[[Tensor, Batch, float], Tensor]  # logits_BK, the batch, epochs done with their fraction

ONE_RANK = Ranks(0, 1)
FULL_SCALE = 1.0  # at this scale an overflow in float16 is no longer due to the scaling


@dataclass(frozen=True)
class _Made:
    """A step that was made, whose numbers may still be on their way."""

    step: int
    num_clips: int
    num_unlabelled: int
    norm: Tensor  # of its gradient
    numbers: Numbers  # on how many ranks loss or gradient was not finite, the sum of the losses, the correct clips


@dataclass(eq=False)
class Trainer:
    """Trains one network; `run` does everything. The best epoch on val wins.

    A checkpoint is written every `checkpoint_seconds`, before an interrupt, and at the end if somebody waits to go on
    from it. With several `ranks` each sees its share of every batch; gradients, batch statistics and validation are
    those of all ranks. Raises ParamsError for a precision that the device cannot train in, and for batches that are too
    small to be shared.

    With `ahead` the loop is a step ahead of the numbers that it reads, and the device never waits for it: the device
    itself leaves out a step that is not finite, but for averaged weights, which move towards the same weights once
    more. None: so on one GPU. Ranks and float16 have to agree on, or to learn, what a step was before the next one.
    """

    recognizer: Recognizer
    data: TrainingData
    params: TrainParams
    loss: LossFunction
    _: KW_ONLY
    seed: int
    device: torch.device
    checkpoint_path: Path
    checkpoint_seconds: float
    ranks: Ranks = ONE_RANK
    is_waited_for: Callable[[], bool] = lambda: False
    ahead: bool | None = None

    def __post_init__(self) -> None:
        params, device = self.params, self.device
        self.recognizer.to(device)
        num_videos = len(self.data.train)
        self.plan = EpochPlan(self.data.num_clips or num_videos, params.batch_size, self.seed, num_videos)
        self.has_footage = any(sample.label == NO_LABEL for sample in self.data.train)
        check_shares(self.plan, params, self.ranks)
        dtype = autocast_dtype(params.precision, device)
        self.autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.network = wrap_model(self.recognizer, params, device, self.ranks)
        if self.ahead is None:
            self.ahead = device.type == "cuda" and self.ranks.count == 1 and not self.scaler.is_enabled()
        self.unread: deque[_Made] = deque()
        self.send = Sender(device)
        self.optimizer = make_optimizer(self.recognizer, params, fused=self.ahead)
        self.statistics = BatchStatistics(self.recognizer)
        self.average = AveragedWeights(self.recognizer, params.ema) if params.ema else None
        self.progress = TrainingState()
        self.best_weights: dict[str, Tensor] = {}

    def run(self, *, stop: StopCheck, listener: Listener) -> Trained:
        """Train to the end, from the checkpoint where there is one.

        `stop` raises Interrupted when the run must end; the progress is saved first. A step whose loss or gradient is
        not finite is skipped with a warning; after more than max_skipped of them the progress is saved and ParamsError
        raised.
        """
        self._load_checkpoint(stop)
        progress, plan, ranks = self.progress, self.plan, self.ranks
        if progress.step:
            listener.advance(plan.samples_before(progress.step), "from the checkpoint", earlier=True)
        data, whole, pace = self.data, Pace(), Pace()
        change = light_augmentation(self.params, self.seed, data.frames.levels)
        clip = self.recognizer.architecture.clip
        dataset = ClipDataset(
            data.frames,
            data.train,
            data.source,
            clip,
            data.teacher_frames,
            change,
            teacher_shown_as=data.teacher_clip,
        )
        keys = plan.batches_from(progress.step, self._last_epoch(), rank=ranks.index, num_ranks=ranks.count)
        saved = waiting_since = time.monotonic()
        for batch in self._batches(load_batches(dataset, keys, num_workers=self.params.num_workers), stop, listener):
            waited = time.monotonic() - waiting_since
            with ranks.collective(stop):
                num_clips = self._step(batch, listener)
                at_end = progress.step % plan.steps_per_epoch == 0
                self._read_numbers(listener, leave=0 if at_end else 1)
            for each in (whole, pace):
                each.waited += waited
                each.clips += num_clips
            if at_end:
                with ranks.collective(stop):
                    self._end_epoch()
                listener.epoch(Epoch(progress.curve[-1], pace.clips / pace.seconds, pace.data_wait))
                pace = Pace()
            listener.advance(num_clips, progress_note(progress, whole))
            trained = progress.step >= self._last_epoch() * plan.steps_per_epoch
            saved = self._save_when_due(saved, stop, listener, at_once=trained and self.is_waited_for())
            if trained:
                break
            waiting_since = time.monotonic()
        self.recognizer.load_state_dict(self.best_weights)
        best = best_epoch(progress.curve)
        return Trained(self.recognizer.cpu().eval(), progress.curve, best, progress.num_skipped, whole.data_wait)

    def _batches(self, batches: Iterator[Batch], stop: StopCheck, listener: Listener) -> Iterator[Batch]:
        """The batches; where a signal to the whole process group ended the loader, the progress is saved."""
        try:
            yield from batches
        except EnvironmentProblem:
            if self.ranks.count == 1:  # several ranks would have to agree, and the others are elsewhere
                self._save_when_due(time.monotonic(), stop, listener)
            raise

    def _step(self, batch: Batch, listener: Listener) -> int:
        """One step with this rank's share of a batch; returns the clips of the whole batch."""
        progress, params = self.progress, self.params
        torch.manual_seed(digest_uint64(f"step {self.seed} {progress.step} {self.ranks.index}".encode()) >> 1)
        set_learning_rate(self.optimizer, learning_rate(progress.step, self.plan.steps_per_epoch, params))
        self.recognizer.train()
        self.statistics.keep()
        num_clips = self.plan.samples_before(progress.step + 1) - self.plan.samples_before(progress.step)
        num_unlabelled = 0
        if self.has_footage:
            num_unlabelled = int(self.ranks.all_reduce_sum((batch.labels_B == NO_LABEL).sum()))
            batch = replace(batch, labelled_share=(num_clips - num_unlabelled) / num_clips)
        loss_sum, num_correct = self._gradients(self.send(batch), num_clips)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.recognizer.parameters(), params.clip_grad_norm)
        finite = torch.isfinite(loss_sum) & torch.isfinite(norm)
        told_M = torch.stack([~finite, loss_sum, num_correct])
        numbers = Numbers.sent(told_M) if self.ahead else Numbers(self.ranks.all_reduce_sum(told_M))
        made, good = _Made(progress.step, num_clips, num_unlabelled, norm, numbers), True
        if self.ahead:
            step_if(finite, self.optimizer)
            self.statistics.restore_unless(finite)
            self.unread.append(made)
        elif good := self._count(made, listener):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if good and self.average is not None:
            self.average.update()
        progress.step += 1
        return num_clips

    def _read_numbers(self, listener: Listener, *, leave: int) -> None:
        """Count the steps whose numbers have not been read, but for the last ones."""
        while len(self.unread) > leave:
            self._count(self.unread.popleft(), listener)

    def _count(self, made: _Made, listener: Listener) -> bool:
        """Add a step to the epoch; false where it is skipped."""
        progress = self.progress
        num_bad, loss, num_correct = made.numbers.read()
        if num_bad:
            self._skip(made, loss, listener)
            return False
        progress.loss_sum += loss
        progress.num_correct += num_correct
        progress.num_seen += made.num_clips
        progress.num_unlabelled += made.num_unlabelled
        return True

    def _gradients(self, batch: Batch, num_clips: int) -> tuple[Tensor, Tensor]:
        """Add up the gradients of this rank's parts of the batch; returns the sum of the losses, and of correct clips.

        A part's mean loss is weighted by its share of the clips, times the number of ranks, since DDP takes their mean.
        """
        progress, ranks, params = self.progress, self.ranks, self.params
        epoch = progress.step / self.plan.steps_per_epoch
        size = batch.clip_BTHWC.shape[2]
        mix = draw_mix(seed=self.seed, step=progress.step, mixup=params.mixup, cutmix=params.cutmix, size=size)
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum, num_correct = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        parts = batch.parts(params.accumulate)
        for number, part in enumerate(parts, start=1):
            synchronised = ranks.count == 1 or number == len(parts)
            with nullcontext() if synchronised else self.network.no_sync():
                loss, correct = self._forward(part, mix, epoch)
                share = len(part.labels_B) * ranks.count / num_clips
                self.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
            loss_sum += loss.detach() * len(part.labels_B)
            num_correct += correct
        return loss_sum, num_correct

    def _forward(self, part: Batch, mix: Mix | None, epoch: float) -> tuple[Tensor, Tensor]:
        """The loss of a part, and how many of its clips are classified correctly."""

        def compared(logits_BK: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
            correct = (logits_BK.detach().argmax(dim=1) == batch.main_labels_B).sum().float()
            return self.loss(logits_BK, batch, epoch), correct

        with self.autocast:
            logits_BK = self.network(part.clip_BTHWC if mix is None else mix.clips(part.clip_BTHWC))
        loss, correct = compared(logits_BK, part)
        if mix is None:
            return loss, correct
        other_loss, other_correct = compared(logits_BK, neighbours(part))
        return torch.lerp(other_loss, loss, mix.weight), torch.lerp(other_correct, correct, mix.weight)

    def _skip(self, made: _Made, loss: float, listener: Listener) -> None:
        """Skip a step; raises ParamsError where it is one too many."""
        progress = self.progress
        if not self.ahead:
            self.statistics.restore()
        scale = self.scaler.get_scale()  # 1 but in float16
        overflowed = scale > FULL_SCALE and math.isfinite(loss)
        self.scaler.update(scale / 2 if overflowed else scale)
        if overflowed:  # gradients were scaled too high for float16, as happens now and then
            return
        what = f"the loss is {loss / made.num_clips}, the norm of its gradient {made.norm.item()}"
        videos = [self.data.train[index].video_id for index, _ in self.plan.batch(made.step)]
        if progress.num_skipped == self.params.max_skipped:
            if not self.ahead:  # else another step has been made since, and the last checkpoint stays
                self._save_checkpoint()
            raise ParamsError(
                f"step {made.step}: {what}; {progress.num_skipped} "
                "steps before it were skipped for the same reason; its videos:",
                findings=videos,
                remedy="lower learning_rate; if it happens again, look at these videos",
            )
        progress.num_skipped += 1
        listener.warn(f"step {made.step} is skipped: {what}; its videos: {', '.join(videos)}")

    def _end_epoch(self) -> None:
        progress = self.progress
        with self.average.in_place() if self.average is not None else nullcontext():
            val_loss, val_top1 = self._validate()
            num_seen = max(progress.num_seen, 1)
            row = {
                "epoch": progress.step // self.plan.steps_per_epoch - 1,
                "learning_rate": learning_rate(progress.step - 1, self.plan.steps_per_epoch, self.params),
                "train_loss": progress.loss_sum / num_seen,
                "train_top1": progress.top1,
                "val_loss": val_loss,
                "val_top1": val_top1,
            }
            if not progress.curve or rank_of_epoch(row) > max(map(rank_of_epoch, progress.curve)):
                self.best_weights = {name: value.clone() for name, value in self.recognizer.state_dict().items()}
        progress.curve.append(row)
        progress.loss_sum, progress.num_correct, progress.num_seen, progress.num_unlabelled = 0.0, 0.0, 0, 0

    def _validate(self) -> tuple[float, float]:
        """Mean cross-entropy and top-1 over the middle clip of every val video; each rank computes its share."""
        frames, val, ranks = self.data.frames, self.data.val, self.ranks
        clip = self.recognizer.architecture.clip
        dataset = ClipDataset(frames, val, UniformViews(frames, clip, num_clips=1), clip)
        own = [(index, 0) for index in range(len(val))][ranks.index :: ranks.count]
        size = 2 * self.plan.smallest_part(ranks.count * self.params.accumulate)
        keys = iter([own[start : start + size] for start in range(0, len(own), size)])
        sums_M = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.recognizer.eval()
        with torch.inference_mode():
            for batch in load_batches(dataset, keys, num_workers=self.params.num_workers):
                placed = self.send(batch)
                with self.autocast:
                    logits_BK = self.recognizer(placed.clip_BTHWC).float()
                loss = torch.nn.functional.cross_entropy(logits_BK, placed.labels_B, reduction="sum")
                correct = (logits_BK.argmax(dim=1) == placed.labels_B).sum()
                sums_M += torch.stack([loss.double(), correct.double()])
        loss_sum, num_correct = ranks.all_reduce_sum(sums_M).tolist()
        return loss_sum / len(val), num_correct / len(val)

    def _last_epoch(self) -> int:
        """The number of epochs, as known so far: `patience` may end the training earlier."""
        curve, params = self.progress.curve, self.params
        if params.patience is not None and curve and len(curve) - 1 - best_epoch(curve) >= params.patience:
            return len(curve)
        return params.epochs

    # checkpoints

    def _save_when_due(self, saved: float, stop: StopCheck, listener: Listener, *, at_once: bool = False) -> float:
        """Save every checkpoint_seconds, at once, and before an interrupt is raised; returns the time of the last save.

        All ranks do so after the same step: a signal to one of them stops all.
        """
        signal_number = 0
        try:
            stop()
        except Interrupted as interrupted:
            signal_number = interrupted.signal_number
        due = self.ranks.index == 0 and (at_once or time.monotonic() - saved >= self.checkpoint_seconds)
        with self.ranks.collective(stop):
            signal_number, due_somewhere = self.ranks.all_reduce_max([signal_number, int(due)])
        if signal_number or due_somewhere:
            self._read_numbers(listener, leave=0)
            self._save_checkpoint()
            saved = time.monotonic()
        if signal_number:
            raise Interrupted(signal_number)
        return saved

    def _save_checkpoint(self) -> None:
        """Rank 0 saves: its state is that of all ranks."""
        if self.ranks.index > 0:
            return
        state = {
            "progress": asdict(self.progress),
            "weights": self.recognizer.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state(),
        }
        save_checkpoint(self.checkpoint_path, state)

    def _load_checkpoint(self, stop: StopCheck) -> None:
        found = load_checkpoint(self.checkpoint_path) if self.ranks.index == 0 else None
        state: dict[str, Any] | None = self.ranks.broadcast(found, stop=stop)
        if state is None:
            return
        self.progress = TrainingState(**state["progress"])
        self.recognizer.load_state_dict(state["weights"])
        self.best_weights = {name: value.to(self.device) for name, value in state["best_weights"].items()}
        load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state(state["average"])
