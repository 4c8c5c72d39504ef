"""Activation checkpoints: blocks whose activations are computed again in the backward pass, in place of being kept.

Chen et al., "Training deep nets with sublinear memory cost", 2016. Weights and statistics end as without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from pipeline.models.recognizer import Recognizer


def checkpoint_activations(recognizer: Recognizer) -> None:
    """Keep nothing but the inputs of each block while it trains."""
    for stage in recognizer.stages:
        for module in stage:
            for block in _blocks(module):
                _recompute(block)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The residual blocks of a stage; single layers stay together, since an activation may overwrite its input."""
    parts = list(module.children())
    composed = isinstance(module, nn.Sequential) and all(any(part.children()) for part in parts)
    return parts if composed else [module]


def _recompute(block: nn.Module) -> None:
    forward: Callable[..., Any] = block.forward
    contexts = partial(_contexts, block)

    def checkpointed(*arguments: Any, **named: Any) -> Any:
        if not block.training:
            return forward(*arguments, **named)
        return checkpoint(on_copies, *arguments, use_reentrant=False, context_fn=contexts, **named)

    def on_copies(*arguments: Any, **named: Any) -> Any:
        """Blocks of several pathways write into the list that they are given."""
        return forward(*[list(given) if isinstance(given, list) else given for given in arguments], **named)

    block.forward = checkpointed


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For the forward pass and for the second one, in which batch statistics must not be counted again."""
    return nullcontext(), _statistics_at_rest(block)


@contextmanager
def _statistics_at_rest(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # the layer must still have its statistics: it keeps them for the backward pass
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
