"""How a step is computed changes its memory and speed, and never what is learnt."""

from __future__ import annotations

import copy

import pytest
import torch
from builders import CLIP, DEVICE, VIEWS, one_thread, tiny_data, tiny_recognizer, train_params  # noqa: F401 - a fixture

from pipeline.core.device import Ranks
from pipeline.core.errors import ParamsError
from pipeline.core.params import ClipParams
from pipeline.data.dataset import BANK, DrawnViews, EpochPlan, samples_of
from pipeline.models.recognizer import MODELS, Architecture, Recognizer
from pipeline.train.execution import autocast_dtype, check_shares, wrap_model
from pipeline.train.losses import hard_loss
from pipeline.train.state import Listener, TrainingData
from pipeline.train.trainer import Trainer

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ONE = Ranks(0, 1)
# the families; their sizes are built of the same blocks
SLOW_NETWORKS = [
    "r2plus1d_18",
    "r2plus1d_34_bert",
    "s3d",
    "mvit_v2_s",
    "slow_r50",
    "csn_r101",
    "r2plus1d_r50",
    "slowfast_r50",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    manifest, frames = tiny_data(tmp_path_factory.mktemp("data"), num_train=10)
    train, val = samples_of(manifest, frames, "train"), samples_of(manifest, frames, "val")
    return TrainingData(frames, train, val, DrawnViews(frames, CLIP, VIEWS, seed=0, purpose=BANK))


def trained(data, folder, *, frozen_stages=0, dropout=0.3, **changes):
    recognizer = tiny_recognizer(num_classes=2, dropout=dropout)
    recognizer.freeze(frozen_stages)

    def loss(logits_BK, batch, epoch):
        return hard_loss(logits_BK, batch.labels_B, label_smoothing=0.0)

    trainer = Trainer(
        recognizer, data, train_params(**changes), loss, seed=5, device=DEVICE,
        checkpoint_path=folder / "checkpoint.pt", checkpoint_seconds=1e9,
    )  # fmt: skip
    return trainer.run(stop=lambda: None, listener=Listener(lambda _count, _note, *, earlier=False: None))


# precision


def test_no_cpu_trains_in_bfloat16(data, tmp_path):
    """Its Conv3d has uninitialised weight gradients there when 1 < T < the temporal kernel; nothing else would tell."""
    with pytest.raises(ParamsError, match="bfloat16") as caught:
        trained(data, tmp_path, precision="bfloat16")
    assert "float32" in caught.value.remedy
    assert autocast_dtype("bfloat16", GPU) == torch.bfloat16


def test_float32_is_no_autocast():
    assert autocast_dtype("float32", CPU) is None


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_gradients_are_right_where_the_clip_is_shorter_than_the_kernel(precision):
    """The case of that bug, in the precisions in which a CPU may train, against float64."""
    torch.manual_seed(0)
    conv = torch.nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0))
    x_BCTHW = torch.randn(2, 8, 2, 6, 6)
    wide = copy.deepcopy(conv).double()
    wide(x_BCTHW.double()).square().sum().backward()
    dtype = autocast_dtype(precision, CPU)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        y_BCTHW = conv(x_BCTHW)
    y_BCTHW.float().square().sum().backward()
    torch.testing.assert_close(conv.weight.grad.double(), wide.weight.grad, rtol=0.02, atol=0.5)


# parts of a batch


@pytest.mark.parametrize("accumulate", [2, 3])
def test_parts_of_a_batch_add_up_to_it(data, tmp_path, accumulate):
    """Where batch statistics are frozen: those are of a part. 10 samples make batches of 4, 3 and 3."""
    changes = {"frozen_stages": len(tiny_recognizer().stages), "dropout": 0.0, "clip_grad_norm": 0.5}
    whole = trained(data, tmp_path / "whole", **changes)
    parts = trained(data, tmp_path / "parts", accumulate=accumulate, **changes)
    for name, value in parts.recognizer.state_dict().items():
        torch.testing.assert_close(value, whole.recognizer.state_dict()[name], rtol=1e-3, atol=1e-5, msg=name)
    for row, other in zip(parts.curve, whole.curve, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_batches_that_cannot_be_cut_are_refused():
    check_shares(EpochPlan(10, 4, 0), train_params(accumulate=3), ONE)
    with pytest.raises(ParamsError, match="2 processes × 2 parts"):
        check_shares(EpochPlan(10, 4, 0), train_params(accumulate=2), Ranks(1, 2))


# activation checkpoints


def test_activations_that_are_computed_twice_change_no_bit(data, tmp_path):
    plain = trained(data, tmp_path / "plain")
    found = trained(data, tmp_path / "checkpointed", checkpoint_activations=True)
    for name, value in found.recognizer.state_dict().items():
        assert torch.equal(value, plain.recognizer.state_dict()[name]), name
    assert found.curve == plain.curve


@pytest.mark.parametrize(
    "name",
    ["x3d_xs", "swin3d_t", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_NETWORKS)],
)
def test_each_kind_of_network_can_compute_its_activations_twice(name):
    needs = MODELS[name].needs
    size = max(needs.min_size, 32)
    clip = ClipParams(num_frames=max(needs.min_frames, 8), frame_stride=1, size=size)
    torch.manual_seed(0)
    recognizer = Recognizer(Architecture(name, 3, clip, None, 0.0, 0.0), mean_C=[0.4] * 3, std_C=[0.2] * 3)
    other = copy.deepcopy(recognizer)
    network = wrap_model(other, train_params(checkpoint_activations=True), CPU, ONE)
    clip_BTHWC = torch.randint(256, (2, clip.num_frames, size, size, 3), dtype=torch.uint8)
    for one in (recognizer, network):
        one.train()
        torch.manual_seed(1)
        one(clip_BTHWC).logsumexp(1).sum().backward()
    for (parameter_name, parameter), twin in zip(recognizer.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(twin.grad, parameter.grad, msg=parameter_name)
    for (buffer_name, buffer), twin in zip(recognizer.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(twin, buffer, msg=buffer_name)


def test_fewer_activations_are_kept():
    def bytes_kept(checkpoint):
        recognizer = tiny_recognizer(clip=ClipParams(num_frames=4, frame_stride=1, size=32))
        network = wrap_model(recognizer, train_params(checkpoint_activations=checkpoint), CPU, ONE).train()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            network(torch.zeros(2, 4, 32, 32, 3, dtype=torch.uint8))
        return sum(sizes)

    assert bytes_kept(True) < 0.5 * bytes_kept(False)


@pytest.mark.slow
def test_compiled_it_learns_the_same(data, tmp_path):
    # small steps of sgd on whole batches: anything else blows up rounding
    changes = {"dropout": 0.0, "optimizer": "sgd", "learning_rate": 1e-3, "batch_size": 10}
    compiled = trained(data, tmp_path / "compiled", compile=True, **changes)
    plain = trained(data, tmp_path / "plain", **changes)
    for row, other in zip(compiled.curve, plain.curve, strict=True):
        for name in ("train_loss", "val_loss"):
            assert row[name] == pytest.approx(other[name], rel=1e-2), name
