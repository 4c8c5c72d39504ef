"""There is always a whole checkpoint to go on from, and a damaged one is never taken for whole."""

from __future__ import annotations

import os
import random

import pytest
import torch

from pipeline.core.checkpoint import load_checkpoint, save_checkpoint
from pipeline.core.digest import digest_bytes
from pipeline.core.errors import EnvironmentProblem, StaleArtifactError


def state(step):
    generator = torch.Generator().manual_seed(step)
    return {
        "step": step,
        "loss": 0.1 * step,
        "curve": [{"top1": 0.5}],
        "weights": {"w": torch.randn(3, 4, generator=generator), "count": torch.tensor(step)},
        "random_state": generator.get_state(),
    }


def same(one, other):
    return (
        one["step"] == other["step"]
        and one["loss"] == other["loss"]
        and one["curve"] == other["curve"]
        and all(torch.equal(one["weights"][name], other["weights"][name]) for name in ("w", "count"))
        and torch.equal(one["random_state"], other["random_state"])
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pt"


def flip(path, position=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1
    path.write_bytes(content)


def previous(path):
    (other,) = set(path.parent.iterdir()) - {path}
    return other


def test_there_is_none_at_first(path):
    assert load_checkpoint(path) is None


def test_the_newest_comes_back_bit_by_bit(path):
    for step in range(4):
        save_checkpoint(path, state(step))
        assert same(load_checkpoint(path), state(step))
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize("damage", ["flipped", "torn", "empty", "gone"])
def test_the_one_before_is_used_where_the_newest_is_damaged(path, damage):
    save_checkpoint(path, state(1))
    save_checkpoint(path, state(2))
    if damage == "flipped":
        flip(path)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: {"torn": -100, "empty": 0}[damage]])
    assert same(load_checkpoint(path), state(1))


def test_a_flipped_byte_is_noticed_wherever_it_is(path):
    save_checkpoint(path, state(1))
    size = path.stat().st_size
    for position in [*range(20), *random.Random(0).sample(range(size), 40), size - 1]:
        flip(path, position)
        with pytest.raises(StaleArtifactError):
            load_checkpoint(path)
        flip(path, position)
    assert same(load_checkpoint(path), state(1))


def test_damage_to_all_is_told_with_the_way_out(path):
    save_checkpoint(path, state(1))
    save_checkpoint(path, state(2))
    flip(path)
    flip(previous(path))
    with pytest.raises(StaleArtifactError, match="remove the folder"):
        load_checkpoint(path)


def full(*_arguments):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("newest", ["whole", "torn"])
def test_a_full_disk_leaves_one_to_go_on_from(path, monkeypatch, newest):
    save_checkpoint(path, state(1))
    save_checkpoint(path, state(2))
    if newest == "torn":
        flip(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentProblem):
            save_checkpoint(path, state(3))
    assert same(load_checkpoint(path), state(2 if newest == "whole" else 1))


def test_code_in_a_checkpoint_is_never_run(path, tmp_path):
    class Canary:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "canary"),)

    torch.save({"step": Canary()}, tmp_path / "evil.pt")
    content = (tmp_path / "evil.pt").read_bytes()
    path.write_bytes(bytes.fromhex(digest_bytes(content)) + content)  # with a right digest
    with pytest.raises(StaleArtifactError, match="are damaged"):
        load_checkpoint(path)
    assert not (tmp_path / "canary").exists()
