"""The weights of several teachers: as the loss on val says, in the store, and what a student does with them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from builders import DEVICE, VIEWS, one_thread  # noqa: F401 - a fixture
from hypothesis import given, settings
from hypothesis import strategies as st
from precompute_runs import NUM_TRAIN, compute, make_project, more_teachers, write_params
from scipy.optimize import minimize
from student_runs import StudentRun
from target_stores import make_store

from pipeline.core.errors import StaleArtifactError
from pipeline.data.dataset import samples_of
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest
from pipeline.distill.store.attributes import attribute_findings
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.student.cached_targets import load_targets
from pipeline.distill.teacher import bank
from pipeline.distill.teacher.weights import choose_weights, on_val
from pipeline.evaluate.score.scoring import score
from pipeline.models.inference import infer
from pipeline.models.recognizer import load_model
from pipeline.tools.targets.card import card
from pipeline.tools.targets.merge import merge_teachers
from pipeline.tools.targets.summary import summarise
from stages._target_tables import print_summary

NUM_VAL = 5
VAL_PARTS = ".work/precompute*/val/*.safetensors"


def cross_entropy(weights_M, logits_NMK, labels_N):
    mixed_NK = np.einsum("nmk,m->nk", logits_NMK.astype(np.float64), weights_M)
    largest_N = mixed_NK.max(axis=1)
    of_label_N = mixed_NK[np.arange(len(labels_N)), labels_N]
    return (np.log(np.exp(mixed_NK - largest_N[:, None]).sum(axis=1)) + largest_N - of_label_N).mean()


def teachers_of(seed, num_teachers, *, num_videos=40, num_classes=5, spread=3.0):
    """Logits of teachers that are right more and less often, and the labels."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(num_classes, size=num_videos)
    logits_NMK = rng.normal(0, spread, (num_videos, num_teachers, num_classes))
    right_M = rng.uniform(0, 2 * spread, num_teachers)
    logits_NMK[np.arange(num_videos), :, labels_N] += right_M
    return logits_NMK.astype(np.float32), labels_N


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from([0.5, 3.0, 20.0]))
def test_no_other_weights_are_better(seed, num_teachers, spread):
    logits_NMK, labels_N = teachers_of(seed, num_teachers, spread=spread)
    weights = choose_weights(logits_NMK, labels_N.tolist())
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1, abs=0.0005 * num_teachers)
    found = cross_entropy(np.array(weights) / sum(weights), logits_NMK, labels_N)
    best = minimize(  # another method
        cross_entropy,
        np.full(num_teachers, 1 / num_teachers),
        (logits_NMK, labels_N),
        method="SLSQP",
        bounds=[(0, 1)] * num_teachers,
        constraints={"type": "eq", "fun": lambda weights_M: weights_M.sum() - 1},
    )
    assert found <= best.fun + 1e-4 * spread


def test_order_does_not_matter_and_the_same_teacher_twice_shares():
    logits_NMK, labels_N = teachers_of(3, 3)
    weights = choose_weights(logits_NMK, labels_N.tolist())
    assert choose_weights(logits_NMK[:, ::-1], labels_N.tolist()) == weights[::-1]
    twice = choose_weights(logits_NMK[:, [0, 1, 1]], labels_N.tolist())
    assert twice[1] == twice[2]


def test_a_teacher_that_knows_nothing_weighs_little_and_one_that_is_always_right_all():
    rng = np.random.default_rng(0)
    labels_N = np.arange(60) % 4
    good = 4.0 * np.eye(4)[labels_N] + rng.normal(0, 0.5, (60, 4))
    logits_NMK = np.stack([good, rng.normal(0, 4, (60, 4))], axis=1)
    weights = choose_weights(logits_NMK, labels_N.tolist())
    assert weights[0] > 0.9
    assert on_val(logits_NMK, labels_N.tolist())[0] == {"weight": weights[0], "top1_on_val": 1.0}


# in the store


@pytest.fixture
def project(tmp_path, monkeypatch):
    return make_project(tmp_path, monkeypatch, num_val=NUM_VAL)


@pytest.fixture
def clips(monkeypatch):
    """How many clips the teachers were shown."""
    counted = []
    monkeypatch.setattr(bank, "infer", lambda *given, **named: counted.append(len(given[1])) or infer(*given, **named))
    return counted


def teachers_in(path="store.zarr"):
    return SoftTargetStore(path).attributes["teachers"]


def probs_on_val(model, frames):
    """By the way that models are scored."""
    samples = samples_of(read_manifest(Path("manifest.csv")), frames, "val")
    return score(
        load_model(model).recognizer, frames, samples, class_names=("drink", "jump", "wave"), num_clips=1,
        num_crops=1, batch_size=4, device=DEVICE, stop=lambda: None, advance=lambda _count, _note: None,
    )  # fmt: skip


def test_each_teacher_has_the_top1_of_its_scoring_on_val_and_a_weight(project):
    compute(**more_teachers(project, "second"))
    made = Path("more/made/second")
    scored = [
        probs_on_val(Path("teacher.safetensors"), FrameStore(Path("frames"))),
        probs_on_val(made / "model.safetensors", FrameStore(made / "frames")),
    ]
    labels_N = scored[0].labels_N
    top1 = [(each.predicted_N == labels_N).mean() for each in scored]
    assert [teacher["top1_on_val"] for teacher in teachers_in()] == pytest.approx(top1, abs=1e-6)
    expected = choose_weights(np.stack([np.log(each.probs_NK) for each in scored], axis=1), labels_N.tolist())
    assert [teacher["weight"] for teacher in teachers_in()] == pytest.approx(expected, abs=0.002)
    assert attribute_findings(SoftTargetStore("store.zarr").attributes) == []


def test_val_is_shown_once_to_each_teacher_of_several_and_never_to_one(project, clips):
    alone = compute()
    assert sum(clips) == NUM_TRAIN * VIEWS.num_views
    clips.clear()
    options = more_teachers(project, "second")
    two = compute(**options)
    assert sum(clips) == NUM_TRAIN * VIEWS.num_views + 2 * NUM_VAL
    clips.clear()
    assert compute(**options) == two
    max(Path().glob(VAL_PARTS)).unlink()
    assert compute(**options) == two
    assert sum(clips) == NUM_VAL
    write_params(project)
    clips.clear()
    assert compute() == alone
    assert clips == []
    assert "weight" not in teachers_in()[0]


def test_processes_do_not_show(project, monkeypatch):
    options = more_teachers(project, "second")
    expected = compute(**options)
    monkeypatch.setenv("DVC_ROOT", str(project / "workers"))
    assert compute("workers.zarr", workers=2, **options) == expected


def test_people_are_shown_the_weights(project, capsys):
    compute(**more_teachers(project, "second"))
    first, second = teachers_in()
    said = f"weights of the teachers by {NUM_VAL} val videos: teacher {first['weight']:g} (top-1 "
    assert said in capsys.readouterr().err
    store = SoftTargetStore("store.zarr")
    print_summary(summarise(store))
    assert f"{second['weight']:g}" in capsys.readouterr().out
    assert f"| {second['weight']:g} |" in card(store, None)


def test_a_merged_store_has_no_weights(project):
    options = more_teachers(project, "second")
    compute("two.zarr", **options)
    write_params(project)
    compute("one.zarr")
    made = Path("more/made/second")
    compute("other.zarr", teacher_path=made / "model.safetensors", frames_path=made / "frames")
    merge_teachers([SoftTargetStore(f"{name}.zarr") for name in ("one", "other")], Path("merged.zarr"))
    two, merged = teachers_in("two.zarr"), teachers_in("merged.zarr")
    without = [{name: each[name] for name in each if name not in ("weight", "top1_on_val")} for each in two]
    assert merged == without


# the student


def loaded(store, folder, teachers, **options):
    ids = store.read_shard(0).video_ids
    return load_targets(store, ids, memory_bytes=2**30, folder=folder, teachers=teachers, seed=0, **options)


def test_the_student_gets_the_weighted_mean(project):
    compute(**more_teachers(project, "second"))
    store = SoftTargetStore("store.zarr")
    rows = store.read_shard(0)
    weights = [teacher["weight"] for teacher in store.attributes["teachers"]]
    targets = loaded(store, project, "weighted")
    for row, video_id in enumerate(rows.video_ids):
        _, found_K = targets.lookup(video_id, 1)
        expected_K = sum(w * z_K for w, z_K in zip(weights, rows.logits(store.codec)[row, 1], strict=True))
        assert found_K.dtype == np.float32
        assert found_K == pytest.approx(expected_K / sum(weights), rel=1e-5)
    mapped = load_targets(store, rows.video_ids, memory_bytes=0, folder=project / "mapped", teachers="weighted", seed=0)
    again = pickle.loads(pickle.dumps(mapped))
    assert again.lookup(rows.video_ids[0], 2)[1].tobytes() == targets.lookup(rows.video_ids[0], 2)[1].tobytes()


def test_of_one_teacher_weighted_is_its_logits(project):
    compute()
    store = SoftTargetStore("store.zarr")
    one, other = (loaded(store, project, teachers) for teachers in ("weighted", "mean"))
    name = store.read_shard(0).video_ids[0]
    assert one.lookup(name, 1)[1].tobytes() == other.lookup(name, 1)[1].tobytes()


def test_a_store_without_weights_is_refused_together_with_all_else(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    run = StudentRun(tmp_path, make_store(tmp_path, num_teachers=2)).prepare()
    with pytest.raises(StaleArtifactError) as caught:
        run.train(teachers="weighted", changes={"teacher": "x3d_s"})
    assert [finding.split(":")[0] for finding in caught.value.findings] == [
        "teachers.name",
        "soft_targets.teachers is weighted",
    ]
    assert "precompute_soft_targets" in caught.value.remedy


@pytest.mark.parametrize("weights", [(0.5, None), (0.5, 0.6), (0.1, 0.1)])
def test_weights_that_contradict_each_other_are_a_finding(tmp_path, weights):
    attributes = dict(SoftTargetStore(make_store(tmp_path, num_teachers=2).path).attributes)
    pairs = zip(attributes["teachers"], weights, strict=True)
    attributes["teachers"] = [{**each, **({} if weight is None else {"weight": weight})} for each, weight in pairs]
    (finding,) = attribute_findings(attributes)
    assert finding.startswith("attributes: teachers have the weights ")
