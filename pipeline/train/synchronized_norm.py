"""Batch normalisation over the clips of all ranks, so that several train as one with the whole batch.

Axes: B batch, C channels, T frames, H, W.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.models.recognizer import Recognizer

AXES_BUT_CHANNELS = (0, 2, 3, 4)


def synchronize_norms(recognizer: Recognizer, device: torch.device) -> None:
    """Let all BatchNorm3d see all ranks: torch's own layer on a GPU, which is the only place where that one runs."""
    if device.type == "cuda":
        recognizer.network = nn.SyncBatchNorm.convert_sync_batchnorm(recognizer.network)  # type: ignore[no-untyped-call]
        return
    for module in recognizer.modules():
        if type(module) is nn.BatchNorm3d:
            module.__class__ = _SynchronizedBatchNorm3d  # it has the same weights, and statistics, and no more


class _SumOverRanks(torch.autograd.Function):
    """The sum over all ranks; each rank's part is in the loss of all of them, so gradients are summed as well."""

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
        wide_BCTHW = x_BCTHW.double()  # squares of float32 would lose what tells the variance from the mean's square
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
