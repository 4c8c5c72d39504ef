"""A training step with clips from the frame store over a step with a batch that lies in memory.

    python -m benchmarks.training_step

The trainer's own loop, with the demo's network, clips and batches; only the batches differ. Steps are timed from the
end of the first to the end of the last, so that starting the workers is not part of them, as it is not of a long run.
Both inputs take turns; a ratio is the median over the rounds of the ratio within a round. CPU time is that of all
processes; "waiting" is the share of the time in which the loop waited for clips, as the trainer tells it. These two
have the start of the workers in them, which weighs more in so short a run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.material import render_videos, used_cpu_seconds, write_store
from pipeline.core.params import load_params
from pipeline.data.dataset import BANK, Batch, ClipDataset, DrawnViews, EpochPlan, Sample, load_batches
from pipeline.models.recognizer import Architecture, Recognizer
from pipeline.train import trainer as training
from pipeline.train.losses import hard_loss
from pipeline.train.state import Listener, TrainingData

PARAMS = load_params(Path(__file__).parent.parent / "params.yaml")
NUM_CLASSES = 11
NUM_VIDEOS = 32


@dataclass(frozen=True)
class Run:
    """What one training took: seconds a step by the clock, CPU seconds a step, share of the time spent waiting."""

    seconds: float
    cpu_seconds: float
    waiting: float


class Training:
    """Trainings of one epoch from the same weights, with clips of a frame store or with one batch again and again."""

    def __init__(self, folder: Path, *, num_steps: int, num_videos: int = NUM_VIDEOS) -> None:
        self.folder = folder
        self.train_params, clip = PARAMS.train_student, PARAMS.clip
        paths = render_videos(folder, num_videos, width=160, height=120, num_frames=3 * clip.num_frames * 3)
        self.frames = write_store(
            paths, folder / "dark", num_shards=min(4, num_videos), short_side=PARAMS.prepare.short_side
        )
        names = self.frames.video_ids
        count = num_steps * self.train_params.batch_size
        self.samples = [Sample(names[index % num_videos], index % NUM_CLASSES) for index in range(count)]
        self.source = DrawnViews(self.frames, clip, PARAMS.views, seed=0, purpose=BANK)
        dropout, drop_path = self.train_params.dropout, self.train_params.drop_path
        self.architecture = Architecture(PARAMS.student, NUM_CLASSES, clip, self.train_params.width, dropout, drop_path)
        dataset = ClipDataset(self.frames, self.samples, self.source, clip)
        plan = EpochPlan(count, self.train_params.batch_size, seed=0)
        self.batch = next(iter(load_batches(dataset, plan.batches_from(0, 1), num_workers=0)))

    def trainer(self, num_workers: int) -> training.Trainer:
        torch.manual_seed(0)
        return training.Trainer(
            Recognizer(self.architecture, mean_C=[0.1] * 3, std_C=[0.1] * 3),
            TrainingData(self.frames, self.samples, self.samples[:1], self.source),
            self.train_params.model_copy(update={"epochs": 1, "warmup_epochs": 0.5, "num_workers": num_workers}),
            lambda logits_BK, batch, _epoch: hard_loss(logits_BK, batch.labels_B, label_smoothing=0.0),
            seed=0,
            device=torch.device("cpu"),
            checkpoint_path=self.folder / "checkpoint.pt",
            checkpoint_seconds=1e9,
        )

    def from_store(self, num_workers: int) -> Run:
        trainer, ends, before = self.trainer(num_workers), [], used_cpu_seconds()
        trained = trainer.run(stop=lambda: None, listener=Listener(lambda *_: ends.append(time.perf_counter())))
        cpu_seconds = (used_cpu_seconds() - before) / len(ends)
        return Run((ends[-1] - ends[0]) / (len(ends) - 1), cpu_seconds, trained.data_wait)

    def resident(self) -> Run:
        def batches(dataset: ClipDataset, keys: Iterator[Any], **options: Any) -> Any:
            is_val = len(dataset.samples) < len(self.samples)
            return load_batches(dataset, keys, **options) if is_val else self.again(keys)

        with patch.object(training, "load_batches", batches):
            return self.from_store(num_workers=0)

    def again(self, keys: Iterator[Any]) -> Iterator[Batch]:
        """The batch in memory, as often as there are batches."""
        return (self.batch for _ in keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="of a training (default: 30)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--tiny", action="store_true", help="two steps, one round: to see that the script works")
    options = parser.parse_args()
    steps, num_rounds = (2, 1) if options.tiny else (options.steps, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        trainings = Training(Path(folder), num_steps=steps)
        trainings.resident()  # warm
        rounds = [
            (trainings.resident(), [trainings.from_store(count) for count in options.num_workers])
            for _ in range(num_rounds)
        ]
    clip, batch_size = PARAMS.clip, PARAMS.train_student.batch_size
    print(
        f"{PARAMS.student}, batches of {batch_size} clips of {clip.num_frames}×{clip.size}×{clip.size}; "
        f"{torch.get_num_threads()} threads, {os.cpu_count()} CPUs"
    )
    print(f"a step in memory: {statistics.median(resident.seconds for resident, _ in rounds) * 1e3:.0f} ms")
    print("a step from the store over it      time   (least to most)   CPU time   waiting")
    for place, num_workers in enumerate(options.num_workers):
        ratios = [runs[place].seconds / resident.seconds for resident, runs in rounds]
        cpu = statistics.median(runs[place].cpu_seconds / resident.cpu_seconds for resident, runs in rounds)
        waiting = statistics.median(runs[place].waiting for _, runs in rounds)
        print(
            f"{num_workers} workers {statistics.median(ratios):29.3f}   ({min(ratios):.3f} to {max(ratios):.3f})"
            f"{cpu:11.3f} {waiting:9.1%}"
        )


if __name__ == "__main__":
    main()
