"""The commands that make a further teacher: its own enhancer, network and seed, and all else as the first one's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from builders import CLIP, one_thread, tiny_data, train_params  # noqa: F401 - a fixture
from paths import ROOT

from pipeline.enhance.file import load_enhancer
from pipeline.models.recognizer import load_model

ENTRY = {"enhancer": "equalize", "network": "r2plus1d_slim", "seed": 7, "clip": None, "training": {"width": 8}}


@pytest.fixture
def frames(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    _, frames = tiny_data(tmp_path)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"clip": CLIP.model_dump(), "train_teacher": train_params(epochs=2).model_dump()}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**values, "more_teachers": {"second": ENTRY}}))
    return frames


def train(call, command, name, *options):
    paths = ("--manifest", "manifest.csv", "--frames", "frames", "--out", f"{name}.safetensors", "--curve", "x.csv")
    return call(command, *paths, *options, "--device", "cpu")


def test_it_has_the_network_the_seed_and_the_training_of_its_entry(frames, call):
    assert train(call, "train-teacher", "first")[0] == 0
    code, _, err = train(call, "train-more-teacher", "second", "--name", "second", "--record", "records/second.json")
    assert code == 0, err
    first, second = (load_model(Path(f"{name}.safetensors")) for name in ("first", "second"))
    assert (first.recognizer.architecture.width, second.recognizer.architecture.width) == (train_params().width, 8)
    assert second.trained_on["seed"] == 7
    assert second.trained_on["stage"] == "train_more_teacher"
    record = json.loads(Path("records/second.json").read_text())
    assert record == {"model": second.digest, "frames": frames.digest}


def test_a_name_that_the_parameters_lack_is_refused_with_those_that_they_have(frames, call):
    code, _, err = train(call, "train-more-teacher", "third", "--name", "third", "--record", "third.json")
    assert code == 2
    assert "more_teachers has no such teacher" in err
    assert "it has second" in err


def test_an_enhancer_on_the_command_line_stands_in_place_of_the_dial(frames, call):
    paths = ("--dark", "frames", "--manifest", "manifest.csv", "--out", "enhancer.safetensors", "--curve", "x.csv")
    assert call("fit-enhancer", *paths, "--enhancer", "equalize")[0] == 0
    assert load_enhancer(Path("enhancer.safetensors")).name == "equalize"
    code, _, err = call("fit-enhancer", *paths, "--enhancer", "gama")
    assert code == 2
    assert "--enhancer gama: there is no such enhancer; there are: none, gamma" in err


def test_the_frames_of_a_second_teacher_of_one_light_are_not_made_again(frames, call):
    paths = ("--dark", "frames", "--manifest", "manifest.csv", "--out", "enhancer.safetensors", "--curve", "x.csv")
    assert call("fit-enhancer", *paths, "--enhancer", "gamma")[0] == 0
    made = []
    for out in ("data/enhanced", "made/second/frames"):
        code, _, err = call(
            "enhance", "--dark", "frames", "--enhancer", "enhancer.safetensors", "--out", out, "--workers", 1
        )
        assert code == 0, err
        made.append((" frames, " in err, {path.name: path.stat().st_ino for path in Path(out).glob("*.h5")}))
    assert made[0][0]
    assert not made[1][0]
    assert made[0][1] == made[1][1]  # hard links
