"""How small the frames may be that curves are estimated on: error against full-size curves, and speed.

    python -m benchmarks.curve_reduction

Zero-DCE and Zero-DCE++ are fitted to dark demo videos with curves of full size, and then estimate their curves on
frames reduced 2, 4, 8 and 12 times: the error is the difference of the enhanced frames, in levels, from those of
full-size curves. Speed is CPU time on one thread over that of full-size curves in float32; the last column is
bfloat16's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.in_memory import enhance_frames
from benchmarks.material import best_seconds, render_videos, write_store
from pipeline.core.params import load_params
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import Frames
from pipeline.enhance.fit import Fit
from pipeline.enhance.fitting import Fitter
from pipeline.enhance.learned import LearnedEnhancer

PARAMS = load_params(Path(__file__).parent.parent / "params.yaml").fit_enhancer
REDUCTIONS = (1, 2, 4, 8, 12)
SIZES = ((320, 240), (172, 128))  # as filmed, and as the recipes store them
COMPARED_FRAMES = 6  # of each video


def fitted(name: str, store: FrameStore, steps: int, folder: Path) -> LearnedEnhancer:
    params = PARAMS.model_copy(update={"steps": steps, "size": 96, "curve_reduction": 1})
    fit = Fit(name, params, 0, store, store.video_ids, torch.device("cpu"))
    fitter = Fitter(fit, checkpoint_path=folder / f"{name}.pt", checkpoint_seconds=1e9)
    return fitter.run(stop=lambda: None, advance=lambda count, note: None)[0]


def errors(reference: Frames, frames: Frames) -> tuple[float, float]:
    """Mean and 99th percentile of the absolute difference, in levels."""
    difference = np.abs(reference.astype(np.int16) - frames)
    return float(difference.mean()), float(np.percentile(difference, 99))


def compare(enhancer: LearnedEnhancer, videos: Sequence[Frames]) -> None:
    enhancer.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    reference = [enhance_frames(enhancer, video) for video in videos]
    lift = np.mean([frames.mean() for frames in reference]) / np.mean([video.mean() for video in videos])
    print(f": lifts the mean {lift:.1f} times")
    print("reduced   mean error   99th percentile   frames/s over full size   with bfloat16")
    full_seconds = best_seconds(lambda: enhance_frames(enhancer, videos[0]), number=1)
    for reduction in REDUCTIONS:
        reduced = replace(enhancer, curve_reduction=reduction)
        half = replace(reduced, precision="bfloat16")
        found = [errors(a, enhance_frames(reduced, video)) for a, video in zip(reference, videos, strict=True)]
        mean, high = np.mean(found, axis=0)
        speeds = [
            full_seconds / best_seconds(lambda e=e: enhance_frames(e, videos[0]), number=1) for e in (reduced, half)
        ]
        print(f"{reduction:7} {mean:12.2f} {high:17.1f} {speeds[0]:25.1f} {speeds[1]:15.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8, help="how many (default: 8)")
    parser.add_argument("--steps", type=int, default=300, help="of fitting (default: 300)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for width, height in SIZES:
            paths = render_videos(folder / f"{height}", options.videos, width=width, height=height, num_frames=24)
            store = write_store(paths, folder / f"{height}" / "dark", num_shards=1)
            numbers = np.linspace(0, 23, COMPARED_FRAMES).round().astype(int).tolist()
            videos = [store.read(name, numbers) for name in store.video_ids]
            for name in ("zero_dce", "zero_dce_pp"):
                print(f"\n{name}, {width}×{height}", end="")
                compare(fitted(name, store, options.steps, folder / f"{height}"), videos)


if __name__ == "__main__":
    main()
