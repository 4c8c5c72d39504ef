"""A blend learns from the labels of both of its videos, by their shares; top-1 counts the one with the larger share."""

from __future__ import annotations

import pytest
import torch
from builders import CLIP, DEVICE, VIEWS, distillation_params, one_thread, tiny_data, tiny_recognizer, train_params  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.dataset import BANK, DrawnViews, SecondLabels, samples_of
from pipeline.data.listing import NO_LABEL
from pipeline.data.views import draw_partners
from pipeline.distill.student.loss import distillation_loss
from pipeline.train.losses import hard_loss
from pipeline.train.state import Listener, TrainingData
from pipeline.train.trainer import Trainer

LABELS = torch.tensor([0, 2, 1, NO_LABEL])
SECOND = SecondLabels(torch.tensor([1, 0, 1, NO_LABEL]), torch.tensor([0.25, 0.7, 1.0, 0.4]))
WEIGHTS = torch.tensor([0.5, 1.0, 2.5])


def logits(seed=0, rows=4):
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(logits_BK, labels, second, smoothing, weights_K):
    """Each clip: −share · w[a] · Σ q_a log p − (1 − share) · w[b] · Σ q_b log p; the mean over what has a label."""
    log_p_BK = logits_BK.log_softmax(dim=1)
    losses = []
    for row, label in enumerate(labels.tolist()):
        if label == NO_LABEL:
            continue
        total = 0.0
        own_share = second.own_share_B[row].item()
        for name, share in ((label, own_share), (second.labels_B[row].item(), 1 - own_share)):
            target_K = torch.full((3,), smoothing / 3, dtype=torch.float64)
            target_K[name] += 1 - smoothing
            total -= share * weights_K[name].item() * (target_K * log_p_BK[row]).sum().item()
        losses.append(total)
    return sum(losses) / len(losses)


@given(st.integers(0, 50), st.sampled_from([0.0, 0.1]), st.booleans())
def test_the_hard_loss_is_that_of_both_labels_by_their_shares(seed, smoothing, weighted):
    logits_BK, weights_K = logits(seed), WEIGHTS if weighted else torch.ones(3)
    found = hard_loss(
        logits_BK,
        LABELS,
        label_smoothing=smoothing,
        weights_K=weights_K if weighted else None,
        labelled_share=0.75,
        second=SECOND,
    )
    assert found.item() == pytest.approx(by_hand(logits_BK, LABELS, SECOND, smoothing, weights_K), rel=1e-6)


def test_clips_that_are_no_blends_have_the_loss_that_they_had():
    logits_BK, labels_B = logits(rows=3).float(), LABELS[:3]
    second = SecondLabels(torch.tensor([2, 2, 2]), torch.ones(3))
    plain = hard_loss(logits_BK, labels_B, label_smoothing=0.0)
    assert hard_loss(logits_BK, labels_B, label_smoothing=0.0, second=second).item() == pytest.approx(plain.item())


def distilled(soft_loss="kl", labels_B=LABELS, second=SECOND, **options):
    return distillation_loss(
        logits(0),
        labels_B,
        logits(1),
        soft_loss=soft_loss,
        temperature=2.0,
        soft_weight=0.6,
        options=distillation_params(),
        labelled_share=0.75,
        second=second,
        **options,
    )


def test_the_soft_loss_of_a_blend_is_that_towards_its_own_soft_target():
    hard = hard_loss(logits(0), LABELS, label_smoothing=0.0, labelled_share=0.75, second=SECOND)
    p_BK = (logits(1) / 2).softmax(1)
    kl = 4 * (p_BK * (p_BK.log() - (logits(0) / 2).log_softmax(1))).sum(1).mean()
    assert distilled().item() == pytest.approx((0.4 * hard + 0.6 * kl).item())


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (SecondLabels(torch.tensor([1, 0, 3, NO_LABEL]), torch.ones(4)), "one of the classes"),
        (SecondLabels(torch.tensor([1, 0, NO_LABEL, NO_LABEL]), torch.ones(4)), "a label where"),
        (SecondLabels(torch.tensor([1, 0, 1, 1]), torch.ones(4)), "a label where"),
    ],
)
def test_partners_that_do_not_fit_are_refused(second, message):
    with pytest.raises(ValueError, match=message):
        distilled(second=second)


def test_a_loss_that_looks_at_one_label_is_refused():
    with pytest.raises(ValueError, match="dkd looks at one label"):
        distilled("dkd", LABELS.clamp(min=0), SecondLabels(torch.tensor([1, 0, 1, 1]), SECOND.own_share_B))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_training_on_blends_ends_in_the_same_bytes_wherever_it_was_interrupted(tmp_path, num_workers):
    manifest, frames = tiny_data(tmp_path)
    train, val = samples_of(manifest, frames, "train"), samples_of(manifest, frames, "val")
    views = VIEWS.model_copy(update={"mix": "mixup", "mix_share": 0.6})
    partners = draw_partners([[sample.video_id for sample in train]], views, seed=0, purpose=BANK)
    data = TrainingData(frames, train, val, DrawnViews(frames, CLIP, views, 0, BANK, partners))

    def trainer(name):
        return Trainer(
            tiny_recognizer(num_classes=2),
            data,
            train_params(num_workers=num_workers, accumulate=2, label_smoothing=0.1),
            lambda logits_BK, batch, _: hard_loss(logits_BK, batch.labels_B, label_smoothing=0.1, second=batch.second),
            seed=0,
            device=DEVICE,
            checkpoint_path=tmp_path / name,
            checkpoint_seconds=0.0,
        )

    whole = trainer("whole").run(stop=lambda: None, listener=Listener(lambda *_, **__: None))

    class Lost(Exception):
        pass

    def lose(*_, **__):
        if first.progress.step == 3:
            raise Lost

    first = trainer("cut")
    with pytest.raises(Lost):
        first.run(stop=lambda: None, listener=Listener(lose))
    resumed = trainer("cut").run(stop=lambda: None, listener=Listener(lambda *_, **__: None))
    assert resumed.curve == whole.curve
    for name, value in whole.recognizer.state_dict().items():
        assert torch.equal(resumed.recognizer.state_dict()[name], value), name
