"""What the ways around a student would cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from pipeline.core.params import FitEnhancerParams
from pipeline.enhance.classical import Enhancer, enhance_frames
from pipeline.enhance.file import CLASSICAL, classical_from_params
from pipeline.enhance.learned import NETWORKS, CurveNetwork, estimate_curves, make_learned
from pipeline.evaluate.cost import cost_of, gmac_of
from pipeline.models.recognizer import Recognizer


def enhancer_gmac(name: str, *, height: int, width: int, curve_reduction: int) -> float:
    """GMAC of a learned enhancer for one frame; `curve_reduction` is that of the parameters (sci ignores it)."""
    with torch.device("meta"):
        network = NETWORKS[name]().eval()
        dark_BCHW = torch.empty(1, 3, height, width)
        if isinstance(network, CurveNetwork):
            return gmac_of(lambda: estimate_curves(network, dark_BCHW, reduction=curve_reduction))
        return gmac_of(lambda: network(dark_BCHW))


@dataclass(frozen=True)
class Alternative:
    """A way to recognise dark video, and what one clip costs it.

    cpu_seconds: of all threads together, None where nothing was measured.
    """

    name: str
    parameters: int
    gmac: float
    cpu_seconds: float | None


def alternatives(
    recognizer: Recognizer, options: FitEnhancerParams, *, frame_size: tuple[int, int], num_runs: int
) -> list[Alternative]:
    """The student alone, a network of its size with two streams, and one that sees frames enhanced at inference.

    A clip is enhanced at `frame_size` (H, W), with these parameters; the curves of zero_dce and zero_dce_pp are
    estimated at the size of the frame, as published, and at 1/curve_reduction of it. Time is the CPU's for one clip,
    the median of `num_runs`: other work on the machine disturbs it least. Two streams are not run: they are the network
    twice, without their enhancer.
    """
    network, clip = cost_of(recognizer), recognizer.architecture.clip
    clip_BTHWC = torch.zeros(1, clip.num_frames, clip.size, clip.size, 3, dtype=torch.uint8)
    # what enhancers do to a pixel does not depend on its value, but gamma_auto looks for its gamma
    dark_THWC = np.random.default_rng(0).integers(0, 40, (clip.num_frames, *frame_size, 3), dtype=np.uint8)
    with torch.inference_mode():
        alone = _median_cpu_seconds(lambda: recognizer(clip_BTHWC), num_runs)
        found = [
            Alternative("student alone", network.parameters, network.gmac, alone),
            Alternative("two streams", 2 * network.parameters, 2 * network.gmac, None),
        ]
        for name, enhancer, parameters, gmac_per_frame in _enhancers(options, frame_size):
            cpu_seconds = alone + _median_cpu_seconds(partial(enhance_frames, enhancer, dark_THWC), num_runs)
            gmac = network.gmac + clip.num_frames * gmac_per_frame
            found.append(Alternative(f"with {name}", network.parameters + parameters, gmac, cpu_seconds))
    return found


def _enhancers(options: FitEnhancerParams, frame_size: tuple[int, int]) -> Iterator[tuple[str, Enhancer, int, float]]:
    """Name, enhancer, its parameters and its GMAC for a frame: none of the classical ones multiplies matrices."""
    for name in CLASSICAL:
        if name != "none":
            yield name, classical_from_params(name, options), 0, 0.0
    height, width = frame_size
    for name, kind in NETWORKS.items():
        network: nn.Module = kind()  # what it costs does not depend on its weights
        tensors = {key: value.numpy() for key, value in network.state_dict().items()}
        parameters = sum(parameter.numel() for parameter in network.parameters())
        has_curves = isinstance(network, CurveNetwork)
        for reduction in sorted({1, options.curve_reduction}) if has_curves else [1]:
            how = {"curve_reduction": reduction, "precision": options.precision}
            shown = name if reduction == 1 else f"{name} at 1/{reduction}"
            gmac = enhancer_gmac(name, height=height, width=width, curve_reduction=reduction)
            yield shown, make_learned(name, how, tensors), parameters, gmac


def _median_cpu_seconds(run: Callable[[], object], num_runs: int) -> float:
    run()
    seconds = []
    for _ in range(num_runs):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)
