"""What a clip costs is counted, not guessed: against the numbers of others, and among the alternatives."""

from __future__ import annotations

import pytest
import torch
from builders import CLIP, one_thread, tiny_recognizer  # noqa: F401 - a fixture
from paths import ROOT

from pipeline.core.params import ClipParams, load_params
from pipeline.enhance.classical import enhance_frames
from pipeline.evaluate.cost import cost_of
from pipeline.models.recognizer import Architecture, Recognizer
from pipeline.tools.export.alternatives import alternatives, enhancer_gmac

OPTIONS = load_params(ROOT / "params.yaml").fit_enhancer


def on_meta(name, num_frames, size):
    clip = ClipParams(num_frames=num_frames, frame_stride=1, size=size)
    with torch.device("meta"):
        return Recognizer(Architecture(name, 11, clip, None, 0.0, 0.0), mean_C=[0.0] * 3, std_C=[1.0] * 3)


# with 11 classes, counted before this project began by another program
@pytest.mark.parametrize(("num_frames", "gmac"), [(32, 152.4), (64, 304.7)])
def test_an_r2plus1d_34_costs_what_was_counted_elsewhere(num_frames, gmac):
    cost = cost_of(on_meta("r2plus1d_34", num_frames, 112))
    assert round(cost.gmac, 1) == gmac
    assert round(cost.parameters / 1e6, 2) == 63.50


# of the same source; by hand: 79,200 multiplications a pixel
@pytest.mark.parametrize(("height", "width", "gmac"), [(112, 112, 63.6), (240, 320, 389.3)])
def test_zero_dce_costs_what_was_counted_elsewhere(height, width, gmac):
    found = 64 * enhancer_gmac("zero_dce", height=height, width=width, curve_reduction=1)
    assert round(found, 1) == gmac
    assert found == pytest.approx(64 * height * width * 79_200 / 1e9)


def test_curves_at_half_the_size_cost_a_quarter():
    for name in ("zero_dce", "zero_dce_pp"):
        whole, half = (enhancer_gmac(name, height=48, width=64, curve_reduction=number) for number in (1, 2))
        assert whole == 4 * half > 0
    assert len({enhancer_gmac("sci", height=48, width=64, curve_reduction=number) for number in (1, 2)}) == 1


def test_the_cost_is_of_a_clip_as_the_network_runs():
    """Not of its training: what it costs does not change its mode, and its weights stay what they were."""
    recognizer = tiny_recognizer().train()
    before = {name: value.clone() for name, value in recognizer.state_dict().items()}
    assert cost_of(recognizer) == cost_of(tiny_recognizer(seed=1).eval())
    assert recognizer.training
    assert all(torch.equal(before[name], value) for name, value in recognizer.state_dict().items())


@pytest.fixture(scope="module")
def found():
    return alternatives(tiny_recognizer().eval(), OPTIONS, frame_size=(24, 32), num_runs=3)


def test_two_streams_are_the_network_twice(found):
    alone, two = found[:2]
    assert (alone.parameters, alone.gmac) == (cost_of(tiny_recognizer()).parameters, cost_of(tiny_recognizer()).gmac)
    assert (two.parameters, two.gmac, two.cpu_seconds) == (2 * alone.parameters, 2 * alone.gmac, None)


def test_every_enhancer_is_an_alternative(found):
    names = [other.name.removeprefix("with ") for other in found[2:]]
    learned = ["zero_dce", "zero_dce at 1/2", "zero_dce_pp", "zero_dce_pp at 1/2", "sci"]
    assert names == ["gamma", "gamma_auto", "equalize", "clahe", *learned]


def test_enhancing_costs_the_network_and_each_frame(found):
    alone, by_name = found[0], {other.name: other for other in found}
    for name in ("gamma", "gamma_auto", "equalize", "clahe"):
        other = by_name[f"with {name}"]
        assert (other.parameters, other.gmac) == (alone.parameters, alone.gmac)
        assert other.cpu_seconds > alone.cpu_seconds
    for name, parameters, reduction in (("zero_dce", 79_416, 1), ("zero_dce at 1/2", 79_416, 2), ("sci", 258, 1)):
        per_frame = enhancer_gmac(name.split()[0], height=24, width=32, curve_reduction=reduction)
        other = by_name[f"with {name}"]
        assert other.parameters == alone.parameters + parameters
        assert other.gmac == pytest.approx(alone.gmac + CLIP.num_frames * per_frame)
        assert other.cpu_seconds > alone.cpu_seconds


def test_a_whole_clip_is_enhanced_at_the_size_of_the_frames(monkeypatch):
    shapes = set()

    def seen(enhancer, dark_THWC):
        shapes.add(dark_THWC.shape)
        return enhance_frames(enhancer, dark_THWC)

    monkeypatch.setattr("pipeline.tools.export.alternatives.enhance_frames", seen)
    alternatives(tiny_recognizer().eval(), OPTIONS, frame_size=(24, 32), num_runs=1)
    assert shapes == {(CLIP.num_frames, 24, 32, 3)}
