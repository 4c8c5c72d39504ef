"""Changes of a clip's light on top of its view: noise, gain and further darkness. Never of its geometry.

A teacher's logits belong to one crop; whoever sees that crop in another light may still learn from them. What happens
to a clip depends only on its name, (seed, video, number of the view).
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

# One stop less, give or take half a one, over the whole frame: the dark videos have their lamps and colours already.
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
    """Changes the light of uint8 clips.

    darken: share of the clips that the camera model takes again in less light; gain: then values are multiplied by
    2**g, g uniform in ±gain; noise: then normal noise is added, of a deviation uniform in 0 … `noise` grey levels.
    """

    gain: float
    noise: float
    darken: float
    seed: int

    def __call__(self, clip_THWC: Tensor, video_id: str, number: int) -> Tensor:
        """The clip in another light."""
        rng = np.random.default_rng([self.seed, digest_uint64(b"light\0", video_id.encode()), number])
        # drawn in any case: a knob must not shift what the others draw
        darkened, stops, deviation = rng.random(), rng.uniform(-1, 1) * self.gain, rng.random() * self.noise
        frames: NDArray[np.uint8] = clip_THWC.numpy()
        if darkened < self.darken:
            frames = darken(frames, DARKER, rng)
        if stops or deviation:
            values = frames.astype(np.float32) * np.float32(2**stops)
            if deviation:
                values += np.float32(deviation) * rng.standard_normal(frames.shape, dtype=np.float32)
            frames = np.rint(values.clip(0, 255)).astype(np.uint8)
        return torch.from_numpy(frames)


def light_augmentation(params: TrainParams, seed: int) -> LightAugmentation | None:
    """What a training asks for, or None where its clips stay as they are."""
    if not (params.gain or params.noise or params.darken):
        return None
    return LightAugmentation(params.gain, params.noise, params.darken, seed)
