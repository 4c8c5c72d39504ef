"""The losses against an independent computation in float64, their law of temperature, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.losses import SOFT_LOSSES, distillation_loss, hard_loss, kl_loss
from pipeline.params import Params

LOGITS = st.tuples(st.integers(1, 5), st.integers(2, 6)).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.float64, shape, elements=st.floats(-15, 15, width=16)) for _ in range(2)])
)
TEMPERATURES = st.floats(0.5, 20)


def softmax(logits_BK):
    exponentials = np.exp(logits_BK - logits_BK.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def numpy_kl(student_BK, teacher_BK, temperature):
    student, teacher = softmax(student_BK / temperature), softmax(teacher_BK / temperature)
    return temperature**2 * np.mean(np.sum(teacher * (np.log(teacher) - np.log(student)), axis=1))


def logits(seed, shape=(4, 3)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 2, 1, 1])
OPTIONS = {"soft_loss": "kl", "temperature": 2.0, "soft_weight": 0.5}


@given(LOGITS, TEMPERATURES)
def test_kl_is_what_its_formula_says(pair, temperature):
    student_BK, teacher_BK = pair
    found = kl_loss(torch.from_numpy(student_BK), torch.from_numpy(teacher_BK), temperature=temperature)
    assert float(found) == pytest.approx(numpy_kl(student_BK, teacher_BK, temperature), rel=1e-3, abs=1e-3)


@given(LOGITS, TEMPERATURES)
def test_kl_is_zero_for_equal_probabilities_and_positive_otherwise(pair, temperature):
    student_BK, shift_BK = (torch.from_numpy(values) for values in pair)
    equal_BK = student_BK + shift_BK[:, :1]  # a constant added to all logits changes no probability
    assert float(kl_loss(student_BK, equal_BK, temperature=temperature)) == pytest.approx(0, abs=1e-3)
    assert float(kl_loss(student_BK, shift_BK, temperature=temperature)) > -1e-3


def gradient(temperature, teacher_BK):
    student_BK = logits(0).requires_grad_()
    kl_loss(student_BK, teacher_BK, temperature=temperature).backward()
    return student_BK.grad


def test_the_gradient_keeps_its_size_at_high_temperature():
    """For T → ∞ it is that of half the squared difference of centred logits over K: Hinton et al. 2015, 2.1."""
    student_BK, teacher_BK = logits(0), logits(1)
    centred = [values - values.mean(dim=1, keepdim=True) for values in (student_BK, teacher_BK)]
    expected = (centred[0] - centred[1]) / 3 / 4  # K, and the mean over B
    assert torch.allclose(gradient(1000.0, teacher_BK), expected, rtol=0.02, atol=1e-4)


def test_the_gradient_at_temperature_1_is_the_difference_of_probabilities():
    expected = (logits(0).softmax(dim=1) - logits(1).softmax(dim=1)) / 4
    assert torch.allclose(gradient(1.0, logits(1)), expected, atol=1e-6)


def test_no_gradient_is_needed_from_the_teacher():
    loss = distillation_loss(logits(0).requires_grad_(), LABELS, logits(1), **OPTIONS)
    loss.backward()
    assert logits(1).grad is None


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_hard_loss_is_the_cross_entropy_with_smoothed_labels(label_smoothing):
    student_BK = logits(0)
    target_BK = np.full((4, 3), label_smoothing / 3)
    target_BK[np.arange(4), LABELS.numpy()] += 1 - label_smoothing
    expected = -np.mean(np.sum(target_BK * np.log(softmax(student_BK.double().numpy())), axis=1))
    assert float(hard_loss(student_BK, LABELS, label_smoothing=label_smoothing)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_without_soft_weight_it_is_the_baselines_loss_bit_by_bit(label_smoothing):
    values, gradients = [], []
    for loss in (
        lambda student_BK: hard_loss(student_BK, LABELS, label_smoothing=label_smoothing),
        lambda student_BK: distillation_loss(
            student_BK, LABELS, logits(1), **{**OPTIONS, "soft_weight": 0.0}, label_smoothing=label_smoothing
        ),
    ):
        student_BK = logits(0).requires_grad_()
        values.append(loss(student_BK))
        values[-1].backward()
        gradients.append(student_BK.grad)
    assert torch.equal(*values)
    assert torch.equal(*gradients)


@given(st.floats(0, 1), TEMPERATURES, st.sampled_from([0.0, 0.2]))
def test_soft_weight_divides_between_the_two(soft_weight, temperature, label_smoothing):
    options = {"soft_loss": "kl", "temperature": temperature, "label_smoothing": label_smoothing}
    found = distillation_loss(logits(0), LABELS, logits(1), **options, soft_weight=soft_weight)
    hard = float(hard_loss(logits(0), LABELS, label_smoothing=label_smoothing))
    soft = numpy_kl(logits(0).double().numpy(), logits(1).double().numpy(), temperature)
    assert float(found) == pytest.approx((1 - soft_weight) * hard + soft_weight * soft, rel=1e-4, abs=1e-4)


def test_halves_of_the_cache_do_not_lose_precision():
    """The store's float16 logits are raised to float32 before anything is computed with them."""
    found = distillation_loss(logits(0).half(), LABELS, logits(1).half(), **OPTIONS)
    assert found.dtype == torch.float32
    expected = distillation_loss(logits(0).half().float(), LABELS, logits(1).half().float(), **OPTIONS)
    assert torch.equal(found, expected)


REFUSED = {
    "one teacher class, which would broadcast": {"teacher_BK": logits(1, (4, 1))},
    "one teacher row, which would broadcast": {"teacher_BK": logits(1, (1, 3))},
    "more classes": {"teacher_BK": logits(1, (4, 5))},
    "another batch": {"teacher_BK": logits(1, (3, 3))},
    "logits with views": {"student_BK": logits(0, (4, 1, 3)), "teacher_BK": logits(1, (4, 1, 3))},
    "fewer labels": {"labels_B": LABELS[:3]},
    "one-hot labels": {"labels_B": torch.nn.functional.one_hot(LABELS)},
    "temperature 0": {"temperature": 0.0},
    "temperature -1": {"temperature": -1.0},
    "temperature nan": {"temperature": math.nan},
    "temperature inf": {"temperature": math.inf},
    "soft_weight -0.1": {"soft_weight": -0.1},
    "soft_weight 1.1": {"soft_weight": 1.1},
    "soft_weight nan": {"soft_weight": math.nan},
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("soft_weight", [0.0, 0.5])
def test_what_gives_a_plausible_number_but_is_wrong_is_refused(wrong, soft_weight):
    given_values = {"student_BK": logits(0), "labels_B": LABELS, "teacher_BK": logits(1), **OPTIONS}
    with pytest.raises(ValueError, match=r"logits|labels|temperature|soft_weight"):
        distillation_loss(**{**given_values, "soft_weight": soft_weight, **wrong})


def test_every_soft_loss_of_the_parameters_is_there():
    assert set(SOFT_LOSSES) == set(Params.model_fields["soft_loss"].annotation.__args__)
