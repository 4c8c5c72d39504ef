"""One training that tests start, interrupt and crash, and what its ends must have in common."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from builders import DEVICE, tiny_recognizer, train_params

from pipeline.core.errors import Interrupted
from pipeline.train.losses import hard_loss
from pipeline.train.state import Listener
from pipeline.train.trainer import Trainer

ON_GPU = {"rtol": 1e-3, "atol": 1e-4}  # there kernels add up in any order; the CPU's bits are always the same


def baseline_loss(logits_BK, batch, epoch):
    return hard_loss(logits_BK, batch.labels_B, label_smoothing=0.0)


def broken_at(steps):
    """A loss that is not a number at some of its calls."""
    calls = iter(range(1000))

    def loss(logits_BK, batch, epoch):
        return baseline_loss(logits_BK, batch, epoch) * (math.nan if next(calls) in steps else 1)

    return loss


class Run:
    """One training in a folder, which can be started several times."""

    def __init__(
        self, folder, data, loss=baseline_loss, *, num_classes=2, checkpoint_seconds=math.inf, ahead=None, **changes
    ):
        self.folder, self.data, self.loss, self.params = folder, data, loss, train_params(**changes)
        self.num_classes, self.checkpoint_seconds, self.ahead = num_classes, checkpoint_seconds, ahead
        self.told, self.epochs, self.warnings = [], [], []

    def trainer(self):
        return Trainer(
            tiny_recognizer(num_classes=self.num_classes, dropout=self.params.dropout),
            self.data,
            self.params,
            self.loss,
            seed=5,
            device=DEVICE,
            checkpoint_path=self.folder / "checkpoint.pt",
            checkpoint_seconds=self.checkpoint_seconds,
            ahead=self.ahead,
        )

    def start(self, *, interrupt_after=math.inf, crash_after=math.inf):
        """Train; after some steps, be interrupted, or crash without saving anything."""
        steps = 0

        def stop():
            if steps >= interrupt_after:
                raise Interrupted(15)

        def advance(count, note, *, earlier=False):
            nonlocal steps
            self.told.append((count, note))
            steps += not note.startswith("from")
            if steps >= crash_after:
                raise MemoryError

        torch.manual_seed(np.random.default_rng().integers(2**31))  # what ran before in the process must not matter
        return self.trainer().run(stop=stop, listener=Listener(advance, self.epochs.append, self.warnings.append))

    def interrupted(self, steps):
        with pytest.raises(Interrupted):
            self.start(interrupt_after=steps)

    def crashed(self, steps):
        with pytest.raises(MemoryError):
            self.start(crash_after=steps)


def check_same(found, expected, **tolerance):
    """The same network and curve: bit by bit on the CPU, within the tolerance where one is given."""
    tolerance = tolerance or (ON_GPU if DEVICE.type == "cuda" else {"rtol": 0, "atol": 0})
    torch.testing.assert_close(found.recognizer.state_dict(), expected.recognizer.state_dict(), **tolerance)
    for row, other in zip(found.curve, expected.curve, strict=True):
        assert row == pytest.approx(other, rel=tolerance["rtol"], abs=tolerance["atol"])
    assert found.best_epoch == expected.best_epoch
