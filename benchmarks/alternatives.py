"""What a clip would cost without a student: with two streams, or with frames that are enhanced at inference.

    python -m benchmarks.alternatives [--tiny] [--frame-size 172x128] [--runs 50]

For R(2+1)D-18 on 16×112² and for the slim network on 8×56², with new weights, one thread: GMAC, and the CPU's time for
one clip, each also as a multiple of the student's alone. Frames are enhanced at --frame-size, before they are resized;
the curves of zero_dce and zero_dce_pp are estimated on the whole frame, as published, and at 1/2 of it. Time is the
median of --runs, which other work on the machine disturbs least. Two streams are not run: they are the network twice,
without their enhancer. Prints tables in Markdown; docs/export.md has them.

Axes: B batch, T frames, H, W, C channels.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.in_memory import enhance_frames
from pipeline.core.params import ClipParams, FitEnhancerParams, load_params
from pipeline.enhance.classical import Enhancer
from pipeline.enhance.file import CLASSICAL, classical_from_params
from pipeline.enhance.learned import NETWORKS, CurveNetwork, LearnedEnhancer, estimate_curves
from pipeline.evaluate.cost import cost_of, gmac_of
from pipeline.models.recognizer import Architecture, Recognizer

PARAMS = Path(__file__).parent.parent / "configs/demo.yaml"
NUM_CLASSES = 11


@dataclass(frozen=True)
class Alternative:
    """A way to recognise dark video, and what one clip costs it; two streams have no time."""

    name: str
    parameters: int
    gmac: float
    cpu_seconds: float | None


def alternatives(
    recognizer: Recognizer, options: FitEnhancerParams, *, frame_size: tuple[int, int], num_runs: int
) -> list[Alternative]:
    """The student alone, a network of its size with two streams, and one on frames enhanced at `frame_size` (H, W)."""
    network, clip = cost_of(recognizer), recognizer.architecture.clip
    clip_BTHWC = torch.zeros(1, clip.num_frames, clip.size, clip.size, 3, dtype=torch.uint8)
    # the time does not depend on the values, but gamma_auto looks for its gamma
    dark_THWC = np.random.default_rng(0).integers(0, 40, (clip.num_frames, *frame_size, 3), dtype=np.uint8)
    with torch.inference_mode():
        alone = median_cpu_seconds(lambda: recognizer(clip_BTHWC), num_runs)
        found = [
            Alternative("student alone", network.parameters, network.gmac, alone),
            Alternative("two streams", 2 * network.parameters, 2 * network.gmac, None),
        ]
        for name, enhancer, parameters, gmac_per_frame in enhancers(options, frame_size):
            cpu_seconds = alone + median_cpu_seconds(partial(enhance_frames, enhancer, dark_THWC), num_runs)
            gmac = network.gmac + clip.num_frames * gmac_per_frame
            found.append(Alternative(f"with {name}", network.parameters + parameters, gmac, cpu_seconds))
    return found


def enhancers(options: FitEnhancerParams, frame_size: tuple[int, int]) -> Iterator[tuple[str, Enhancer, int, float]]:
    """Name, enhancer, its parameters and its GMAC for a frame: none of the classical ones multiplies matrices."""
    for name in CLASSICAL:
        if name != "none":
            yield name, classical_from_params(name, options), 0, 0.0
    height, width = frame_size
    for name, kind in NETWORKS.items():
        # its cost does not depend on its weights; the memory format is that of fitted enhancers
        network = kind().eval().to(memory_format=torch.channels_last)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        for reduction in (1, 2) if isinstance(network, CurveNetwork) else (1,):
            shown = name if reduction == 1 else f"{name} at 1/{reduction}"
            gmac = enhancer_gmac(name, height=height, width=width, curve_reduction=reduction)
            yield shown, LearnedEnhancer(name, network, reduction, options.precision), parameters, gmac


def enhancer_gmac(name: str, *, height: int, width: int, curve_reduction: int) -> float:
    """GMAC of a learned enhancer for one frame; sci has no curves to reduce."""
    with torch.device("meta"):
        network = NETWORKS[name]().eval()
        dark_BCHW = torch.empty(1, 3, height, width)
        if isinstance(network, CurveNetwork):
            return gmac_of(lambda: estimate_curves(network, dark_BCHW, reduction=curve_reduction))
        return gmac_of(lambda: network(dark_BCHW))


def median_cpu_seconds(run: Callable[[], object], num_runs: int) -> float:
    run()
    seconds = []
    for _ in range(num_runs):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="The slim network alone, small frames, few runs.")
    parser.add_argument("--frame-size", default="172x128", metavar="WIDTHxHEIGHT", help="Of the stored frames.")
    parser.add_argument("--runs", type=int, default=50)
    args = parser.parse_args()
    width, height = (32, 24) if args.tiny else map(int, args.frame_size.split("x"))
    num_runs = 2 if args.tiny else args.runs
    torch.set_num_threads(1)
    options = load_params(PARAMS).fit_enhancer
    for name, num_frames, size in [("r2plus1d_18", 16, 112), ("r2plus1d_slim", 8, 56)][args.tiny :]:
        clip = ClipParams(num_frames=num_frames, frame_stride=2, size=size)
        architecture = Architecture(name, NUM_CLASSES, clip, 16 if name == "r2plus1d_slim" else None, 0.0, 0.0)
        recognizer = Recognizer(architecture, mean_C=[0.1] * 3, std_C=[0.1] * 3).eval()
        found = alternatives(recognizer, options, frame_size=(height, width), num_runs=num_runs)
        alone = found[0]
        print(f"\n| {name}, {num_frames}×{size}² | M parameters | GMAC | × | CPU ms | × |\n|---|---|---|---|---|---|")
        for one in found:
            times = "– | –"
            if one.cpu_seconds is not None and alone.cpu_seconds is not None:
                times = f"{1000 * one.cpu_seconds:.1f} | {one.cpu_seconds / alone.cpu_seconds:.2f}"
            gmac = f"{one.gmac:.3g} | {one.gmac / alone.gmac:.2f}"
            print(f"| {one.name} | {one.parameters / 1e6:.2f} | {gmac} | {times} |", flush=True)


if __name__ == "__main__":
    main()
