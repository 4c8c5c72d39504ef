"""What a second, smaller frame store for the student would save: its clips read from it, and from the teacher's frames.

    python -m benchmarks.second_store

The same dark demo videos are stored twice, raw and as JPEG: for a teacher that sees twice the student's pixels (short
side 128), and for the student alone (64). The views of the demo's student are read from both, and one of its training
steps is timed beside them. All take turns, in one thread; times are CPU times, differences and shares medians over
the rounds of those within a round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.material import render_videos, write_store
from pipeline.core.params import ClipParams, load_params
from pipeline.data.dataset import BANK, DrawnViews
from pipeline.data.frame_shard import Codec
from pipeline.data.frame_store import FrameStore
from pipeline.data.views import read_view
from pipeline.models.recognizer import Architecture, Recognizer

PARAMS = load_params(Path(__file__).parent.parent / "params.yaml")
LARGE, SMALL = 128, 64
CODECS: tuple[Codec, ...] = ("raw", "jpeg")
NUM_CLASSES = 11


def reader(frames: FrameStore) -> Callable[[int], None]:
    """Reads one view of every video, by the view's number."""
    source = DrawnViews(frames, PARAMS.clip, PARAMS.views, seed=0, purpose=BANK)

    def read(number: int) -> None:
        for video_id in frames.video_ids:
            view, _ = source.lookup(video_id, number)
            read_view(frames, video_id, view, PARAMS.clip)

    return read


def demo_student(clip: ClipParams) -> tuple[Recognizer, torch.Tensor]:
    """The demo's student for clips of that shape, and a batch of them in memory."""
    options = PARAMS.train_student
    torch.manual_seed(0)
    dropout, drop_path = options.dropout, options.drop_path
    architecture = Architecture(PARAMS.student, NUM_CLASSES, clip, options.width, dropout, drop_path)
    shape = (options.batch_size, clip.num_frames, clip.size, clip.size, 3)
    clip_BTHWC = torch.randint(0, 60, shape, dtype=torch.uint8)
    return Recognizer(architecture, mean_C=[0.1] * 3, std_C=[0.1] * 3), clip_BTHWC


def stepper(clip: ClipParams) -> Callable[[int], None]:
    """Makes one training step of the demo's student on a batch in memory."""
    network, clip_BTHWC = demo_student(clip)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    labels_B = torch.arange(len(clip_BTHWC)) % NUM_CLASSES

    def step(_number: int) -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(clip_BTHWC), labels_B).backward()
        optimizer.step()

    return step


def cpu_seconds(function: Callable[[int], object], number: int) -> float:
    """Of one call."""
    start = time.process_time()
    function(number)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="two videos, two rounds: to see that the script works")
    options = parser.parse_args()
    num_videos, num_rounds = (2, 2) if options.tiny else (options.videos, options.rounds)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = render_videos(folder, num_videos, width=320, height=240, num_frames=48)
        stores = {
            (codec, side): write_store(
                paths, folder / f"{codec}{side}", num_shards=4, codec=codec, jpeg_quality=95, short_side=side
            )
            for codec in CODECS
            for side in (LARGE, SMALL)
        }
        sizes = {key: sum(path.stat().st_size for path in store.path.iterdir()) for key, store in stores.items()}
        readers, step = {key: reader(store) for key, store in stores.items()}, stepper(PARAMS.clip)
        for function in (*readers.values(), step):
            function(0)  # warm
        rounds = []
        for number in range(1, num_rounds + 1):
            times = {key: cpu_seconds(read, number) / num_videos for key, read in readers.items()}
            rounds.append((times, cpu_seconds(step, number) / PARAMS.train_student.batch_size))
    step_seconds = statistics.median(step for _, step in rounds)
    print(f"a training step of {PARAMS.student} takes {step_seconds * 1e3:.1f} ms a clip, on one thread")
    print(f"clips of {PARAMS.clip.num_frames} frames at {PARAMS.clip.size}², {num_videos} videos of 48 frames")
    print("| codec | short side | kB a video | ms a clip | saved by the small one | of a step |")
    print("|---|---|---|---|---|---|")
    for codec in CODECS:
        for side in (LARGE, SMALL):
            clip_ms = statistics.median(times[codec, side] for times, _ in rounds) * 1e3
            row = f"| {codec} | {side} | {sizes[codec, side] / num_videos / 1e3:.0f} | {clip_ms:.2f} |"
            saved = statistics.median(times[codec, LARGE] - times[codec, SMALL] for times, _ in rounds)
            share = statistics.median((times[codec, LARGE] - times[codec, SMALL]) / step for times, step in rounds)
            print(row + (f" {saved * 1e3:.2f} ms | {share:.1%} |" if side == SMALL else " | |"))


if __name__ == "__main__":
    main()
