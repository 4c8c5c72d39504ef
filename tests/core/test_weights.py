"""A model file gives back exactly what was saved, or an error; it never gives something else, and never runs code."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from pipeline.core.errors import EnvironmentProblem, StaleArtifactError
from pipeline.core.weights import load_weights, read_attributes, save_weights

DTYPES = [np.float32, np.float16, np.float64, np.int64, np.int32, np.uint64, np.uint8, np.bool_]
TENSORS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
    ),
    max_size=4,
)
SMALL = {
    "stem.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.array([0.5], np.float16),
    "counts": np.array([1, 2], np.int64),
}
ATTRIBUTES = {"class_names": ["drink", "Jump", "Öffnen"], "seed": 3, "clip": {"size": 64}, "share": 0.1}


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def small(path):
    save_weights(path, SMALL, ATTRIBUTES)
    return path


@given(tensors=TENSORS)
@example(tensors={"count": np.array(3)})
def test_tensors_come_back_bit_by_bit(tmp_path_factory, tensors):
    path = tmp_path_factory.getbasetemp() / "round.safetensors"
    save_weights(path, tensors, {})
    found, attributes = load_weights(path)
    assert same(found, tensors)
    assert attributes == {}


def test_tensors_may_lie_in_memory_in_any_order(path):
    tensors = {"turned": np.arange(12.0).reshape(3, 4).T, "thinned": np.arange(12)[::3]}
    save_weights(path, tensors, {})
    found, _ = load_weights(path)
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)


def test_attributes_come_back_and_can_be_read_alone(small):
    assert read_attributes(small) == ATTRIBUTES == load_weights(small)[1]


def test_numbers_that_json_cannot_say_are_refused_before_anything_is_written(path):
    with pytest.raises(ValueError, match="JSON compliant"):
        save_weights(path, SMALL, {"loss": float("nan")})
    assert not path.exists()


WRITER = """
import sys
from pathlib import Path
import numpy as np
from pipeline.core.weights import save_weights
names = set("abcdefgh")
tensors = {name: np.full(3, ord(name), np.float32) for name in names}
save_weights(Path(sys.argv[1]), tensors, {name: {name: 1, "z": 2} for name in names})
"""


def test_the_same_values_are_the_same_bytes_in_every_process(tmp_path):
    contents = set()
    for seed in ("0", "1", "2"):
        path = tmp_path / f"{seed}.safetensors"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", WRITER, str(path)], check=True, env=environment)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_the_order_in_which_tensors_are_given_does_not_matter(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    save_weights(one, SMALL, ATTRIBUTES)
    save_weights(other, dict(reversed(SMALL.items())), dict(reversed(ATTRIBUTES.items())))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_one_flipped_byte_anywhere_is_noticed_or_changes_nothing(small, flip):
    content, wrong = small.read_bytes(), []
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= flip
        small.write_bytes(damaged)
        try:
            tensors, attributes = load_weights(small)
        except StaleArtifactError:
            continue
        if not same(tensors, SMALL) or attributes != ATTRIBUTES:
            wrong.append(position)
    around = content[wrong[0] - 20 : wrong[0] + 20] if wrong else b""
    assert not wrong, f"{len(wrong)} of {len(content)} positions give other values, the first in {around!r}"


def test_a_file_that_ends_early_is_noticed_at_every_length(small):
    content = small.read_bytes()
    for length in range(len(content)):
        small.write_bytes(content[:length])
        with pytest.raises(StaleArtifactError):
            load_weights(small)


def test_a_file_with_more_at_its_end_is_noticed(small):
    small.write_bytes(small.read_bytes() + b"\0")
    with pytest.raises(StaleArtifactError):
        load_weights(small)


def foreign_header(**metadata):
    header = json.dumps({"__metadata__": metadata}).encode()
    return struct.pack("<Q", len(header)) + header


FOREIGN = {
    "nothing": b"",
    "text": b"hello",
    "no metadata": struct.pack("<Q", 2) + b"{}",
    "metadata of others": foreign_header(format="pt"),
    "not json": foreign_header(dlkdd="{"),
    "a list": foreign_header(dlkdd="[]"),
    "other fields": foreign_header(dlkdd='{"attributes":{}}'),
    "huge header": struct.pack("<Q", 2**40) + b"{}",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("read", [load_weights, read_attributes])
def test_a_file_that_is_not_ours_is_refused(path, content, read):
    path.write_bytes(content)
    with pytest.raises(StaleArtifactError, match="not a whole dlkdd model file"):
        read(path)


def test_a_model_of_another_program_is_refused(path):
    save_file(SMALL, path, metadata={"format": "pt"})
    with pytest.raises(StaleArtifactError, match="not a whole dlkdd model file"):
        load_weights(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(StaleArtifactError, match="no such model file"):
        load_weights(tmp_path / "nothing")
    with pytest.raises(StaleArtifactError):
        load_weights(tmp_path)


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_never_run(path, tmp_path):
    canary = tmp_path / "canary"
    path.write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(StaleArtifactError):
        load_weights(path)
    assert not canary.exists()
    pickle.loads(path.read_bytes())  # it would have
    assert canary.exists()


def test_a_full_disk_leaves_the_old_file(small, monkeypatch):
    before = small.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentProblem):
        save_weights(small, {"other": np.zeros(3)}, {})
    assert small.read_bytes() == before
