"""What a clip costs is counted, not guessed: compared with the numbers of others."""

from __future__ import annotations

import pytest
import torch
from builders import one_thread, tiny_recognizer  # noqa: F401 - a fixture

from pipeline.core.params import ClipParams
from pipeline.evaluate.cost import cost_of
from pipeline.models.recognizer import Architecture, Recognizer


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


def test_the_cost_is_of_a_clip_as_the_network_runs():
    """Not of its training: what it costs does not change its mode, and its weights stay what they were."""
    recognizer = tiny_recognizer().train()
    before = {name: value.clone() for name, value in recognizer.state_dict().items()}
    assert cost_of(recognizer) == cost_of(tiny_recognizer(seed=1).eval())
    assert recognizer.training
    assert all(torch.equal(before[name], value) for name, value in recognizer.state_dict().items())
