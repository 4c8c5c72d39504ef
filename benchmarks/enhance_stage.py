"""The enhance stage: frames a second over a plain loop, where its time goes, and what a second worker brings.

    python -m benchmarks.enhance_stage

The plain loop does what a script would: OpenCV decodes a video, OpenCV or the network at full size in float32 enhances
frame by frame, and the frames are saved raw. The stage reads the dark store and writes the enhanced one; `with prepare`
adds to it what reading the videos into the dark store took, which is paid once for all enhancers. The plain loop may
not be killed: what it leaves looks whole. The loop of whole files is the least that a stage can do: it reads dark
frames that were saved raw, enhances them in the same way, and writes each video to a temporary name, fsync, rename.
It has no checksums; `and digests` adds to its time that of a BLAKE2b of what it writes, which names our frames. All on
one thread, CPU time, material 320×240 as dark as ARID's. Networks have the weights that they start from: what is timed
does not depend on them. Workers are measured by the clock, start of the cluster included: run it on an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch

from benchmarks.material import best_seconds, render_videos, write_store
from pipeline.core.digest import DIGEST_BYTES
from pipeline.core.files import written_whole
from pipeline.core.params import load_params
from pipeline.core.progress import shares_text
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import Frames
from pipeline.data.shards import RunTasks
from pipeline.enhance.apply import Enhanced, enhance
from pipeline.enhance.classical import gamma_table
from pipeline.enhance.file import ENHANCERS, LEARNED, classical_from_params, save_enhancer
from pipeline.enhance.fitting import initialise_curves
from pipeline.enhance.learned import NETWORKS, CurveNetwork, LearnedEnhancer
from stages._cluster import shard_runner
from stages._memory import keep_freed_memory

PARAMS = load_params(Path(__file__).parent.parent / "params.yaml").fit_enhancer
NUM_SHARDS = 8
ROUNDS = 3
NAIVE_NETWORK_FRAMES = 20  # of a video: at full size one takes a third of a second

PlainEnhancer = Callable[[Frames], Frames]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Measured:
    """Frames a second of CPU time."""

    plain: float
    whole: float
    stage: float
    with_prepare: float
    shares: str


def new_network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    if isinstance(network, CurveNetwork):
        initialise_curves(network)
    return network.eval()


def save(name: str, path: Path) -> None:
    if name in LEARNED:
        network = new_network(name)
        enhancer = LearnedEnhancer(name, network, PARAMS.curve_reduction, PARAMS.precision)  # type: ignore[arg-type]
        save_enhancer(path, enhancer, fitted_on={})
    else:
        save_enhancer(path, classical_from_params(name, PARAMS), fitted_on={})


def plain_enhancer(name: str) -> PlainEnhancer | None:
    """What a script would call for each frame; None where OpenCV has nothing of the kind."""
    table = gamma_table(PARAMS.gamma)
    clahe = cv2.createCLAHE(PARAMS.clahe_clip_limit, (PARAMS.clahe_grid, PARAMS.clahe_grid))

    def on_luma(function: Callable[[Frames], Frames]) -> PlainEnhancer:
        def enhance_luma(frame: Frames) -> Frames:
            luma, red, blue = cv2.split(cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb))
            return np.asarray(cv2.cvtColor(cv2.merge([function(luma), red, blue]), cv2.COLOR_YCrCb2RGB))

        return enhance_luma

    if name in LEARNED:
        full_size = LearnedEnhancer(name, new_network(name), 1, "float32")  # type: ignore[arg-type]

        @torch.inference_mode()
        def run_network(frame: Frames) -> Frames:
            dark_BCHW = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
            bright_CHW = full_size.brighten(dark_BCHW.contiguous())[0]
            return np.asarray((bright_CHW * 255).clamp(0, 255).byte().permute(1, 2, 0).numpy())

        return run_network
    return {
        "none": lambda frame: frame,
        "gamma": lambda frame: np.asarray(cv2.LUT(frame, table)),
        "equalize": on_luma(lambda luma: np.asarray(cv2.equalizeHist(luma))),
        "clahe": on_luma(lambda luma: np.asarray(clahe.apply(luma))),
    }.get(name)


def plain_loop(paths: Sequence[Path], out: Path, enhancer: PlainEnhancer, *, most_frames: int | None) -> int:
    """Decode, enhance and save every video; returns the number of frames."""
    num_frames = 0
    for path in paths:
        capture = cv2.VideoCapture(str(path))
        frames = []
        while len(frames) != most_frames and (decoded := capture.read())[0]:
            frames.append(enhancer(cv2.cvtColor(decoded[1], cv2.COLOR_BGR2RGB)))
        np.save(out / f"{path.stem}.npy", np.stack(frames))
        num_frames += len(frames)
    return num_frames


def whole_loop(dark: Sequence[Path], out: Path, enhancer: PlainEnhancer, *, most_frames: int | None) -> int:
    """Enhance saved dark frames and write every video whole, without checksums; returns the number of frames."""
    num_frames = 0
    for path in dark:
        with written_whole(out / f"{path.stem}.raw") as partial, partial.open("wb") as file:
            for frame in np.load(path)[:most_frames]:
                file.write(np.ascontiguousarray(enhancer(frame)).data)
                num_frames += 1
    return num_frames


def run_stage(folder: Path, enhancer: Path, run: RunTasks) -> Enhanced:
    with contextlib.chdir(folder):  # the work folder lies in the current one
        done = enhance(folder / "dark", enhancer, folder / "enhanced", run=run)
    for path in (folder / ".work").rglob("*.h5"):
        path.unlink()  # a second run would take them over
    return done


def here(function: Callable[..., object], tasks: Sequence[object]) -> list[object]:
    return [function(task) for task in tasks]


def cpu_seconds(function: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns, and what it took."""
    start = time.process_time()
    return function(), time.process_time() - start


def measure(folder: Path, name: str, paths: Sequence[Path], prepare_seconds: float) -> Measured:
    plain, rates = plain_enhancer(name), [float("nan")] * 2
    if plain is not None:
        most = NAIVE_NETWORK_FRAMES if name in LEARNED else None
        dark = sorted((folder / "saved").glob("*.npy"))
        for position, (loop, sources) in enumerate(((plain_loop, paths), (whole_loop, dark))):
            num_frames, seconds = cpu_seconds(partial(loop, sources, folder, plain, most_frames=most))
            rates[position] = num_frames / seconds
    path = folder / f"{name}.safetensors"
    save(name, path)
    done, seconds = cpu_seconds(lambda: run_stage(folder, path, here))  # type: ignore[arg-type]
    count = done.num_frames
    return Measured(*rates, count / seconds, count / (seconds + prepare_seconds), shares_text(done.seconds))


def digest_rate(frame: Frames) -> float:
    """Frames a second of the digest alone."""
    digest, content = hashlib.blake2b(digest_size=DIGEST_BYTES), frame.tobytes()
    return 1 / best_seconds(lambda: digest.update(content), number=100)


def compare_with_loops(folder: Path, paths: Sequence[Path], names: Sequence[str], prepare_seconds: float) -> None:
    dark = FrameStore(folder / "dark")
    for video_id in dark.video_ids:
        np.save(folder / "saved" / f"{video_id}.npy", dark.read(video_id, range(dark.shape(video_id)[0])))
    print("frames a second of CPU time, 320×240\n")
    digests = digest_rate(dark.read(dark.video_ids[0], [0]))
    print(f"a digest alone: {digests:.0f}")
    print("                       over the    over one of           and   over the plain")
    print("enhancer       stage      loop     whole files       digests     with prepare   where the stage's time goes")
    for name in names:
        found = [measure(folder, name, paths, prepare_seconds) for _ in range(ROUNDS)]
        each = [
            (m.stage / m.plain, m.stage / m.whole, m.stage * (1 / m.whole + 1 / digests), m.with_prepare / m.plain)
            for m in found
        ]
        ratios = [statistics.median(column) for column in zip(*each, strict=True)]
        cells = ["–" if np.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios]
        rate = statistics.median(m.stage for m in found)
        table = "".join(f"{cell:>{width}}" for cell, width in zip(cells, (10, 16, 14, 17), strict=True))
        print(f"{name:12} {rate:7.0f}{table}   {found[-1].shares}", flush=True)


def compare_workers(folder: Path, names: Sequence[str]) -> None:
    print("\none worker and two, by the clock")
    print("enhancer     frames/s with one    two over one")
    for name in names:
        rates, path = [], folder / f"{name}.safetensors"
        save(name, path)
        for num_workers in (1, 2):
            run = shard_runner("enhance", num_workers=num_workers, scheduler=None, stop=lambda: None)
            start = time.monotonic()
            done = run_stage(folder, path, run)
            rates.append(done.num_frames / (time.monotonic() - start))
        print(f"{name:12} {rates[0]:17.0f} {rates[1] / rates[0]:15.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=16, help="how many (default: 16)")
    parser.add_argument("--frames", type=int, default=90, help="of each video (default: 90)")
    parser.add_argument("--classical", action="store_true", help="no networks, which take most of the time")
    options = parser.parse_args()
    os.environ.pop("DVC_ROOT", None)
    keep_freed_memory()  # as every command
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = render_videos(folder, options.videos, width=320, height=240, num_frames=options.frames)
        _, prepare_seconds = cpu_seconds(lambda: write_store(paths, folder / "dark", num_shards=NUM_SHARDS))
        (folder / "saved").mkdir()
        names = [name for name in ENHANCERS if not (options.classical and name in LEARNED)]
        compare_with_loops(folder, paths, names, prepare_seconds)
        compare_workers(folder, [name for name in ("gamma", "clahe", "zero_dce_pp", "zero_dce") if name in names])


if __name__ == "__main__":
    main()
