"""Enhancers that are networks: Zero-DCE, Zero-DCE++ and SCI, from the formulas of their papers.

Axes: B frames of a batch, C the channels red, green, blue as shares of white, H rows, W columns, N the curves of one
pixel and channel, one an iteration. Parameters have the names of the authors' code, so that their weights fit.

Zero-DCE: Guo et al., CVPR 2020 (arXiv 2001.06826). Zero-DCE++: Li et al., TPAMI 2021 (arXiv 2103.00860).
SCI: Ma et al., CVPR 2022 (arXiv 2204.10137).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.frames import Frames, Levels, display_values
from pipeline.enhance.classical import FrameFunction, Video

Precision = Literal["float32", "bfloat16"]

NUM_ITERATIONS = 8
MIN_ILLUMINATION = 1e-4
# Estimating curves at full size takes 3 GiB for a 4K frame; above this size they do not improve visibly
MAX_CURVE_SIDE = 960
# Pixels of the frames that go through a network at once: on a CPU as many as its caches hold the 32 channels of, which
# is three times faster than more (LOG.md); on a GPU about 1 GiB
_PIXELS_AT_ONCE_CPU = 1 << 17
_PIXELS_AT_ONCE_GPU = 1 << 22


class CurveNetwork(nn.Module):
    """DCE-Net: seven convolutions with three symmetric skips; 79,416 parameters, 8 curves for each channel."""

    curves_per_channel = NUM_ITERATIONS

    def __init__(self) -> None:
        super().__init__()
        self.e_conv1 = self._layer(3, 32)
        self.e_conv2 = self._layer(32, 32)
        self.e_conv3 = self._layer(32, 32)
        self.e_conv4 = self._layer(32, 32)
        self.e_conv5 = self._layer(64, 32)
        self.e_conv6 = self._layer(64, 32)
        self.e_conv7 = self._layer(64, 3 * self.curves_per_channel)

    @staticmethod
    def _layer(inputs: int, outputs: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, dark_BCHW: Tensor) -> Tensor:
        """Shares of white (B, 3, H, W) → curve parameters between -1 and 1, (B, 3·N, H, W), iteration by iteration."""
        x1 = torch.relu(self.e_conv1(dark_BCHW))
        x2 = torch.relu(self.e_conv2(x1))
        x3 = torch.relu(self.e_conv3(x2))
        x4 = torch.relu(self.e_conv4(x3))
        x5 = torch.relu(self.e_conv5(torch.cat([x3, x4], dim=1)))
        x6 = torch.relu(self.e_conv6(torch.cat([x2, x5], dim=1)))
        return torch.tanh(self.e_conv7(torch.cat([x1, x6], dim=1)))


class _SeparableConv(nn.Module):
    """A depthwise convolution 3×3, then one 1×1 over the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depth_conv = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
        self.point_conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mixed: Tensor = self.point_conv(self.depth_conv(x_BCHW))
        return mixed


class SeparableCurveNetwork(CurveNetwork):
    """DCE-Net++: depthwise separable, one curve for each channel in all iterations; 10,561 parameters."""

    curves_per_channel = 1

    @staticmethod
    def _layer(inputs: int, outputs: int) -> nn.Module:
        return _SeparableConv(inputs, outputs)


class IlluminationNetwork(nn.Module):
    """SCI's estimate of the illumination: the frame plus a residual; 258 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        self.conv = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
        self.out_conv = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Sigmoid())

    def forward(self, dark_BCHW: Tensor) -> Tensor:
        """Shares of white (B, 3, H, W) → illumination of the same shape, from 0.0001 to 1."""
        features = self.in_conv(dark_BCHW)
        residual: Tensor = self.out_conv(features + self.conv(features))
        return (dark_BCHW + residual).clamp(MIN_ILLUMINATION, 1.0)


class CalibrationNetwork(nn.Module):
    """SCI's self-calibration of the next stage's input, which only fitting needs."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def block(inputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]

        self.in_conv = nn.Sequential(*block(3))
        self.convs = nn.Sequential(*block(width), *block(width))
        self.out_conv = nn.Sequential(nn.Conv2d(width, 3, 3, padding=1), nn.Sigmoid())

    def forward(self, reflectance_BCHW: Tensor) -> Tensor:
        """What to add to the dark frame before the next stage, of the same shape."""
        features = self.in_conv(reflectance_BCHW)
        for _ in range(3):  # the same weights each time
            features = features + self.convs(features)
        calibrated: Tensor = reflectance_BCHW - self.out_conv(features)
        return calibrated


NETWORKS: dict[str, type[CurveNetwork | IlluminationNetwork]] = {
    "zero_dce": CurveNetwork,
    "zero_dce_pp": SeparableCurveNetwork,
    "sci": IlluminationNetwork,
}


def estimate_curves(network: CurveNetwork, dark_BCHW: Tensor, *, reduction: int) -> Tensor:
    """Curve parameters (B, 3·N, h, w), estimated on the frames at 1/reduction of their size.

    The reduced frame is the mean over areas; its longer side is at most 960 pixels.
    """
    height, width = dark_BCHW.shape[-2:]
    divisor = max(reduction, max(height, width) / MAX_CURVE_SIDE)
    if divisor > 1:
        dark_BCHW = functional.adaptive_avg_pool2d(
            dark_BCHW, (max(1, round(height / divisor)), max(1, round(width / divisor)))
        )
    curves: Tensor = network(dark_BCHW)
    return curves


def apply_curves(dark_BCHW: Tensor, curves_BNHW: Tensor) -> Tensor:
    """x ← x + A·x·(1 − x), eight times, with the iteration's own A or the only one, enlarged bilinearly to the frame.

    Shares of white stay between 0 and 1, since |A| ≤ 1.
    """
    size = dark_BCHW.shape[-2:]
    groups = torch.split(curves_BNHW, 3, dim=1)
    if len(groups) == 1:
        groups = (_enlarge(groups[0], size),) * NUM_ITERATIONS
    bright_BCHW = dark_BCHW
    for group in groups:  # enlarged one by one: all eight at the size of the frame would be most of the memory
        bright_BCHW = torch.addcmul(bright_BCHW, _enlarge(group, size), bright_BCHW - bright_BCHW * bright_BCHW)
    return bright_BCHW


def _enlarge(maps_BCHW: Tensor, size: torch.Size) -> Tensor:
    if maps_BCHW.shape[-2:] == size:
        return maps_BCHW
    return functional.interpolate(maps_BCHW, size=size, mode="bilinear", align_corners=False)


def shares_of_white(frames: Tensor, levels: Levels) -> Tensor:
    """The values of bytes, 0 to 1, in their shape and memory layout."""
    if levels == "linear":
        return frames.float().div_(255.0)
    values_256 = torch.from_numpy(display_values(levels).copy()).to(frames.device)
    return values_256[frames.int()].div_(255.0)


@dataclass(frozen=True)
class LearnedEnhancer:
    """A fitted network that enhances each frame by itself.

    curve_reduction: curves are estimated at this part of the frame's size and applied at the whole (sci ignores it).
    precision: of the network; the curves are applied in float32.
    """

    name: str
    network: CurveNetwork | IlluminationNetwork
    curve_reduction: int
    precision: Precision
    device: str = "cpu"

    @property
    def parameters(self) -> dict[str, Any]:
        """What the model file holds beside the tensors."""
        return {"curve_reduction": self.curve_reduction, "precision": self.precision}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The network's state by the authors' names."""
        return {name: value.detach().cpu().numpy() for name, value in self.network.state_dict().items()}

    def for_video(self, video: Video) -> FrameFunction:
        """Enhances frame by frame."""
        return lambda frames_THWC, first: self._enhance(frames_THWC, video.levels)

    @torch.inference_mode()
    def _enhance(self, frames_THWC: Frames, levels: Levels) -> Frames:
        enhanced_THWC = np.empty_like(frames_THWC)
        _, height, width, _ = frames_THWC.shape
        pixels = _PIXELS_AT_ONCE_CPU if torch.device(self.device).type == "cpu" else _PIXELS_AT_ONCE_GPU
        step = max(1, pixels // (height * width))
        for start in range(0, len(frames_THWC), step):
            some_BHWC = torch.from_numpy(np.ascontiguousarray(frames_THWC[start : start + step])).to(self.device)
            bright_BCHW = self.brighten(shares_of_white(some_BHWC.permute(0, 3, 1, 2), levels))
            bright_BHWC = bright_BCHW.mul(255.0).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
            enhanced_THWC[start : start + step] = bright_BHWC.cpu().numpy()
        return enhanced_THWC

    def brighten(self, dark_BCHW: Tensor) -> Tensor:
        """Shares of white → shares of white, (B, C, H, W)."""
        network, enabled = self.network, self.precision == "bfloat16"
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=enabled):
            if isinstance(network, IlluminationNetwork):
                return torch.div(dark_BCHW, network(dark_BCHW).float())
            curves_BNHW = estimate_curves(network, dark_BCHW, reduction=self.curve_reduction).float()
        return apply_curves(dark_BCHW, curves_BNHW)


def make_learned(
    name: str, parameters: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], *, device: str = "cpu"
) -> LearnedEnhancer:
    """A learned enhancer from a model file; ValueError where parameters or tensors are not those of that network."""
    if set(parameters) != {"curve_reduction", "precision"}:
        raise ValueError(f"{name} has curve_reduction and precision, not {', '.join(parameters)}")
    reduction, precision = parameters["curve_reduction"], parameters["precision"]
    if isinstance(reduction, bool) or not isinstance(reduction, int) or reduction < 1:
        raise ValueError(f"curve_reduction is a whole number from 1, not {reduction!r}")
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision is float32 or bfloat16, not {precision!r}")
    network = NETWORKS[name]()
    findings = fit_of_tensors(network, tensors)
    if findings:
        raise ValueError("; ".join(findings))
    network.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in tensors.items()})
    network.eval().requires_grad_(False).to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LearnedEnhancer(name, network, reduction, precision, device)


def fit_of_tensors(network: nn.Module, tensors: Mapping[str, NDArray[Any]]) -> list[str]:
    """Why tensors cannot be this network's state: missing or unknown names, other shapes, not finite values."""
    wanted = network.state_dict()
    findings = [f"{name} is missing" for name in wanted if name not in tensors]
    findings += [f"{name} is no parameter of it" for name in tensors if name not in wanted]
    for name in wanted.keys() & tensors.keys():
        shape = tuple(wanted[name].shape)
        if tensors[name].shape != shape:
            findings.append(f"{name} has the shape {tensors[name].shape}, not {shape}")
        elif not np.isfinite(tensors[name]).all():
            findings.append(f"{name} has values that are not finite")
    return findings
