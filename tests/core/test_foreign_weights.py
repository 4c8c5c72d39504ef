"""Tensors come out of anybody's file as they are, or an error does; nothing in a file is ever run."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.weights import read_tensors

STATE = {
    "stem.weight": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([0.5, 2.0], dtype=torch.bfloat16),
    "counts": torch.tensor(3),
}

WRITERS = {
    "plain.pth": torch.save,
    "old.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "state_dict.pth": lambda state, path: torch.save({"state_dict": state, "epoch": 3, "best": 0.5}, path),
    "hub.pyth": lambda state, path: torch.save({"model_state": state, "cfg": "MODEL: x3d"}, path),
    "nested.pt": lambda state, path: torch.save({"model": {"state_dict": state}, "optimizer": {}}, path),
    "parameters.pth": lambda state, path: torch.save(
        {name: torch.nn.Parameter(value) if value.is_floating_point() else value for name, value in state.items()},
        path,
    ),
    "theirs.safetensors": lambda state, path: save_file(state, path, metadata={"format": "pt"}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_tensors_come_back_as_they_were_written(name, tmp_path):
    WRITERS[name](STATE, tmp_path / name)
    found = read_tensors(tmp_path / name, parameter="weights")
    assert found.keys() == STATE.keys()
    for key, value in STATE.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)
        assert not found[key].requires_grad


class Canary:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


HOSTILE = {
    "a pickle": lambda path, canary: path.write_bytes(pickle.dumps({"a": canary}, protocol=2)),
    "beside tensors": lambda path, canary: torch.save({**STATE, "hook": canary}, path),
    "in a wrapper": lambda path, canary: torch.save({"state_dict": STATE, "hook": canary}, path),
    "in the old format": lambda path, canary: torch.save([canary], path, _use_new_zipfile_serialization=False),
    "a whole network": lambda path, canary: torch.save(torch.nn.Linear(2, 2), path),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_code_in_a_file_is_never_run(kind, tmp_path):
    path, canary = tmp_path / "weights.pth", tmp_path / "canary"
    HOSTILE[kind](path, Canary(canary))
    with pytest.raises(StaleArtifactError, match="cannot be read as tensors alone: it holds other objects") as caught:
        read_tensors(path, parameter="weights")
    assert not canary.exists()
    assert caught.value.exit_code == 5
    assert "trust" not in str(caught.value)  # torch's own message advises to run it


def test_the_canary_would_have_sung(tmp_path):
    path, canary = tmp_path / "weights.pth", tmp_path / "canary"
    HOSTILE["beside tensors"](path, Canary(canary))
    torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x02K\x01.", bytes(100)])
def test_files_without_tensors_are_refused(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    try:
        assert read_tensors(path, parameter="weights") == {}
    except StaleArtifactError as error:
        assert "weights.pth" in str(error) or "weights.safetensors" in str(error)  # noqa: PT017 - either is right


@pytest.mark.parametrize("name", ["plain.pth", "old.pth", "theirs.safetensors"])
def test_a_file_that_ends_early_is_refused_at_every_length(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](STATE, path)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(StaleArtifactError):
            read_tensors(path, parameter="weights")


def test_a_missing_file_and_a_folder_are_told_by_the_parameter(tmp_path):
    with pytest.raises(ParamsError, match=r"fit_enhancer\.weights: .*: no such file"):
        read_tensors(tmp_path / "nothing.pth", parameter="fit_enhancer.weights")
    with pytest.raises(StaleArtifactError, match="cannot be read"):
        read_tensors(tmp_path, parameter="weights")


def test_tensors_without_values_are_refused(tmp_path):
    torch.save({"empty": torch.empty(3, device="meta"), "sparse": torch.eye(3).to_sparse()}, tmp_path / "x.pth")
    with pytest.raises(StaleArtifactError, match="not all tensors have plain values") as caught:
        read_tensors(tmp_path / "x.pth", parameter="weights")
    assert set(caught.value.findings) == {"empty", "sparse"}


def test_a_wrapper_that_holds_itself_does_not_hang(tmp_path):
    content = {"epoch": 3}
    content["model"] = content
    torch.save(content, tmp_path / "x.pth")
    assert read_tensors(tmp_path / "x.pth", parameter="weights") == {}
