"""Epochs for TensorBoard: every value once, after a kill too, and a clear word where the package is missing."""

from __future__ import annotations

import sys

import pytest

from pipeline.core.errors import EnvironmentProblem
from pipeline.train.state import Epoch
from pipeline.train.tensorboard import tensorboard_writer


def epoch(number):
    row = {"epoch": float(number), "train_loss": 2.0 - number, "val_top1": 0.1 * number}
    return Epoch(row, clips_per_second=50.0 + number, data_wait=0.01)


def written(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_every_value_of_an_epoch_is_there(tmp_path):
    with tensorboard_writer(tmp_path) as write:
        for number in range(3):
            write(epoch(number))
    found = written(tmp_path)
    assert set(found) == {"train_loss", "val_top1", "clips_per_second", "data_wait"}
    assert found["train_loss"] == [(0, 2.0), (1, 1.0), (2, 0.0)]


def test_epochs_that_are_told_again_replace_the_old_ones(tmp_path):
    with tensorboard_writer(tmp_path) as write:
        for number in range(3):
            write(epoch(number))
    with tensorboard_writer(tmp_path) as write:  # killed after its checkpoint in epoch 1
        for number in (1, 2, 3):
            write(epoch(number))
    assert [step for step, _ in written(tmp_path)["train_loss"]] == [0, 1, 2, 3]


def test_without_an_epoch_nothing_is_written(tmp_path):
    with tensorboard_writer(tmp_path / "none"):
        pass
    assert not (tmp_path / "none").exists()


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(EnvironmentProblem, match="tensorboard") as caught,
        tensorboard_writer(tmp_path),
    ):
        pass
    assert "pip install 'dlkdd[tensorboard]'" in caught.value.remedy
