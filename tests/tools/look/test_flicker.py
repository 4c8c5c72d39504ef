"""Flicker: what is measured is the light of what stands still, in levels a frame."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.in_memory import enhance_frames
from pipeline.enhance.classical import Equalize, GammaAuto, Unchanged
from pipeline.tools.look.preview import Flicker, background, flicker_text, measure_flicker


def scene(num_frames=12, *, shape=(24, 32)):
    """A still grey picture, as frames."""
    picture = np.random.default_rng(0).integers(10, 60, (*shape, 1), dtype=np.uint8)
    return np.repeat(np.repeat(picture, 3, axis=-1)[None], num_frames, axis=0)


def test_a_still_scene_has_none():
    frames = scene()
    found = measure_flicker(frames, frames)
    assert found == Flicker(0, 0)


def test_light_that_alternates_by_a_number_of_levels_is_that_number():
    frames = scene()
    lit = frames.copy()
    lit[::2] += 7
    found = measure_flicker(frames, lit)
    assert found.light == pytest.approx(7, abs=1e-4)
    assert found.grain == pytest.approx(7, abs=1e-4)


def test_grain_is_no_light():
    frames = scene(60, shape=(64, 64))
    noise = np.random.default_rng(1).integers(-3, 4, frames.shape[:3])
    grainy = (frames + noise[..., None]).astype(np.uint8)
    found = measure_flicker(frames, grainy)
    # the difference of two independent uniform draws from −3 … 3: its mean size, computed by counting all pairs
    expected = np.mean([abs(a - b) for a in range(-3, 4) for b in range(-3, 4)])
    assert found.grain == pytest.approx(expected, rel=0.02)
    assert found.light < 0.1


def test_what_moves_is_no_background():
    frames = scene()
    for number, frame in enumerate(frames):
        frame[8:16, 2 * number : 2 * number + 6] = 150
    still = background(frames)
    assert not still[8:16, 2:24].any()
    assert still[:8].all()
    assert still[16:].all()
    assert measure_flicker(frames, frames).light == 0


def test_where_everything_moves_there_is_no_number():
    frames = np.random.default_rng(2).integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)
    assert measure_flicker(frames, frames) is None


def test_statistics_of_a_video_flicker_less_than_those_of_its_frames():
    """A bright thing walks through a still, grainy room; statistics of single frames change the room's light."""
    frames = (scene(24).astype(int) + np.random.default_rng(3).integers(-1, 2, (24, 24, 32, 1))).astype(np.uint8)
    for number in range(8, 16):
        frames[number, 4:20, 3 * (number - 8) : 3 * (number - 8) + 8] = 220
    light = {
        name: measure_flicker(frames, enhance_frames(enhancer, frames)).light
        for name, enhancer in {
            "none": Unchanged(),
            "video": GammaAuto(0.35, "video", 1),
            "smoothed": GammaAuto(0.35, "frame", 9),
            "frame": GammaAuto(0.35, "frame", 1),
            "equalized video": Equalize("video", 1),
            "equalized frame": Equalize("frame", 1),
        }.items()
    }
    assert light["none"] <= light["video"] < light["smoothed"] < light["frame"]
    assert light["equalized video"] < light["equalized frame"]


def test_videos_without_background_are_left_out_of_the_mean():
    assert flicker_text([Flicker(1.0, 2.0), None, Flicker(0.5, 4.0)]) == "flicker 0.75, grain 3.0"
    assert flicker_text([None]) == flicker_text([]) == ""


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (4, 8, 9, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="two or more frames of one shape"):
        measure_flicker(np.zeros((4 if shape[0] > 1 else 1, 8, 8, 3), np.uint8), np.zeros(shape, np.uint8))
