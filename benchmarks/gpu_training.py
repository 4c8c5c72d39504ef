"""Training R(2+1)D on a GPU: clips a second, share of the card's matmul rate, peak memory; prints a Markdown table.

    python -m benchmarks.gpu_training [--batch-size 16] [--networks r2plus1d_18] [--frames 16]
    python -m benchmarks.gpu_training --device cpu --tiny

Each row is the trainer's own step: forward, loss, backward, clipping, AdamW, averaged weights; its numbers are read
while the next one runs. Rows "in memory" have one batch that lies on the device; "frame store" reads noise from a frame
store with data loader workers, and "waiting" is the share of the time in which the loop waited for them. "cached" and
"online" are steps of a student: with logits that lie on the device, and with a teacher asked in the same precision.

The matmul rate is that of large square products, measured first: float32 rows with TensorFloat-32, as PyTorch's
convolutions have by default. FLOPs of a step are those that torch.utils.flop_counter finds in forward and backward: two
for a multiplication with an addition, convolutions and products of matrices only.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.student_epoch import TARGETS, write_noise
from pipeline.core.params import ClipParams, load_params
from pipeline.data.dataset import BANK, Batch, ClipDataset, DrawnViews, Sample, load_batches
from pipeline.data.frame_store import FrameStore
from pipeline.distill.student.loss import distillation_loss
from pipeline.models.recognizer import Architecture, Recognizer
from pipeline.train.losses import hard_loss
from pipeline.train.state import Listener, TrainingData
from pipeline.train.trainer import Trainer

PARAMS = load_params(Path(__file__).parent.parent / "params.yaml")
NUM_CLASSES = 11
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COLUMNS = (
    "network", "frames", "precision", "compiled", "input", "soft targets", "clips/s", "of matmul", "peak GiB", "waiting"
)  # fmt: skip
UNHEARD = Listener(lambda *_: None)
WARM_STEPS = 3  # the first compiles, chooses kernels and fills the allocator


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    device: torch.device
    size: int  # pixels of a clip's side
    batch_size: int
    num_videos: int  # of the frame store
    num_workers: int
    matmul_side: int
    seconds: float  # of each measurement, at least
    compiler: str

    def clip(self, num_frames: int) -> ClipParams:
        return ClipParams(num_frames=num_frames, frame_stride=2, size=self.size)


@dataclass(frozen=True)
class Row:
    """One way of training: `soft` is where a student's soft targets come from, `stored` reads a frame store."""

    network: str
    num_frames: int
    precision: str
    compiled: bool
    stored: bool = False
    soft: str = "none"


@dataclass(frozen=True)
class Measured:
    """Clips a second, peak GiB (None on a CPU), and the share of the time in which the loop waited for clips."""

    rate: float
    peak_gib: float | None
    waiting: float


def matmul_rate(setting: Setting, precision: str) -> float:
    """FLOP/s of a product of two square matrices, the best of ten."""
    side = setting.matmul_side
    a, b = (torch.randn(side, side, device=setting.device, dtype=DTYPES[precision]) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        synchronize(setting.device)
        start = time.perf_counter()
        for _ in range(10):
            torch.mm(a, b)
        synchronize(setting.device)
        best = min(best, (time.perf_counter() - start) / 10)
    return 2 * side**3 / best


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def new_recognizer(row: Row, setting: Setting) -> Recognizer:
    width = 8 if "slim" in row.network else None
    architecture = Architecture(row.network, NUM_CLASSES, setting.clip(row.num_frames), width, 0.0, 0.0)
    return Recognizer(architecture, mean_C=[0.1] * 3, std_C=[0.1] * 3)


def flops_of_a_clip(row: Row, setting: Setting) -> float:
    """Forward and backward of one clip, counted on the shape of a batch without computing it."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        recognizer = new_recognizer(row, setting).train()
        shape = (setting.batch_size, row.num_frames, setting.size, setting.size, 3)
        recognizer(torch.empty(shape, dtype=torch.uint8)).sum().backward()
    return counter.get_total_flops() / setting.batch_size


class Step:
    """A step of the trainer in the way of a row."""

    def __init__(self, row: Row, setting: Setting, folder: Path) -> None:
        torch.manual_seed(0)
        self.row, self.setting = row, setting
        # the same network as its student: twice the weights, and a third of the student's work
        self.teacher = new_recognizer(row, setting).to(setting.device).eval() if row.soft == "online" else None
        clip = setting.clip(row.num_frames)
        self.frames = noise_of(row, setting, folder)
        self.samples = [Sample(name, index % NUM_CLASSES) for index, name in enumerate(self.frames.video_ids)]
        self.views = DrawnViews(self.frames, clip, PARAMS.views, seed=0, purpose=BANK)
        changes = {"batch_size": setting.batch_size, "precision": row.precision, "epochs": 10_000, "num_workers": 0}
        self.trainer = Trainer(
            new_recognizer(row, setting), TrainingData(self.frames, self.samples, self.samples[:1], self.views),
            PARAMS.train_student.model_copy(update=changes), self.loss, seed=0, device=setting.device,
            checkpoint_path=folder / "checkpoint.pt", checkpoint_seconds=1e9,
        )  # fmt: skip
        if row.compiled:
            self.trainer.network = torch.compile(self.trainer.recognizer, backend=setting.compiler)

    def __call__(self, batch: Batch) -> None:
        self.trainer._step(batch, UNHEARD)
        self.trainer._read_numbers(UNHEARD, leave=1)

    def loss(self, logits_BK: Tensor, batch: Batch, _epoch: float) -> Tensor:
        if self.row.soft == "none":
            return hard_loss(logits_BK, batch.labels_B, label_smoothing=0.0)
        teacher_BK = batch.teacher_BK
        if self.teacher is not None:
            with torch.no_grad(), self.trainer.autocast:
                teacher_BK = self.teacher(batch.clip_BTHWC)
        assert teacher_BK is not None
        return distillation_loss(logits_BK, batch.labels_B, teacher_BK, **TARGETS)

    def batches(self) -> Iterator[Batch]:
        """One batch of noise on the device, or batches from the frame store, for ever."""
        if not self.row.stored:
            return resident_batches(self.row, self.setting)
        dataset = ClipDataset(self.frames, self.samples, self.views, self.setting.clip(self.row.num_frames))
        plan = self.trainer.plan
        keys = itertools.chain.from_iterable(plan.batches(epoch) for epoch in itertools.count())
        return iter(load_batches(dataset, keys, num_workers=self.setting.num_workers))


def noise_of(row: Row, setting: Setting, folder: Path) -> FrameStore:
    """A frame store of noise with videos that are larger and longer than a clip; few where nothing is read from it."""
    shape = (2 * row.num_frames + 8, setting.size + 16, setting.size * 4 // 3)
    return write_noise(folder, setting.num_videos if row.stored else setting.batch_size, shape)


def resident_batches(row: Row, setting: Setting) -> Iterator[Batch]:
    """One batch of noise on the device, for ever."""
    size, count = setting.size, setting.batch_size
    batch = Batch(
        torch.randint(256, (count, row.num_frames, size, size, 3), dtype=torch.uint8),
        torch.arange(count) % NUM_CLASSES,
        torch.randn(count, NUM_CLASSES),
        None,
        tuple(f"{number}" for number in range(count)),
    )
    return itertools.repeat(batch.to(setting.device))


def measure(row: Row, setting: Setting, folder: Path) -> Measured:
    """Steps for the setting's seconds, after some to warm up."""
    torch.compiler.reset()
    on_gpu = setting.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setting.device)
    step = Step(row, setting, folder)
    batches = step.batches()
    for batch in itertools.islice(batches, WARM_STEPS):
        step(batch)
    synchronize(setting.device)
    num_clips, waited, start = 0, 0.0, time.perf_counter()
    while (asked := time.perf_counter()) < start + setting.seconds or not num_clips:
        batch = next(batches)
        waited += time.perf_counter() - asked
        step(batch)
        num_clips += len(batch.labels_B)
    synchronize(setting.device)
    seconds = time.perf_counter() - start
    peak_gib = torch.cuda.max_memory_allocated(setting.device) / 2**30 if on_gpu else None
    return Measured(num_clips / seconds, peak_gib, waited / seconds)


def rows_of(networks: list[str], frames: list[int], precisions: list[str]) -> list[Row]:
    """All ways in memory; then the frame store and a student's, with the first of each list; then compiled ones."""
    rows = [Row(*way, compiled=False) for way in itertools.product(networks, frames, precisions)]
    row = Row(networks[0], frames[0], precisions[-1], compiled=False)
    others = [replace(row, stored=True), replace(row, soft="cached"), replace(row, soft="online")]
    return [*rows, *others, *(replace(row, compiled=True) for row in rows)]


def show(row: Row, setting: Setting, peaks: dict[str, float], folder: Path) -> None:
    """A line of the table; the work of an online teacher is not part of the share."""
    cells = [row.network, f"{row.num_frames}", row.precision, "yes" if row.compiled else "no"]
    cells += ["frame store" if row.stored else "in memory", row.soft]
    try:
        measured = measure(row, setting, folder)
    except torch.OutOfMemoryError:
        cells += ["out of memory", "", "", ""]
    else:
        share = measured.rate * flops_of_a_clip(row, setting) / peaks[row.precision]
        peak = "" if measured.peak_gib is None else f"{measured.peak_gib:.2f}"
        cells += [f"{measured.rate:.1f}", f"{share:.1%}", peak, f"{measured.waiting:.1%}"]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--networks", nargs="+", default=["r2plus1d_18", "r2plus1d_34"])
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--num-workers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: 5)")
    parser.add_argument("--tiny", action="store_true", help="a small network, and compiled graphs run as they are")
    options = parser.parse_args()
    device = torch.device(options.device)
    if options.tiny:
        options.networks, options.frames = ["r2plus1d_slim"], [4, 8]
        setting = Setting(device, 16, 2, 4, 1, 128, seconds=0.1, compiler="aot_eager")
    else:
        setting = Setting(
            device, 112, options.batch_size, 256, options.num_workers, 8192, options.seconds, compiler="inductor"
        )
    torch.set_float32_matmul_precision("high")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    precisions = list(DTYPES) if device.type == "cuda" else ["float32"]  # no CPU trains in bfloat16 here
    peaks = {precision: matmul_rate(setting, precision) for precision in precisions}
    rates = ", ".join(f"{precision} {peak / 1e12:.3g}" for precision, peak in peaks.items())
    print(f"{name}, torch {torch.__version__}; matmul of {setting.matmul_side}² in TFLOP/s: {rates}")
    print(f"clips of {setting.size}×{setting.size}, batches of {setting.batch_size}, {setting.num_workers} workers\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory() as folder:
        for number, row in enumerate(rows_of(options.networks, options.frames, precisions)):
            show(row, setting, peaks, Path(folder) / f"{number}")


if __name__ == "__main__":
    main()
