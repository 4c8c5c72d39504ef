"""Every table against a count by hand over its videos."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from builders import CLASSES, manifest_row
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import StaleArtifactError
from pipeline.core.tables import whole_number
from pipeline.evaluate.score.predictions import Predictions
from pipeline.evaluate.tables import by_quartile, make_tables, read_rows, read_tables, write_tables

NAMES = ("teacher", "student", "baseline")
LABELS = (0, 0, 0, 2, 2, 2, 2, 0)  # of class 1 there is no video


def predictions_for(video_ids, labels, seed):
    probs_NK = np.random.default_rng(seed).dirichlet(np.ones(3), len(labels))
    return Predictions(tuple(video_ids), np.array(labels), probs_NK, CLASSES)


@pytest.fixture(scope="module")
def rows():
    lengths = (10, 10, 10, 20, 30, 40, 50, 60)
    return [
        manifest_row(f"v{number}", label, "test", (length, 16, 16))
        for number, (label, length) in enumerate(zip(LABELS, lengths, strict=True))
    ]


@pytest.fixture(scope="module")
def luma(rows):
    return {row.video_id: value for row, value in zip(rows, (9.5, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0), strict=True)}


@pytest.fixture(scope="module")
def found(rows):
    video_ids = [row.video_id for row in rows]
    return {name: predictions_for(video_ids, LABELS, seed) for seed, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def tables(found, rows, luma):
    return make_tables(found, rows, luma)


def shares(found, video_ids):
    """Share of these videos that each model recognises, counted one by one."""
    counts = dict.fromkeys(found, 0)
    for name, one in found.items():
        for video_id, label, probs_K in zip(one.video_ids, one.labels_N, one.probs_NK, strict=True):
            counts[name] += video_id in video_ids and list(probs_K).index(max(probs_K)) == label
    return {name: pytest.approx(count / len(video_ids)) for name, count in counts.items()}


def test_a_class_has_the_share_of_its_videos(tables, found, rows):
    of = {name: [row.video_id for row in rows if row.class_name == name] for name in ("drink", "wave")}
    assert tables["per_class"] == [
        {"class_name": name, "num_videos": len(ids), **shares(found, ids)} for name, ids in of.items()
    ]


def test_light_has_a_quarter_of_the_videos_in_each_row(tables, found):
    quarters = {(1.0, 2.0): ("v1", "v3"), (3.0, 4.0): ("v5", "v7"), (6.0, 7.0): ("v6", "v4"), (8.0, 9.5): ("v2", "v0")}
    assert tables["by_light"] == [
        {"low": low, "high": high, "num_videos": 2, **shares(found, ids)} for (low, high), ids in quarters.items()
    ]


def test_equal_lengths_stay_together(tables, found):
    groups = {(10, 10): ("v0", "v1", "v2"), (20, 20): ("v3",), (30, 40): ("v4", "v5"), (50, 60): ("v6", "v7")}
    assert tables["by_length"] == [
        {"low": low, "high": high, "num_videos": len(ids), **shares(found, ids)} for (low, high), ids in groups.items()
    ]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40))
def test_quarters_hold_every_video_once_and_do_not_overlap(values):
    ids = [f"v{number}" for number in range(len(values))]
    found = {"model": predictions_for(ids, [number % 3 for number in range(len(values))], 0)}
    table = by_quartile(np.array(values), found)
    assert 1 <= len(table) <= 4
    assert sum(row["num_videos"] for row in table) == len(values)
    for row in table:
        assert row["num_videos"] == sum(row["low"] <= value <= row["high"] for value in values)
    assert all(before["high"] < row["low"] for before, row in pairwise(table))


def test_reliability_has_all_models_and_all_videos(tables, found):
    assert list(dict.fromkeys(row["model"] for row in tables["reliability"])) == list(NAMES)
    for name in NAMES:
        mine = [row for row in tables["reliability"] if row["model"] == name]
        assert sum(row["num_videos"] for row in mine) == len(LABELS)
        for key, expected in (
            ("accuracy", (found[name].probs_NK.argmax(axis=1) == np.array(LABELS)).mean()),
            ("confidence", found[name].probs_NK.max(axis=1).mean()),
        ):
            assert sum(row["num_videos"] * row[key] for row in mine) / len(LABELS) == pytest.approx(expected)


def test_every_video_has_its_row(tables, found, rows, luma):
    assert [row["video_id"] for row in tables["videos"]] == [row.video_id for row in rows]
    for index, (row, of) in enumerate(zip(tables["videos"], rows, strict=True)):
        assert (row["class_name"], row["mean_luma"], row["num_frames"]) == (
            of.class_name,
            luma[of.video_id],
            of.num_frames,
        )
        for name in NAMES:
            probs_K = found[name].probs_NK[index]
            assert row[f"{name}_predicted"] == CLASSES[int(probs_K.argmax())]
            assert row[f"{name}_p_true"] == probs_K[CLASSES.index(of.class_name)]


def test_a_video_without_light_is_refused(found, rows, luma):
    known = {video_id: value for video_id, value in luma.items() if video_id != "v5"}
    with pytest.raises(StaleArtifactError, match=r"lacks 1 of 8 videos, the first is v5") as caught:
        make_tables(found, rows, known)
    assert "measure_light" in str(caught.value)


COLUMNS = {
    "per_class": "class_name,num_videos,teacher,student,baseline",
    "by_light": "low,high,num_videos,teacher,student,baseline",
    "by_length": "low,high,num_videos,teacher,student,baseline",
    "reliability": "model,low,high,num_videos,confidence,accuracy",
    "videos": "video_id,class_name,mean_luma,num_frames,teacher_predicted,teacher_p_true,"
    "student_predicted,student_p_true,baseline_predicted,baseline_p_true",
}


def test_tables_come_back_from_their_files(tmp_path, tables):
    write_tables(tmp_path / "tables", tables)
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == set(COLUMNS)
    for name, columns in COLUMNS.items():
        assert (tmp_path / "tables" / f"{name}.csv").read_text().splitlines()[0] == columns
    for name, table in read_tables(tmp_path / "tables").items():
        assert table == [pytest.approx(row, abs=5.1e-7) for row in tables[name]]


def test_the_same_predictions_give_the_same_bytes(tmp_path, found, rows, luma):
    for name in ("one", "other"):
        write_tables(tmp_path / name, make_tables(found, rows, luma))
    for name in COLUMNS:
        first, second = ((tmp_path / folder / f"{name}.csv").read_bytes() for folder in ("one", "other"))
        assert first == second


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: empty"),
        ("a\n1\n", "its columns are a, expected a,b"),
        ("a,b\n", "no rows"),
        ("a,b\n1,x\n2\n", "line 3: 1 fields, expected 2"),
        ("a,b\nx,y\n", "line 2: a: expected a whole number"),
        ('a,b\n1,"y\n', "line 2: unexpected end of data"),
        (b"a,b\n\xff,y\n", "utf-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_its_line(tmp_path, text, words):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StaleArtifactError, match=words) as caught:
        read_rows(path, {"a": whole_number, "b": str})
    assert str(path) in str(caught.value)
