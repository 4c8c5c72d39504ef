"""What each part of a teacher that knows more costs on the demo's data: disk by the files, time in trainings.

    python -m benchmarks.parts_cost

Disk: stores of some dark demo videos and of simulated soft targets are written, and their files counted. The bytes of a
video, which must be frames × height × width × 3, are multiplied by the videos of the demo. Time: forward passes and
training steps of the demo's network take turns on one thread; one training is the unit. What else a part takes
(enhancing, reading clips) is not in it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.material import render_videos, write_store
from benchmarks.second_store import NUM_CLASSES, PARAMS, cpu_seconds, demo_student, stepper
from benchmarks.soft_target_store import write as write_targets
from pipeline.distill.store.codecs import codec_of
from pipeline.models.inference import infer

DEMO_SIZE = {"width": 96, "height": 72, "num_frames": 28}  # of demo/params.yaml; the mean of its 24 to 32 frames
NUM_VIDEOS, NUM_TRAIN, NUM_VAL = 726, 396, 132  # of the demo
FOOTAGE_WINDOW = 300
NUM_FOLDS = 4


def bytes_in(folder: Path) -> int:
    """Of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def frame_bytes(folder: Path, *, num_videos: int) -> float:
    """Of one demo video in a raw frame store; asserts that the formula says so."""
    paths = render_videos(folder, num_videos, **DEMO_SIZE)
    store = write_store(paths, folder / "dark", num_shards=2, short_side=PARAMS.prepare.short_side)
    found = bytes_in(folder / "dark") / num_videos
    num_frames, height, width = store.shape(store.video_ids[0])
    by_formula = num_frames * height * width * 3
    assert abs(found / by_formula - 1) < 0.03, (found, by_formula)  # ids, digests and HDF5's own
    return found


def target_bytes(path: Path, num_teachers: int) -> int:
    """Of a soft-target store of the demo's train videos: normal logits of spread 3, which hardly compress."""
    codec = codec_of({"name": PARAMS.precompute_soft_targets.codec}, NUM_CLASSES)
    write_targets(path, codec, NUM_TRAIN, num_views=PARAMS.views.num_views, num_teachers=num_teachers)
    return bytes_in(path)


def seconds_a_clip(num_rounds: int) -> dict[str, float]:
    """CPU seconds of a clip: in a training step, in teacher inference, and in a step with twice the frames."""
    clip, batch_size = PARAMS.clip, PARAMS.train_student.batch_size
    teacher, clip_BTHWC = demo_student(clip)
    calls = {
        "step": stepper(clip),
        "inference": lambda _number: infer(teacher, clip_BTHWC, batch_size=batch_size),
        "longer step": stepper(clip.model_copy(update={"num_frames": 2 * clip.num_frames, "frame_stride": 1})),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(num_rounds + 1):  # the first one warms up
        for name, call in calls.items():
            seconds = cpu_seconds(call, number)
            if number:
                times[name].append(seconds / batch_size)
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="four videos, two rounds: to see that the script works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = frame_bytes(folder / "videos", num_videos=4 if options.tiny else 24)
        targets = [target_bytes(folder / f"{count}.zarr", count) for count in (1, 2, 3)]
    seconds = seconds_a_clip(2 if options.tiny else options.rounds)
    inference, longer = seconds["inference"] / seconds["step"], seconds["longer step"] / seconds["step"]
    num_views, epochs = PARAMS.views.num_views, PARAMS.train_student.epochs
    bank = num_views / epochs * inference
    frames, growth = NUM_VIDEOS * video, (targets[1] - targets[0], targets[2] - targets[1])
    window, others = video * FOOTAGE_WINDOW / DEMO_SIZE["num_frames"], NUM_FOLDS - 1

    def mb(number: float) -> str:
        return f"{number / 1e6:.1f} MB" if number < 1e8 else f"{number / 1e6:.0f} MB"

    print("| part | disk | time, in trainings of the demo |")
    print("|---|---|---|")
    rows = [
        ("dark frames", mb(frames), "0"),
        ("a teacher, its light and its soft targets", f"{mb(frames)} + {mb(targets[0])}", f"{1 + bank:.2f}"),
        ("a student, a baseline", "0", "1 each"),
        ("a further teacher, another light", f"{mb(frames)} + {mb(growth[0])}", f"{1 + bank:.2f}"),
        ("a third, of a light that is there", mb(growth[1]), f"{1 + bank:.2f}"),
        ("weights by val, a teacher", "0", f"{NUM_VAL / (NUM_TRAIN * epochs) * inference:.4f}"),
        ("`teacher_clip` with twice the frames", "0", f"+ {(longer - 1) * (1 + bank):.2f} a teacher"),
        ("`levels: companded`", "0", "0"),
        (f"a teacher in {NUM_FOLDS} folds, each on {others}/{NUM_FOLDS} of the videos", "0", f"+ {others}"),
        (
            f"100 windows of {FOOTAGE_WINDOW} frames without a label",
            f"2 × {mb(100 * window)} + {mb(100 / NUM_TRAIN * targets[0])}",
            f"+ {100 / NUM_TRAIN:.2f} a student or baseline, + {100 / NUM_TRAIN * bank:.2f} a teacher",
        ),
        ("another `min_agreement`, temperature, loss", "0", "1"),
    ]  # fmt: skip
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(
        f"\na step takes {seconds['step'] * 1e3:.1f} ms a clip; inference {inference:.2f} of it, "
        f"a step with twice the frames {longer:.2f}"
    )


if __name__ == "__main__":
    main()
