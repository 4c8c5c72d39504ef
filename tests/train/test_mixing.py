"""Mixed clips are what mixup and CutMix say, and learn from the mix of both targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import distillation_params, one_thread  # noqa: F401 - a fixture
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.dataset import Batch
from pipeline.distill.student.loss import distillation_loss
from pipeline.train.augmentation import Mix, draw_mix, neighbours

ALPHAS = st.floats(0.1, 4)


def batch(num_clips=3, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clip_BTHWC = torch.randint(256, (num_clips, 2, size, size, 3), dtype=torch.uint8, generator=generator)
    labels_B = torch.randint(5, (num_clips,), generator=generator)
    teacher_BK = 3 * torch.randn(num_clips, 5, generator=generator)
    return Batch(clip_BTHWC, labels_B, teacher_BK, clip_BTHWC + 1, tuple("abcdef"[:num_clips]))


def test_nothing_is_mixed_unless_it_is_asked_for():
    assert draw_mix(seed=0, step=3, mixup=0.0, cutmix=0.0, size=8) is None


@given(st.integers(0, 1000), ALPHAS, ALPHAS)
def test_a_draw_depends_on_its_name_alone(step, mixup, cutmix):
    first = draw_mix(seed=4, step=step, mixup=mixup, cutmix=cutmix, size=32)
    np.random.seed(step)  # noqa: NPY002 - a global stream must not matter
    assert draw_mix(seed=4, step=step, mixup=mixup, cutmix=cutmix, size=32) == first


def test_with_both_each_step_draws_one():
    drawn = [draw_mix(seed=0, step=step, mixup=1.0, cutmix=1.0, size=32) for step in range(400)]
    assert 150 < sum(mix.box is None for mix in drawn) < 250
    assert all(draw_mix(seed=0, step=step, mixup=0.0, cutmix=1.0, size=32).box for step in range(20))
    assert not any(draw_mix(seed=0, step=step, mixup=1.0, cutmix=0.0, size=32).box for step in range(20))


def test_weights_are_betas():
    weights = [draw_mix(seed=0, step=step, mixup=0.4, cutmix=0.0, size=32).weight for step in range(4000)]
    assert np.mean(weights) == pytest.approx(0.5, abs=0.03)
    assert np.var(weights) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.06)  # of Beta(a, a)


def test_mixup_is_the_weighted_mean_with_the_neighbour():
    clip_BTHWC = batch().clip_BTHWC
    mixed_BTHWC = Mix(0.3, None).clips(clip_BTHWC)
    expected = 0.3 * clip_BTHWC[1].double() + 0.7 * clip_BTHWC[0].double()
    torch.testing.assert_close(mixed_BTHWC[1].double(), expected, rtol=1e-6, atol=1e-4)


@given(st.integers(0, 300))
def test_cutmix_weighs_as_the_pixels_that_are_left(step):
    clips = torch.arange(2, dtype=torch.uint8)[:, None, None, None, None].expand(2, 3, 16, 16, 3)
    mix = draw_mix(seed=1, step=step, mixup=0.0, cutmix=1.0, size=16)
    mixed = mix.clips(clips)
    assert mixed.dtype == torch.uint8
    assert (mixed[0] == 0).float().mean().item() == pytest.approx(mix.weight)
    assert (mixed[1] == 1).float().mean().item() == pytest.approx(mix.weight)
    assert torch.equal(mixed[:, 0], mixed[:, 2])  # the same box in every frame


def test_neighbours_move_everything_together():
    given, moved = batch(), neighbours(batch())
    for index in range(3):
        assert torch.equal(moved.clip_BTHWC[index], given.clip_BTHWC[index - 1])
        assert moved.labels_B[index] == given.labels_B[index - 1]
        assert torch.equal(moved.teacher_BK[index], given.teacher_BK[index - 1])
        assert torch.equal(moved.teacher_clip_BTHWC[index], given.teacher_clip_BTHWC[index - 1])
        assert moved.video_ids[index] == given.video_ids[index - 1]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_of_kl_is_the_one_towards_the_mixed_soft_target(temperature):
    """Against kl to lambda·softmax(z/T) + (1 − lambda)·softmax(z'/T), written out by hand."""
    given, weight = batch(), 0.3
    student_BK = torch.randn(3, 5, generator=torch.Generator().manual_seed(5), requires_grad=True)

    def kl(of):
        options = distillation_params()
        return distillation_loss(
            student_BK, of.labels_B, of.teacher_BK, soft_loss="kl", temperature=temperature, soft_weight=1.0,
            options=options,
        )  # fmt: skip

    (found,) = torch.autograd.grad(torch.lerp(kl(neighbours(given)), kl(given), weight), student_BK)
    p_BK = (given.teacher_BK / temperature).softmax(1)
    mixed_BK = weight * p_BK + (1 - weight) * p_BK.roll(1, 0)
    by_hand = temperature**2 * (mixed_BK * (mixed_BK.log() - (student_BK / temperature).log_softmax(1))).sum(1).mean()
    (expected,) = torch.autograd.grad(by_hand, student_BK)
    torch.testing.assert_close(found, expected)


def test_a_hard_label_is_mixed_as_its_one_hot():
    given, weight = batch(), 0.3
    logits_BK = torch.randn(3, 5, generator=torch.Generator().manual_seed(5))
    one_hot_BK = torch.nn.functional.one_hot(given.labels_B, 5).float()
    mixed_BK = weight * one_hot_BK + (1 - weight) * one_hot_BK.roll(1, 0)
    expected = torch.nn.functional.cross_entropy(logits_BK, mixed_BK)
    towards = [torch.nn.functional.cross_entropy(logits_BK, of.labels_B) for of in (neighbours(given), given)]
    assert torch.lerp(*towards, weight).item() == pytest.approx(expected.item())
