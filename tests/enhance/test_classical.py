"""Enhancers against computations of their own, and the properties that the enhanced store rests on."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import get_args

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.in_memory import FramesInMemory, enhance_frames
from pipeline.core.errors import StaleArtifactError
from pipeline.core.params import EnhancerName
from pipeline.core.weights import save_weights
from pipeline.data.frames import display_values, encoded
from pipeline.enhance.classical import (
    Clahe,
    Equalize,
    Gamma,
    GammaAuto,
    Unchanged,
    _count_values,
    enhanced_batches,
    gamma_to_mean,
    levels_after,
)
from pipeline.enhance.file import CLASSICAL, ENHANCERS, load_enhancer, make_enhancer, save_enhancer

ALL = [
    Unchanged(),
    Gamma(2.2),
    GammaAuto(0.35, "video", 1),
    GammaAuto(0.35, "frame", 1),
    GammaAuto(0.35, "frame", 5),
    Equalize("video", 1),
    Equalize("frame", 1),
    Equalize("frame", 4),
    Clahe(2.0, 8),
]
each_enhancer = pytest.mark.parametrize("enhancer", ALL, ids=str)

frames_strategy = arrays(
    np.uint8,
    st.tuples(st.integers(1, 3), st.integers(8, 20), st.integers(8, 20), st.just(3)),
    elements=st.integers(0, 255),
)


def dark_frames(shape=(3, 24, 32)):
    return np.random.default_rng(3).gamma(1.2, 14, (*shape, 3)).clip(0, 255).astype(np.uint8)


@each_enhancer
@given(frames=frames_strategy)
def test_shape_type_and_input_stay(enhancer, frames):
    before = frames.copy()
    enhanced = enhance_frames(enhancer, frames)
    assert enhanced.shape == frames.shape
    assert enhanced.dtype == np.uint8
    np.testing.assert_array_equal(frames, before)


@each_enhancer
@pytest.mark.parametrize("step", [1, 2, 7])
def test_how_the_frames_come_in_batches_changes_nothing(enhancer, step):
    frames = np.concatenate([dark_frames((5, 24, 32)), dark_frames((6, 24, 32)) // 3])
    enhance = enhancer.for_video(FramesInMemory(frames))
    pieces = [enhance(frames[first : first + step], first) for first in range(0, len(frames), step)]
    np.testing.assert_array_equal(np.concatenate(pieces), enhance_frames(enhancer, frames))


@each_enhancer
def test_frames_may_be_cut_from_larger_ones(enhancer):
    frames = dark_frames()
    cut = frames[::2, 3:20, 1:30]
    np.testing.assert_array_equal(enhance_frames(enhancer, cut), enhance_frames(enhancer, np.ascontiguousarray(cut)))


@each_enhancer
@pytest.mark.parametrize("level", [0, 90, 255])
def test_uniform_grey_stays_grey(enhancer, level):
    enhanced = enhance_frames(enhancer, np.full((2, 16, 16, 3), level, np.uint8))
    assert len(np.unique(enhanced)) == 1
    if level in (0, 255) and enhancer.name != "clahe":  # CLAHE spreads what it clips, and so moves a lone level
        assert enhanced.flat[0] == level


@each_enhancer
def test_grey_frames_stay_grey(enhancer):
    grey = np.repeat(dark_frames()[..., :1], 3, axis=-1)
    enhanced = enhance_frames(enhancer, grey)
    assert np.ptp(enhanced.astype(int), axis=-1).max() == 0


@each_enhancer
def test_the_smallest_frame(enhancer):
    assert enhance_frames(enhancer, np.full((1, 1, 1, 3), 7, np.uint8)).shape == (1, 1, 1, 3)


@each_enhancer
def test_a_frame_of_4k(enhancer):
    frames = dark_frames((1, 2160, 3840))
    assert enhance_frames(enhancer, frames).shape == frames.shape


def test_levels_are_counted_exactly_beyond_what_float32_can():
    """OpenCV counts in float32, which a large frame of one level passes."""
    black = np.zeros((2200, 2600, 3), np.uint8)
    assert black.size > 2**24
    assert _count_values(black)[0] == black.size


@given(gamma=st.floats(0.2, 10), level=st.integers(0, 255))
def test_gamma_is_its_formula(gamma, level):
    result = enhance_frames(Gamma(gamma), np.full((1, 1, 1, 3), level, np.uint8)).flat[0]
    exact = 255 * float(Fraction(level, 255)) ** (1 / gamma)
    assert abs(int(result) - exact) <= 0.5 + 1e-9


@given(gamma=st.floats(0.2, 10), code=st.integers(0, 255))
def test_gamma_of_a_code_is_that_of_its_value(gamma, code):
    frame, value = np.full((1, 2, 2, 3), code, np.uint8), float(display_values("companded")[code])
    expected = 255 * (value / 255) ** (1 / gamma)
    assert abs(enhance_frames(Gamma(gamma), frame, "companded")[0, 0, 0, 0] - expected) <= 0.5 + 1e-6


def test_automatic_gamma_brings_the_values_of_codes_to_its_target():
    codes = encoded(dark_frames().astype(np.float32) / 3, "companded")
    enhanced = enhance_frames(GammaAuto(0.3, "video", 1), codes, "companded")
    assert enhanced.mean() / 255 == pytest.approx(0.3, abs=0.01)


def test_no_enhancer_leaves_codes():
    codes = dark_frames()
    np.testing.assert_array_equal(enhance_frames(Unchanged(), codes, "companded"), codes)
    assert levels_after(Unchanged(), "companded") == "companded"
    assert levels_after(Gamma(2.2), "companded") == "linear"


def test_gamma_of_one_changes_nothing_and_above_lifts():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    np.testing.assert_array_equal(enhance_frames(Gamma(1.0), levels), levels)
    lifted = enhance_frames(Gamma(2.2), levels)
    assert (lifted >= levels).all()
    assert (np.diff(lifted[0, ..., 0].ravel().astype(int)) >= 0).all()
    assert lifted[0, 0, 14, 0] == 68  # 255 · (14 / 255) ^ (1 / 2.2) = 68.27


def luma_of(frames):
    """Y of BT.601 in floating point."""
    return frames @ np.array([0.299, 0.587, 0.114])


def test_equalize_matches_numpy_on_grey_frames():
    grey = np.repeat(dark_frames((2, 32, 32))[..., :1], 3, axis=-1)
    enhanced = enhance_frames(Equalize("frame", 1), grey)
    for frame, result in zip(grey[..., 0], enhanced[..., 0], strict=True):
        counts = np.bincount(frame.ravel(), minlength=256)
        cumulative = counts.cumsum()
        first = counts[counts.nonzero()[0][0]]
        expected = np.rint((cumulative - first) / (frame.size - first) * 255).clip(0, 255)[frame]
        assert np.abs(result - expected).max() <= 1  # a tie of the rounding


def test_equalize_of_single_frames_is_that_of_opencv():
    frames = dark_frames((4, 40, 60))
    for frame, result in zip(frames, enhance_frames(Equalize("frame", 1), frames), strict=True):
        luma = cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)
        luma[..., 0] = cv2.equalizeHist(np.ascontiguousarray(luma[..., 0]))
        assert np.abs(cv2.cvtColor(luma, cv2.COLOR_YCrCb2RGB).astype(int) - result).max() <= 2  # ties of the rounding


def test_equalize_over_a_video_spreads_all_of_its_levels():
    frames = np.repeat(np.random.default_rng(0).integers(0, 40, (20, 32, 32, 1), dtype=np.uint8), 3, axis=-1)
    enhanced = enhance_frames(Equalize("video", 1), frames)
    assert enhanced.min() == 0
    assert enhanced.max() == 255
    assert abs(np.median(enhanced) - 127.5) < 8
    pairs = set(zip(frames.ravel().tolist(), enhanced.ravel().tolist(), strict=True))
    assert len(pairs) == 40  # one table for the whole video


@given(target=st.floats(0.05, 0.6))
def test_automatic_gamma_brings_the_mean_to_its_target(target):
    frames = dark_frames((4, 40, 50))
    mean = enhance_frames(GammaAuto(target, "video", 1), frames).mean() / 255
    unlifted = frames.mean() / 255
    assert mean == pytest.approx(max(target, unlifted), abs=0.01)


@pytest.mark.parametrize(
    ("level", "gamma"), [(0, 10.0), (1, math.log(255) / math.log(1 / 0.35)), (255, 1.0), (128, 1.0)]
)
def test_automatic_gamma_has_limits(level, gamma):
    counts = np.zeros(256, int)
    counts[level] = 100
    assert gamma_to_mean(counts, 0.35) == pytest.approx(gamma)


def test_statistics_of_a_video_come_from_frames_all_over_it():
    """A video that starts dark and ends bright: the first frames alone would say something else."""
    dark, bright = np.full((50, 8, 8, 3), 5, np.uint8), np.full((50, 8, 8, 3), 60, np.uint8)
    whole = enhance_frames(GammaAuto(0.35, "video", 1), np.concatenate([dark, bright]))
    assert whole.mean() / 255 == pytest.approx(0.35, abs=0.01)
    assert len(np.unique(whole)) == 2


@pytest.mark.parametrize("kind", [lambda s, n: GammaAuto(0.35, s, n), Equalize], ids=["gamma_auto", "equalize"])
def test_wider_statistics_make_the_light_steadier(kind):
    """A lamp that flickers by a level or two: enhanced frame by frame the flicker is what is enhanced."""
    rng = np.random.default_rng(0)
    scene = rng.gamma(2, 6, (1, 24, 24, 1))
    frames = np.repeat((scene * rng.uniform(0.8, 1.2, (60, 1, 1, 1))).clip(0, 255).astype(np.uint8), 3, axis=-1)

    def changes(enhancer):
        means = luma_of(enhance_frames(enhancer, frames)).mean(axis=(1, 2))
        return np.abs(np.diff(means)).mean()

    video, smoothed = changes(kind("video", 1)), changes(kind("frame", 15))
    assert smoothed == pytest.approx(video, rel=0.3)
    if kind is not Equalize:  # equalising a frame takes its mean to the middle: it hides the lamp
        assert changes(kind("frame", 1)) < video


def test_a_window_reads_each_frame_a_few_times_at_most():
    class Counting(FramesInMemory):
        read_frames = 0

        def read(self, numbers):
            Counting.read_frames += len(numbers)
            return super().read(numbers)

    frames = dark_frames((200, 8, 8))
    for _ in enhanced_batches(GammaAuto(0.35, "frame", 15), Counting(frames)):
        pass
    assert Counting.read_frames <= 1.5 * len(frames)


def test_clahe_without_clipping_in_one_tile_is_the_cumulative_histogram():
    grey = np.repeat(dark_frames((1, 32, 32))[..., :1], 3, axis=-1)
    enhanced = enhance_frames(Clahe(1e6, 1), grey)[0, ..., 0]
    cumulative = np.bincount(grey[0, ..., 0].ravel(), minlength=256).cumsum()
    expected = np.rint(cumulative * 255 / grey[0, ..., 0].size)[grey[0, ..., 0]]
    assert np.abs(enhanced - expected).max() <= 1


def test_clahe_limits_the_contrast():
    grey = np.repeat(dark_frames((1, 64, 64))[..., :1], 3, axis=-1)
    spread = [enhance_frames(Clahe(limit, 2), grey).std() for limit in (1.0, 2.0, 4.0, 40.0)]
    assert spread == sorted(spread)
    assert spread[0] < spread[-1]


@pytest.mark.parametrize("enhancer", [Equalize("video", 1), Equalize("frame", 1), Clahe(2.0, 2)], ids=str)
def test_luma_methods_keep_the_colour_differences(enhancer):
    rng = np.random.default_rng(0)
    base = rng.integers(60, 140, (1, 32, 32, 1))
    frames = (base + np.array([10, 0, -10])).astype(np.uint8)  # moderate colours: nothing clips
    enhanced = enhance_frames(enhancer, frames)
    inside = ((enhanced > 0) & (enhanced < 255)).all(axis=-1)
    differences = [image.astype(float) - luma_of(image)[..., None] for image in (frames, enhanced)]
    assert inside.mean() > 0.8
    assert np.abs(differences[0] - differences[1])[inside].max() <= 2.5  # YCrCb holds whole numbers


@each_enhancer
def test_a_model_file_gives_the_enhancer_back(enhancer, tmp_path):
    path = tmp_path / "enhancer.safetensors"
    save_enhancer(path, enhancer, fitted_on={})
    first = path.read_bytes()
    assert load_enhancer(path) == enhancer
    save_enhancer(path, enhancer, fitted_on={})
    assert path.read_bytes() == first


def test_every_name_makes_its_enhancer():
    assert get_args(EnhancerName) == ENHANCERS
    assert set(CLASSICAL) == {enhancer.name for enhancer in ALL}
    assert make_enhancer("clahe", {"clip_limit": 3.0, "grid": 4}) == Clahe(3.0, 4)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("sharpen", {}),
        ("gamma", {}),
        ("gamma", {"gamma": 0.0}),
        ("gamma", {"gamma": float("nan")}),
        ("gamma", {"gamma": "2"}),
        ("gamma", {"gamma": True}),
        ("none", {"gamma": 2.0}),
        ("clahe", {"clip_limit": 2.0, "grid": 0}),
        ("clahe", {"clip_limit": 2.0, "grid": 2.5}),
        ("clahe", {"clip_limit": -1.0, "grid": 8}),
        ("gamma_auto", {"target_mean": 1.0, "statistics": "video", "smoothing": 1}),
        ("gamma_auto", {"target_mean": 0.3, "statistics": "clip", "smoothing": 1}),
        ("equalize", {"statistics": "frame", "smoothing": 0}),
        ("equalize", {}),
    ],
)
def test_unknown_names_and_wrong_parameters_are_refused(name, parameters, tmp_path):
    with pytest.raises(ValueError, match=r"\w"):
        make_enhancer(name, parameters)
    if parameters.get("gamma") != parameters.get("gamma"):
        return  # NaN cannot get into a file
    path = tmp_path / "enhancer.safetensors"
    attributes = {"format": "dlkdd enhancer", "format_version": 2, "enhancer": name, "parameters": parameters}
    save_weights(path, {}, attributes)
    with pytest.raises(StaleArtifactError, match="no usable enhancer"):
        load_enhancer(path)


def test_other_model_files_are_refused(tmp_path):
    path = tmp_path / "enhancer.safetensors"
    save_weights(path, {}, {"format": "dlkdd enhancer", "format_version": 1, "enhancer": "none", "parameters": {}})
    with pytest.raises(StaleArtifactError, match="version 1 where"):
        load_enhancer(path)
    save_weights(path, {}, {"classes": []})
    with pytest.raises(StaleArtifactError, match="is expected"):
        load_enhancer(path)
