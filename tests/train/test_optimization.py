"""Rates of groups, the optimisers, the average of weights, and the weights of classes."""

from __future__ import annotations

import copy

import pytest
import torch
from builders import CLIP, one_thread, tiny_recognizer, train_params  # noqa: F401 - a fixture

from pipeline.models.networks import MODELS
from pipeline.models.recognizer import Architecture, Recognizer
from pipeline.train.losses import class_weights
from pipeline.train.optimization import (
    AveragedWeights,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)


def group_of(groups):
    return {parameter: group for group in groups for parameter in group["params"]}


def test_weight_decay_is_for_matrices_and_kernels():
    recognizer = tiny_recognizer()
    found = group_of(parameter_groups(recognizer, weight_decay=0.05, layer_decay=0.5))
    for name, parameter in recognizer.named_parameters():
        assert found.pop(parameter)["weight_decay"] == (0.05 if parameter.ndim > 1 else 0.0), name
    assert found == {}


def test_the_rate_falls_from_the_head_to_the_stem():
    recognizer = tiny_recognizer()
    found = group_of(parameter_groups(recognizer, weight_decay=0.0, layer_decay=0.5))
    stages = recognizer.stages
    for depth, stage in enumerate(stages):
        for module in stage:
            for parameter in module.parameters():
                assert found.pop(parameter)["scale"] == 0.5 ** (len(stages) - depth)
    assert {group["scale"] for group in found.values()} == {1.0}  # the head
    assert found


@pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith(("swin3d_s", "swin3d_b"))])
def test_every_weight_of_every_network_has_one_group(name):
    kind = MODELS[name]
    clip = CLIP.model_copy(update={"num_frames": max(16, kind.needs.min_frames), "size": max(64, kind.needs.min_size)})
    with torch.device("meta"):
        arch = Architecture(name, 3, clip, 4 if kind.has_width else None, 0.0, 0.0)
        recognizer = Recognizer(arch, mean_C=[0.0] * 3, std_C=[1.0] * 3)
    groups = parameter_groups(recognizer, weight_decay=0.1, layer_decay=0.8)
    listed = [parameter for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed)) == len(list(recognizer.parameters()))
    assert {group["scale"] for group in groups} >= {1.0, 0.8 ** len(recognizer.stages)}


def test_what_is_frozen_has_no_group():
    recognizer = tiny_recognizer()
    recognizer.freeze(1)
    listed = group_of(parameter_groups(recognizer, weight_decay=0.1, layer_decay=0.8))
    assert set(listed) == {parameter for parameter in recognizer.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_what_is_frozen_is_no_part_of_the_state_that_a_checkpoint_keeps(name):
    recognizer = tiny_recognizer()
    recognizer.freeze(1)
    optimizer = make_optimizer(recognizer, train_params(optimizer=name), fused=True)
    listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert set(optimizer.state_dict()["state"]) <= set(range(len(listed)))


def step(optimizer_name, momentum, num_steps=3):
    """Weights after some steps by the project's optimiser, and by one that is built from torch's by hand."""
    recognizer = tiny_recognizer()
    other = copy.deepcopy(recognizer)
    params = train_params(optimizer=optimizer_name, momentum=momentum, weight_decay=0.0, learning_rate=0.1)
    ours = make_optimizer(recognizer, params)
    theirs = (
        torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=0.0)
        if optimizer_name == "adamw"
        else torch.optim.SGD(other.parameters(), lr=0.1, momentum=momentum, nesterov=momentum > 0)
    )
    for optimizer, network in ((ours, recognizer), (theirs, other)):
        for _ in range(num_steps):
            for parameter in network.parameters():
                parameter.grad = parameter.detach().sin()
            optimizer.step()
    return recognizer.state_dict(), other.state_dict()


@pytest.mark.parametrize(("name", "momentum"), [("adamw", 0.9), ("sgd", 0.9), ("sgd", 0.0)])
def test_the_optimisers_are_torchs(name, momentum):
    found, expected = step(name, momentum)
    for tensor_name, value in found.items():
        torch.testing.assert_close(value, expected[tensor_name], msg=tensor_name)


def test_each_group_takes_its_share_of_the_rate():
    optimizer = make_optimizer(tiny_recognizer(), train_params(layer_decay=0.5))
    set_learning_rate(optimizer, 0.2)
    assert all(group["lr"] == 0.2 * group["scale"] for group in optimizer.param_groups)
    assert len({group["lr"] for group in optimizer.param_groups}) > 2


# the average


def test_the_average_follows_its_formula():
    recognizer = tiny_recognizer()
    average = AveragedWeights(recognizer, decay=0.6)
    expected = {name: value.clone().double() for name, value in recognizer.state_dict().items()}
    for update in range(8):
        with torch.no_grad():
            for value in recognizer.state_dict().values():
                value.add_(1)
        average.update()
        decay = min(0.6, (1 + update) / (10 + update))
        for name, value in recognizer.state_dict().items():
            new = value.double()
            expected[name] = decay * expected[name] + (1 - decay) * new if value.is_floating_point() else new
    for name, value in average.average.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_the_average_is_in_place_for_a_while():
    recognizer = tiny_recognizer()
    average = AveragedWeights(recognizer, decay=0.6)
    parameter = next(recognizer.parameters())
    at_first = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1)
    own = parameter.detach().clone()
    with average.in_place():
        assert torch.equal(parameter, at_first)
    assert torch.equal(parameter, own)


# classes


def test_rare_classes_weigh_more_and_the_mean_is_one():
    labels = [0] * 6 + [1] * 2 + [3] * 1
    weights_K = class_weights(labels, 4)
    assert weights_K[labels].mean().item() == pytest.approx(1.0)
    assert weights_K[[0, 1, 3]].tolist() == pytest.approx([0.5, 1.5, 3.0])
    assert weights_K[2] == 1
