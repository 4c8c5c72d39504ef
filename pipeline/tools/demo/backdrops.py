"""Painted places for the demo: rooms, walls and streets, each from a random stream."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.frames import Frame

Painting = NDArray[np.float32]


def paint(kind: str, rng: np.random.Generator, height: int, width: int, horizon: int) -> Frame:
    """A picture (H, W, 3) of a place whose floor meets its wall at row `horizon`."""
    canvas = np.empty((height, width, 3), np.float32)
    horizon = int(np.clip(horizon, height // 3, height - 2))
    PLACES[kind](canvas, rng, horizon)
    canvas *= (0.86 + 0.28 * _clouds(rng, height, width, 4))[..., None]  # uneven light and stains
    canvas *= (0.94 + 0.12 * _clouds(rng, height, width, 60))[..., None]  # fine grain
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _clouds(rng: np.random.Generator, height: int, width: int, cells: int) -> Painting:
    """Smooth noise (H, W) between 0 and 1 with `cells` bumps a side."""
    coarse = rng.random((cells, 2 * cells), dtype=np.float32)
    return np.asarray(np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1))


def _tint(rng: np.random.Generator, low: float, high: float, spread: float = 18) -> Painting:
    """A greyish colour of random lightness."""
    return np.asarray(rng.uniform(low, high) + rng.uniform(-spread, spread, 3), np.float32)


def _floor(canvas: Painting, rng: np.random.Generator, horizon: int, colour: Painting, joints: float) -> None:
    """Floor below the horizon: lighter towards the camera, with joints closer together far away."""
    height, width = canvas.shape[:2]
    rows = np.arange(height - horizon, dtype=np.float32) / max(1, height - horizon)
    canvas[horizon:] = colour * (0.8 + 0.3 * rows)[:, None, None]
    for row in horizon + ((height - horizon) * np.linspace(0.05, 1, 8) ** 1.7).astype(int):
        canvas[row : row + 1] *= joints
    for x in range(-width, 2 * width, max(24, int(rng.uniform(0.1, 0.2) * width))):
        foot = width // 2 + 3 * (x - width // 2)
        cv2.line(canvas, (x, horizon), (foot, height), (colour * joints).tolist(), 1, cv2.LINE_AA)


def _box(canvas: Painting, left: float, top: float, across: float, tall: float, colour: Painting) -> None:
    corner, other = (int(left), int(top)), (int(left + across), int(top + tall))
    cv2.rectangle(canvas, corner, other, colour.tolist(), cv2.FILLED)


def room(canvas: Painting, rng: np.random.Generator, horizon: int) -> None:
    """A painted or papered room with pictures, a window and a skirting board."""
    height, width = canvas.shape[:2]
    wall = _tint(rng, 110, 190)
    canvas[:] = wall
    if rng.random() < 0.5:
        period = int(rng.integers(10, 26))
        canvas[:, (np.arange(width) % period) < period // 2] *= rng.uniform(0.85, 0.95)
    for _ in range(int(rng.integers(2, 6))):
        across, tall = rng.uniform(0.05, 0.14) * width, rng.uniform(0.1, 0.3) * height
        left, top = rng.uniform(0, width - across), rng.uniform(0.08, 0.3) * height
        _box(canvas, left - 4, top - 4, across + 8, tall + 8, _tint(rng, 40, 110))
        _box(canvas, left, top, across, tall, _tint(rng, 90, 235, 40))
    if rng.random() < 0.6:
        _box(canvas, rng.uniform(0, 0.8) * width, 0.14 * height, 0.12 * width, horizon, _tint(rng, 60, 130, 25))
    _floor(canvas, rng, horizon, _tint(rng, 75, 140, 25), 0.85)
    canvas[horizon - 6 : horizon] = wall * rng.uniform(0.5, 1.2)


def bricks(canvas: Painting, rng: np.random.Generator, horizon: int) -> None:
    """A brick wall before a pavement."""
    _, width = canvas.shape[:2]
    base = np.array([rng.uniform(110, 175), rng.uniform(70, 115), rng.uniform(55, 100)], np.float32)
    canvas[:] = base * 1.25
    tall, across = int(rng.integers(9, 17)), int(rng.integers(24, 42))
    for course, top in enumerate(range(horizon % tall - tall, horizon, tall)):
        for left in range(-(course % 2) * across // 2, width, across):
            _box(canvas, left, top, across - 3, tall - 3, base * rng.uniform(0.7, 1.1))
    _floor(canvas, rng, horizon, _tint(rng, 85, 150), 0.8)


def street(canvas: Painting, rng: np.random.Generator, horizon: int) -> None:
    """House fronts with windows, a kerb and a road."""
    height, width = canvas.shape[:2]
    left = 0
    while left < width:
        across = int(rng.uniform(0.14, 0.3) * width)
        front = _tint(rng, 80, 175, 25)
        _box(canvas, left, 0, across, height, front)
        pitch_x, pitch_y = int(rng.integers(30, 52)), int(rng.integers(44, 64))
        for x in range(left + 8, left + across - pitch_x // 2, pitch_x):
            for y in range(horizon % pitch_y - pitch_y, horizon - pitch_y // 2, pitch_y):
                pane = _tint(rng, 200, 245) if rng.random() < 0.25 else _tint(rng, 45, 90)
                _box(canvas, x, y + 10, 0.5 * pitch_x, 0.55 * pitch_y, pane)
        left += across
    _floor(canvas, rng, horizon, _tint(rng, 65, 115, 8), 0.93)
    canvas[horizon : horizon + 7] = _tint(rng, 150, 190, 6)


def park(canvas: Painting, rng: np.random.Generator, horizon: int) -> None:
    """Hedges, trunks and grass."""
    height, width = canvas.shape[:2]
    green = np.array([rng.uniform(60, 100), rng.uniform(100, 145), rng.uniform(50, 85)], np.float32)
    canvas[:] = green * (0.5 + _clouds(rng, height, width, 18))[..., None]
    for _ in range(int(rng.integers(4, 9))):
        across = rng.uniform(0.012, 0.035) * width
        _box(canvas, rng.uniform(0, width), 0, across, horizon, _tint(rng, 55, 95, 14))
    _floor(canvas, rng, horizon, green * rng.uniform(0.9, 1.2), 0.97)
    canvas[horizon:] *= (0.75 + 0.5 * _clouds(rng, height - horizon, width, 40))[..., None]


def shelves(canvas: Painting, rng: np.random.Generator, horizon: int) -> None:
    """Shelves full of coloured things: much clutter behind the performer."""
    _, width = canvas.shape[:2]
    canvas[:] = _tint(rng, 70, 120)
    shelf = int(rng.integers(38, 60))
    for bottom in range(horizon - 6, -shelf, -shelf):
        left = 0.0
        while left < width:
            across, tall = rng.uniform(8, 26), rng.uniform(0.5, 0.88) * shelf
            if rng.random() < 0.85:
                _box(canvas, left, bottom - tall, across - 2, tall - 3, _tint(rng, 50, 180, 50))
            left += across
    _floor(canvas, rng, horizon, _tint(rng, 90, 150), 0.88)


PLACES: dict[str, Callable[[Painting, np.random.Generator, int], None]] = {
    place.__name__: place for place in (room, bricks, street, park, shelves)
}
