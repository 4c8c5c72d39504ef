"""Predictions survive their file, and a file that is something else is refused with its line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.digest import digest_json
from pipeline.core.errors import StaleArtifactError
from pipeline.evaluate.score.predictions import Predictions, read_predictions, write_predictions

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)


def predictions(video_ids, class_names, seed=0):
    rng = np.random.default_rng(seed)
    probs_NK = rng.dirichlet(np.ones(len(class_names)), len(video_ids))
    return Predictions(tuple(video_ids), rng.integers(len(class_names), size=len(video_ids)), probs_NK, class_names)


def check_same(found, expected):
    assert found.video_ids == expected.video_ids
    assert found.class_names == expected.class_names
    assert found.labels_N.dtype == np.int64
    assert np.array_equal(found.labels_N, expected.labels_N)
    assert np.abs(found.probs_NK - expected.probs_NK).max(initial=0) <= 1e-6


@pytest.fixture
def path(tmp_path):
    return tmp_path / "predictions" / "student.csv"


@given(
    st.lists(NAMES, min_size=1, max_size=5, unique=True),
    st.lists(NAMES, min_size=1, max_size=4, unique=True).map(tuple),
)
def test_predictions_come_back(tmp_path_factory, video_ids, class_names):
    path = tmp_path_factory.getbasetemp() / "predictions.csv"
    expected = predictions(video_ids, class_names)
    write_predictions(path, expected)
    check_same(read_predictions(path), expected)


@pytest.mark.parametrize("excess", [1e-9, 4e-7, 6e-7])
def test_the_predicted_class_comes_back_where_two_are_nearly_equal(path, excess):
    close = Predictions(("a",), np.array([1]), np.array([[0.5 - excess, 0.5 + excess]]), ("x", "y"))
    write_predictions(path, close)
    predicted = read_predictions(path).predicted_N.tolist()
    assert predicted == close.predicted_N.tolist()
    assert path.read_text().splitlines()[1].split(",")[2] == "xy"[predicted[0]]


def test_the_file_says_what_was_predicted(path):
    write_predictions(path, Predictions(("a", "b"), np.array([0, 1]), np.array([[0.75, 0.25], [1, 0]]), ("x", "y,z")))
    header, first, second = path.read_text().splitlines()
    assert header == 'video_id,class_name,predicted,p:x,"p:y,z",model,manifest,views,digest'
    assert first.startswith("a,x,x,0.75")
    assert second.startswith('b,"y,z",x,1')


def test_the_same_predictions_are_the_same_bytes(path):
    expected = predictions(["a", "b"], ("x", "y"))
    write_predictions(path, expected)
    before = path.read_bytes()
    write_predictions(path, expected)
    assert path.read_bytes() == before


ORIGIN = ("model digest", "manifest digest", "1x1")
LAST = ",model,manifest,views,digest\n"
HEADER = f"video_id,class_name,predicted,p:x,p:y{LAST}"


def row(text, *origin):
    """A line as the writer would end it."""
    cells = [*text.split(","), *(origin or ORIGIN)]
    return ",".join([*cells, digest_json(cells)]) + "\n"


GOOD = row("a,x,x,0.9,0.1")
WRONG = {
    "empty": ("", ""),
    "other columns": (f"video_id,label,p:x,p:y{LAST}", "line 1"),
    "of an earlier version": ("video_id,class_name,predicted,p:x,p:y\na,x,x,0.9,0.1\n", "line 1"),
    "no classes": (f"video_id,class_name,predicted{LAST}", "line 1"),
    "columns that are not probabilities": (f"video_id,class_name,predicted,x,y{LAST}", "line 1"),
    "the same class twice": (f"video_id,class_name,predicted,p:x,p:x{LAST}", "line 1"),
    "no videos": (HEADER, ""),
    "unknown class": (HEADER + GOOD + row("b,z,x,0.9,0.1"), "line 3"),
    "too few fields": (HEADER + GOOD + row("b,x,x,0.9"), "line 3"),
    "too many fields": (HEADER + GOOD + row("b,x,x,0.9,0.1,0"), "line 3"),
    "no number": (HEADER + GOOD + row("b,x,x,0.9,none"), "line 3"),
    "nan": (HEADER + GOOD + row("b,x,x,0.9,nan"), "line 3"),
    "another digit": (HEADER + GOOD + row("b,x,x,0.9,0.1").replace("0.9", "0.8"), "line 3"),
    "another origin": (HEADER + GOOD + row("b,x,x,0.9,0.1", "another", *ORIGIN[1:]), "several models"),
    "torn": (HEADER + GOOD + "b,x", "cut off"),
    "blank line": (HEADER + GOOD + "\n" + row("b,x,x,0.9,0.1"), "line 3"),
    "endless field": (HEADER + '"' + 200_000 * "a" + "\n", "line 2"),
    "not utf-8": (HEADER.encode() + b"\xff,x,x,0.9,0.1\n", ""),
}


@pytest.mark.parametrize(("content", "line"), WRONG.values(), ids=WRONG.keys())
def test_a_file_that_is_something_else_is_refused_with_its_line(path, content, line):
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StaleArtifactError, match="not a predictions file") as caught:
        read_predictions(path)
    assert line in str(caught.value)


def test_a_missing_file_is_refused(path):
    with pytest.raises(StaleArtifactError, match="No such file"):
        read_predictions(path)
