"""How the steps of a training are computed: in which precision, over which processes, compiled, on how much memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.core.device import Ranks
from pipeline.core.errors import ParamsError
from pipeline.core.params import TrainParams
from pipeline.data.dataset import EpochPlan
from pipeline.models.recognizer import Recognizer
from pipeline.train.activation_checkpoints import checkpoint_activations
from pipeline.train.synchronized_norm import synchronize_norms


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of autocast, None for float32; raises ParamsError for bfloat16 on a CPU.

    PyTorch's bfloat16 Conv3d has uninitialised weight gradients on some CPUs when a clip is shorter than the temporal
    kernel (seen in 2.13 and 2.15): there is no loss or gradient norm by which one would notice.
    """
    if precision == "bfloat16" and device.type == "cpu":
        raise ParamsError(
            "precision bfloat16: on some CPUs PyTorch computes wrong weight gradients in it, so none trains in it here",
            remedy="set precision to float32 in the section of this training, or train on a GPU",
        )
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def check_shares(plan: EpochPlan, params: TrainParams, ranks: Ranks) -> None:
    """Raise ParamsError where a rank would have no clip for each of its parts of the smallest batch."""
    if plan.smallest_part(ranks.count * params.accumulate) < 1:
        raise ParamsError(
            f"{plan.num_samples} videos in batches of {params.batch_size} cannot be cut into {ranks.count} processes × "
            f"{params.accumulate} parts",
            remedy="raise batch_size, lower accumulate in the section of this training, or start fewer processes",
        )


def check_dist_columns(plan: EpochPlan, params: TrainParams, num_processes: int) -> None:
    """Raise ParamsError where a part of the smallest batch has one row, in which dist can compare no columns."""
    if plan.smallest_part(num_processes * params.accumulate) < 2:
        raise ParamsError(
            f"soft_loss dist compares the clips of a batch; {plan.num_samples} videos by {params.batch_size} leave a "
            "clip alone in its part of a batch",
            remedy="raise train_student.batch_size, lower its accumulate, or set distillation.dist_intra to 0",
        )


def wrap_model(recognizer: Recognizer, params: TrainParams, device: torch.device, ranks: Ranks) -> Any:
    """What a step calls in place of the recogniser, with its weights: over all ranks, compiled, on little memory."""
    network: nn.Module = recognizer
    if ranks.count > 1:
        synchronize_norms(recognizer, device)
    if params.checkpoint_activations:
        checkpoint_activations(recognizer)
    if ranks.count > 1:
        network = DistributedDataParallel(recognizer, broadcast_buffers=False)  # batch statistics are the same already
    return torch.compile(network) if params.compile else network
