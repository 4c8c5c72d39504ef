"""What a network costs: its parameters, and the multiplications of a clip.

Axes: B batch, C channels, T frames, H, W.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.networks import build_network
from pipeline.models.recognizer import Recognizer


@dataclass(frozen=True)
class Cost:
    """A network's number of weights, and billions of multiply-additions for one clip (GMAC)."""

    parameters: int
    gmac: float


def cost_of(recognizer: Recognizer) -> Cost:
    """The cost of one clip of the network's own geometry, counted on shapes alone.

    torch.utils.flop_counter counts convolutions, matrix products and attention, not elementwise operations such as
    normalisation.
    """
    clip = recognizer.architecture.clip
    with torch.device("meta"):
        network = build_network(recognizer.architecture).eval()
        clip_BCTHW = torch.empty(1, 3, clip.num_frames, clip.size, clip.size)
    return Cost(recognizer.num_parameters, gmac_of(lambda: network(clip_BCTHW)))


def gmac_of(run: Callable[[], Tensor]) -> float:
    """GMAC of what a function computes."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return int(counter.get_total_flops()) / 2e9
