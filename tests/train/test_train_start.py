"""What a training starts from: pretrained weights, published statistics, frozen stages; refused before any work."""

from __future__ import annotations

import pytest
import torch
import yaml
from builders import CLASSES, CLIP, one_thread, tiny_data, tiny_recognizer, train_params  # noqa: F401 - a fixture
from paths import ROOT

from pipeline.core.digest import digest_file
from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.params import ClipParams
from pipeline.models.pretrained import PUBLISHED_STATISTICS
from pipeline.models.recognizer import load_model, save_model
from stages.train import train_baseline


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tiny_data(folder)
    return folder


@pytest.fixture
def train(data, tmp_path, monkeypatch):
    """A function that calls the stage with some training parameters changed."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    out = tmp_path / "model.safetensors"

    def call(network="r2plus1d_slim", clip=CLIP, **changes):
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        values |= {"clip": clip.model_dump(), "student": network}
        values["train_student"] = {**train_params(epochs=2).model_dump(), **changes}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        train_baseline(
            manifest_path=data / "manifest.csv",
            frames_path=data / "frames",
            out=out,
            curve_path=tmp_path / "curve.csv",
            params_path=tmp_path / "params.yaml",
            device="cpu",
        )
        return load_model(out)

    return call


@pytest.fixture
def weights(tmp_path):
    """A file of ours with three classes, where the data have two."""
    recognizer = tiny_recognizer(seed=8)
    save_model(tmp_path / "start.safetensors", recognizer, class_names=CLASSES, trained_on={})
    return tmp_path / "start.safetensors", recognizer


def work_folders(tmp_path):
    return {path.name for path in (tmp_path / ".work").glob("train_baseline-*") if path.is_dir()}


def test_the_model_file_names_its_start(train, weights, capsys):
    path, _ = weights
    trained_on = train(weights=str(path)).trained_on
    assert trained_on["weights"] == "start.safetensors"
    assert trained_on["digests"]["weights"] == digest_file(path)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("weights: ")]
    (line,) = lines
    assert "of start.safetensors loaded; head replaced (3 classes -> 2)" in line


def test_without_weights_none_are_named(train):
    trained_on = train().trained_on
    assert "weights" not in trained_on
    assert set(trained_on["digests"]) == {"manifest", "frames"}


def test_frozen_stages_end_as_they_began_and_the_others_learn(train, weights):
    path, start = weights
    state = train(weights=str(path), frozen_stages=2).recognizer.state_dict()
    frozen = ("network.stem.", "network.blocks.0.")
    for name, value in start.state_dict().items():
        if name.startswith("network.") and not name.startswith("network.head."):
            assert torch.equal(state[name], value) == name.startswith(frozen), name


def test_weights_make_a_difference(train, weights):
    path, _ = weights
    plain, started = train().recognizer.state_dict(), train(weights=str(path)).recognizer.state_dict()
    assert not torch.equal(plain["network.stem.0.weight"], started["network.stem.0.weight"])


@pytest.mark.parametrize("name", ["kinetics", "imagenet", "pytorchvideo"])
def test_published_statistics_go_into_the_model_file(train, name):
    recognizer = train(input_statistics=name).recognizer
    mean_C, std_C = PUBLISHED_STATISTICS[name]
    assert recognizer.mean_C.tolist() == pytest.approx(list(mean_C))
    assert recognizer.std_C.tolist() == pytest.approx(list(std_C))


def test_a_clips_own_statistics_go_into_the_model_file(train):
    recognizer = train(input_statistics="clip", ema=0.9).recognizer
    assert (recognizer.mean_C, recognizer.std_C) == (None, None)


def test_a_network_may_start_from_one_of_other_statistics(train, weights):
    path, _ = weights
    model = train(weights=str(path), input_statistics="clip")
    assert model.recognizer.mean_C is None
    assert model.trained_on["weights"] == "start.safetensors"


OTHERS = {  # one of each way to build, with what it adds
    "r2plus1d_34_bert": {"frozen_stages": 4, "batch_size": 2},
    "swin3d_t": {"drop_path": 0.5},
    "slowfast_r50": {"frozen_stages": 1, "batch_size": 2},
    "x3d_xs": {"input_statistics": "pytorchvideo"},
    "csn_r101": {"batch_size": 2},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning")  # pytorchvideo's
@pytest.mark.parametrize("network", OTHERS)
def test_other_networks_train_and_come_back(train, network):
    clip = ClipParams(num_frames=4, frame_stride=1, size=32)
    options = {"width": None, "learning_rate": 1e-4, "clip_grad_norm": 100.0, **OTHERS[network]}
    model = train(network, clip, **options)
    assert model.recognizer.architecture.name == network
    assert model.recognizer.architecture.drop_path == options.get("drop_path", 0.0)
    with torch.inference_mode():
        assert model.recognizer(torch.zeros(1, 4, 32, 32, 3, dtype=torch.uint8)).isfinite().all()


REFUSED = {
    "no such file": ({"weights": "nowhere.pth"}, ParamsError, "no such file"),
    "not torchvision's": ({"weights": "torchvision"}, ParamsError, "torchvision has no weights for r2plus1d_slim"),
    "too many stages": ({"frozen_stages": 5}, ParamsError, "r2plus1d_slim has 4 stages"),
    "no stochastic depth": ({"drop_path": 0.1}, ParamsError, "r2plus1d_slim has no stochastic depth"),
    "another width": ({"width": 8, "weights": "start.safetensors"}, StaleArtifactError, "has the shape"),
}


@pytest.mark.parametrize(("changes", "error", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_refused_before_work_starts(train, weights, tmp_path, monkeypatch, changes, error, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        train(**changes)
    assert not (tmp_path / ".work").exists()


def test_other_weights_under_the_same_name_are_another_run(train, weights, tmp_path, monkeypatch):
    """The work folder of an interrupted run must not be taken over by one that starts elsewhere."""
    path, _ = weights
    monkeypatch.setattr("pipeline.train.trainer.Trainer.run", lambda *_args, **_kwargs: 1 / 0)
    for seed in (8, 9):
        save_model(path, tiny_recognizer(seed=seed), class_names=CLASSES, trained_on={})
        with pytest.raises(ZeroDivisionError):
            train(weights=str(path))
    assert len(work_folders(tmp_path)) == 2
