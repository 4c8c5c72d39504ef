"""Folds of train's groups: whole groups, every class in two folds, and the same whatever the order."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from builders import tiny_recognizer
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import DataError, StaleArtifactError
from pipeline.models.folds import LEFT_OUT, assign_folds, fold_path, left_out_digest, read_folds, write_folds
from pipeline.models.recognizer import load_model, save_model

# as ARID's groups, each of one class, and as people, each of all classes
OF_A_CLASS = [(f"{name}_{index // 5}", name) for name in ("drink", "jump", "wave") for index in range(40)]
OF_ALL = [(f"person_{index % 9}", ("drink", "jump")[index % 2]) for index in range(90)]


@pytest.mark.parametrize("videos", [OF_A_CLASS, OF_ALL], ids=["groups of a class", "groups of all"])
@pytest.mark.parametrize("num_folds", [2, 4])
def test_every_fold_has_its_share_of_every_class(videos, num_folds):
    folds = assign_folds(videos, num_folds, seed=0)
    counts = Counter((folds[group], name) for group, name in videos)
    for name in {name for _, name in videos}:
        share = sum(each == name for _, each in videos) / num_folds
        assert all(abs(counts[fold, name] - share) <= 5 for fold in range(num_folds))  # videos of a group


@given(st.permutations(OF_ALL), st.integers(0, 3))
def test_neither_the_order_of_the_videos_nor_their_number_in_a_row_shows(videos, seed):
    assert assign_folds(videos, 3, seed=seed) == assign_folds(OF_ALL, 3, seed=seed)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("XYZ")), min_size=1), st.integers(2, 4))
def test_what_is_found_leaves_every_class_to_every_teacher_or_is_refused(videos, num_folds):
    try:
        folds = assign_folds(videos, num_folds, seed=0)
    except DataError:
        return
    assert folds.keys() == {group for group, _ in videos}
    assert set(folds.values()) == set(range(num_folds))
    for name in {name for _, name in videos}:
        assert len({folds[group] for group, each in videos if each == name}) >= 2


def test_other_seeds_are_other_folds():
    assert len({str(sorted(assign_folds(OF_A_CLASS, 2, seed=seed).items())) for seed in range(5)}) > 1


def test_too_few_groups_are_refused():
    with pytest.raises(DataError, match=r"teacher_folds is 3, and the training videos are of 2 group\(s\)"):
        assign_folds([("a", "jump"), ("b", "wave")], 3, seed=0)


def test_a_class_of_one_group_is_refused_by_name():
    with pytest.raises(DataError, match="no video of these classes") as raised:
        assign_folds([("a", "jump"), ("b", "jump"), ("c", "wave"), ("c", "wave")], 2, seed=0)
    (finding,) = raised.value.findings
    assert finding.startswith("wave: all 2 training videos are of 1 group(s)")


@pytest.fixture
def folder(tmp_path):
    """Two models and what says so."""
    groups = {"a": 0, "b": 1, "c": 0}
    for fold in range(2):
        trained_on = {"digests": {LEFT_OUT: left_out_digest(groups, fold)}}
        save_model(fold_path(tmp_path, fold), tiny_recognizer(seed=fold), class_names="xyz", trained_on=trained_on)
    write_folds(tmp_path, groups, [load_model(fold_path(tmp_path, fold)).digest for fold in range(2)])
    return tmp_path


def test_what_was_written_is_read(folder):
    found = read_folds(folder)
    assert found.groups == {"a": 0, "b": 1, "c": 0}
    assert [model.digest for model in found.models] == [load_model(fold_path(folder, fold)).digest for fold in (0, 1)]
    write_folds(folder, {}, [])
    assert read_folds(folder).models == []


def exchange(folder):
    one, other = (fold_path(folder, fold).read_bytes() for fold in (0, 1))
    fold_path(folder, 0).write_bytes(other)
    fold_path(folder, 1).write_bytes(one)


def move_a_group(folder):
    path = folder / "folds.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "groups": {**held["groups"], "a": 1}}) + "\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (exchange, "its digest is "),
        (move_a_group, "left_out_groups is "),
        (lambda folder: fold_path(folder, 1).unlink(), "no such model file"),
        (lambda folder: (folder / "folds.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "folds.json").write_text("[]\n"), "cannot be read"),
        (lambda folder: (folder / "folds.json").write_text('{"format_version": 1'), "cannot be read"),
        (lambda folder: write_folds(folder, {"a": 0}, ["0", "1"]), "its groups are not those of its 2 models"),
        (lambda folder: write_folds(folder, {"a": 2}, ["0"]), "its groups are not those of its 1 models"),
    ],
)
def test_what_is_not_one_run_s_is_refused(folder, change, words):
    change(folder)
    with pytest.raises(StaleArtifactError, match=words) as raised:
        read_folds(folder)
    assert "train_teacher_folds" in str(raised.value) or "dvc repro" in str(raised.value)
