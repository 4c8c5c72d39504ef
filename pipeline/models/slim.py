"""R(2+1)D for small clips.

Axes: B batch, C channels, T frames, H, W, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conv2Plus1D(nn.Sequential):
    """A 3×3×3 convolution as a spatial and a temporal one with as many weights.

    Tran et al., "A closer look at spatiotemporal convolutions for action recognition", CVPR 2018.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        middle = (in_channels * out_channels * 27) // (in_channels * 9 + 3 * out_channels)
        super().__init__(
            nn.Conv3d(in_channels, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, out_channels, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
        )


class SlimBlock(nn.Module):
    """A residual block of two (2+1)D convolutions."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            Conv2Plus1D(in_channels, out_channels, stride=stride),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
            Conv2Plus1D(out_channels, out_channels, stride=1),
            nn.BatchNorm3d(out_channels),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm3d(out_channels)
            )
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = torch.relu(self.residual(x_BCTHW) + self.shortcut(x_BCTHW))
        return out


class SlimR2Plus1D(nn.Module):
    """R(2+1)D for small clips: three blocks with channels of width × (2, 4, 8), each halving T, H and W.

    0.89 M parameters at width 16; 0.11 GMAC for a clip of 8×64×64.
    """

    def __init__(self, num_classes: int, *, width: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, width, (1, 5, 5), (1, 2, 2), (0, 2, 2), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.Conv3d(width, width, (3, 1, 1), 1, (1, 0, 0), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
        channels = [width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.Sequential(*(SlimBlock(channels[i], channels[i + 1], stride=2) for i in range(3)))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels[-1], num_classes)
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:  # noqa: D102
        logits_BK: Tensor = self.head(self.blocks(self.stem(x_BCTHW)))
        return logits_BK
