"""Optimiser, parameter groups with their own learning rates, the learning rate's schedule, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pipeline.core.params import TrainParams
from pipeline.models.recognizer import Recognizer


def make_optimizer(recognizer: Recognizer, params: TrainParams) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum, over the weights that are not frozen.

    Each group's `scale` is its share of the learning rate.
    """
    groups = parameter_groups(recognizer, weight_decay=params.weight_decay, layer_decay=params.layer_decay)
    if params.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=params.learning_rate)
    momentum = params.momentum
    return torch.optim.SGD(groups, lr=params.learning_rate, momentum=momentum, nesterov=momentum > 0)


def parameter_groups(recognizer: Recognizer, *, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels, none for biases and normalisation scales; frozen weights are omitted.

    The head has the full rate, the last stage layer_decay of it, the stage before layer_decay², and so on to the stem:
    Clark et al., "ELECTRA", ICLR 2020; for vision Bao et al., "BEiT", ICLR 2022.
    """
    stages = recognizer.stages
    depth_of = {
        parameter: len(stages) - depth
        for depth, stage in enumerate(stages)
        for module in stage
        for parameter in module.parameters()
    }
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for parameter in recognizer.parameters():
        if parameter.requires_grad:
            groups.setdefault((depth_of.get(parameter, 0), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay * decayed, "scale": layer_decay**depth}
        for (depth, decayed), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the head's rate; each group gets its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def learning_rate(step: int, steps_per_epoch: int, params: TrainParams) -> float:
    """Linear warm-up over warmup_epochs, then a cosine from learning_rate to zero at the end of the last epoch."""
    warmup, total = params.warmup_epochs * steps_per_epoch, params.epochs * steps_per_epoch
    if step < warmup:
        return params.learning_rate * (step + 1) / (warmup + 1)
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


class AveragedWeights:
    """The exponential moving average of a network's weights and batch statistics.

    The decay grows with the steps n, min(decay, (1 + n) / (10 + n)), so that the initial weights soon lose influence:
    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the growth is TensorFlow's.
    """

    def __init__(self, recognizer: Recognizer, decay: float) -> None:
        self.recognizer = recognizer
        self.decay = decay
        self.num_updates = 0
        self.average = {name: value.detach().clone() for name, value in recognizer.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the current weights; counters are copied."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        state = self.recognizer.state_dict()
        floating = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in floating], [state[n] for n in floating], 1 - decay)
        for name in state.keys() - set(floating):
            self.average[name].copy_(state[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the context the network has the averaged weights."""
        own = {name: value.detach().clone() for name, value in self.recognizer.state_dict().items()}
        self.recognizer.load_state_dict(self.average)
        try:
            yield
        finally:
            self.recognizer.load_state_dict(own)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"num_updates": self.num_updates, "average": self.average}

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint."""
        self.num_updates = state["num_updates"]
        for name, value in state["average"].items():
            self.average[name].copy_(value)
