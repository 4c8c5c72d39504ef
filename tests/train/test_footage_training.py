"""Training with footage: the hard loss is the mean over what has a label, and an epoch has the same steps for all."""

from __future__ import annotations

import math

import pytest
import torch
from builders import (  # noqa: F401 - a fixture
    CLIP,
    DEVICE,
    VIEWS,
    distillation_params,
    one_thread,
    tiny_data,
    tiny_recognizer,
    train_params,
)
from hypothesis import given
from hypothesis import strategies as st
from training_runs import Run

from pipeline.core.errors import Interrupted, ParamsError
from pipeline.data.dataset import BANK, DrawnViews, EpochPlan, samples_of
from pipeline.data.listing import NO_LABEL, TAUGHT
from pipeline.distill.student.loss import distillation_loss, require_labels
from pipeline.train.losses import hard_loss
from pipeline.train.state import TrainingData

K = 3
LABELS = st.lists(st.integers(NO_LABEL, K - 1), min_size=2, max_size=12).filter(lambda found: NO_LABEL in found)
OPTIONS = {"temperature": 2.0, "options": distillation_params()}


def logits(seed, size):
    return torch.randn((size, K), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def share_of(labels):
    return sum(label != NO_LABEL for label in labels) / len(labels)


# losses


@given(LABELS, st.sampled_from([0.0, 0.1]), st.sampled_from([None, torch.tensor([0.5, 1.0, 2.0])]))
def test_the_hard_loss_is_the_mean_over_what_has_a_label(labels, smoothing, weights_K):
    logits_BK, labels_B = logits(0, len(labels)), torch.tensor(labels)
    found = hard_loss(
        logits_BK, labels_B, label_smoothing=smoothing, weights_K=weights_K, labelled_share=share_of(labels)
    )
    has = labels_B != NO_LABEL
    if not has.any():
        assert found == 0
        return
    expected = hard_loss(logits_BK[has], labels_B[has], label_smoothing=smoothing, weights_K=weights_K)
    torch.testing.assert_close(found, expected)


@given(LABELS, st.integers(1, 11), st.sampled_from(["kl", "wttm", "mse"]))
def test_losses_of_parts_add_up_to_that_of_the_batch(labels, cut, soft_loss):
    student_BK, teacher_BK, labels_B = logits(1, len(labels)), logits(2, len(labels)), torch.tensor(labels)
    cut = min(cut, len(labels) - 1)

    def loss(clips):
        return distillation_loss(
            student_BK[clips],
            labels_B[clips],
            teacher_BK[clips],
            soft_loss=soft_loss,
            soft_weight=0.7,
            labelled_share=share_of(labels),
            **OPTIONS,
        )

    whole = loss(slice(None)) * len(labels)
    torch.testing.assert_close(loss(slice(cut)) * cut + loss(slice(cut, None)) * (len(labels) - cut), whole)


def test_footage_has_no_part_in_the_gradient_of_the_hard_loss_and_one_in_the_soft_loss():
    labels_B = torch.tensor([0, NO_LABEL, 2])
    for soft_weight, expected in ((0.0, [True, False, True]), (1.0, [True, True, True])):
        student_BK = logits(3, 3).requires_grad_()
        loss = distillation_loss(
            student_BK,
            labels_B,
            logits(4, 3),
            soft_loss="kl",
            soft_weight=soft_weight,
            labelled_share=2 / 3,
            **OPTIONS,
        )
        loss.backward()
        assert (student_BK.grad.abs().sum(dim=1) > 0).tolist() == expected


@pytest.mark.parametrize(("soft_loss", "share"), [("kl", 1.0), ("dkd", 0.5)])
def test_footage_where_all_need_labels_is_refused(soft_loss, share):
    with pytest.raises(ValueError, match="labels must be in 0"):
        distillation_loss(
            logits(3, 2),
            torch.tensor([0, NO_LABEL]),
            logits(4, 2),
            soft_loss=soft_loss,
            soft_weight=0.5,
            labelled_share=share,
            **OPTIONS,
        )


def test_a_loss_that_looks_at_labels_is_refused_before_work_starts():
    require_labels("dkd", 0)
    require_labels("kl", 5)
    with pytest.raises(ParamsError, match="soft_loss dkd looks at the label of each clip; 5 videos have none"):
        require_labels("dkd", 5)


# epochs


@given(st.integers(1, 20), st.integers(0, 60), st.integers(1, 9), st.integers(0, 5), st.integers(1, 4))
def test_an_epoch_goes_on_where_the_one_before_ended(num_videos, more, batch_size, seed, num_epochs):
    plan = EpochPlan(num_videos + more, batch_size, seed, num_videos)
    keys = [key for epoch in range(num_epochs) for batch in plan.batches(epoch) for key in batch]
    assert [sum(map(len, plan.batches(epoch))) for epoch in range(num_epochs)] == [plan.num_samples] * num_epochs
    for start in range(0, len(keys), num_videos):
        of_pass = keys[start : start + num_videos]
        assert {number for _, number in of_pass} == {start // num_videos}
        assert len({index for index, _ in of_pass}) == len(of_pass)
    assert len(plan.batches(0)) == EpochPlan(num_videos + more, batch_size, seed).steps_per_epoch


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_without_footage_nothing_is_another(num_videos, batch_size, seed, epoch):
    plain = EpochPlan(num_videos, batch_size, seed).batches(epoch)
    assert EpochPlan(num_videos, batch_size, seed, num_videos).batches(epoch) == plain


# the loop


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    manifest, frames = tiny_data(tmp_path_factory.mktemp("data"), num_footage=6)
    taught, val = samples_of(manifest, frames, *TAUGHT), samples_of(manifest, frames, "val")
    assert [sample.label == NO_LABEL for sample in taught].count(True) == 6
    return TrainingData(frames, taught, val, DrawnViews(frames, CLIP, VIEWS, seed=0, purpose=BANK))


def loss(logits_BK, batch, epoch):
    hard = hard_loss(logits_BK, batch.labels_B, label_smoothing=0.0, labelled_share=batch.labelled_share)
    return hard + 0.1 * logits_BK.square().mean()


def run(folder, data, *, interrupt_after=math.inf, loss=loss, **changes):
    return Run(folder, data, loss, **changes).start(interrupt_after=interrupt_after)


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.5, "batch_size": 7, "accumulate": 2}, {"cutmix": 1.0}])
def test_interrupted_with_footage_it_ends_the_same(data, tmp_path, changes):
    (tmp_path / "whole").mkdir()
    whole = run(tmp_path / "whole", data, **changes)
    for step in (1, 3):
        with pytest.raises(Interrupted):
            run(tmp_path, data, interrupt_after=step, **changes)
    again = run(tmp_path, data, **changes)
    assert again.curve == whole.curve
    weights = whole.recognizer.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.recognizer.state_dict().items())


def test_top1_of_training_is_over_what_has_a_label(data, tmp_path):
    seen = []

    def noted(logits_BK, batch, epoch):
        has = batch.labels_B != NO_LABEL
        assert batch.labelled_share == has.double().mean()
        seen.append((int((logits_BK.argmax(dim=1) == batch.labels_B).sum()), int(has.sum())))
        return loss(logits_BK, batch, epoch)

    trained = run(tmp_path, data, loss=noted, epochs=2)
    half = len(seen) // 2
    for row, steps in zip(trained.curve, (seen[:half], seen[half:]), strict=True):
        assert sum(number for _, number in steps) == 8
        assert row["train_top1"] == sum(right for right, _ in steps) / 8
