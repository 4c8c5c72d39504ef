"""A teacher once more for each fold: trained without its groups, for as many steps, each model once."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml
from builders import CLIP, one_thread, tiny_data, train_params  # noqa: F401 - a fixture
from fold_runs import give_groups
from paths import ROOT

from pipeline.core.errors import Interrupted
from pipeline.models.folds import read_folds
from stages import train_teacher_folds as stage

OUT = Path("models/teacher_folds")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    tiny_data(tmp_path, num_train=9)
    return tmp_path


@pytest.fixture
def trainings(monkeypatch):
    """The trainings that the stage started; those of folds in `lost` end as a killed one does."""
    started = []

    def counting(training):
        started.append(training)
        if len(started) - 1 in started_and_lost:
            raise KeyboardInterrupt
        train(training)

    train, started_and_lost = stage.train_network, set()
    monkeypatch.setattr(stage, "train_network", counting)
    return started, started_and_lost


def run(num_folds, **options):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"clip": CLIP.model_dump(), "teacher_folds": num_folds, **options}
    values["train_teacher"] = train_params(epochs=2).model_dump()
    Path("params.yaml").write_text(yaml.safe_dump(values))
    stage.main(manifest_path=Path("manifest.csv"), frames_path=Path("frames"), out=OUT, device="cpu")
    return {path.name: path.read_bytes() for path in OUT.iterdir()}


def test_each_learns_from_the_other_folds_for_as_many_steps(project, trainings):
    manifest = give_groups(project)
    made = run(2)
    assert set(made) == {"folds.json", "fold0.safetensors", "fold0.csv", "fold1.safetensors", "fold1.csv"}
    found = read_folds(OUT)
    assert set(found.groups) == {row.group for row in manifest.rows_of("train")}
    assert len(trainings[0]) == 2
    for fold, training in enumerate(trainings[0]):
        learned = {sample.video_id for sample in training.samples}
        left_out = {row.video_id for row in manifest.rows_of("train") if found.groups[row.group] == fold}
        assert learned == {row.video_id for row in manifest.rows_of("train")} - left_out
        assert [sample.video_id for sample in training.inputs.train] == [s.video_id for s in training.samples]
        assert training.plan.steps_per_epoch == 3  # of 9 videos in batches of 4
        shown = [key for epoch in range(2) for batch in training.plan.batches(epoch) for key in batch]
        assert len(shown) == 18
        assert max(index for index, _ in shown) == len(learned) - 1
        source = training.source(project)
        views = {source.lookup(training.samples[0].video_id, number)[0] for number in range(3)}
        assert len(views) == 3
    assert not list(Path(".work").glob("train_teacher_folds*/"))


def test_a_fold_that_is_done_is_not_trained_again(project, trainings):
    give_groups(project)
    started, lost = trainings
    lost.add(1)
    with pytest.raises(KeyboardInterrupt):
        run(2)
    assert not OUT.exists()
    lost.clear()
    resumed = run(2)
    assert [training.run.out.name for training in started] == ["fold0.safetensors", *["fold1.safetensors"] * 2]
    assert run(2) == resumed
    assert len(started) == 5


def test_a_signal_between_two_folds_is_heard(project, monkeypatch):
    give_groups(project)
    train = stage.train_network

    def ended_by_a_signal(training):
        train(training)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(stage, "train_network", ended_by_a_signal)
    with pytest.raises(Interrupted):
        run(2)
    (built,) = Path(".work").glob("train_teacher_folds*/folds")
    assert {path.name for path in built.iterdir()} == {"fold0.csv", "fold0.safetensors"}


def test_without_folds_nothing_is_trained(project, trainings):
    made = run(None)
    assert list(made) == ["folds.json"]
    assert json.loads(made["folds.json"]) == {"format_version": 1, "groups": {}, "models": []}
    assert trainings[0] == []


def test_groups_that_do_not_suffice_are_refused_before_any_training(project, trainings, call):

    Path("params.yaml").write_text(
        (ROOT / "params.yaml").read_text().replace("teacher_folds: null", "teacher_folds: 2")
    )
    code, _out, err = call("train-teacher-folds", "--manifest", "manifest.csv", "--frames", "frames", "--out", str(OUT))
    assert code == 3
    assert "teacher_folds is 2, and the training videos are of 1 group(s)" in err
    assert trainings[0] == []
