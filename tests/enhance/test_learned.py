"""The networks against the papers' figures, the curve against its formula, and frames that break others' code."""

import math

import numpy as np
import pytest
import torch
from builders import one_thread  # noqa: F401 - applies to the file
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.in_memory import enhance_frames
from pipeline.core.errors import StaleArtifactError
from pipeline.core.weights import load_weights, save_weights
from pipeline.data.frames import encoded, shown
from pipeline.enhance.file import LEARNED, is_learned, load_enhancer, save_enhancer
from pipeline.enhance.learned import NETWORKS, LearnedEnhancer, apply_curves, estimate_curves, make_learned

each_name = pytest.mark.parametrize("name", LEARNED)


def random_enhancer(name, *, reduction=2, precision="float32", seed=0, gain=1.0):
    """Weights as drawn; `gain` widens the last layer, so that curves reach ±1."""
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    with torch.no_grad():
        for parameter in list(network.parameters())[-2:]:
            parameter.mul_(gain)
    tensors = {key: value.numpy() for key, value in network.state_dict().items()}
    return make_learned(name, {"curve_reduction": reduction, "precision": precision}, tensors)


def dark_frames(shape, seed=3):
    return np.random.default_rng(seed).gamma(1.2, 14, (*shape, 3)).clip(0, 255).astype(np.uint8)


def test_the_registry_is_that_of_the_file():
    assert tuple(NETWORKS) == LEARNED


@pytest.mark.parametrize(("name", "count"), [("zero_dce", 79_416), ("zero_dce_pp", 10_561), ("sci", 258)])
def test_parameter_counts_are_those_of_the_papers(name, count):
    assert sum(parameter.numel() for parameter in NETWORKS[name]().parameters()) == count


@given(level=st.floats(0, 1), curves=st.lists(st.floats(-1, 1), min_size=8, max_size=8))
def test_the_curve_is_its_formula(level, curves):
    x = level
    for a in curves:
        x = x + a * x * (1 - x)
    dark = torch.full((1, 3, 1, 1), level, dtype=torch.float64)
    maps = torch.tensor(curves, dtype=torch.float64).repeat_interleave(3).reshape(1, 24, 1, 1)
    bright = apply_curves(dark, maps)
    assert bright.flatten().tolist() == pytest.approx([x] * 3)
    assert bright.min() >= 0
    assert bright.max() <= 1


def test_one_curve_serves_all_iterations_of_its_channel():
    dark = torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)
    curves = torch.tensor([0.5, -0.2, 1.0]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(apply_curves(dark, curves), apply_curves(dark, curves.repeat(1, 8, 1, 1)))


def test_curves_of_the_iterations_are_used_in_turn_and_by_channel():
    dark = torch.full((1, 3, 2, 2), 0.25, dtype=torch.float64)
    maps = torch.zeros(1, 24, 2, 2, dtype=torch.float64)
    maps[:, 3 * 4 + 1] = 0.8  # iteration 4, green
    bright = apply_curves(dark, maps)
    assert bright[0, :, 0, 0].tolist() == pytest.approx([0.25, 0.25 + 0.8 * 0.25 * 0.75, 0.25])


@pytest.mark.parametrize("reduction", [1, 2, 3])
def test_curves_are_estimated_on_areas_of_the_frame(reduction):
    network = random_enhancer("zero_dce").network
    frames = torch.rand(1, 3, 12, 18)
    curves = estimate_curves(network, frames, reduction=reduction)
    assert curves.shape == (1, 24, 12 // reduction, 18 // reduction)
    areas = torch.nn.functional.avg_pool2d(frames, reduction)
    torch.testing.assert_close(curves, network(areas))


def test_curves_of_a_large_frame_have_a_limited_size():
    network = random_enhancer("zero_dce_pp").network
    assert max(estimate_curves(network, torch.zeros(1, 3, 300, 3840), reduction=1).shape) == 960


@each_name
def test_enhanced_frames_are_the_formula_rounded(name):
    enhancer = random_enhancer(name, reduction=1)
    frames = dark_frames((2, 20, 24))
    x = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        estimate = enhancer.network(x)
    expected = x / estimate if name == "sci" else apply_curves(x, estimate)
    expected = (255 * expected.clamp(0, 1)).permute(0, 2, 3, 1).numpy()
    assert np.abs(enhance_frames(enhancer, frames) - expected).max() <= 0.5 + 1e-3


def test_scis_network_is_its_formula():
    """A residual of two convolutions with one block between, its input added twice; batch statistics are frozen."""
    network = NETWORKS["sci"]().eval()
    x = torch.rand(1, 3, 6, 6)
    state = network.state_dict()

    def convolve(values, prefix):
        return torch.nn.functional.conv2d(values, state[f"{prefix}.weight"], state[f"{prefix}.bias"], padding=1)

    first = convolve(x, "in_conv.0").clamp(min=0)
    normal = (convolve(first, "conv.0") / math.sqrt(1 + 1e-5)).clamp(min=0)  # mean 0, variance 1, scale 1 at first
    expected = (x + torch.sigmoid(convolve(first + normal, "out_conv.0"))).clamp(1e-4, 1)
    torch.testing.assert_close(network(x), expected)


@each_name
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 16, 16, 3), np.uint8),
        np.full((2, 16, 16, 3), 255, np.uint8),
        np.full((1, 16, 16, 3), 90, np.uint8),
        dark_frames((1, 1, 1)),
        dark_frames((3, 5, 3)),
        dark_frames((1, 33, 47)),
    ],
    ids=["black", "white", "grey and one frame", "one pixel", "tiny", "odd"],
)
def test_nothing_fails_and_the_input_stays(name, precision, frames):
    before = frames.copy()
    enhanced = enhance_frames(random_enhancer(name, precision=precision, gain=20.0), frames)
    assert enhanced.shape == frames.shape
    assert enhanced.dtype == np.uint8
    np.testing.assert_array_equal(frames, before)
    if frames.max() == 0:
        assert enhanced.max() == 0  # black stays black: x + A·x·(1 − x) is 0 at 0, and so is 0 / illumination


@each_name
def test_a_frame_of_4k(name):
    frames = dark_frames((1, 2160, 3840))
    assert enhance_frames(random_enhancer(name), frames).shape == frames.shape


@each_name
def test_bfloat16_changes_little(name):
    frames = dark_frames((2, 48, 64))
    exact = enhance_frames(random_enhancer(name), frames).astype(int)
    rounded = enhance_frames(random_enhancer(name, precision="bfloat16"), frames)
    assert np.abs(exact - rounded).mean() < 1
    assert np.abs(exact - rounded).max() <= 4


@each_name
def test_a_model_file_gives_the_enhancer_back(name, tmp_path):
    path = tmp_path / "enhancer.safetensors"
    enhancer = random_enhancer(name, reduction=3, precision="bfloat16")
    save_enhancer(path, enhancer, fitted_on={"seed": 0})
    first = path.read_bytes()
    loaded = load_enhancer(path)
    assert isinstance(loaded, LearnedEnhancer)
    assert loaded.parameters == {"curve_reduction": 3, "precision": "bfloat16"}
    assert is_learned(path)
    frames = dark_frames((2, 20, 20))
    np.testing.assert_array_equal(enhance_frames(loaded, frames), enhance_frames(enhancer, frames))
    save_enhancer(path, loaded, fitted_on={"seed": 0})
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, _: tensors.pop("e_conv3.bias"), "e_conv3.bias is missing"),
        (lambda tensors, _: tensors.update(extra=np.zeros(3)), "extra is no parameter of it"),
        (lambda tensors, _: tensors.update({"e_conv3.bias": np.zeros(3)}), r"shape \(3,\), not \(32,\)"),
        (lambda tensors, _: tensors["e_conv3.bias"].fill(np.nan), "e_conv3.bias has values that are not finite"),
        (lambda _, parameters: parameters.update(curve_reduction=0), "curve_reduction is a whole number from 1"),
        (lambda _, parameters: parameters.update(precision="int8"), "precision is float32 or bfloat16"),
        (lambda _, parameters: parameters.pop("precision"), "has curve_reduction and precision"),
    ],
)
def test_a_file_that_is_no_such_network_is_refused(change, message, tmp_path):
    path = tmp_path / "enhancer.safetensors"
    save_enhancer(path, random_enhancer("zero_dce"), fitted_on={})
    tensors, attributes = load_weights(path)
    change(tensors, attributes["parameters"])
    save_weights(path, tensors, attributes)
    with pytest.raises(StaleArtifactError, match=message):
        load_enhancer(path)


@each_name
def test_codes_are_enhanced_as_the_values_that_they_stand_for(name):
    enhancer, values = random_enhancer(name), dark_frames((2, 24, 32))
    codes = encoded(values.astype(np.float32), "companded")
    exact = shown(codes, "companded") == values  # codes of small values stand for them
    linear, companded = (enhance_frames(enhancer, *of) for of in ((values,), (codes, "companded")))
    assert exact.mean() > 0.9
    assert np.abs(linear.astype(int) - companded).max() <= 2
