"""Enhancers against computations of their own, and the properties that the enhanced store rests on."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.enhance import ENHANCERS, Clahe, Equalize, Gamma, Unchanged, load_enhancer, make_enhancer, save_enhancer
from pipeline.errors import StaleArtifactError
from pipeline.weights import save_weights

ALL = [Unchanged(), Gamma(2.2), Equalize(), Clahe(2.0, 8)]
each_enhancer = pytest.mark.parametrize("enhancer", ALL, ids=lambda enhancer: enhancer.name)

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
    enhanced = enhancer(frames)
    assert enhanced.shape == frames.shape
    assert enhanced.dtype == np.uint8
    np.testing.assert_array_equal(frames, before)


@each_enhancer
def test_a_frame_does_not_depend_on_its_batch(enhancer):
    frames = dark_frames((5, 24, 32))
    one_by_one = np.concatenate([enhancer(frames[k : k + 1]) for k in range(5)])
    np.testing.assert_array_equal(enhancer(frames), one_by_one)


@each_enhancer
def test_frames_may_be_cut_from_larger_ones(enhancer):
    frames = dark_frames()
    cut = frames[::2, 3:20, 1:30]
    np.testing.assert_array_equal(enhancer(cut), enhancer(np.ascontiguousarray(cut)))


@each_enhancer
@pytest.mark.parametrize("level", [0, 90, 255])
def test_uniform_grey_stays_grey(enhancer, level):
    enhanced = enhancer(np.full((2, 16, 16, 3), level, np.uint8))
    assert len(np.unique(enhanced)) == 1
    if level in (0, 255) and enhancer.name != "clahe":  # CLAHE spreads what it clips, and so moves a lone level
        assert enhanced.flat[0] == level


@each_enhancer
def test_grey_frames_stay_grey(enhancer):
    grey = np.repeat(dark_frames()[..., :1], 3, axis=-1)
    enhanced = enhancer(grey)
    assert np.ptp(enhanced.astype(int), axis=-1).max() == 0


@each_enhancer
def test_the_smallest_frame(enhancer):
    assert enhancer(np.full((1, 1, 1, 3), 7, np.uint8)).shape == (1, 1, 1, 3)


@given(gamma=st.floats(0.2, 10), level=st.integers(0, 255))
def test_gamma_is_its_formula(gamma, level):
    result = Gamma(gamma)(np.full((1, 1, 1, 3), level, np.uint8)).flat[0]
    exact = 255 * float(Fraction(level, 255)) ** (1 / gamma)
    assert abs(int(result) - exact) <= 0.5 + 1e-9


def test_gamma_of_one_changes_nothing_and_above_lifts():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    np.testing.assert_array_equal(Gamma(1.0)(levels), levels)
    lifted = Gamma(2.2)(levels)
    assert (lifted >= levels).all()
    assert (np.diff(lifted[0, ..., 0].ravel().astype(int)) >= 0).all()
    assert lifted[0, 0, 14, 0] == 68  # 255 · (14 / 255) ^ (1 / 2.2) = 68.27


def luma_of(frames):
    """Y of BT.601 in floating point."""
    return frames @ np.array([0.299, 0.587, 0.114])


def test_equalize_matches_numpy_on_grey_frames():
    grey = np.repeat(dark_frames((2, 32, 32))[..., :1], 3, axis=-1)
    enhanced = Equalize()(grey)
    for frame, result in zip(grey[..., 0], enhanced[..., 0], strict=True):
        counts = np.bincount(frame.ravel(), minlength=256)
        cumulative = counts.cumsum()
        first = counts[counts.nonzero()[0][0]]
        expected = np.rint((cumulative - first) / (frame.size - first) * 255).clip(0, 255)[frame]
        assert np.abs(result - expected).max() <= 1  # a tie of the rounding


def test_clahe_without_clipping_in_one_tile_is_the_cumulative_histogram():
    grey = np.repeat(dark_frames((1, 32, 32))[..., :1], 3, axis=-1)
    enhanced = Clahe(1e6, 1)(grey)[0, ..., 0]
    cumulative = np.bincount(grey[0, ..., 0].ravel(), minlength=256).cumsum()
    expected = np.rint(cumulative * 255 / grey[0, ..., 0].size)[grey[0, ..., 0]]
    assert np.abs(enhanced - expected).max() <= 1


def test_clahe_limits_the_contrast():
    grey = np.repeat(dark_frames((1, 64, 64))[..., :1], 3, axis=-1)
    spread = [Clahe(limit, 2)(grey).std() for limit in (1.0, 2.0, 4.0, 40.0)]
    assert spread == sorted(spread)
    assert spread[0] < spread[-1]


@pytest.mark.parametrize("enhancer", [Equalize(), Clahe(2.0, 2)], ids=lambda enhancer: enhancer.name)
def test_luma_methods_keep_the_colour_differences(enhancer):
    rng = np.random.default_rng(0)
    base = rng.integers(60, 140, (1, 32, 32, 1))
    frames = (base + np.array([10, 0, -10])).astype(np.uint8)  # moderate colours: nothing clips
    enhanced = enhancer(frames)
    inside = ((enhanced > 0) & (enhanced < 255)).all(axis=-1)
    differences = [image.astype(float) - luma_of(image)[..., None] for image in (frames, enhanced)]
    assert inside.mean() > 0.8
    assert np.abs(differences[0] - differences[1])[inside].max() <= 2.5  # YCrCb holds whole numbers


@each_enhancer
def test_a_model_file_gives_the_enhancer_back(enhancer, tmp_path):
    path = tmp_path / "enhancer.safetensors"
    save_enhancer(path, enhancer)
    first = path.read_bytes()
    assert load_enhancer(path) == enhancer
    save_enhancer(path, enhancer)
    assert path.read_bytes() == first


def test_every_name_makes_its_enhancer():
    assert list(ENHANCERS) == ["none", "gamma", "equalize", "clahe"]
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
    ],
)
def test_unknown_names_and_wrong_parameters_are_refused(name, parameters, tmp_path):
    with pytest.raises(ValueError, match=r"\w"):
        make_enhancer(name, parameters)
    if parameters.get("gamma") != parameters.get("gamma"):
        return  # NaN cannot get into a file
    path = tmp_path / "enhancer.safetensors"
    attributes = {"format": "dlkdd enhancer", "format_version": 1, "enhancer": name, "parameters": parameters}
    save_weights(path, {}, attributes)
    with pytest.raises(StaleArtifactError, match="no usable enhancer"):
        load_enhancer(path)


def test_other_model_files_are_refused(tmp_path):
    path = tmp_path / "enhancer.safetensors"
    save_weights(path, {}, {"format": "dlkdd enhancer", "format_version": 2, "enhancer": "none", "parameters": {}})
    with pytest.raises(StaleArtifactError, match="version 2 where"):
        load_enhancer(path)
    save_weights(path, {}, {"classes": []})
    with pytest.raises(StaleArtifactError, match="is expected"):
        load_enhancer(path)
