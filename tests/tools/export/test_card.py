"""A card says what a model is, and the Python on it works as it is written."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import CLASSES, CLIP, STATISTICS, noise_video, one_thread, tiny_recognizer  # noqa: F401 - a fixture
from report_runs import GAIN, metrics_values

from benchmarks.export_architectures import settled
from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.data.frames import encoded
from pipeline.models.recognizer import load_model, save_model
from pipeline.tools.export.card import card, metrics_of, role_of
from pipeline.tools.export.export import SUFFIXES, card_paths, drawn_clips, export
from pipeline.videos.reader import write_video

TRAINED_ON = {
    "stage": "train_student",
    "seed": 0,
    "best_epoch": 1,
    "digests": {"manifest": "1" * 32, "frames": "2" * 32, "soft_targets": "3" * 32, "teacher": "4" * 32},
}
METRICS = metrics_values(
    student={"top1": 0.625, "top1_low": 0.25, "top1_high": 0.75, "top5": 1.0, "mean_class_top1": 0.5, "ece": 0.125},
    gain={**GAIN, "top1": 0.125, "top1_low": -0.02, "top1_high": 0.31},
)


def new_model(folder, statistics="train"):
    path = folder / "model.safetensors"
    network = settled(tiny_recognizer(input_statistics=statistics))
    save_model(path, network, class_names=CLASSES, trained_on=TRAINED_ON)
    return load_model(path)


@pytest.fixture
def model(tmp_path):
    return new_model(tmp_path)


def write(model, path, kind="torch", bare=False, metrics=None):
    clips = drawn_clips(CLIP, 2)
    return export(model, path, program_format=kind, bare=bare, clips=clips, tolerance=1e-3, metrics=metrics)


@pytest.fixture
def said(model, tmp_path):
    """The card's values."""
    said = write(model, tmp_path / "x.pt2", metrics=metrics_of(metrics_file(tmp_path), model))
    assert said == json.loads(card_paths(tmp_path / "x.pt2")[1].read_text())
    return said


def metrics_file(folder, metrics=METRICS):
    path = folder / "evaluation.json"
    path.write_text(json.dumps(metrics))
    return path


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize(("kind", "bare"), [(kind, bare) for kind in SUFFIXES for bare in (False, True)])
def test_the_python_on_the_card_recognises_a_video(tmp_path, monkeypatch, capsys, kind, bare, statistics):
    model = new_model(tmp_path, statistics)
    path = tmp_path / f"student{SUFFIXES[kind]}"
    write(model, path, kind, bare)
    (code,) = re.findall(r"```python\n(.*?)```", card_paths(path)[0].read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    frames_THWC = noise_video("night", (7, 18, 24), high=60)
    frames_THWC[3:5, :, :, 0] += 100  # of the clip's two frames, 2 and 4, one is redder
    write_video(tmp_path / "night.mp4", iter(frames_THWC), fps=25.0, crf=0)
    found = {}
    exec(code, found)
    assert len(found["frames"]) == 7
    assert found["start"] == 2
    clip_THWC = np.stack([found["cv2"].resize(box, (16, 16), interpolation=3) for box in found["boxes"]])
    assert clip_THWC.shape == (2, 16, 16, 3)
    assert clip_THWC[1, ..., 0].mean() > clip_THWC[0, ..., 0].mean() + 50  # red is the first channel
    with torch.inference_mode():
        logits_K = model.recognizer(torch.from_numpy(clip_THWC)[None])[0]
    wanted_K = (logits_K if bare else logits_K.softmax(dim=0)).numpy()
    assert np.abs(found["out"] - wanted_K).max() < 1e-4
    name, value = capsys.readouterr().out.split()
    assert name == CLASSES[wanted_K.argmax()]
    assert float(value) == pytest.approx(wanted_K.max(), abs=1e-4)
    assert len(code.splitlines()) <= 13


def test_the_python_of_a_model_of_codes_makes_them(tmp_path, monkeypatch):
    path, out = tmp_path / "model.safetensors", tmp_path / "student.pt2"
    save_model(path, settled(tiny_recognizer(levels="companded")), class_names=CLASSES, trained_on=TRAINED_ON)
    write(load_model(path), out)
    text = card_paths(out)[0].read_text()
    assert "the code 17·(√(v + 1) − 1), rounded, of a value v" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "night.mp4", iter(noise_video("night", (7, 18, 24), high=30)), fps=25.0, crf=0)
    found = {}
    exec(code, found)
    resize = found["cv2"].resize
    values = np.stack([resize(box.astype(np.float32), (16, 16), interpolation=3) for box in found["boxes"]])
    np.testing.assert_array_equal(found["clip"], encoded(values, "companded"))
    with torch.inference_mode():
        wanted_K = load_model(path).recognizer(torch.from_numpy(found["clip"])[None])[0].softmax(dim=0).numpy()
    assert np.abs(found["out"] - wanted_K).max() < 1e-4


def test_a_card_names_what_the_model_is_and_comes_from(model, said):
    text = card(said)
    assert text.startswith("# Student: r2plus1d_slim, 3 actions in dark video")
    for words in (
        model.digest,
        *TRAINED_ON["digests"].values(),
        "`drink`, `jump`, `wave`",
        "2 frames, 2 apart, 16×16 pixels",
        f"{model.recognizer.num_parameters:,}",
        "| red | 0.4 | 0.2 |",
        "`frames`: uint8 [batch, 2, 16, 16, 3]",
        "`probs`: float32 [batch, 3]",
        "2 drawn clips of noise",
        said["file"]["digest"],
    ):
        assert words in text
    assert said["trained_on"] == TRAINED_ON
    assert said["clip"] == CLIP.model_dump()


def test_a_file_of_any_name_is_named_on_its_card(said):
    text = card({**said, "file": {**said["file"], "name": "it's `mine`.pt2"}})
    assert "This file, ``it's `mine`.pt2``, is" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "card", "exec")


def test_a_card_says_that_each_clip_is_normalised_by_itself(tmp_path):
    said = write(new_model(tmp_path, "clip"), tmp_path / "x.pt2")
    assert said["pixels"] == {"input_statistics": "clip", "least_deviation": 1.0}
    assert "Each clip's pixels are set to mean 0 and deviation 1 inside the program" in card(said)


def trained_by(stage, model):
    return replace(model, trained_on={"stage": stage})


def test_metrics_are_those_of_the_models_role(model, tmp_path):
    path = metrics_file(tmp_path)
    found = metrics_of(path, trained_by("train_baseline", model))
    assert found == {**METRICS["baseline"], "num_test_videos": 12}
    student = metrics_of(path, model)
    assert (student["top1"], student["student_minus_baseline"]["top1"]) == (0.625, 0.125)


def test_a_card_gives_metrics_with_their_interval_or_says_that_there_are_none(said):
    text = card(said)
    assert "| top1 | 0.625 |" in text
    assert "+12.5 points of top-1, 95 % interval -2.0 to +31.0" in text
    without = card({**said, "metrics": None})
    assert "0.625" not in without
    assert "Not stated when the model was exported" in without


def test_metrics_of_an_unknown_model_and_other_files_are_refused(model, tmp_path):
    with pytest.raises(ParamsError, match="does not name the stage"):
        metrics_of(metrics_file(tmp_path), replace(model, trained_on={}))
    with pytest.raises(StaleArtifactError, match="not the evaluation that `evaluate` writes"):
        metrics_of(metrics_file(tmp_path, {"teacher": {}}), model)


@pytest.mark.parametrize("stage", ["train_student", "train_more_teacher", "train_teacher_folds"])
def test_metrics_of_another_model_of_the_same_role_are_refused(model, tmp_path, stage):
    mine = trained_by(stage, model)
    role = role_of(mine.trained_on)
    own = metrics_file(tmp_path, {**METRICS, "models": {role: model.digest}})
    assert metrics_of(own, mine)["top1"] == METRICS[role]["top1"]
    other = metrics_file(tmp_path, {**METRICS, "models": {role: "f" * 32}})
    with pytest.raises(StaleArtifactError, match=f"its {role} is not this model but ffff"):
        metrics_of(other, mine)


def test_limits_depend_on_what_the_model_saw(said):
    teacher = {"stage": "train_teacher", "weights": "r2plus1d_34.pth", "digests": {}}
    assert "Enhance the frames" in card({**said, "trained_on": teacher})
    assert "started from the weights `r2plus1d_34.pth`" in card({**said, "trained_on": teacher})
    assert "Enhance the frames" not in card(said)
    assert "what it sees is not known" in card({**said, "trained_on": {}})
