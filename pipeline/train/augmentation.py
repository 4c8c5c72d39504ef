"""What is done to clips on top of their views: other light, and the mixing of neighbours. Never a change of geometry.

A teacher's logits belong to one crop; a student that sees the crop in another light may still learn from them. What
happens to a clip depends only on names: its light on (seed, video, number of the view), its mix on (seed, step).

The loss of a mixed clip is the mix of the losses towards both labels and both soft targets. For cross-entropy, kl and
mse that is the loss towards the mixed target up to a constant: its gradient is the same. It works for any loss, and one
that looks at the label (dkd) has a label to look at.

Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018; Yun et al., "CutMix: Regularization strategy to
train strong classifiers with localizable features", ICCV 2019; over all frames of a clip: Yun et al., "VideoMix:
Rethinking data augmentation for video classification", 2020. Axes: B batch, T frames, H, W, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.digest import digest_uint64
from pipeline.core.params import TrainParams
from pipeline.data.camera import ARID_LIKE, CameraModel, darken
from pipeline.data.dataset import Batch
from pipeline.data.frames import Levels, encoded, expanded

# light

# One stop less, ± half a stop, over the whole frame: the dark videos have their lamps and colours already.
DARKER: CameraModel = replace(
    ARID_LIKE,
    exposure_stops=-1.0,
    exposure_spread=(0.5, 0.5),
    ambient=(1.0, 1.0),
    white_balance=(1.0, 1.0, 1.0),
    white_balance_spread=0.03,
)


@dataclass(frozen=True)
class LightAugmentation:
    """Changes the light of uint8 clips, in this order.

    darken: share of the clips that go through the camera model in less light; gain: values are multiplied by 2**g, g
    uniform in ±gain; noise: normal noise is added, its deviation uniform in 0 … `noise` grey levels. All act on display
    values; levels: what the bytes mean.
    """

    gain: float
    noise: float
    darken: float
    seed: int
    levels: Levels = "linear"

    def __call__(self, clip_THWC: Tensor, video_id: str, number: int) -> Tensor:
        """The clip in another light."""
        rng = np.random.default_rng([self.seed, digest_uint64(b"light\0", video_id.encode()), number])
        # always drawn: one parameter must not change what the others draw
        darkened, stops, deviation = rng.random(), rng.uniform(-1, 1) * self.gain, rng.random() * self.noise
        frames: NDArray[np.uint8] = clip_THWC.numpy()
        if darkened < self.darken:
            frames = darken(frames, DARKER, rng, self.levels)
        if stops or deviation:
            values = expanded(frames, self.levels) * np.float32(2**stops)
            if deviation:
                values += np.float32(deviation) * rng.standard_normal(frames.shape, dtype=np.float32)
            frames = encoded(values, self.levels)
        return torch.from_numpy(frames)


def light_augmentation(params: TrainParams, seed: int, levels: Levels = "linear") -> LightAugmentation | None:
    """The augmentation of a training; None where its clips stay as they are."""
    if not (params.gain or params.noise or params.darken):
        return None
    return LightAugmentation(params.gain, params.noise, params.darken, seed, levels)


# mixing


@dataclass(frozen=True)
class Mix:
    """`weight` is the share of a clip, the rest is its neighbour's: in CutMix `box` (top, bottom, left, right)."""

    weight: float
    box: tuple[int, int, int, int] | None

    def clips(self, clip_BTHWC: Tensor) -> Tensor:
        """Mixed clips: uint8 where a box is cut, float32 where they are blended."""
        neighbour_BTHWC = clip_BTHWC.roll(1, dims=0)
        if self.box is None:
            return torch.lerp(neighbour_BTHWC.float(), clip_BTHWC.float(), self.weight)
        top, bottom, left, right = self.box
        mixed_BTHWC = clip_BTHWC.clone()
        mixed_BTHWC[:, :, top:bottom, left:right] = neighbour_BTHWC[:, :, top:bottom, left:right]
        return mixed_BTHWC


def draw_mix(*, seed: int, step: int, mixup: float, cutmix: float, size: int) -> Mix | None:
    """The mix of a step; `mixup` and `cutmix` are alphas of Beta distributions.

    With both above 0 each step draws one of the two; with both 0 there is none.
    """
    if not (mixup or cutmix):
        return None
    rng = np.random.default_rng([seed, digest_uint64(b"mix"), step])
    cut = bool(cutmix) and (not mixup or rng.random() < 0.5)
    alpha = cutmix if cut else mixup
    weight = float(rng.beta(alpha, alpha))
    if not cut:
        return Mix(weight, None)
    half = round(size * (1 - weight) ** 0.5 / 2)
    row, column = (int(value) for value in rng.integers(size, size=2))
    top, bottom = max(row - half, 0), min(row + half, size)
    left, right = max(column - half, 0), min(column + half, size)
    return Mix(1 - (bottom - top) * (right - left) / size**2, (top, bottom, left, right))


def neighbours(batch: Batch) -> Batch:
    """The batch in which each clip, with its label and soft targets, is that of its neighbour."""
    return batch.changed(lambda tensor: tensor.roll(1, dims=0), batch.video_ids[-1:] + batch.video_ids[:-1])
