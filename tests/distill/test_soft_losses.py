"""The losses against an independent computation in float64, their law of temperature, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from builders import distillation_params
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.core.params import Params
from pipeline.distill.student.loss import distillation_loss, soft_weight_at
from pipeline.distill.student.soft_losses import SOFT_LOSSES, dist_loss, dkd_loss, kl_loss
from pipeline.train.losses import hard_loss

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
OPTIONS = {"soft_loss": "kl", "temperature": 2.0, "soft_weight": 0.5, "options": distillation_params()}


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
    options = {**OPTIONS, "temperature": temperature, "label_smoothing": label_smoothing}
    found = distillation_loss(logits(0), LABELS, logits(1), **{**options, "soft_weight": soft_weight})
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
    "label -1": {"labels_B": LABELS - 1},
    "label K": {"labels_B": LABELS + 1},
    "one class": {"student_BK": logits(0, (4, 1)), "teacher_BK": logits(1, (4, 1)), "labels_B": LABELS * 0},
    "unknown loss": {"soft_loss": "hinton"},
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
    with pytest.raises(ValueError, match=r"logits|labels|temperature|soft_weight|soft_loss"):
        distillation_loss(**{**given_values, "soft_weight": soft_weight, **wrong})


def test_every_soft_loss_of_the_parameters_is_there():
    assert set(SOFT_LOSSES) == set(Params.model_fields["soft_loss"].annotation.__args__)


# every soft loss, against loops over plain numbers in float64


def probs_of(row, temperature):
    powers = [math.exp((value - max(row)) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def divergence(first, second):
    return sum(p * math.log(p / q) for p, q in zip(first, second, strict=True) if p > 0)


def loop_kl(student, teacher, labels, t):
    rows = zip(student, teacher, strict=True)
    return t * t * np.mean([divergence(probs_of(b, t), probs_of(a, t)) for a, b in rows])


def loop_dkd(student, teacher, labels, t):
    total = 0.0
    for a, b, label in zip(student, teacher, labels, strict=True):
        p, q = probs_of(b, t), probs_of(a, t)
        total += divergence([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        rest = [[v / (1 - r[label]) for k, v in enumerate(r) if k != label] for r in (p, q)]
        total += 8 * divergence(*rest)
    return t * t * total / len(labels)


def loop_dist(student, teacher, labels, t):
    p, q = (np.array([probs_of(row, t) for row in values]) for values in (teacher, student))
    inter = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    return t * t * (2 - inter - intra)


def loop_wttm(student, teacher, labels, t):
    total = 0.0
    for a, b in zip(student, teacher, strict=True):
        powers = [p ** (1 / t) for p in probs_of(b, 1)]
        total += sum(powers) * divergence([power / sum(powers) for power in powers], probs_of(a, 1))
    return total / len(labels)


def loop_mse(student, teacher, labels, t):
    return np.mean([np.var(np.subtract(a, b)) for a, b in zip(student, teacher, strict=True)])


LOOPS = {"kl": loop_kl, "dkd": loop_dkd, "dist": loop_dist, "wttm": loop_wttm, "mse": loop_mse}


def soft_alone(student_BK, teacher_BK, name, temperature=2.0, **options):
    chosen = {"soft_loss": name, "temperature": temperature, "soft_weight": 1.0}
    return distillation_loss(student_BK, LABELS, teacher_BK, **chosen, options=distillation_params(**options))


@pytest.mark.parametrize("name", SOFT_LOSSES)
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("extra", [[], [1.0, 7.0]])
def test_each_loss_is_what_its_formula_says(name, standardize, extra):
    pair = [3 * logits(seed).double() for seed in (0, 1)]
    found = soft_alone(*pair, name, standardize=standardize, extra_temperatures=extra or None)
    rows = [values.numpy() for values in pair]
    if standardize:
        rows = [(z - z.mean(1, keepdims=True)) / z.std(1, ddof=1, keepdims=True) for z in rows]
    expected = np.mean([LOOPS[name](*[z.tolist() for z in rows], LABELS.tolist(), t) for t in [2.0, *extra]])
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", SOFT_LOSSES)
@pytest.mark.parametrize("standardize", [False, True])
def test_gradients_are_the_slopes(name, standardize):
    student_BK, teacher_BK = logits(0).double().requires_grad_(), logits(1).double()
    assert torch.autograd.gradcheck(lambda z: soft_alone(z, teacher_BK, name, standardize=standardize), student_BK)


@pytest.mark.parametrize("name", SOFT_LOSSES)
@given(seed=st.integers(0, 99), shift=st.floats(-9, 9), temperature=st.floats(0.5, 9))
def test_a_constant_in_a_row_changes_nothing(name, seed, shift, temperature):
    student_BK, teacher_BK = logits(seed).double(), logits(seed + 100).double()
    found = soft_alone(student_BK + shift, teacher_BK, name, temperature)
    assert float(found) == pytest.approx(float(soft_alone(student_BK, teacher_BK, name, temperature)), rel=1e-9)
    same = float(soft_alone(teacher_BK + shift, teacher_BK, name, 1.0))  # wttm: the student has no temperature
    assert same == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", SOFT_LOSSES)
@given(scale=st.floats(0.1, 100))
def test_standardised_logits_have_no_scale(name, scale):
    pair = logits(0).double(), logits(1).double()
    found = soft_alone(scale * pair[0], pair[1], name, standardize=True)
    assert float(found) == pytest.approx(float(soft_alone(*pair, name, standardize=True)), rel=1e-4)


@given(st.integers(0, 99), TEMPERATURES)
def test_kl_is_decoupled_as_the_paper_of_dkd_says(seed, t):
    """KL = TCKD + (1 - p of the label) NCKD, row by row: Zhao et al. 2022, equation 7."""
    for row in range(4):
        student, teacher, label = logits(seed).double()[[row]], logits(seed + 100).double()[[row]], LABELS[[row]]
        rest = 1 - float((teacher / t).softmax(dim=1)[0, label])
        found = dkd_loss(student, teacher, label, temperature=t, alpha=1.0, beta=rest)
        assert float(found) == pytest.approx(float(kl_loss(student, teacher, temperature=t)), rel=1e-9)


EXTREMES = {
    "huge": (1e4 * logits(0), -1e4 * logits(1)),
    "constant": (torch.zeros(4, 3), torch.zeros(4, 3)),
    "one-hot teacher": (logits(0), 1e4 * torch.nn.functional.one_hot(LABELS, 3).float()),
}


@pytest.mark.parametrize("name", SOFT_LOSSES)
@pytest.mark.parametrize("pair", EXTREMES.values(), ids=EXTREMES.keys())
@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("standardize", [False, True])
def test_extremes_stay_finite(name, pair, temperature, standardize):
    student_BK = pair[0].clone().requires_grad_()
    loss = soft_alone(student_BK, pair[1], name, temperature, standardize=standardize)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student_BK.grad).all()


def test_dist_refuses_to_compare_columns_of_one_row():
    row = logits(0, (1, 3))
    with pytest.raises(ValueError, match="at least 2 rows"):
        dist_loss(row, row, temperature=1.0, inter=1.0, intra=1.0)
    assert float(dist_loss(row, row, temperature=1.0, inter=1.0, intra=0.0)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.8] * 5), ("warmup", [0.0, 0.4, 0.8, 0.8, 0.8]), ("decay", [0.8, 0.8, 0.8, 0.4, 0.0])],
)
def test_soft_weight_follows_its_schedule(schedule, expected):
    options = distillation_params(schedule=schedule, schedule_epochs=2.0)
    assert [soft_weight_at(e, soft_weight=0.8, epochs=4, options=options) for e in range(5)] == expected


# classes that weigh more


def test_class_weights_are_the_weighted_mean_over_the_batch():
    generator = torch.Generator().manual_seed(3)
    logits_BK, labels_B = torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 1, 2, 0, 2])
    weights_K = torch.tensor([0.5, 2.0, 1.0, 7.0])
    found = hard_loss(logits_BK, labels_B, label_smoothing=0.1, weights_K=weights_K)
    log_probs_BK = logits_BK.double().log_softmax(1)
    smoothed_BK = 0.9 * torch.nn.functional.one_hot(labels_B, 4) + 0.1 / 4
    by_hand = -(weights_K[labels_B] * (smoothed_BK * log_probs_BK).sum(1)).sum() / 6
    assert found.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_class_weights_are_for_the_hard_loss_alone():
    generator = torch.Generator().manual_seed(3)
    student_BK, teacher_BK = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    labels_B = torch.tensor([0, 1, 1, 2, 0, 2])

    def loss(soft_weight, weights_K):
        return distillation_loss(
            student_BK, labels_B, teacher_BK, soft_loss="kl", temperature=2.0, soft_weight=soft_weight,
            options=distillation_params(), class_weights_K=weights_K,
        ).item()  # fmt: skip

    weights_K = torch.tensor([0.5, 2.0, 1.0, 7.0])
    assert loss(1.0, weights_K) == loss(1.0, None)
    half = 0.5 * loss(0.0, weights_K) + 0.5 * loss(1.0, None)
    assert loss(0.5, weights_K) == pytest.approx(half, rel=1e-6)
    assert loss(0.0, weights_K) != loss(0.0, None)
