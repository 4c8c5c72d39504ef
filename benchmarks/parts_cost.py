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
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.material import render_videos, write_store
from benchmarks.second_store import NUM_CLASSES, PARAMS
from pipeline.core.digest import DIGEST_BYTES, digest_bytes, digest_json
from pipeline.core.params import ClipParams
from pipeline.distill.store.codecs import codec_of
from pipeline.distill.store.rows import Rows, row_layout
from pipeline.distill.store.store import write_store as write_targets
from pipeline.models.inference import infer
from pipeline.models.recognizer import Architecture, Recognizer

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


def target_bytes(path: Path, num_teachers: int, num_rows: int = NUM_TRAIN) -> int:
    """Of a soft-target store of the demo's train videos: normal logits of spread 3, which hardly compress."""
    rng, num_views = np.random.default_rng(0), PARAMS.views.num_views
    codec = codec_of({"name": PARAMS.precompute_soft_targets.codec}, NUM_CLASSES)
    logits = codec.pack(rng.normal(scale=3, size=(num_rows, num_views, num_teachers, NUM_CLASSES)).astype(np.float32))
    arrays = {}
    for name, layout in row_layout(codec, num_views, num_teachers).items():
        most = {"pixel_digest": 2**63, "frames_digest": 256}.get(name, 64)
        drawn = rng.integers(0, most, (num_rows, *layout.inner), dtype=np.int64)
        arrays[name] = logits.get(name, drawn.astype(layout.dtype))
    names = [f"class {number}" for number in range(NUM_CLASSES)]
    policy = {"num_views": num_views, "seed": 0, "version": 1}
    clip, zero = PARAMS.clip.model_dump(), "0" * 2 * DIGEST_BYTES
    seen = {"light": "gamma", "enhancer": zero, "frames": zero, "clip": clip, "top1_on_views": 0.0}
    attributes = {
        "class_names": names,
        "clip": clip,
        "view_policy": policy,
        "batch_size": 16,
        "teachers": [{"name": "simulated", "digest": digest_bytes(bytes([n])), **seen} for n in range(num_teachers)],
        "digests": {
            "manifest": zero,
            "dark": zero,
            "class_names": digest_json(names),
            "view_policy": digest_json(policy),
        },
        "codec_error": {"top1_agreement": 1.0, "mean_kl": {}, "max_kl": {}},
    }
    rows = Rows(tuple(f"class/video_{row:04d}" for row in range(num_rows)), arrays)
    sizes = {"num_rows": num_rows, "num_views": num_views, "num_teachers": num_teachers}
    write_targets(path, [rows], codec=codec, attributes=attributes, **sizes)
    return bytes_in(path)


def seconds_a_clip(num_rounds: int) -> dict[str, float]:
    """CPU seconds of a clip: in a training step, in teacher inference, and in a step with twice the frames."""
    options, clip = PARAMS.train_student, PARAMS.clip
    longer = clip.model_copy(update={"num_frames": 2 * clip.num_frames, "frame_stride": 1})

    def made(geometry: ClipParams) -> tuple[Recognizer, torch.Tensor, torch.Tensor]:
        architecture = Architecture(PARAMS.student, NUM_CLASSES, geometry, options.width, options.dropout, 0.0)
        size = (options.batch_size, geometry.num_frames, geometry.size, geometry.size, 3)
        clip_BTHWC = torch.randint(0, 60, size, dtype=torch.uint8)
        return Recognizer(architecture, mean_C=[0.1] * 3, std_C=[0.1] * 3), clip_BTHWC, torch.arange(len(clip_BTHWC))

    def step_of(geometry: ClipParams) -> Callable[[], None]:
        network, clip_BTHWC, labels_B = made(geometry)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(clip_BTHWC), labels_B % NUM_CLASSES).backward()
            optimizer.step()

        return step

    teacher, seen_BTHWC, _ = made(clip)
    calls = {
        "step": step_of(clip),
        "inference": lambda: infer(teacher, seen_BTHWC, batch_size=options.batch_size),
        "longer step": step_of(longer),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(num_rounds + 1):  # the first one warms up
        for name, call in calls.items():
            start = time.process_time()
            call()
            if number:
                times[name].append((time.process_time() - start) / options.batch_size)
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
