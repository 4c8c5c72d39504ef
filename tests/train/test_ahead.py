"""A training that reads the numbers of a step behind it, as on a GPU, makes the steps of one that waits for them."""

from __future__ import annotations

import pytest
import torch
from builders import CLIP, DEVICE, VIEWS, distillation_params, one_thread, tiny_data  # noqa: F401 - a fixture
from torch.utils._python_dispatch import TorchDispatchMode
from training_runs import Run, broken_at, check_same

from pipeline.core.errors import ParamsError
from pipeline.data.dataset import BANK, Batch, DrawnViews, samples_of
from pipeline.distill.student.soft_losses import SOFT_LOSSES
from pipeline.train.optimization import make_optimizer
from pipeline.train.state import Listener, TrainingData

NUM_STEPS = 6
WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")  # what reads a value of the device


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    manifest, frames = tiny_data(tmp_path_factory.mktemp("data"))
    train, val = samples_of(manifest, frames, "train"), samples_of(manifest, frames, "val")
    return TrainingData(frames, train, val, DrawnViews(frames, CLIP, VIEWS, seed=0, purpose=BANK))


@pytest.fixture(scope="module", params=["adamw", "sgd"])
def optimizer(request):
    return {"optimizer": request.param, "ema": 0.9}


class Waiting(Run):
    """The same training with the same fused optimiser, whose loop decides about each step."""

    def trainer(self):
        trainer = super().trainer()
        trainer.optimizer = make_optimizer(trainer.recognizer, trainer.params, fused=True)
        return trainer


@pytest.mark.parametrize("steps", [range(0), {2}, {0, 3}, {5}])
def test_it_makes_the_same_steps(data, tmp_path, optimizer, steps):
    runs = [
        kind(tmp_path / kind.__name__, data, broken_at(steps), ahead=ahead, max_skipped=2, **optimizer | {"ema": 0.0})
        for kind, ahead in ((Run, True), (Waiting, False))
    ]
    found, expected = [run.start() for run in runs]
    check_same(found, expected)
    assert found.num_skipped == len(steps)
    named = [[warning.split(":")[0] for warning in run.warnings] for run in runs]
    assert named[0] == named[1] == [f"step {step} is skipped" for step in sorted(steps)]


def test_a_step_that_is_left_out_changes_nothing_but_the_average(data, tmp_path, optimizer):
    trainer = Run(tmp_path, data, broken_at({2}), ahead=True, max_skipped=1, **optimizer).trainer()
    states = []

    def advance(_count, _note, *, earlier=False):
        states.append({name: value.clone() for name, value in trainer.recognizer.state_dict().items()})

    trained = trainer.run(stop=lambda: None, listener=Listener(advance))
    assert [name for name in states[1] if not torch.equal(states[1][name], states[2][name])] == []
    assert not all(torch.equal(states[2][name], states[3][name]) for name in states[2])
    assert all(value.isfinite().all() for value in trained.recognizer.state_dict().values())


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_interrupted_after_every_step_it_ends_the_same(data, tmp_path, optimizer, checkpoint_seconds):
    whole = Run(tmp_path / "whole", data, ahead=True, **optimizer).start()
    run = Run(tmp_path / "cut", data, ahead=True, checkpoint_seconds=checkpoint_seconds, **optimizer)
    for _ in range(NUM_STEPS):
        run.interrupted(1)
    check_same(run.start(), whole)


def test_a_checkpoint_of_several_ranks_goes_on(data, tmp_path, optimizer):
    run = Run(tmp_path, data, ahead=False, max_skipped=1, **optimizer)
    run.interrupted(3)
    run.ahead, run.loss = True, broken_at({1})
    trained = run.start()
    assert [warning.split(":")[0] for warning in run.warnings] == ["step 4 is skipped"]
    assert all(value.isfinite().all() for value in trained.recognizer.state_dict().values())


def test_one_step_too_many_ends_it(data, tmp_path, optimizer):
    run = Run(tmp_path, data, broken_at({1, 4}), ahead=True, max_skipped=1, **optimizer)
    with pytest.raises(ParamsError, match=r"step 4: the loss is nan.* 1 steps before it") as caught:
        run.start()
    assert list(caught.value.findings) == [data.train[index].video_id for index, _ in run.trainer().plan.batch(4)]


class Waits(TorchDispatchMode):
    """Counts the calls that would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in WAITS
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("more", [{}, {"class_weights": "balanced", "mixup": 0.4, "cutmix": 1.0, "accumulate": 2}])
def test_no_step_waits_for_the_device(data, tmp_path, optimizer, more):
    trainer = Run(tmp_path, data, ahead=True, **optimizer, **more).trainer()
    counts, step = [], trainer._step

    def counted(*arguments):
        with Waits() as waits:
            made = step(*arguments)
        counts.append(waits.count)
        return made

    trainer._step = counted
    trainer.run(stop=lambda: None, listener=Listener(lambda *_, **__: None))
    assert counts == [0] * NUM_STEPS


@pytest.mark.parametrize("name", SOFT_LOSSES)
def test_no_soft_loss_waits_for_the_device(name):
    logits_BK, labels_B = torch.randn(4, 5, requires_grad=True), torch.arange(4)
    with Waits() as waits:
        SOFT_LOSSES[name](logits_BK, torch.randn(4, 5), labels_B, 2.0, distillation_params()).backward()
    assert waits.count == 0


def test_what_waits_is_counted():
    with Waits() as waits:
        torch.ones(3).sum().item()
        bool(torch.ones(1) > 0)
    assert waits.count == 2


def test_a_batch_is_pinned_as_a_whole(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (pinned.append(tensor.shape), tensor)[1])
    batch = Batch(torch.zeros(2, 1, 4, 4, 3), torch.zeros(2), torch.zeros(2, 5), None, ("a", "b"))
    assert torch.utils.data._utils.pin_memory.pin_memory(batch).video_ids == ("a", "b")
    assert [tuple(shape) for shape in pinned] == [(2, 1, 4, 4, 3), (2,), (2, 5)]


def test_on_one_gpu_it_is_the_default(data, tmp_path):
    assert Run(tmp_path, data).trainer().ahead == (DEVICE.type == "cuda")
