"""A training tells where it stands while it runs, in a file that is gone when it ends."""

from __future__ import annotations

import json
import math

import pytest

from pipeline.train.live import live_metrics
from pipeline.train.state import Epoch


def epoch(number, loss=1.23456):
    row = {
        "epoch": number,
        "learning_rate": 0.1,
        "train_loss": loss,
        "train_top1": 0.5,
        "val_loss": 1.0,
        "val_top1": 0.75,
    }
    return Epoch(row, clips_per_second=100.0, data_wait=0.01)


def stopped_after(write, told):
    write(told)
    raise KeyboardInterrupt


def test_the_file_has_the_newest_epoch_and_goes_with_the_training(tmp_path):
    path = tmp_path / "teacher.json"
    with live_metrics(tmp_path, "teacher") as write:
        for number in range(3):
            write(epoch(number))
            told = json.loads(path.read_text())["teacher"]
            assert told == {"epoch": number, "train_loss": 1.235, "val_top1": 0.75}
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_is_left_out(tmp_path):
    """JSON has no word for it."""
    with live_metrics(tmp_path, "teacher") as write:
        write(epoch(0, loss=math.nan))
        assert json.loads((tmp_path / "teacher.json").read_text())["teacher"].keys() == {"epoch", "val_top1"}


def test_a_training_that_is_stopped_leaves_no_file_and_one_that_was_killed_until_the_next(tmp_path):
    with pytest.raises(KeyboardInterrupt), live_metrics(tmp_path, "teacher") as write:
        stopped_after(write, epoch(0))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "teacher.json").write_text("{}")
    with live_metrics(tmp_path, "teacher"):
        assert list(tmp_path.iterdir()) == []
