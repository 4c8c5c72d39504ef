from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.demo_light import measure_light
from pipeline.data.camera import (
    ARID_LIKE,
    STEPS,
    Shot,
    at_exposure,
    bytes_of_steps,
    darken,
    draw_shot,
    light_of_bytes,
    linear_to_srgb,
    srgb_to_linear,
    video_stream,
)

LINEAR, DISPLAYED = light_of_bytes("linear"), bytes_of_steps("linear")
EVEN_LIGHT = Shot(
    gains=(1.0, 1.0, 1.0),
    ambient=1.0,
    light_place=(0.5, 0.5),
    light_radius=0.4,
    full_well=2000.0,
    read_noise=0.0,
    black_level=0.0,
)


def grey(level: int, *, num_frames: int = 8, size: int = 32) -> np.ndarray:
    return np.full((num_frames, size, size, 3), level, np.uint8)


def test_the_transfer_curves_are_srgb_and_undo_each_other():
    assert srgb_to_linear(np.array([0.5]))[0] == pytest.approx(0.21404, abs=1e-5)  # CSS Color 4's sample code
    values = np.arange(256) / 255
    assert linear_to_srgb(srgb_to_linear(values)) == pytest.approx(values, abs=1e-7)


def test_a_light_sensor_with_much_light_and_no_fault_gives_the_frame_back():
    perfect = replace(EVEN_LIGHT, full_well=1e9)
    frames = np.arange(48, 256, dtype=np.uint8).repeat(3).reshape(1, 8, 26, 3)  # below 48, 12 bits are too coarse
    assert np.abs(perfect.expose(frames, np.random.default_rng(0)).astype(int) - frames).max() <= 1


def test_noise_follows_the_law_of_shot_noise():
    for level in (100, 160, 220):
        dark = EVEN_LIGHT.expose(grey(level, size=64), np.random.default_rng(1))
        variance = srgb_to_linear(dark / 255).var()
        assert variance == pytest.approx(LINEAR[level] / EVEN_LIGHT.full_well, rel=0.1)


def test_read_noise_adds_to_shot_noise():
    shot = replace(EVEN_LIGHT, read_noise=60.0)
    variance = srgb_to_linear(shot.expose(grey(150, size=64), np.random.default_rng(1)) / 255).var()
    assert variance == pytest.approx((LINEAR[150] * 2000 + 60**2) / 2000**2, rel=0.1)


def test_white_balance_scales_the_channels():
    shot = replace(EVEN_LIGHT, gains=(0.5, 0.25, 0.125))
    means = srgb_to_linear(shot.expose(grey(200), np.random.default_rng(0)) / 255).mean(axis=(0, 1, 2))
    assert means == pytest.approx(LINEAR[200] * np.array([0.5, 0.25, 0.125]), rel=0.03)


def test_the_black_level_crushes_what_lies_below_it():
    shot = replace(EVEN_LIGHT, gains=(0.01,) * 3, black_level=0.02)
    assert not shot.expose(grey(255), np.random.default_rng(0)).any()


def test_the_light_pools_and_leaves_its_share_elsewhere():
    shot = replace(EVEN_LIGHT, ambient=0.1, light_radius=0.1, full_well=1e6)
    linear = srgb_to_linear(shot.expose(grey(200, size=64), np.random.default_rng(0)) / 255)[0, ..., 1]
    assert linear[32, 32] == pytest.approx(LINEAR[200], rel=0.05)
    assert linear[0, 0] == pytest.approx(0.1 * LINEAR[200], rel=0.1)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), split=st.integers(1, 5))
def test_frames_come_out_the_same_however_they_are_passed(seed: int, split: int):
    frames = np.random.default_rng(seed).integers(0, 256, (6, 10, 12, 3), dtype=np.uint8)
    shot = draw_shot(ARID_LIKE, np.random.default_rng(seed))
    whole = shot.expose(frames, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    parts = [shot.expose(frames[:split], rng), *(shot.expose(frame, rng)[None] for frame in frames[split:])]
    assert np.array_equal(np.concatenate(parts), whole)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), stops=st.floats(-3, -0.5))
def test_less_exposure_is_darker_and_changes_nothing_else_of_the_shot(seed: int, stops: float):
    shot = draw_shot(ARID_LIKE, np.random.default_rng(seed))
    darker = draw_shot(at_exposure(ARID_LIKE, stops), np.random.default_rng(seed))
    assert darker.gains == pytest.approx([gain * 2**stops for gain in shot.gains])
    assert replace(darker, gains=shot.gains) == shot


def test_darkening_leaves_its_input_alone_and_is_deterministic():
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    before = frames.copy()
    dark = darken(frames, ARID_LIKE, video_stream(0, "camera", "a"))
    assert np.array_equal(frames, before)
    assert dark.dtype == np.uint8
    assert dark.mean() < 0.5 * frames.mean()
    assert np.array_equal(dark, darken(frames, ARID_LIKE, video_stream(0, "camera", "a")))


def test_the_converters_codes_are_displayed_in_order():
    assert len(DISPLAYED) == STEPS + 1
    assert DISPLAYED[0] == 0
    assert DISPLAYED[-1] == 255
    assert (np.diff(DISPLAYED.astype(int)) >= 0).all()


def test_a_stream_is_named_by_seed_purpose_and_video():
    names = [(0, "camera", "a"), (1, "camera", "a"), (0, "clip", "a"), (0, "camera", "b")]
    draws = {video_stream(*name).integers(2**62) for name in names}
    assert len(draws) == len(names)


def test_measuring_recovers_the_noise_and_the_levels_of_a_clip():
    rng = np.random.default_rng(0)
    frames = grey(48, num_frames=32).astype(float) + rng.normal(0, 4, (32, 32, 32, 1))
    light = measure_light(np.rint(frames).astype(np.uint8))
    assert light.mean == pytest.approx(48, abs=0.2)
    assert light.median == pytest.approx(48, abs=0.5)
    assert light.noise[2] == pytest.approx(4, rel=0.15)
    assert np.isnan(light.noise[0])
    assert light.channel_means == pytest.approx((48 / 255,) * 3, abs=1e-3)
