"""A camera in low light: daylight frames in, dark frames out.

The model works on linear light: less exposure, a light that pools somewhere, a white balance that is off, shot and read
noise, a black level set too high, and the converter's steps. What video coding does to it (flat dark areas, little
noise in them) is not imitated: it happens when the frames are encoded; ARID_LIKE is calibrated with x264 at ARID_CRF.
Axis letters: T frames, H, W, C channels (RGB).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.core.digest import digest_uint64
from pipeline.data.frames import Frames, Levels, display_values, encoded

CONVERTER_BITS = 12
STEPS = 2**CONVERTER_BITS - 1


def srgb_to_linear(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Display values, 0-1, to linear light, 0-1 (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light, 0-1, to display values, 0-1 (IEC 61966-2-1)."""
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * np.maximum(values, 1e-9) ** (1 / 2.4) - 0.055)


@lru_cache
def light_of_bytes(levels: Levels) -> NDArray[np.float32]:
    """(256,): the linear light, 0-1, of each byte."""
    return srgb_to_linear(display_values(levels).astype(np.float64) / 255).astype(np.float32)


@lru_cache
def bytes_of_steps(levels: Levels) -> NDArray[np.uint8]:
    """The byte of each of the converter's steps."""
    return encoded(255 * linear_to_srgb(np.arange(STEPS + 1) / STEPS), levels)


@dataclass(frozen=True)
class CameraModel:
    """The distribution that a clip's shot is drawn from.

    exposure_stops: median exposure against daylight, in stops (-1 is half of the light); exposure_spread: standard
    deviations to the darker and to the brighter side, in stops.
    ambient: smallest and largest share of the light that is everywhere; the rest pools around one place.
    white_balance, white_balance_spread: mean gains of R, G, B, and the deviation of their logarithm.
    full_well: electrons of the brightest value recorded; read_noise: electrons; black_level: share of full scale.
    """

    exposure_stops: float
    exposure_spread: tuple[float, float]
    ambient: tuple[float, float]
    white_balance: tuple[float, float, float]
    white_balance_spread: float
    full_well: float
    read_noise: float
    black_level: float


# Calibrated so that the demo's clips have the statistics of 24 real ARID clips; docs/demo.md has the comparison
ARID_LIKE = CameraModel(
    exposure_stops=-1.8,
    exposure_spread=(1.2, 0.6),
    ambient=(0.01, 0.08),
    white_balance=(1.06, 1.0, 1.08),
    white_balance_spread=0.08,
    full_well=2000.0,
    read_noise=1.5,
    black_level=0.0018,
)
ARID_CRF = 25  # x264's quality at that calibration: coarser flattens more of the dark levels


def at_exposure(model: CameraModel, stops: float) -> CameraModel:
    """The model with that many stops more (or, negative, less) light."""
    return replace(model, exposure_stops=model.exposure_stops + stops)


@dataclass(frozen=True)
class Shot:
    """What stays the same during one clip: exposure with white balance (3), light, sensor."""

    gains: tuple[float, float, float]
    ambient: float
    light_place: tuple[float, float]
    light_radius: float
    full_well: float
    read_noise: float
    black_level: float

    def expose(self, frames_THWC: Frames, rng: np.random.Generator, levels: Levels = "linear") -> Frames:
        """Dark frames (..., H, W, C) of the daylight frames; the noise comes from `rng`, frame by frame."""
        height, width = frames_THWC.shape[-3:-1]
        light = cv2.LUT(frames_THWC.reshape(-1, width, 3), light_of_bytes(levels))
        signal = np.asarray(light, np.float32).reshape(frames_THWC.shape)
        np.multiply(signal, _light(self, height, width), out=signal)  # electrons
        noise = _noise(frames_THWC.shape, rng)
        noise *= np.sqrt(signal + np.float32(self.read_noise**2))  # shot noise: a normal for the Poisson distribution
        np.add(signal, noise, out=signal)
        np.multiply(signal, np.float32(STEPS / self.full_well), out=signal)
        np.add(signal, np.float32(0.5 - self.black_level * STEPS), out=signal)  # the half makes the cast below round
        np.clip(signal, 0, STEPS, out=signal)
        return np.asarray(bytes_of_steps(levels).take(signal.astype(np.uint16)))


def _noise(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise of mean 0 and deviation 1: the sum of four random bytes, near enough to normal and twice as fast."""
    words = rng.integers(0, 2**32, shape, dtype=np.uint32)
    words = (words & 0x00FF00FF) + (words >> 8 & 0x00FF00FF)
    total = (words & 0xFFFF) + (words >> 16)
    return (total.astype(np.float32) - np.float32(510)) * np.float32(1 / np.sqrt(4 * (256**2 - 1) / 12))


@lru_cache(maxsize=4)
def _light(shot: Shot, height: int, width: int) -> NDArray[np.float32]:
    """Electrons (H, W, C) of a white surface."""
    y, x = np.ogrid[:height, :width]
    row, column = shot.light_place[0] * height, shot.light_place[1] * width
    away = ((y - row) ** 2 + (x - column) ** 2) / (shot.light_radius * height) ** 2
    pool = shot.ambient + (1 - shot.ambient) * np.exp(-away)
    return np.asarray(pool[..., None] * np.array(shot.gains) * shot.full_well, np.float32)


def draw_shot(model: CameraModel, rng: np.random.Generator) -> Shot:
    """One clip's shot; always the same number of draws, so that models differ in nothing but their values."""
    luck = rng.standard_normal()
    exposure = 2.0 ** (model.exposure_stops + model.exposure_spread[int(luck > 0)] * luck)
    balance = np.array(model.white_balance) * np.exp(model.white_balance_spread * rng.standard_normal(3))
    red, green, blue = (float(value) for value in exposure * balance)
    return Shot(
        gains=(red, green, blue),
        ambient=float(rng.uniform(*model.ambient)),
        light_place=(float(rng.uniform(0.2, 0.7)), float(rng.uniform(0.3, 0.7))),  # people film what is lit
        light_radius=float(rng.uniform(0.22, 0.42)),
        full_well=model.full_well,
        read_noise=model.read_noise,
        black_level=model.black_level,
    )


def darken(frames_THWC: Frames, model: CameraModel, rng: np.random.Generator, levels: Levels = "linear") -> Frames:
    """Dark frames (T, H, W, C) of one clip of daylight frames: a shot drawn from the model, then taken."""
    return draw_shot(model, rng).expose(frames_THWC, rng, levels)


def video_stream(seed: int, purpose: str, video_name: str) -> np.random.Generator:
    """The random stream of one video for one purpose; it depends on nothing else."""
    return np.random.default_rng([seed, digest_uint64(f"{purpose}\0{video_name}".encode())])
