"""Losses without bright references: Zero-DCE's four, with the weights of the authors' code, and SCI's two.

Axes: B frames, C the channels red, green, blue as shares of white, H rows, W columns (16 and more of either), N curve
parameters of a pixel.
All are finite, with finite gradients, on black, white and grey frames: no root is taken at 0.

Zero-DCE: Guo et al., CVPR 2020 (arXiv 2001.06826), section 3.3. SCI: Ma et al., CVPR 2022 (arXiv 2204.10137), eq. 4-6.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

REGION = 4  # side in pixels of the regions whose differences are preserved
PATCH = 16  # side in pixels of the patches that are pulled to the exposure

SPATIAL_WEIGHT = 1.0
EXPOSURE_WEIGHT = 10.0
COLOUR_WEIGHT = 5.0
SMOOTHNESS_WEIGHT = 200.0  # of 8 curves for each channel; one alone has eight times as much, which is Zero-DCE++'s 1600

FIDELITY_WEIGHT = 1.5
SIMILARITY_SIGMA = 0.1  # of YCbCr values between 0 and 1
REACH = 2  # pixels in each direction that the illumination is smoothed over: a window of 5×5

# ITU-R BT.601, red, green, blue → Y, Cb, Cr
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def zero_dce_losses(
    dark_BCHW: Tensor, bright_BCHW: Tensor, curves_BNHW: Tensor, *, exposure: float
) -> dict[str, Tensor]:
    """The weighted terms of Zero-DCE; their sum is the loss. exposure: target brightness of patches, 0 to 1."""
    smoothness_weight = SMOOTHNESS_WEIGHT * 24 / curves_BNHW.shape[1]
    return {
        "spatial": SPATIAL_WEIGHT * spatial_consistency(dark_BCHW, bright_BCHW),
        "exposure": EXPOSURE_WEIGHT * exposure_error(bright_BCHW, exposure),
        "colour": COLOUR_WEIGHT * colour_constancy(bright_BCHW),
        "smoothness": smoothness_weight * curve_smoothness(curves_BNHW),
    }


def spatial_consistency(dark_BCHW: Tensor, bright_BCHW: Tensor) -> Tensor:
    """Mean over regions i of Σ_j (|Y_i − Y_j| − |I_i − I_j|)², j the regions above, below, left and right of i.

    Y and I are the means of 4×4 pixels and all channels, of the enhanced and of the dark frame.
    """
    dark, bright = (
        functional.avg_pool2d(frames.mean(dim=1, keepdim=True), REGION) for frames in (dark_BCHW, bright_BCHW)
    )
    total = dark.new_zeros(())
    for axis in (-2, -1):
        change = bright.diff(dim=axis).abs() - dark.diff(dim=axis).abs()
        total = total + 2 * change.square().sum()  # each pair counts twice, once from either side
    return total / dark.numel()


def exposure_error(bright_BCHW: Tensor, exposure: float) -> Tensor:
    """Mean over patches k of |Y_k − E|, Y_k the mean of 16×16 pixels and all channels."""
    return (functional.avg_pool2d(bright_BCHW.mean(dim=1, keepdim=True), PATCH) - exposure).abs().mean()


def colour_constancy(bright_BCHW: Tensor) -> Tensor:
    """Mean over frames of Σ (J_p − J_q)² over the pairs of channels, J_p a channel's mean (grey world)."""
    red, green, blue = bright_BCHW.mean(dim=(-2, -1)).unbind(dim=1)
    return ((red - green).square() + (red - blue).square() + (green - blue).square()).mean()


def curve_smoothness(curves_BNHW: Tensor) -> Tensor:
    """2 · Σ_n (mean (∇_y A_n)² + mean (∇_x A_n)²): total variation of the curve parameters, as in the authors' code."""
    total = curves_BNHW.new_zeros(())
    for axis in (-2, -1):
        if curves_BNHW.shape[axis] > 1:  # much reduced curves may be one for the whole frame
            total = total + 2 * curves_BNHW.diff(dim=axis).square().mean() * curves_BNHW.shape[1]
    return total


def sci_losses(input_BCHW: Tensor, illumination_BCHW: Tensor) -> dict[str, Tensor]:
    """The weighted terms of one stage of SCI: its illumination is close to its input, and smooth within objects."""
    return {
        "fidelity": FIDELITY_WEIGHT * functional.mse_loss(illumination_BCHW, input_BCHW),
        "smoothness": illumination_smoothness(input_BCHW, illumination_BCHW),
    }


def illumination_smoothness(input_BCHW: Tensor, illumination_BCHW: Tensor) -> Tensor:
    """Σ_j mean_i w_ij · |x_i − x_j| over the 24 other pixels j of a 5×5 window; x the illumination.

    w_ij = exp(−‖s_i − s_j‖² / (2·0.1²)), s the stage's input in YCbCr. Pairs across the border are omitted.
    """
    matrix = torch.tensor(TO_YCBCR, dtype=input_BCHW.dtype, device=input_BCHW.device)
    similar_BCHW = torch.einsum("kc,bchw->bkhw", matrix, input_BCHW)
    total = input_BCHW.new_zeros(())
    for dy, dx in _half_window():
        here, there = _shifted(similar_BCHW, dy, dx)
        weight = torch.exp((here - there).square().sum(dim=1, keepdim=True) / (-2 * SIMILARITY_SIGMA**2))
        here, there = _shifted(illumination_BCHW, dy, dx)
        total = total + 2 * (weight * (here - there).abs()).mean()  # each pair counts twice, once from either side
    return total


def _half_window() -> Iterator[tuple[int, int]]:
    """One of each pair of opposite offsets within reach."""
    for dy in range(REACH + 1):
        for dx in range(-REACH, REACH + 1):
            if (dy, dx) > (0, 0):
                yield dy, dx


def _shifted(x_BCHW: Tensor, dy: int, dx: int) -> tuple[Tensor, Tensor]:
    """The pixels that have a neighbour at that offset, and those neighbours."""
    height, width = x_BCHW.shape[-2:]
    left, right = max(0, -dx), min(width, width - dx)
    here = x_BCHW[..., : max(0, height - dy), left:right]
    there = x_BCHW[..., dy:, left + dx : right + dx]
    return here, there
