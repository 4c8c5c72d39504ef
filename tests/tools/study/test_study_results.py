"""Rows are what the jobs wrote; trainings that failed or stayed behind are counted, and none is dropped."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from statistics import stdev

import numpy as np
import pytest
from builders import CLASSES, tiny_data
from paths import ROOT

from pipeline.core.errors import StaleArtifactError
from pipeline.core.params import load_params
from pipeline.evaluate.score.predictions import Predictions, write_predictions
from pipeline.tools.study.arms import Design, read_design
from pipeline.tools.study.chain import Chain, Data
from pipeline.tools.study.results import (
    BEHIND,
    FAILED,
    Row,
    chosen_by_val,
    estimate,
    lines_of,
    mark_behind,
    read_rows,
    table,
    write_rows,
)
from pipeline.tools.study.summary import Summary, on_machines


def test_t_is_the_tables():
    """NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, column 0.975."""
    expected = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 30: 2.042, 100: 1.984}
    for degrees, t in expected.items():
        values = range(degrees + 1)
        assert estimate(values).half == pytest.approx(t * stdev(values) / math.sqrt(len(values)), rel=2.5e-4)


def test_one_seed_has_no_interval():
    assert estimate([0.5]).half is None


def rows_of(values, *, arm="a", model="student", folder=None):
    """Rows of seeds 0, 1, … with these val top-1."""
    return [
        Row(seed, None, arm, model, value, None, 60.0, "", f"steps/{folder or arm}/{model}{seed}")
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("values", "behind"),
    [
        ([0.9, 0.91, 0.89, 0.9, 0.7], [0.7]),
        ([0.9, 0.91, 0.89, 0.9, 0.81], []),  # a deviation is 2 points at least
        ([0.9, 0.8, 0.7, 0.6, 0.4], []),  # where all differ
        ([0.5, 0.5, 0.5, 0.9], []),  # above is no failure
        ([0.1], []),
    ],
)
def test_what_lies_far_below_its_like_stayed_behind(values, behind):
    rows = mark_behind([*rows_of(values), *rows_of([0.1, 0.1], model="baseline")])
    assert [row.val_top1 for row in rows if row.state == BEHIND] == behind


def test_what_stayed_behind_is_in_the_mean_and_what_failed_is_counted():
    rows = mark_behind(rows_of([0.9, 0.9, 0.9, 0.5]))
    rows.append(replace(rows[0], seed=4, val_top1=None, seconds=None, state=FAILED, folder="steps/f"))
    (line,) = lines_of(rows)
    assert line.val.mean == pytest.approx(0.8)
    assert (line.failed, line.behind, line.num_runs, line.minutes) == (1, 1, 5, 1.0)
    assert table([line])[1][0][-1] == "2 of 5"


def test_arms_that_share_trainings_share_a_line():
    rows = [
        *rows_of([0.5, 0.6], model="baseline", folder="x"),
        *rows_of([0.5, 0.6], arm="b", model="baseline", folder="x"),
        *rows_of([0.7, 0.6]),
    ]
    assert [(line.arm, line.model, line.same_as) for line in lines_of(rows)] == [
        ("a", "baseline", ("b",)),
        ("a", "student", ()),
    ]


def test_arms_that_are_scored_otherwise_share_no_line():
    first, second = rows_of([0.5], folder="x"), rows_of([0.5], arm="b", folder="x")
    rows = [replace(row, test_top1=top1) for row, top1 in zip([*first, *second], (0.4, 0.6), strict=True)]
    assert [(line.arm, line.same_as) for line in lines_of(rows)] == [("a", ()), ("b", ())]


def test_val_chooses_though_test_would_choose_another():
    rows = [replace(row, test_top1=0.1, correct={"v": False}) for row in rows_of([0.8])]
    rows += [replace(row, test_top1=1.0, correct={"v": True}) for row in rows_of([0.7], arm="b")]
    rows += rows_of([0.9], model="teacher")
    assert chosen_by_val(lines_of(rows)).arm == "a"


def test_test_is_pooled_over_folds():
    first = Row(0, 0, "a", "student", 0.5, 1.0, 1.0, "", "x", {"v": True, "w": True, "x": True})
    second = Row(0, 1, "a", "student", 0.7, 0.0, 1.0, "", "y", {"y": False})
    (line,) = lines_of([first, second])
    assert (line.test.mean, line.val.mean) == (0.75, pytest.approx(0.6))


@pytest.fixture
def study(tmp_path):
    """Two arms that share all but the student, one seed: design, manifest and runs; the jobs wrote their files."""
    return made_study(tmp_path, "a: temperature=3", "b: temperature=4")


def made_study(tmp_path, *arms):
    """Of the scores each has one more right video than the one before."""
    manifest, frames = tiny_data(tmp_path, num_test=4)
    design = read_design(None, arms, load_params(ROOT / "params.yaml"), with_bright=False)
    chain = Chain(tmp_path / "study", Data(tmp_path / "manifest.csv", frames.path, None), True, 1, "cpu")
    runs = [run for arm in design.arms for run in chain.add_runs(arm, tmp_path / "manifest.csv", seed=7, fold=None)]
    video_ids = tuple(row.video_id for row in manifest.rows_of("test"))
    labels_N = np.array([manifest.class_index(row) for row in manifest.rows_of("test")])
    for number, run in enumerate({run.scoring.folder: run for run in runs}.values()):
        run.curve.parent.mkdir(parents=True, exist_ok=True)
        run.curve.write_text(f"epoch,val_top1\n0,0.{number}\n1,0.9\n2,0.2\n")
        probs_NK = np.eye(2)[np.where(np.arange(4) < number, labels_N, 1 - labels_N)]  # so many are right
        run.scoring.folder.mkdir(parents=True)
        write_predictions(run.scoring.outs[0], Predictions(video_ids, labels_N, probs_NK, CLASSES[:2]))
    seconds = {job.name: 60.0 for job in chain.jobs.values()}
    return design, {tmp_path / "manifest.csv": manifest}, runs, seconds


def test_the_rows_are_read_from_what_the_jobs_wrote(study, tmp_path):
    _, manifests, runs, seconds = study
    rows = read_rows(runs, seconds, manifests)
    assert [(row.arm, row.model, row.test_top1) for row in rows] == [
        ("a", "teacher", 0),
        ("a", "baseline", 0.25),
        ("a", "student", 0.5),
        ("b", "teacher", 0),
        ("b", "baseline", 0.25),
        ("b", "student", 0.75),
    ]
    assert {row.val_top1 for row in rows} == {0.9}
    write_rows(tmp_path / "study.csv", rows)
    found = list(csv.DictReader((tmp_path / "study.csv").read_text().splitlines()))[2]
    assert found.pop("folder").startswith("steps/train_student/")
    expected = {"seed": "7", "fold": "", "arm": "a", "model": "student", "val_top1": "0.9", "test_top1": "0.5"}
    assert found == {**expected, "seconds": "60", "state": ""}
    runs[0].scoring.outs[0].write_text("video_id\n")
    with pytest.raises(StaleArtifactError):
        read_rows(runs, seconds, manifests)


def test_arms_that_share_trainings_have_the_scores_of_their_own_jobs(tmp_path):
    design, manifests, runs, seconds = made_study(tmp_path, "a: ", "b: score.num_crops=3")
    rows = read_rows(runs, seconds, manifests)
    assert len({row.folder for row in rows}) == 3
    assert [row.test_top1 for row in rows] == [0, 0.25, 0.5, 0.75, 1, 1]
    del seconds[runs[0].scoring.name]
    rows = read_rows(runs, seconds, manifests)
    assert [row.state for row in rows] == [FAILED, "", "", "", "", ""]
    (manifest,) = manifests.values()
    notes = Summary(design, design.arms[0].params, manifest, None, "How.", rows, lines_of(rows), ()).notes()
    assert "Of 1 trainings of a teacher 1 failed: a seed 7 failed. What failed has no number." in notes


def test_a_run_whose_job_is_not_done_failed(study):
    _, manifests, runs, seconds = study
    del seconds[runs[2].scoring.name]
    row = read_rows(runs, seconds, manifests)[2]
    assert (row.state, row.val_top1, row.test_top1) == (FAILED, None, None)


def test_the_summary_says_what_failed_and_what_val_chooses(study):
    design, (manifest,), runs, seconds = study[0], study[1].values(), *study[2:]
    del seconds[runs[2].training.name]
    rows = read_rows(runs, seconds, study[1])
    params = load_params(ROOT / "params.yaml")
    text = Summary(Design(design.arms, ()), params, manifest, None, "How.", rows, lines_of(rows), ()).markdown()
    assert "Of 2 trainings of a student 1 failed: a seed 7 failed. What failed has no number." in text
    assert "Val chooses b: 90.0 %; on test 75.0 %." in text
    assert '- b: `{"temperature": 4}`' in text
    assert "| a.baseline (and of b) | 90.0 | 25.0 | 1.0 |  |" in text


def test_the_machines_of_a_study_are_named():
    assert on_machines([]) == ""
    assert on_machines(["A", "A"]) == "All steps ran on A."
    several = on_machines(["B", None, "A", "A"])
    assert several.startswith("Steps that ran: 2 on A; 1 on B; 1 on a machine that is not recorded. ")
