"""Metrics against plain numpy, and an interval against the bootstrap that it stands for."""

from __future__ import annotations

from itertools import product
from math import erfc, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate.metrics import (
    accuracy_interval,
    mcnemar_p,
    mean_class_accuracy,
    mean_kl,
    paired_interval,
    top_k_accuracy,
)

SIZES = st.tuples(st.integers(1, 30), st.integers(2, 8), st.integers(0, 1000))


def predictions(num_videos, num_classes, seed):
    rng = np.random.default_rng(seed)
    probs_NK = rng.dirichlet(np.ones(num_classes), num_videos)
    return probs_NK, rng.integers(num_classes, size=num_videos)


@given(SIZES, st.integers(1, 10))
def test_top_k_is_the_share_of_videos_whose_class_is_among_the_k_best(sizes, k):
    probs_NK, labels_N = predictions(*sizes)
    best_NK = np.argsort(-probs_NK, axis=1)[:, :k]
    expected = np.mean([label in best_K for label, best_K in zip(labels_N, best_NK, strict=True)])
    assert top_k_accuracy(probs_NK, labels_N, k) == pytest.approx(expected, abs=1e-6)


def test_of_equals_the_first_class_counts_as_more_probable():
    equal_NK = np.full((3, 3), 1 / 3)
    assert top_k_accuracy(equal_NK, equal_NK.argmax(axis=1), 1) == 1.0
    assert top_k_accuracy(equal_NK, np.array([0, 1, 2]), 2) == pytest.approx(2 / 3)


@pytest.mark.parametrize("num_classes", [2, 3, 4])
def test_top_5_of_fewer_classes_is_1(num_classes):
    assert top_k_accuracy(*predictions(20, num_classes, 0), 5) == 1.0


def test_one_class_is_always_right():
    assert top_k_accuracy(np.ones((3, 1)), np.zeros(3, np.int64), 1) == 1.0


@given(SIZES)
def test_mean_class_accuracy_counts_every_class_that_has_videos_the_same(sizes):
    probs_NK, labels_N = predictions(*sizes)
    predicted_N = probs_NK.argmax(axis=1)
    present = [label for label in range(sizes[1]) if (labels_N == label).any()]
    expected = np.mean([(predicted_N[labels_N == label] == label).mean() for label in present])
    assert mean_class_accuracy(predicted_N, labels_N) == pytest.approx(expected, abs=1e-6)


def plain_bootstrap(correct_a_N, correct_b_N, num_bootstraps):
    rng = np.random.default_rng(99)
    index_BN = rng.integers(len(correct_a_N), size=(num_bootstraps, len(correct_a_N)))
    differences_B = correct_a_N[index_BN].mean(axis=1) - correct_b_N[index_BN].mean(axis=1)
    return np.percentile(differences_B, [2.5, 97.5])


@pytest.mark.parametrize("num_videos", [40, 300])
@pytest.mark.parametrize(("share_a", "share_b"), [(0.5, 0.5), (0.9, 0.6), (0.3, 0.4)])
def test_interval_is_that_of_resampling_the_videos(num_videos, share_a, share_b):
    rng = np.random.default_rng([num_videos, int(10 * share_a)])
    a, b = rng.random(num_videos) < share_a, rng.random(num_videos) < share_b
    found = paired_interval(a, b, num_bootstraps=20000, seed=0)
    assert found == pytest.approx(plain_bootstrap(a, b, 20000), abs=1.01 / num_videos + 0.005)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50), st.integers(0, 100))
def test_interval_lies_around_the_difference_and_turns_with_it(pairs, seed):
    a, b = np.array(pairs).T
    low, high = paired_interval(a, b, num_bootstraps=1000, seed=seed)
    assert -1 <= low <= high <= 1
    assert low <= a.mean() - b.mean() + 1e-9
    assert a.mean() - b.mean() <= high + 1e-9
    assert (low, high) == paired_interval(a, b, num_bootstraps=1000, seed=seed)


def test_pairing_is_what_counts():
    """Two models that err on the same videos differ by nothing, however often they err."""
    right = np.arange(50) % 3 == 0
    assert paired_interval(right, right, num_bootstraps=200, seed=0) == (0.0, 0.0)
    assert paired_interval(right, ~right, num_bootstraps=200, seed=0)[0] < -0.1


@pytest.mark.parametrize(("a", "b", "expected"), [(True, True, 0.0), (True, False, 1.0), (False, True, -1.0)])
def test_where_every_video_says_the_same_there_is_no_spread(a, b, expected):
    found = paired_interval(np.full(7, a), np.full(7, b), num_bootstraps=100, seed=3)
    assert found == (expected, expected)


@pytest.mark.parametrize("num_videos", [40, 300])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_interval_of_one_accuracy_is_that_of_resampling_the_videos(num_videos, share):
    correct_N = np.random.default_rng([num_videos, int(100 * share)]).random(num_videos) < share
    found = accuracy_interval(correct_N, num_bootstraps=20000, seed=0)
    expected = plain_bootstrap(correct_N, np.zeros(num_videos, bool), 20000)
    assert found == pytest.approx(expected, abs=1.01 / num_videos)


@given(st.lists(st.booleans(), min_size=1, max_size=50), st.integers(0, 100))
def test_interval_lies_around_the_accuracy(correct, seed):
    correct_N = np.array(correct)
    low, high = accuracy_interval(correct_N, num_bootstraps=1000, seed=seed)
    assert 0 <= low <= correct_N.mean() + 1e-9
    assert correct_N.mean() - 1e-9 <= high <= 1
    assert (low, high) == accuracy_interval(correct_N, num_bootstraps=1000, seed=seed)
    assert (low < high) == (0 < correct_N.mean() < 1)


# McNemar's exact test


def pairs_of(only_a, only_b, both, neither):
    a = np.repeat([True, False, True, False], [only_a, only_b, both, neither])
    b = np.repeat([False, True, True, False], [only_a, only_b, both, neither])
    return a, b


@pytest.mark.parametrize("only_a", range(7))
@pytest.mark.parametrize("only_b", range(6))
def test_p_is_the_share_of_all_tosses_that_are_as_far_from_even_as_what_was_seen(only_a, only_b):
    num_coins = only_a + only_b
    heads = [sum(tosses) for tosses in product((0, 1), repeat=num_coins)]
    as_far = [abs(2 * count - num_coins) >= abs(only_a - only_b) for count in heads]
    assert mcnemar_p(*pairs_of(only_a, only_b, 3, 2)) == pytest.approx(np.mean(as_far), abs=1e-12)


def test_p_of_a_table_worked_out_by_hand():
    assert mcnemar_p(*pairs_of(1, 9, 50, 40)) == 2 * (1 + 10) / 1024


def test_p_does_not_ask_who_is_a_nor_about_videos_that_both_or_neither_recognise():
    a, b = pairs_of(4, 9, 10, 3)
    assert mcnemar_p(a, b) == mcnemar_p(b, a) == mcnemar_p(*pairs_of(4, 9, 0, 500))
    assert mcnemar_p(a, a) == 1.0


def test_p_of_thousands_of_videos_is_still_a_number():
    assert mcnemar_p(*pairs_of(3000, 3000, 0, 0)) == 1.0
    assert mcnemar_p(*pairs_of(2900, 3100, 0, 0)) == pytest.approx(erfc(199 / sqrt(2 * 6000)), rel=0.01)  # normal
    assert mcnemar_p(*pairs_of(0, 6000, 0, 0)) == pytest.approx(0, abs=1e-300)


# KL


@given(SIZES)
def test_kl_is_torchs(sizes):
    a_NK, _ = predictions(*sizes)
    b_NK, _ = predictions(sizes[0], sizes[1], sizes[2] + 1)
    expected = torch.nn.functional.kl_div(torch.tensor(b_NK).log(), torch.tensor(a_NK), reduction="batchmean")
    assert mean_kl(a_NK, b_NK, least=1e-300) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


def test_kl_is_from_the_first_to_the_second_and_0_of_equals():
    a_NK, b_NK = np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]])
    assert mean_kl(a_NK, b_NK, least=1e-6) == pytest.approx(0.9 * np.log(1.8) + 0.1 * np.log(0.2))
    assert mean_kl(b_NK, a_NK, least=1e-6) == pytest.approx(-0.5 * np.log(4 * 0.9 * 0.1))
    assert mean_kl(a_NK, a_NK, least=1e-6) == 0


def test_what_was_rounded_to_nothing_costs_no_more_than_the_least():
    sure_NK = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert mean_kl(sure_NK, sure_NK[:, ::-1], least=5e-7) == pytest.approx(np.log(2e6), rel=1e-5)


@given(SIZES, st.integers(0, 6))
def test_kl_of_rounded_probabilities_is_never_negative(sizes, digits):
    a_NK, _ = predictions(*sizes)
    assert mean_kl(a_NK.round(digits), a_NK, least=1e-7) >= -1e-12
