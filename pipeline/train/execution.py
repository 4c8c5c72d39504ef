"""How the steps of a training are computed: precision, processes, compilation, memory.

Axes: B batch, C channels, T frames, H, W, M any values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from pipeline.core.device import Ranks
from pipeline.core.errors import ParamsError
from pipeline.core.params import TrainParams
from pipeline.data.dataset import EpochPlan
from pipeline.models.recognizer import Recognizer

AXES_BUT_CHANNELS = (0, 2, 3, 4)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of autocast, None for float32; raises ParamsError for bfloat16 on a CPU.

    On some CPUs PyTorch's bfloat16 Conv3d has uninitialised weight gradients when a clip is shorter than the temporal
    kernel (seen in 2.13 and 2.15); neither the loss nor the gradient's norm shows it.
    """
    if precision == "bfloat16" and device.type == "cpu":
        raise ParamsError(
            "precision bfloat16: on some CPUs PyTorch computes wrong weight gradients in it, so none trains in it here",
            remedy="set precision to float32 in the section of this training, or train on a GPU",
        )
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def check_shares(plan: EpochPlan, params: TrainParams, ranks: Ranks) -> None:
    """Raise ParamsError where a rank would have no clip in a part of the smallest batch."""
    if plan.smallest_part(ranks.count * params.accumulate) < 1:
        raise ParamsError(
            f"{plan.num_samples} videos in batches of {params.batch_size} cannot be cut into {ranks.count} processes × "
            f"{params.accumulate} parts",
            remedy="raise batch_size, lower accumulate in the section of this training, or start fewer processes",
        )


def check_dist_columns(plan: EpochPlan, params: TrainParams, num_processes: int) -> None:
    """Raise ParamsError where a part of the smallest batch has a single row: dist then has no columns to compare."""
    if plan.smallest_part(num_processes * params.accumulate) < 2:
        raise ParamsError(
            f"soft_loss dist compares the clips of a batch; {plan.num_samples} videos by {params.batch_size} leave a "
            "clip alone in its part of a batch",
            remedy="raise train_student.batch_size, lower its accumulate, or set distillation.dist_intra to 0",
        )


def wrap_model(recognizer: Recognizer, params: TrainParams, device: torch.device, ranks: Ranks) -> Any:
    """What a step calls in place of the recogniser, over the same weights: on all ranks, compiled, recomputing."""
    network: nn.Module = recognizer
    if ranks.count > 1:
        synchronize_norms(recognizer, device)
    if params.checkpoint_activations:
        checkpoint_activations(recognizer)
    if ranks.count > 1:
        network = DistributedDataParallel(recognizer, broadcast_buffers=False)  # batch statistics are equal already
    return torch.compile(network) if params.compile else network


# batch normalisation over several processes


def synchronize_norms(recognizer: Recognizer, device: torch.device) -> None:
    """Compute the statistics of every BatchNorm3d over all ranks; torch's own layer does so on GPUs only."""
    if device.type == "cuda":
        recognizer.network = nn.SyncBatchNorm.convert_sync_batchnorm(recognizer.network)  # type: ignore[no-untyped-call]
        return
    for module in recognizer.modules():
        if type(module) is nn.BatchNorm3d:
            module.__class__ = _SynchronizedBatchNorm3d  # which has the same weights and buffers


class _SumOverRanks(torch.autograd.Function):
    """The sum over all ranks. Each rank's part is in the loss of all ranks, so gradients are summed, too."""

    @staticmethod
    def forward(_ctx: Any, values_M: Tensor) -> Tensor:
        total_M = values_M.clone()
        dist.all_reduce(total_M)
        return total_M

    @staticmethod
    def backward(_ctx: Any, gradient_M: Tensor) -> Tensor:
        total_M = gradient_M.clone()
        dist.all_reduce(total_M)
        return total_M


class _SynchronizedBatchNorm3d(nn.BatchNorm3d):
    """BatchNorm3d on the CPU, with the mean and the variance of all ranks' clips."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_BCTHW)
        wide_BCTHW = x_BCTHW.double()  # in float32 the difference of the squares would cancel
        count = torch.full((1,), x_BCTHW.numel() / x_BCTHW.shape[1], dtype=torch.float64)
        own_M = torch.cat([wide_BCTHW.sum(AXES_BUT_CHANNELS), wide_BCTHW.square().sum(AXES_BUT_CHANNELS), count])
        total_M = _SumOverRanks.apply(own_M)  # type: ignore[no-untyped-call]
        mean_C, square_C = (total_M[:-1] / total_M[-1]).chunk(2)
        variance_C = square_C - mean_C.square()
        if self.track_running_stats:
            self._count(mean_C.detach(), variance_C.detach(), float(total_M[-1]))
        scale_C = (variance_C + self.eps).rsqrt().to(x_BCTHW.dtype) * self.weight
        shift_C = self.bias - mean_C.to(x_BCTHW.dtype) * scale_C
        normalised_BCTHW: Tensor = x_BCTHW * scale_C[:, None, None, None] + shift_C[:, None, None, None]
        return normalised_BCTHW

    def _count(self, mean_C: Tensor, variance_C: Tensor, count: float) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_C.float(), self.momentum)
        self.running_var.lerp_((variance_C * count / (count - 1)).float(), self.momentum)


# activation checkpoints: Chen et al., "Training deep nets with sublinear memory cost", 2016


def checkpoint_activations(recognizer: Recognizer) -> None:
    """Keep the inputs of each block alone, and compute its activations again in the backward pass.

    Weights and batch statistics end as without it, bit by bit.
    """
    for stage in recognizer.stages:
        for module in stage:
            for block in _blocks(module):
                _recompute(block)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The residual blocks of a stage; single layers stay together, since an activation may be in place."""
    parts = list(module.children())
    composed = isinstance(module, nn.Sequential) and all(any(part.children()) for part in parts)
    return parts if composed else [module]


def _recompute(block: nn.Module) -> None:
    forward: Callable[..., Any] = block.forward

    def checkpointed(*arguments: Any, **named: Any) -> Any:
        if not block.training:
            return forward(*arguments, **named)
        return checkpoint(on_copies, *arguments, use_reentrant=False, context_fn=contexts, **named)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For the forward pass, and for its repetition, which must not update batch statistics again."""
        return nullcontext(), _frozen_statistics(block)

    def on_copies(*arguments: Any, **named: Any) -> Any:
        """Blocks of several pathways overwrite items of the list that they are given."""
        return forward(*[list(given) if isinstance(given, list) else given for given in arguments], **named)

    block.forward = checkpointed


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # not eval mode: the backward pass needs the batch's statistics
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
