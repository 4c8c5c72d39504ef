"""A BERT head over the frames of a residual network, in place of averaging over time.

Kalfaoglu, Kalkan, Alatan, "Late temporal modeling in 3D CNN architectures with BERT for action recognition", ECCV
Workshops 2020: features are averaged over space alone, which leaves a token for each frame of the last layer; a class
token is put before them, learnt positions are added, one transformer layer mixes them, and the class token's output is
classified.

Axes: B batch, C channels, T frames, H, W, S tokens (1 + the frames of the last layer), D features, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 512  # of the last layer of an R(2+1)D-34
NUM_HEADS = 8
DROPOUT = 0.1  # within the layer, as in BERT; that before the classifier is a parameter
INITIAL_STD = 0.02  # of token and positions, as in BERT


class SelfAttention(nn.Module):
    """Attention of all tokens to all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens_BSD: Tensor) -> Tensor:  # noqa: D102
        query, key, value = rearrange(
            self.query_key_value(tokens_BSD), "b s (three heads d) -> three b heads s d", three=3, heads=NUM_HEADS
        )
        dropout = DROPOUT if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        out_BSD: Tensor = self.out(rearrange(mixed, "b heads s d -> b s (heads d)"))
        return out_BSD


class TransformerLayer(nn.Module):
    """Attention, then a perceptron four times as wide, each normalised before and added to what came in.

    Written out, since torch's own layer computes other numbers in eval mode than in training, by a fused kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.attention = SelfAttention()
        self.perceptron_norm = nn.LayerNorm(WIDTH)
        self.perceptron = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens_BSD: Tensor) -> Tensor:  # noqa: D102
        tokens_BSD = tokens_BSD + self.dropout(self.attention(self.attention_norm(tokens_BSD)))
        out_BSD: Tensor = tokens_BSD + self.dropout(self.perceptron(self.perceptron_norm(tokens_BSD)))
        return out_BSD


class BertHead(nn.Module):
    """Features of `num_frames` frames (B, 512, T, H, W) → logits (B, K). 3.15 M parameters and the classifier's."""

    def __init__(self, num_frames: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.class_token_D = nn.Parameter(torch.empty(WIDTH).normal_(std=INITIAL_STD))
        self.positions_SD = nn.Parameter(torch.empty(1 + num_frames, WIDTH).normal_(std=INITIAL_STD))
        self.layer = TransformerLayer()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(WIDTH, num_classes)

    def forward(self, features_BCTHW: Tensor) -> Tensor:  # noqa: D102
        frames_BTD = features_BCTHW.mean(dim=(3, 4)).transpose(1, 2)
        class_token_B1D = repeat(self.class_token_D, "d -> b 1 d", b=frames_BTD.shape[0])
        tokens_BSD = torch.cat([class_token_B1D, frames_BTD], dim=1) + self.positions_SD
        logits_BK: Tensor = self.classifier(self.dropout(self.layer(tokens_BSD)[:, 0]))
        return logits_BK


class BertResNet(nn.Module):
    """Stem and four layers of a residual network of torchvision, under their own names, with a BERT head."""

    def __init__(self, trunk: Any, head: BertHead) -> None:
        super().__init__()
        self.stem, self.layer1, self.layer2 = trunk.stem, trunk.layer1, trunk.layer2
        self.layer3, self.layer4 = trunk.layer3, trunk.layer4
        self.head = head

    def forward(self, x_BCTHW: Tensor) -> Tensor:  # noqa: D102
        for part in (self.stem, self.layer1, self.layer2, self.layer3, self.layer4, self.head):
            x_BCTHW = part(x_BCTHW)
        return x_BCTHW
