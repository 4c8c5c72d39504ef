"""Frames: RGB, uint8, in display order; and what their bytes mean: display values, or codes that keep more of the dark.

`linear`: the byte is the value, rounded. `companded`: a byte is the code 17·(√(value + 1) − 1), rounded, of the value
(1 + code/17)² − 1. There are 8 codes from the value 0 to 1, as many codes as values around 71, and one for two near
white. A video that is shrunk has values between whole ones; rounding them takes from the darkest what an enhancer could
lift. LOG.md has what that is worth (`python -m benchmarks.light_before_shrinking`).

The values are those of the display (sRGB), not of light: `linear` means that the steps are equal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # (H, W, 3)
Frames = NDArray[np.uint8]  # (T, H, W, 3)
Levels = Literal["linear", "companded"]
Values = NDArray[np.float32]
_Table = TypeVar("_Table", Frames, Values)

_SCALE = 17.0  # codes for a step of the root: 255 / (√256 − 1)
FINE = 256  # steps of swscale's 16 bits in a display value: white is 65280, not 65535


@lru_cache
def display_values(levels: Levels) -> Values:
    """(256,): the display value of each byte."""
    bytes_256 = np.arange(256, dtype=np.float64)
    values_256 = bytes_256 if levels == "linear" else (1 + bytes_256 / _SCALE) ** 2 - 1
    return _fixed(values_256.astype(np.float32))


def expanded(frames: Frames, levels: Levels) -> Values:
    """The display values of bytes, of the same shape, not rounded."""
    return np.asarray(display_values(levels).take(frames))


def encoded(values: NDArray[np.floating[Any]], levels: Levels) -> Frames:
    """The byte of each display value; what is below 0 or above 255 is clipped."""
    inside = values.clip(0, 255)
    steps = inside if levels == "linear" else _SCALE * (np.sqrt(inside + 1) - 1)
    return np.asarray(np.rint(steps), np.uint8)


def shown(frames: Frames, levels: Levels) -> Frames:
    """The frames as people see them: bytes that are display values, rounded."""
    return frames if levels == "linear" else np.asarray(_table_to_linear().take(frames))


@lru_cache
def _table_to_linear() -> NDArray[np.uint8]:
    return _fixed(encoded(display_values("companded"), "linear"))


@lru_cache
def bytes_of_fine(levels: Levels) -> NDArray[np.uint8]:
    """(65536,): the byte of each value of 16 bits, as swscale makes them of 8 and of 10 bits."""
    return _fixed(encoded(np.arange(65536) / FINE, levels))


def _fixed(table: _Table) -> _Table:
    """A table that all share: none may write to it."""
    table.flags.writeable = False
    return table
