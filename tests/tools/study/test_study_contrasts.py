"""Contrasts compare within a run; their intervals agree with scipy's, and with a resampling that is written out."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import scipy.stats

from pipeline.tools.study.arms import Contrast, Side
from pipeline.tools.study.contrasts import (
    contrast_table,
    differences,
    interval_over_both,
    interval_over_seeds,
    write_contrasts,
)
from pipeline.tools.study.results import FAILED, Row, estimate

TOTAL = Contrast("total", Side("a", "student"), Side("a", "baseline"))


def row(model, seed, fold, val, correct=None, *, state=""):
    test = None if correct is None else float(np.mean([*correct.values()]))
    return Row(seed, fold, "a", model, val, test, 60.0, state, f"steps/{model}/{seed}{fold}", correct or {})


def videos(prefix, values):
    return {f"{prefix}{number}": bool(value) for number, value in enumerate(values)}


def rows_on_val(students, baselines):
    return [
        row(model, seed, None, value)
        for model, values in (("student", students), ("baseline", baselines))
        for seed, value in enumerate(values)
    ]


def test_on_val_it_is_the_mean_within_seeds():
    (found,) = differences([TOTAL], rows_on_val([0.6, 0.7, 0.9], [0.5, 0.7, 0.6]), {})
    assert found.on == "val"
    assert found.mean == pytest.approx(0.4 / 3)
    expected = scipy.stats.ttest_1samp([0.1, 0.0, 0.3], 0).confidence_interval(0.95)
    assert found.mean - found.half_over_seeds == pytest.approx(expected.low)
    assert found.mean + found.half_over_seeds == pytest.approx(expected.high)
    assert (found.num_above, found.better, found.num_runs) == (2, pytest.approx(2.5 / 3), 3)
    assert found.sd == pytest.approx(np.std([0.1, 0.0, 0.3], ddof=1))
    assert (found.low, found.high) == (None, None)


def test_on_test_a_seed_is_pooled_over_its_folds():
    """Of unequal folds each video counts once."""
    first = [row("student", 0, 0, 0.5, videos("x", [1, 1, 1, 1])), row("student", 0, 1, 0.5, videos("y", [0]))]
    second = [row("baseline", 0, 0, 0.5, videos("x", [1, 0, 0, 0])), row("baseline", 0, 1, 0.5, videos("y", [1]))]
    groups = {name: name[0] for each in first for name in each.correct}
    (found,) = differences([TOTAL], [*first, *second], groups)
    assert found.on == "test"
    assert found.mean == pytest.approx(2 / 5)
    assert (found.num_above, found.num_runs, found.better) == (1, 2, 0.5)
    assert (found.half_over_seeds, found.better_low) == (None, None)  # of one seed
    assert found.runs == ((0, 0, 0.75), (0, 1, -1.0))


def test_a_failed_run_is_counted_and_has_no_number():
    rows = rows_on_val([0.6, 0.7, 0.9], [0.5, 0.7, 0.6])
    rows[1] = row("student", 1, None, None, state=FAILED)
    (found,) = differences([TOTAL], rows, {})
    assert (found.num_runs, found.num_missing) == (2, 1)
    assert found.mean == pytest.approx(0.2)
    assert contrast_table([found])[1][0][-1] == "2 of 2, 1 missing"


def test_where_all_failed_there_is_a_line_without_numbers(tmp_path):
    rows = [row(model, 0, None, None, state=FAILED) for model in ("student", "baseline")]
    (found,) = differences([TOTAL], rows, {})
    assert (found.mean, found.better, found.num_missing) == (None, None, 1)
    write_contrasts(tmp_path / "contrasts.csv", [found])
    (read,) = csv.DictReader((tmp_path / "contrasts.csv").read_text().splitlines())
    assert (read["name"], read["mean"], read["num_runs"]) == ("total", "", "0")


# intervals


@pytest.mark.parametrize("num_seeds", [2, 3, 10, 30])
def test_students_interval_is_scipys(num_seeds):
    values = np.random.default_rng(num_seeds).normal(0.03, 0.02, num_seeds)
    found = estimate(values.tolist())
    sem = scipy.stats.sem(values)
    low, high = scipy.stats.t.interval(0.95, num_seeds - 1, loc=values.mean(), scale=sem)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def scipys(values, seed=0):
    """scipy's percentile interval of the mean, and the Monte-Carlo error of its ends."""
    options = {"method": "percentile", "n_resamples": 10_000, "vectorized": True}
    ends = [
        scipy.stats.bootstrap((values,), np.mean, rng=np.random.default_rng([seed, number]), **options)
        for number in range(4)
    ]
    ends = np.array([(each.confidence_interval.low, each.confidence_interval.high) for each in ends])
    return ends.mean(axis=0), 5 * ends.std(axis=0) + 1e-3 * np.std(values)


def test_the_interval_over_seeds_is_scipys():
    values = np.random.default_rng(1).choice([0, 0.5, 1], 12)
    expected, error = scipys(values)
    assert np.all(np.abs(interval_over_seeds(values) - expected) <= error)


def test_with_one_seed_it_is_scipys_over_videos_and_with_one_group_over_seeds():
    values = np.random.default_rng(2).choice([-1.0, 0, 1], 60, p=[0.1, 0.6, 0.3])
    expected, error = scipys(values)
    over_groups = interval_over_both(values[None, :], np.ones((1, 60)))
    assert np.all(np.abs(over_groups - expected) <= error)
    over_seeds = interval_over_both(values[:, None], np.ones((60, 1)))
    assert np.all(np.abs(over_seeds - expected) <= error)


def test_over_both_it_is_that_of_a_resampling_written_out():
    rng = np.random.default_rng(3)
    sizes_G = rng.integers(1, 6, 8)
    gains_SG = np.round(rng.normal(0.1, 0.3, (5, 1)) * sizes_G + rng.normal(0, 1, (5, 8)))
    sizes_SG = np.tile(sizes_G, (5, 1)).astype(float)
    drawn = []
    for _ in range(4000):
        seeds, groups = rng.integers(0, 5, 5), rng.integers(0, 8, 8)
        block = np.ix_(seeds, groups)
        drawn.append(gains_SG[block].sum() / sizes_SG[block].sum())
    found = interval_over_both(gains_SG, sizes_SG)
    assert found == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.1 * np.std(drawn))


def test_the_same_runs_give_the_same_intervals():
    gains_SG = np.arange(12.0).reshape(3, 4) - 5
    assert interval_over_both(gains_SG, np.full((3, 4), 9.0)) == interval_over_both(gains_SG, np.full((3, 4), 9.0))
