"""Entropy and the share of nearly hard labels are what their definitions say, and only most of them are warned of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distill.store.certainty import Certainty, agreement, entropy


def logits_of(largest_N, num_classes=5):
    """Logits of soft targets by their largest probability; the others share the rest."""
    probs_NK = np.repeat(((1 - np.array(largest_N)) / (num_classes - 1))[:, None], num_classes, axis=1)
    probs_NK[:, 2] = largest_N
    return np.log(probs_NK).astype(np.float32) + 3


def certainty_of(*parts):
    certainty = Certainty()
    for logits_NK in parts:
        certainty.add(logits_NK)
    return certainty


@given(st.integers(1, 30), st.floats(0, 200))
def test_entropy_is_between_nothing_and_log_k(num_classes, spread):
    logits_K = np.linspace(0, spread, num_classes)
    assert 0 <= entropy(logits_K) <= math.log(num_classes) + 1e-9
    assert entropy(np.zeros(num_classes)) == pytest.approx(math.log(num_classes))


@given(st.lists(st.floats(0.3, 0.9999).filter(lambda p: abs(p - 0.99) > 1e-4), min_size=1, max_size=20))
def test_shares_are_of_all_that_was_added(largest_N):
    logits_NK = logits_of(largest_N)
    found = certainty_of(*np.array_split(logits_NK, 3))
    assert found.num_targets == len(largest_N)
    assert found.share_hard == sum(p > 0.99 for p in largest_N) / len(largest_N)
    assert found.mean_entropy == pytest.approx(entropy(logits_NK).mean())


def test_axes_before_the_classes_are_all_counted():
    logits_NK = logits_of([0.5, 0.999, 0.9, 0.995])
    assert certainty_of(logits_NK.reshape(2, 1, 2, 5)) == certainty_of(logits_NK)


@pytest.mark.parametrize("largest_N", [[0.5, 0.9, 0.98], [0.9999, 0.9]])
def test_half_of_nearly_hard_labels_is_no_matter(largest_N):
    assert certainty_of(logits_of(largest_N)).warning is None


def test_most_being_nearly_hard_is_told_with_what_to_try():
    warning = certainty_of(logits_of([0.999, 0.9999, 0.7])).warning
    assert warning.startswith("67% of the soft targets are nearly hard labels (a probability above 0.99): ")
    for parameter in ("train_teacher.epochs", "patience", "mixup"):
        assert parameter in warning
    assert "\n" not in warning


def test_agreement_is_the_share_of_the_most_frequent_class():
    best_NVM = np.array([[[0, 0], [0, 1]], [[2, 1], [0, 2]], [[1, 1], [1, 1]]])
    logits_NVMK = np.eye(3, dtype=np.float32)[best_NVM]
    assert agreement(logits_NVMK).tolist() == [0.75, 0.5, 1.0]
    assert agreement(logits_NVMK[:0]).tolist() == []
