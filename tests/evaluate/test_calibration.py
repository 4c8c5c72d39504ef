"""Calibration against a loop over the bins, and against models whose error is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate.metrics import expected_calibration_error, reliability

VIDEOS = st.lists(st.tuples(st.floats(0.01, 1.0), st.booleans()), min_size=1, max_size=60)


def bins_of(videos, num_bins):
    confidence, correct = zip(*videos, strict=True)
    return reliability(np.array(confidence), np.array(correct), num_bins=num_bins)


@given(VIDEOS, st.integers(1, 15))
def test_bins_hold_every_video_once_with_the_means_of_what_they_hold(videos, num_bins):
    bins = bins_of(videos, num_bins)
    for found in bins:
        inside = [(confidence, right) for confidence, right in videos if found["low"] < confidence <= found["high"]]
        assert found["num_videos"] == len(inside) > 0
        assert found["confidence"] == pytest.approx(np.mean([confidence for confidence, _ in inside]))
        assert found["accuracy"] == pytest.approx(np.mean([right for _, right in inside]))
        assert found["high"] - found["low"] == pytest.approx(1 / num_bins)
    assert sum(found["num_videos"] for found in bins) == len(videos)
    assert [found["low"] for found in bins] == sorted(found["low"] for found in bins)


@given(st.integers(1, 60), st.integers(1, 15), st.integers(0, 1000))
def test_the_error_is_that_of_the_papers_formula(num_videos, num_bins, seed):
    rng = np.random.default_rng(seed)
    videos = list(zip(rng.uniform(0.1, 1.0, num_videos), rng.random(num_videos) < 0.6, strict=True))
    expected = 0.0
    for number in range(1, num_bins + 1):  # equation 3 of Guo et al. 2017
        inside = [(c, right) for c, right in videos if (number - 1) / num_bins < c <= number / num_bins]
        if inside:
            gap = abs(np.mean([right for _, right in inside]) - np.mean([c for c, _ in inside]))
            expected += len(inside) / num_videos * gap
    assert expected_calibration_error(bins_of(videos, num_bins)) == pytest.approx(expected, abs=1e-9)


def test_who_is_right_as_often_as_promised_has_no_error():
    videos = [(0.75, True), (0.75, True), (0.75, True), (0.75, False), (1.0, True)]
    assert expected_calibration_error(bins_of(videos, 15)) == pytest.approx(0)


def test_who_is_sure_and_wrong_has_all_of_it():
    assert expected_calibration_error(bins_of([(1.0, False)] * 3, 15)) == 1.0


def test_an_edge_belongs_to_the_bin_below():
    (found,) = bins_of([(0.5, True)], 2)
    assert (found["low"], found["high"]) == (0.0, 0.5)
