"""A student's epoch: from the cache over the baseline's, and over that with an online teacher.

    python -m benchmarks.student_epoch [--device cuda] [--network r2plus1d_18 --frames 16 --size 112 --batch-size 32]

Also the teacher's views a second in precompute over those of plain inference on clips that lie on the device.

Prints ratios from one run, in which the kinds of epoch take turns; each number is the median over the rounds of the
ratio within a round. Videos are noise, teacher and student the same network: the time does not depend on what they see.
On the CPU all runs in one thread, since a teacher is always asked in one (pipeline/models/inference.py).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.digest import DIGEST_BYTES
from pipeline.core.params import ClipParams, ViewsParams, load_params
from pipeline.data.dataset import BANK, Batch, ClipDataset, DrawnViews, EpochPlan, Sample, load_batches
from pipeline.data.frame_shard import write_shard
from pipeline.data.frame_store import FrameStore, shard_path, write_index
from pipeline.data.views import VIEW_POLICY_VERSION
from pipeline.distill.store.codecs import codec_of
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.student.cached_targets import load_targets
from pipeline.distill.student.loss import distillation_loss
from pipeline.distill.teacher.precompute import (
    CachedTeacher,
    Packing,
    TeacherInference,
    compute_part,
    keys_of,
    pack_store,
    parts_of,
)
from pipeline.distill.teacher.row_cache import RowCache
from pipeline.models.inference import infer
from pipeline.models.recognizer import Architecture, Recognizer, load_model, save_model
from pipeline.train.losses import hard_loss
from pipeline.train.state import Listener, TrainingData
from pipeline.train.trainer import Trainer

NUM_CLASSES = 11
VIEWS = ViewsParams(num_views=1, min_scale=0.6, max_aspect=1.2, flip=True, mix="none", mix_share=0.5, mix_alpha=1.0)
PARAMS = load_params(Path(__file__).parent.parent / "params.yaml")
TARGETS: dict[str, Any] = {"soft_loss": "kl", "temperature": 4.0, "soft_weight": 0.5, "options": PARAMS.distillation}


def write_noise(folder: Path, count: int, shape_THW: tuple[int, int, int]) -> FrameStore:
    rng = np.random.default_rng(0)
    names = [f"video_{number:05d}" for number in range(count)]
    videos = [(name, lambda: iter(rng.integers(0, 40, (*shape_THW, 3), dtype=np.uint8))) for name in names]
    rows = write_shard(shard_path(folder, 0), videos, shard=0, codec="raw", jpeg_quality=0).rows
    write_index(folder, rows, codec="raw", jpeg_quality=0, origin={})
    return FrameStore(folder)


class Epochs:
    """One epoch of each kind, from the same weights, with the same clips in the same order."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.device = folder, torch.device(options.device)
        clip = ClipParams(num_frames=options.frames, frame_stride=2, size=options.size)
        changes = {
            "epochs": 1,
            "warmup_epochs": 0.5,
            "batch_size": options.batch_size,
            "width": 16 if "slim" in options.network else None,
            "num_workers": options.num_workers,
        }
        self.params = PARAMS.train_student.model_copy(update=changes)
        shape = (2 * options.frames + 8, options.size + 16, options.size * 4 // 3)
        self.dark = write_noise(folder / "dark", options.videos, shape)
        self.enhanced = write_noise(folder / "enhanced", options.videos, shape)
        self.samples = [Sample(name, index % NUM_CLASSES) for index, name in enumerate(self.dark.video_ids)]
        self.architecture = Architecture(options.network, NUM_CLASSES, clip, self.params.width, 0.0, 0.0)
        save_model(folder / "teacher", self.new(), class_names=[f"{k}" for k in range(NUM_CLASSES)], trained_on={})
        self.teacher = load_model(folder / "teacher")
        self.drawn = DrawnViews(self.dark, clip, VIEWS, seed=0, purpose=BANK)
        store = self.precompute(clip)
        names = [sample.video_id for sample in self.samples]
        self.num_precomputed = 0
        self.cached = load_targets(store, names, memory_bytes=2**30, folder=folder, teachers="mean", seed=0)
        self.teacher.recognizer.to(self.device)

    def new(self) -> Recognizer:
        torch.manual_seed(0)
        return Recognizer(self.architecture, mean_C=[0.1] * 3, std_C=[0.1] * 3)

    def ask(self, folder: Path) -> None:
        """Ask the teacher about all views, as precompute does."""
        how = TeacherInference(
            name="teacher", teacher=(self.folder / "teacher", self.teacher.digest),
            frames=(self.enhanced.path, self.enhanced.digest),
            folder=folder, clip=self.architecture.clip, views=VIEWS, seed=0, batch_size=self.params.batch_size,
            device=str(self.device), num_workers=self.params.num_workers,
        )  # fmt: skip
        for part in parts_of([sample.video_id for sample in self.samples], how):
            compute_part(part)

    def precompute(self, clip: ClipParams) -> SoftTargetStore:
        self.ask(self.folder)
        codec = codec_of({"name": "float16"}, NUM_CLASSES)
        labels = [sample.label for sample in self.samples]
        names = [sample.video_id for sample in self.samples]
        cached = CachedTeacher(RowCache(self.folder), keys_of(names, self.enhanced))
        named = {"name": self.architecture.name, "digest": self.teacher.digest, "clip": clip.model_dump()}
        seen = {"light": None, "enhancer": None, "frames": self.enhanced.digest}
        attributes = {
            "class_names": list(self.teacher.class_names),
            "clip": clip.model_dump(),
            "view_policy": {**VIEWS.policy(), "seed": 0, "version": VIEW_POLICY_VERSION},
            "batch_size": self.params.batch_size,
            "teachers": [{**named, **seen}],
            "digests": {"manifest": "0" * 2 * DIGEST_BYTES, "dark": None},
        }
        pack_store(self.folder / "store.zarr", Packing([cached], labels, codec), attributes, max_kl=1.0)
        return SoftTargetStore(self.folder / "store.zarr")

    def baseline(self) -> float:
        data = TrainingData(self.dark, self.samples, self.samples[:1], self.drawn)
        return self.train(
            data, lambda logits_BK, batch, epoch: hard_loss(logits_BK, batch.labels_B, label_smoothing=0.0)
        )

    def cache(self) -> float:
        def loss(logits_BK: Tensor, batch: Batch, epoch: float) -> Tensor:
            assert batch.teacher_BK is not None
            return distillation_loss(logits_BK, batch.labels_B, batch.teacher_BK, **TARGETS)

        return self.train(TrainingData(self.dark, self.samples, self.samples[:1], self.cached), loss)

    def online(self) -> float:
        def loss(logits_BK: Tensor, batch: Batch, epoch: float) -> Tensor:
            return distillation_loss(logits_BK, batch.labels_B, self.infer(batch.teacher_clip_BTHWC), **TARGETS)

        return self.train(TrainingData(self.dark, self.samples, self.samples[:1], self.cached, self.enhanced), loss)

    def teacher_alone(self) -> float:
        """TeacherInference the teacher about the clips of an epoch, which lie in memory."""
        dataset = ClipDataset(self.enhanced, self.samples, self.drawn, self.architecture.clip)
        plan = EpochPlan(len(self.samples), self.params.batch_size, 0)
        clips = [b.clip_BTHWC.to(self.device) for b in load_batches(dataset, plan.batches_from(0, 1), num_workers=0)]
        return self.timed(lambda: [self.infer(clip_BTHWC) for clip_BTHWC in clips])

    def precompute_alone(self) -> float:
        """The same with clips from the frame store and logits to the disk."""
        self.num_precomputed += 1
        return self.timed(lambda: self.ask(self.folder / f"asked_{self.num_precomputed}"))

    def infer(self, clip_BTHWC: Tensor | None) -> Tensor:
        assert clip_BTHWC is not None
        return infer(self.teacher.recognizer, clip_BTHWC, batch_size=self.params.batch_size)

    def train(self, data: TrainingData, loss: Callable[[Tensor, Batch], Tensor]) -> float:
        trainer = Trainer(
            self.new(), data, self.params, loss, seed=0, device=self.device,
            checkpoint_path=self.folder / "checkpoint.pt", checkpoint_seconds=1e9,
        )  # fmt: skip
        return self.timed(lambda: trainer.run(stop=lambda: None, listener=Listener(lambda _count, _note: None)))

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds: of the CPU where it does the work, else by the clock."""
        on_cpu = self.device.type == "cpu"
        clock = time.process_time if on_cpu else time.perf_counter
        start = clock()
        work()
        if not on_cpu:
            torch.cuda.synchronize()
        return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", default="r2plus1d_slim")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=56)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--videos", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        epochs = Epochs(Path(folder), options)
        kinds = (epochs.baseline, epochs.cache, epochs.online, epochs.teacher_alone, epochs.precompute_alone)
        for kind in kinds:
            kind()  # warm
        rounds = [[kind() for kind in kinds] for _ in range(options.rounds)]
    ratios = {
        "cache / baseline": [cache / baseline for baseline, cache, _, _, _ in rounds],
        "online / cache": [online / cache for _, cache, online, _, _ in rounds],
        "limit: (teacher + student) / student": [(teacher + cache) / cache for _, cache, _, teacher, _ in rounds],
        "precompute's views/s / plain inference's": [teacher / views for _, _, _, teacher, views in rounds],
    }
    print(
        f"{options.network}, {options.videos} clips of {options.frames}×{options.size}×{options.size}, {options.device}"
    )
    print(f"baseline's epoch: {statistics.median(seconds[0] for seconds in rounds):.2f} s")
    for name, values in ratios.items():
        print(f"{name:42} {statistics.median(values):.3f}   ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
