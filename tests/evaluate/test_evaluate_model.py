"""A model file alone has the numbers that it has among others, and its origin is told with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import DEVICE, one_thread, tiny_data, tiny_recognizer  # noqa: F401 - a fixture
from paths import ROOT

from pipeline.data.dataset import samples_of
from pipeline.evaluate.light import video_luma
from pipeline.evaluate.score.predictions import read_predictions
from pipeline.evaluate.score.scoring import score
from pipeline.evaluate.tables import write_light
from pipeline.models.recognizer import load_model, save_model

SPLITS = {"test": 7, "val": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return folder, *tiny_data(folder, num_train=3, num_val=4, num_test=7, num_classes=3)


@pytest.fixture(scope="module")
def write_model(data):
    folder, manifest, frames = data

    def write(name, *, class_names=None, **changes):
        digests = {"manifest": manifest.digest, "frames": frames.digest, **changes}
        trained_on = {"digests": {key: value for key, value in digests.items() if value}}
        path = folder / f"{name}.safetensors"
        names = class_names or manifest.class_names
        save_model(path, tiny_recognizer(seed=len(name)), class_names=names, trained_on=trained_on)
        return path

    return write


@pytest.fixture
def evaluate(call, data):
    folder, _, frames = data

    def run(model, *options, split="test", params_path=ROOT / "params.yaml"):
        return call(
            "evaluate-model", "--model", model, "--frames", frames.path, "--manifest", folder / "manifest.csv",
            "--params", params_path, "--device", "cpu", "--split", split, *options,
        )  # fmt: skip

    return run


def evaluate_all(call, data, teacher, student, baseline, out):
    """What the stages say of the same models on the same frames."""
    folder, _, frames = data
    common = ["--manifest", folder / "manifest.csv", "--params", ROOT / "params.yaml"]
    paths = {"teacher": teacher, "student": student, "baseline": baseline}
    options = []
    for name, model in paths.items():
        predictions = out / f"{name}.csv"
        scored = ["--frames", frames.path, "--model", model, "--out", predictions, "--device", "cpu"]
        assert call(f"score-{name}", *common, *scored)[0] == 0
        options += [f"--{name}", predictions]
    write_light(out / "light.csv", video_luma(frames, frames.video_ids))
    files = ["--evaluation", out / "evaluation.json", "--metrics", out / "metrics.json"]
    outs = [*files, "--confusion", out / "confusion", "--tables", out / "tables"]
    code, printed, _ = call("evaluate", *common, *options, "--light", out / "light.csv", *outs, "--json")
    assert code == 0
    return json.loads(printed)


def test_its_numbers_are_those_that_evaluate_has(call, data, evaluate, write_model, tmp_path):
    models = [write_model(name) for name in ("a", "bb", "ccc")]
    expected = evaluate_all(call, data, *models, tmp_path)
    for name, model in zip(("teacher", "student", "baseline"), models, strict=True):
        code, out, _ = evaluate(model, "--json")
        assert code == 0
        printed = json.loads(out)
        assert printed["metrics"] == expected[name]
        assert printed["protocol"] == expected["protocol"]
        lines = (tmp_path / "tables/by_light.csv").read_text().splitlines()
        column = lines[0].split(",").index(name)
        assert [row["model"] for row in printed["tables"]["by_light"]] == [
            float(line.split(",")[column]) for line in lines[1:]
        ]


@pytest.mark.parametrize("split", SPLITS)
def test_it_evaluates_the_videos_of_the_split(evaluate, write_model, data, split):
    manifest = data[1]
    printed = json.loads(evaluate(write_model("model"), "--json", split=split)[1])
    ids = [row.video_id for row in manifest.rows_of(split)]
    assert printed["num_videos"] == SPLITS[split]
    assert printed["protocol"]["split"] == split
    assert [row["video_id"] for row in printed["tables"]["videos"]] == ids


def test_train_is_no_split_to_be_evaluated_on(evaluate, write_model):
    code, out, err = evaluate(write_model("model"), split="train")
    assert (code, out) == (2, "")
    assert "train" in err


def test_text_has_the_numbers_and_a_table_for_class_light_and_length(evaluate, write_model):
    code, out, _ = evaluate(write_model("model"))
    assert code == 0
    for words in (
        "r2plus1d_slim, 7 test videos, 3 × 1 views (clips × crops)",
        "top-1 ",
        "ECE",
        "drink",
        "mean luma",
        "frames",
    ):
        assert words in out


def test_the_probabilities_are_written_when_asked(evaluate, write_model, data, tmp_path):
    printed = json.loads(evaluate(write_model("model"), "--json", "--out", tmp_path / "p.csv")[1])
    found = read_predictions(tmp_path / "p.csv")
    assert np.mean(found.predicted_N == found.labels_N) == printed["metrics"]["top1"]
    assert found.video_ids == tuple(row.video_id for row in data[1].rows_of("test"))


@pytest.mark.parametrize("num_crops", [1, 3])
def test_clips_and_crops_are_those_of_the_parameters(evaluate, write_model, data, tmp_path, num_crops):
    _, manifest, frames = data
    text = (ROOT / "params.yaml").read_text()
    for old, new in (("  num_clips: 3\n", "  num_clips: 2\n"), ("  num_crops: 1 ", f"  num_crops: {num_crops} ")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "params.yaml").write_text(text)
    model, out = write_model("model"), tmp_path / "p.csv"
    printed = json.loads(evaluate(model, "--json", "--out", out, params_path=tmp_path / "params.yaml")[1])
    assert (printed["protocol"]["num_clips"], printed["protocol"]["num_crops"]) == (2, num_crops)
    expected = score(
        load_model(model).recognizer, frames, samples_of(manifest, frames, "test"), class_names=manifest.class_names,
        num_clips=2, num_crops=num_crops, batch_size=7, device=DEVICE, stop=lambda: None,
        advance=lambda _count, _note: None,
    )  # fmt: skip
    assert read_predictions(out).probs_NK == pytest.approx(expected.probs_NK, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "split", "words"),
    [
        ({}, "test", []),
        ({}, "val", ["val chose the epoch of these weights"]),
        ({"manifest": "0f"}, "test", ["trained on another manifest, 0f: it may have been trained on videos of test"]),
        ({"manifest": None}, "val", ["trained on another manifest, which its file does not name"]),
        ({"frames": "0e"}, "test", ["trained on other frames, 0e, than these"]),
    ],
    ids=str,
)
def test_where_it_comes_from_is_told(evaluate, write_model, changes, split, words):
    _, out, err = evaluate(write_model("model", **changes), "--json", split=split)
    notes = json.loads(out)["notes"]
    assert len(notes) == len(words)
    for note, expected in zip(notes, words, strict=True):
        assert note.startswith(expected)
        assert note in err


def test_a_model_of_other_classes_is_refused(evaluate, write_model):
    code, out, err = evaluate(write_model("model", class_names=("drink", "jump", "walk")))
    assert (code, out) == (5, "")
    assert "knows other classes than the manifest" in err


def test_evaluate_with_a_model_leads_here(call, data, evaluate, write_model):
    folder, _, frames = data
    model = write_model("model")
    options = ["--frames", frames.path, "--manifest", folder / "manifest.csv", "--params", ROOT / "params.yaml"]
    code, out, _ = call("evaluate", "--model", model, *options, "--device", "cpu", "--split", "test", "--json")
    assert code == 0
    assert out == evaluate(model, "--json")[1]
