"""The student's stage: what it takes from a store, what it refuses before the first step, and what it goes on from."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from builders import (  # noqa: F401 - a fixture
    CLIP,
    VIEWS,
    distillation_params,
    manifest_row,
    noise_video,
    one_thread,
    train_params,
    write_frames,
)
from student_runs import StudentRun
from target_stores import SEED, make_store, make_teacher

from pipeline.core.errors import Interrupted, ParamsError, StaleArtifactError
from pipeline.core.tables import write_curve
from pipeline.data.manifest import write_manifest
from pipeline.distill.store.store import SoftTargetStore
from pipeline.models.recognizer import load_model
from pipeline.train import run as train_run
from stages.train import train_baseline


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return StudentRun(folder, make_store(folder)).prepare()


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return StudentRun(folder, make_store(folder, num_teachers=2)).prepare()


@pytest.fixture(autouse=True)
def work_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path / ".work"


def content(run, name):
    return (run.folder / f"{name}.safetensors").read_bytes()


@pytest.fixture(scope="module")
def expected(run, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DVC_ROOT", str(tmp_path_factory.mktemp("root")))
        run.train(name="expected")
    return content(run, "expected")


def test_the_file_names_the_store_and_its_teacher(run, work_root):
    trained = run.train()
    store = SoftTargetStore(run.made.path)
    assert (
        trained.trained_on["digests"].items()
        >= {
            "soft_targets": store.digest,
            "teacher": run.made.teachers[0].digest,
        }.items()
    )
    assert [path.name for path in work_root.iterdir() if path.is_dir()] == []


def test_of_several_teachers_the_file_names_all(run_of_two):
    trained = run_of_two.train()
    assert trained.trained_on["digests"]["teacher"] == ",".join(given.digest for given in run_of_two.made.teachers)


def test_mapped_soft_targets_give_the_same_student(run, expected):
    run.train(name="mapped", memory_mib=0)
    assert content(run, "mapped") == expected


def test_the_teacher_and_its_frames_are_not_needed(run, expected, tmp_path):
    run.train(name="alone", teacher_path=tmp_path / "no.safetensors", enhanced_path=tmp_path / "nothing")
    assert content(run, "alone") == expected
    run.train(name="beside", teacher_path=run.folder / "teacher_0.safetensors", enhanced_path=run.made.frames.path)
    assert content(run, "beside") == expected


@pytest.mark.parametrize(("taught", "is_said"), [(0.5, True), (0.75, False)])
def test_at_its_end_it_says_where_the_teacher_is_not_better_than_the_baseline(run, tmp_path, capsys, taught, is_said):
    for name, top1 in {"teacher": taught, "baseline": 0.5}.items():
        write_curve(tmp_path / f"{name}.csv", [{"epoch": 0, "val_top1": top1}])
    run.train(name="warned", curves=tmp_path)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("train_student: the teacher is not better than the baseline on val: ") == is_said


def interruptible_at(step):
    """In place of `interruptible`: a check that raises once, the `step`th time that it is asked."""
    asked = 0

    @contextmanager
    def interruptible():
        def stop():
            nonlocal asked
            asked += 1
            if asked == step:
                raise Interrupted(15)

        yield stop

    return interruptible


@pytest.mark.parametrize("teachers", ["mean", "draw"])
@pytest.mark.parametrize("memory_mib", [0, 100])
def test_interrupted_it_goes_on_to_the_same_student(run_of_two, monkeypatch, work_root, teachers, memory_mib):
    run_of_two.train(name="whole", teachers=teachers, memory_mib=memory_mib)
    monkeypatch.setattr(train_run, "interruptible", interruptible_at(3))
    with pytest.raises(Interrupted):
        run_of_two.train(teachers=teachers, memory_mib=memory_mib)
    (work,) = [path for path in work_root.iterdir() if path.is_dir()]
    assert (work / "soft_targets").exists() == (memory_mib == 0)
    read, read_shard = [], SoftTargetStore.read_shard
    monkeypatch.setattr(
        SoftTargetStore, "read_shard", lambda self, shard: read.append(shard) or read_shard(self, shard)
    )
    run_of_two.train(teachers=teachers, memory_mib=memory_mib)
    assert (read == []) == (memory_mib == 0)  # what was mapped is still there
    assert content(run_of_two, "student") == content(run_of_two, "whole")


def test_without_soft_weight_it_is_the_baseline_bit_by_bit(run, tmp_path):
    same = {"seed": SEED, "views": VIEWS.model_dump()}
    student = run.train(changes={**same, "soft_weight": 0.0}).recognizer.state_dict()
    train_baseline(
        manifest_path=run.folder / "manifest.csv",
        frames_path=run.folder / "dark",
        out=tmp_path / "baseline.safetensors",
        curve_path=tmp_path / "baseline.csv",
        params_path=run.folder / "params.yaml",
        device="cpu",
    )
    baseline = load_model(tmp_path / "baseline.safetensors").recognizer.state_dict()
    assert [name for name in student if not torch.equal(student[name], baseline[name])] == []
    taught = run.train(changes={**same, "soft_weight": 0.5}).recognizer.state_dict()
    assert not all(torch.equal(taught[name], baseline[name]) for name in taught)


def test_how_teachers_are_combined_is_part_of_the_result(run_of_two):
    run_of_two.train(name="mean", teachers="mean")
    run_of_two.train(name="draw", teachers="draw")
    assert content(run_of_two, "mean") != content(run_of_two, "draw")


# what does not fit


@pytest.fixture
def other_data(run, tmp_path):
    """A manifest of other classes and videos, with frames of which one has another shape."""
    rows = list(run.made.manifest.rows)
    changed = next(row for row in rows if row.split == "train")
    new = manifest_row("jump/new", 1, "train", (6, 18, 22))
    others = [manifest_row(row.video_id, 2 - row.label, row.split, (6, 18, 22)) for row in rows]
    shapes = {row.video_id: (6, 18, 22) for row in [*others, new]} | {changed.video_id: (6, 18, 24)}
    folder = tmp_path / "other"
    folder.mkdir()
    write_manifest(folder / "manifest.csv", [*others, new])
    write_frames(folder / "dark", {name: noise_video(name, shape) for name, shape in shapes.items()})
    make_teacher(folder / "teacher.safetensors", seed=8)
    return folder, changed.video_id


def test_everything_that_does_not_fit_is_told_at_once_before_a_step(run, other_data, work_root):
    folder, reshaped = other_data
    with pytest.raises(StaleArtifactError) as caught:
        run.train(
            name="refused",
            manifest_path=folder / "manifest.csv",
            frames_path=folder / "dark",
            teacher_path=folder / "teacher.safetensors",
            changes={"clip": {**CLIP.model_dump(), "size": 24}, "teacher": "r3d_18"},
        )
    told = "\n".join(caught.value.findings)
    for words in (
        'clip: the store has {"frame_stride": 2, "num_frames": 2, "size": 16}, this run {"frame_stride": 2, ',
        'teachers.name: the store has ["r2plus1d_slim"], this run "r3d_18"',
        f'digests.manifest: the store has "{run.made.manifest.digest}", this run ',
        f'teachers.digest: the store has ["{run.made.teachers[0].digest}"], this run ',
        f"{reshaped}: the store has frames, height, width (6, 18, 22), this run (6, 18, 24)",
        "lacks 1 of the 8 videos:",
        "jump/new",
    ):
        assert words in told
    assert "dvc repro precompute_soft_targets" in caught.value.remedy
    assert caught.value.exit_code == 5
    assert not (run.folder / "refused.safetensors").exists()
    assert not list(work_root.rglob("checkpoint*"))


def test_other_class_names_are_refused(run, tmp_path):
    rows = [
        manifest_row(row.video_id, row.label, row.split, (6, 18, 22), class_name=f"{row.class_name}s")
        for row in run.made.manifest.rows
    ]
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    with pytest.raises(StaleArtifactError) as caught:
        run.train(manifest_path=tmp_path / "manifest.csv")
    assert any(finding.startswith("class_names: ") for finding in caught.value.findings)
    assert str(list(manifest.class_names)).replace("'", '"') in caught.value.findings[0]


# the soft loss and its schedule


@pytest.mark.parametrize("schedule", ["warmup", "decay"])
def test_interrupted_in_a_schedule_it_goes_on_to_the_same_student(run, expected, monkeypatch, schedule):
    changes = {
        "distillation": distillation_params(schedule=schedule, schedule_epochs=3.0).model_dump()
    }  # from the first step on
    run.train(name="whole", changes=changes)
    assert content(run, "whole") != expected
    with monkeypatch.context() as patched:
        patched.setattr(train_run, "interruptible", interruptible_at(3))
        with pytest.raises(Interrupted):
            run.train(changes=changes)
    run.train(changes=changes)
    assert content(run, "student") == content(run, "whole")


@pytest.mark.parametrize("soft_loss", ["dkd", "dist", "wttm", "mse"])
def test_every_loss_trains_another_student(run, expected, soft_loss):
    run.train(name=soft_loss, changes={"soft_loss": soft_loss, "distillation": distillation_params().model_dump()})
    assert content(run, soft_loss) != expected


UNFIT = {
    "a schedule that outlasts the training": {
        "distillation": distillation_params(schedule="decay", schedule_epochs=99.0).model_dump()
    },
    "no extra temperatures": {"distillation": {**distillation_params().model_dump(), "extra_temperatures": []}},
    "extra temperature 0": {"distillation": {**distillation_params().model_dump(), "extra_temperatures": [0.0]}},
    "a loss that is not known": {"soft_loss": "hinton"},
    "columns of one clip": {"soft_loss": "dist", "train_student": train_params(batch_size=1).model_dump()},
}


@pytest.mark.parametrize("changes", UNFIT.values(), ids=UNFIT.keys())
def test_parameters_that_make_no_loss_are_refused_before_a_step(run, work_root, changes):
    with pytest.raises(ParamsError) as caught:
        run.train(name="refused", changes=changes)
    assert caught.value.exit_code == 2
    assert not list(work_root.rglob("checkpoint*"))
