"""Training learns, tells what it did, and goes on from any interruption as if there had been none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from builders import CLIP, DEVICE, VIEWS, distillation_params, one_thread, tiny_data, tiny_recognizer, train_params  # noqa: F401 - a fixture
from hypothesis import given
from hypothesis import strategies as st
from target_stores import SEED, make_store
from training_runs import Run, baseline_loss, broken_at, check_same

from pipeline.core.errors import ParamsError
from pipeline.data.dataset import BANK, DrawnViews, UniformViews, samples_of
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.student.cached_targets import load_targets
from pipeline.distill.student.loss import distillation_loss
from pipeline.evaluate.score.scoring import score
from pipeline.train.optimization import learning_rate
from pipeline.train.state import Listener, TrainingData
from pipeline.train.trainer import Trainer

NUM_STEPS = 6  # 3 epochs of 8 samples in batches of 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    manifest, frames = tiny_data(tmp_path_factory.mktemp("data"))
    train, val = samples_of(manifest, frames, "train"), samples_of(manifest, frames, "val")
    return TrainingData(frames, train, val, DrawnViews(frames, CLIP, VIEWS, seed=0, purpose=BANK))


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    return Run(tmp_path_factory.mktemp("whole"), data).start()


# going on


@pytest.mark.parametrize("step", range(1, NUM_STEPS + 1))
def test_interrupted_at_any_step_it_ends_the_same(data, expected, tmp_path, step):
    run = Run(tmp_path, data)
    run.interrupted(step)
    check_same(run.start(), expected)


def test_interrupted_after_every_step_it_ends_the_same(data, expected, tmp_path):
    run = Run(tmp_path, data)
    for _ in range(NUM_STEPS):
        run.interrupted(1)
    check_same(run.start(), expected)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_killed_between_two_checkpoints_it_ends_the_same(data, expected, tmp_path, step):
    run = Run(tmp_path, data)
    run.interrupted(step)
    run.crashed(2)
    check_same(run.start(), expected)


def test_with_a_torn_checkpoint_the_one_before_is_used(data, expected, tmp_path):
    run = Run(tmp_path, data, checkpoint_seconds=0.0)
    run.interrupted(4)
    newest = tmp_path / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    check_same(run.start(), expected)
    assert (3 * 4, "from the checkpoint") in run.told


def test_saving_often_changes_nothing(data, expected, tmp_path):
    check_same(Run(tmp_path, data, checkpoint_seconds=0.0).start(), expected)
    assert (tmp_path / "checkpoint.pt").exists()


def test_data_loader_processes_change_nothing(data, expected, tmp_path):
    run = Run(tmp_path, data, num_workers=2)
    run.interrupted(3)
    check_same(run.start(), expected)


def test_every_step_is_told_once_however_often_it_is_started(data, tmp_path):
    run = Run(tmp_path, data)
    run.interrupted(4)
    assert [count for count, _ in run.told] == [4] * 4
    run.told.clear()
    run.start()
    assert run.told[0] == (16, "from the checkpoint")
    assert sum(count for count, _ in run.told) == 4 * NUM_STEPS


EVERYTHING = {
    "optimizer": "sgd",
    "layer_decay": 0.7,
    "accumulate": 2,
    "ema": 0.9,
    "class_weights": "balanced",
    "mixup": 0.4,
    "cutmix": 1.0,
    "gain": 1.0,
    "noise": 4.0,
    "darken": 0.5,
}


@pytest.mark.parametrize("changes", [EVERYTHING, {"precision": "float16"}], ids=["everything", "float16"])
def test_whatever_is_used_it_goes_on_to_the_same(data, tmp_path, changes):
    whole = Run(tmp_path / "whole", data, **changes).start()
    run = Run(tmp_path / "interrupted", data, **changes)
    for _ in range(NUM_STEPS - 1):
        run.interrupted(1)
    check_same(run.start(), whole)


def test_whatever_is_used_makes_a_difference(data, expected, tmp_path):
    for name, value in {**EVERYTHING, "precision": "float16"}.items():
        if name == "class_weights":  # the classes of these data are equally large
            continue
        assert Run(tmp_path / name, data, **{name: value}).start().curve != expected.curve, name


# learning


def test_it_learns_what_is_easy(data, tmp_path):
    # long enough for the running statistics of batch normalisation, by which validation goes
    trained = Run(tmp_path, data, epochs=16, dropout=0.0).start()
    best = trained.curve[trained.best_epoch]
    assert best["val_top1"] == 1.0
    assert trained.curve[-1]["train_loss"] < 0.5 * trained.curve[0]["train_loss"]


def test_the_weights_are_those_of_the_best_epoch_on_val(data, tmp_path):
    trained = Run(tmp_path, data, epochs=6, learning_rate=0.05).start()
    assert not trained.recognizer.training
    found = score(
        trained.recognizer, data.frames, data.val, class_names=("a", "b"), num_clips=1, num_crops=1, batch_size=3,
        device=DEVICE, stop=lambda: None, advance=lambda _count, _note: None,
    )  # fmt: skip
    best = max(trained.curve, key=lambda row: (row["val_top1"], -row["val_loss"]))
    assert trained.curve[trained.best_epoch] == best
    assert (found.predicted_N == found.labels_N).mean() == best["val_top1"]
    loss = -np.log(found.probs_NK[np.arange(len(found.labels_N)), found.labels_N]).mean()
    assert loss == pytest.approx(best["val_loss"], rel=1e-4)


def test_the_curve_has_a_row_for_every_epoch(expected):
    assert [row["epoch"] for row in expected.curve] == [0, 1, 2]
    for row in expected.curve:
        assert 0 <= row["train_top1"] <= 1
        assert row["val_top1"] in {0, 0.25, 0.5, 0.75, 1}
        assert math.isfinite(row["train_loss"])
    assert 0 <= expected.data_wait <= 1


def test_the_seed_and_nothing_else_decides(data, expected, tmp_path):
    check_same(Run(tmp_path / "again", data).start(), expected)
    other = Run(tmp_path / "other", data)
    other.params = train_params(dropout=0.0)
    assert other.start().curve != expected.curve


def test_a_student_without_soft_weight_is_the_baseline_bit_by_bit(tmp_path):
    made = make_store(tmp_path)
    train, val = samples_of(made.manifest, made.frames, "train"), samples_of(made.manifest, made.frames, "val")
    targets = load_targets(
        SoftTargetStore(made.path), made.rows.video_ids, memory_bytes=2**30, folder=tmp_path, teachers="mean", seed=0
    )

    def trained(name, source, loss):
        return Run(tmp_path / name, TrainingData(made.frames, train, val, source), loss, num_classes=3).start()

    def student(soft_weight):
        def loss(logits_BK, batch, epoch):
            options = {
                "soft_loss": "kl",
                "temperature": 2.0,
                "soft_weight": soft_weight,
                "options": distillation_params(),
            }
            return distillation_loss(logits_BK, batch.labels_B, batch.teacher_BK, **options)

        return trained(str(soft_weight), targets, loss)

    baseline = trained("baseline", DrawnViews(made.frames, CLIP, VIEWS, seed=SEED, purpose=BANK), baseline_loss)
    check_same(student(0.0), baseline)
    assert student(0.5).curve != baseline.curve


# the average of the weights, and an early end


def test_the_average_is_what_is_validated_and_kept(data, tmp_path):
    run = Run(tmp_path, data, ema=0.9)
    trainer = run.trainer()
    trained = trainer.run(stop=lambda: None, listener=Listener(lambda _count, _note, *, earlier=False: None))
    assert trained.best_epoch == 2 or trained.curve[2]["val_top1"] <= trained.curve[trained.best_epoch]["val_top1"]
    plain = Run(tmp_path / "plain", data).start()
    assert [row["train_loss"] for row in trained.curve] == [row["train_loss"] for row in plain.curve]
    assert [row["val_loss"] for row in trained.curve] != [row["val_loss"] for row in plain.curve]
    found = score(
        trained.recognizer, data.frames, data.val, class_names=("a", "b"), num_clips=1, num_crops=1, batch_size=3,
        device=DEVICE, stop=lambda: None, advance=lambda _count, _note: None,
    )  # fmt: skip
    loss = -np.log(found.probs_NK[np.arange(len(found.labels_N)), found.labels_N]).mean()
    assert loss == pytest.approx(trained.curve[trained.best_epoch]["val_loss"], rel=1e-4)


def worse_every_epoch(trainer):
    """In place of validation: the first epoch is the best."""
    return lambda: (1.0 + len(trainer.progress.curve), 0.5)


@pytest.mark.parametrize("interrupted_after", [None, 3, 5, 6])
def test_it_ends_when_val_has_not_become_better_for_as_long(data, tmp_path, monkeypatch, interrupted_after):
    monkeypatch.setattr(Trainer, "_validate", lambda self: worse_every_epoch(self)())
    run = Run(tmp_path, data, epochs=9, patience=2)
    if interrupted_after is not None:
        run.interrupted(interrupted_after)
    trained = run.start()
    assert len(trained.curve) == 3
    assert trained.best_epoch == 0


def test_every_epoch_is_told_with_its_pace(data, tmp_path):
    run = Run(tmp_path, data)
    trained = run.start()
    assert [epoch.row for epoch in run.epochs] == trained.curve
    for epoch in run.epochs:
        assert epoch.clips_per_second > 0
        assert 0 <= epoch.data_wait < 1


# what goes wrong


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_videos(data, tmp_path, value):
    seen = []

    def loss(logits_BK, batch, epoch):
        seen.append(batch.video_ids)
        return baseline_loss(logits_BK, batch, epoch) * (value if len(seen) == 3 else 1)

    run = Run(tmp_path, data, loss)
    with pytest.raises(ParamsError, match=r"step 2: the loss is (nan|inf)") as caught:
        run.start()
    assert caught.value.findings == seen[2]
    assert "learning_rate" in caught.value.remedy
    assert len(run.told) == 2


def test_a_step_that_is_left_out_is_told_of_and_changes_nothing(data, tmp_path):
    run = Run(tmp_path, data, broken_at({2}), max_skipped=1)
    trainer = run.trainer()
    states = []

    def advance(_count, _note, *, earlier=False):
        states.append({name: value.clone() for name, value in trainer.recognizer.state_dict().items()})

    trained = trainer.run(stop=lambda: None, listener=Listener(advance, warn=run.warnings.append))
    assert [name for name in states[1] if not torch.equal(states[1][name], states[2][name])] == []
    assert not all(torch.equal(states[2][name], states[3][name]) for name in states[2])
    assert trained.num_skipped == 1
    (warning,) = run.warnings
    assert "step 2 is skipped: the loss is nan" in warning
    assert all(data.train[index].video_id in warning for index, _ in trainer.plan.batch(2))
    assert all(math.isfinite(value) for row in trained.curve for value in row.values())


def test_one_step_too_many_ends_it_with_the_last_good_state(data, tmp_path):
    run = Run(tmp_path, data, broken_at({1, 4}), max_skipped=1)
    with pytest.raises(ParamsError, match=r"step 4: the loss is nan.* 1 steps before it"):
        run.start()
    run.loss = baseline_loss  # what was wrong is mended
    found = run.start()
    check_same(found, Run(tmp_path / "once", data, broken_at({1}), max_skipped=1).start())
    assert found.num_skipped == 1


def test_float16_that_is_scaled_too_high_is_not_a_fault(data, tmp_path):
    run = Run(tmp_path, data, precision="float16")
    trainer = run.trainer()
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)  # no gradient fits float16
    trained = trainer.run(stop=lambda: None, listener=Listener(lambda _count, _note, *, earlier=False: None))
    assert trained.num_skipped == 0
    assert trainer.scaler.get_scale() < 2.0**120


def test_a_gradient_that_is_not_finite_is_noticed_where_the_loss_is(data, tmp_path):
    def loss(logits_BK, batch, epoch):
        return baseline_loss(logits_BK, batch, epoch) + torch.sqrt(
            (logits_BK - logits_BK).sum()
        )  # slope of a root at 0

    with pytest.raises(ParamsError, match="norm of its gradient nan"):
        Run(tmp_path, data, loss).start()


# the schedule


SCHEDULES = st.integers(1, 40).flatmap(
    lambda epochs: st.tuples(st.just(epochs), st.floats(0, epochs, exclude_max=True), st.integers(1, 50))
)


def rates(schedule):
    epochs, warmup_epochs, steps_per_epoch = schedule
    params = train_params(epochs=epochs, warmup_epochs=warmup_epochs, learning_rate=1.0)
    return [learning_rate(step, steps_per_epoch, params) for step in range(epochs * steps_per_epoch)]


@given(SCHEDULES)
def test_the_rate_rises_to_its_peak_and_falls_to_the_end(schedule):
    _, warmup_epochs, steps_per_epoch = schedule
    found = rates(schedule)
    warmup = math.ceil(warmup_epochs * steps_per_epoch)
    assert all(0 < rate <= 1 for rate in found)
    assert all(np.diff(found[:warmup]) > 0)
    assert all(np.diff(found[warmup:]) < 0)


@pytest.mark.parametrize("warmup_epochs", [0.0, 2.0])
def test_the_rate_is_linear_then_a_cosine(warmup_epochs):
    found = rates((10, warmup_epochs, 8))
    warmup = int(8 * warmup_epochs)
    assert found[:warmup] == pytest.approx(np.linspace(0, 1, warmup + 2)[1:-1].tolist())
    cosine = (1 + np.cos(np.linspace(0, np.pi, 80 - warmup + 1))) / 2  # reaches zero one step after the last
    assert found[warmup:] == pytest.approx(cosine[:-1].tolist())


def test_the_rate_of_a_step_is_in_the_curve(data, tmp_path):
    trained = Run(tmp_path, data).start()
    expected = rates((3, 1.0, 2))
    assert [row["learning_rate"] for row in trained.curve] == pytest.approx([0.01 * expected[i] for i in (1, 3, 5)])


def test_validation_looks_at_the_middle_of_every_video(data, tmp_path, monkeypatch):
    asked = []
    lookup = UniformViews.lookup

    def noted(self, video_id, number):
        asked.append((video_id, number, self.num_clips))
        return lookup(self, video_id, number)

    monkeypatch.setattr(UniformViews, "lookup", noted)
    Run(tmp_path, data, epochs=1, warmup_epochs=0.0).start()
    assert asked == [(sample.video_id, 0, 1) for sample in data.val]
