"""Optimiser, parameter groups with their own learning rates, the learning rate's schedule, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.params import TrainParams
from pipeline.models.recognizer import Recognizer


def make_optimizer(recognizer: Recognizer, params: TrainParams, *, fused: bool = False) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum, over the weights that are not frozen.

    Each group's `scale` is its share of the learning rate. `fused` ones can leave a step out by themselves (`step_if`).
    """
    groups = parameter_groups(recognizer, weight_decay=params.weight_decay, layer_decay=params.layer_decay)
    if params.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=params.learning_rate, fused=fused or None)
    rate, momentum = params.learning_rate, params.momentum
    sgd = torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=fused or None)
    if fused and momentum:  # one that leaves its first step out would go on from memory that was never written
        for weight in (weight for group in groups for weight in group["params"]):
            sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return sgd


def step_if(finite: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A step of a fused optimiser where `finite` is true, without asking the device, as GradScaler has one left out."""
    optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
    optimizer.step()


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Resume from a checkpoint; whether steps are fused is the optimiser's own, not that of the device it was on."""
    for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        group["fused"] = own["fused"]
    optimizer.load_state_dict(state)


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
        own = recognizer.state_dict()  # which shares memory with the network
        self.average = {name: value.detach().clone() for name, value in own.items()}
        self._weights = [value for value in own.values() if value.is_floating_point()]
        self._averages = [value for value in self.average.values() if value.is_floating_point()]
        self._counters = [value for value in own.values() if not value.is_floating_point()]
        self._last_counters = [value for value in self.average.values() if not value.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the current weights; counters are copied."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
        _copy_all(self._last_counters, self._counters)

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


class BatchStatistics:
    """A network's buffers as they were before a step, which are put back where it had no finite loss or gradient."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._buffers = list(recognizer.buffers())
        self._before = [buffer.clone() for buffer in self._buffers]

    def keep(self) -> None:
        """Before a step."""
        _copy_all(self._before, self._buffers)

    def restore(self) -> None:
        """Put them back."""
        _copy_all(self._buffers, self._before)

    def restore_unless(self, finite: Tensor) -> None:
        """Put them back where `finite` is false, without asking the device."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            torch.where(finite, buffer, before, out=buffer)


@torch.no_grad()
def _copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    """One kernel for all of a type: with several in one call PyTorch takes a kernel for each tensor."""
    for dtype in {target.dtype for target in targets}:
        alike = [index for index, target in enumerate(targets) if target.dtype == dtype]
        torch._foreach_copy_([targets[index] for index in alike], [sources[index] for index in alike])
