"""Footage in a soft-target store, and the student that learns from it; the baseline makes as many steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import VIEWS, one_thread, train_params  # noqa: F401 - a fixture
from precompute_runs import NUM_TRAIN, compute, make_project, write_params
from target_stores import contents, make_teacher

from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.tables import number, read_table
from pipeline.data.dataset import Sample
from pipeline.data.listing import NO_LABEL
from pipeline.data.manifest import read_manifest, write_manifest
from pipeline.distill.store.certainty import agreement
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.student.footage import agreed_on
from pipeline.distill.teacher import bank
from pipeline.models.inference import infer
from pipeline.models.recognizer import load_model, save_model
from pipeline.tools.targets.card import card
from pipeline.tools.targets.merge import merge_videos
from pipeline.tools.targets.summary import summarise
from pipeline.tools.targets.verify import verify
from stages._target_tables import print_summary
from stages.train import train_baseline
from stages.train_student import main as train_student

NUM_FOOTAGE = 4


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return make_project(tmp_path, monkeypatch, num_footage=NUM_FOOTAGE)


def write_other_manifest(splits, path="manifest.csv"):
    manifest = read_manifest(Path("manifest.csv"))
    return write_manifest(Path(path), [row for row in manifest.rows if row.split in splits])


def test_footage_has_rows_and_no_part_in_the_teachers_accuracy():
    compute()
    store, manifest = SoftTargetStore("store.zarr"), read_manifest(Path("manifest.csv"))
    rows = store.read_shard(0)
    assert rows.video_ids == tuple(row.video_id for row in manifest.rows_of("train", "unlabelled"))
    assert store.num_unlabelled == NUM_FOOTAGE
    best_NV = rows.logits(store.codec)[:, :, 0].argmax(axis=-1)
    labelled = [manifest.by_id[name].split == "train" for name in rows.video_ids]
    labels_N = np.array([manifest.class_index(manifest.by_id[name]) for name in rows.video_ids])
    right = (best_NV == labels_N[:, None])[labelled].mean()
    assert store.attributes["teachers"][0]["top1_on_views"] == pytest.approx(right, abs=1e-6)


def test_without_footage_the_store_says_nothing_of_it_and_adding_some_computes_that_alone(monkeypatch):
    whole = Path("manifest.csv").read_bytes()
    write_other_manifest(("train", "val", "test"))
    compute("plain.zarr")
    assert "num_unlabelled" not in SoftTargetStore("plain.zarr").attributes
    assert SoftTargetStore("plain.zarr").num_unlabelled == 0
    Path("manifest.csv").write_bytes(whole)
    clips = []
    monkeypatch.setattr(bank, "infer", lambda *given, **named: clips.append(len(given[1])) or infer(*given, **named))
    grown = compute("grown.zarr")
    assert sum(clips) == NUM_FOOTAGE * VIEWS.num_views
    for folder in Path(".work").glob("precompute*"):
        for file in folder.glob("*.safetensors"):
            file.unlink()
    assert compute("scratch.zarr") == grown


def test_tools_say_how_many_rows_have_no_label(capsys):
    compute()
    store, manifest = SoftTargetStore("store.zarr"), read_manifest(Path("manifest.csv"))
    found = summarise(store, manifest=manifest)
    assert sum(values["num_views"] for values in found["top1_by_class"].values()) == NUM_TRAIN * VIEWS.num_views
    print_summary(found)
    assert f"{NUM_TRAIN + NUM_FOOTAGE} videos ({NUM_FOOTAGE} without a label) ×" in capsys.readouterr().out
    assert f"{NUM_FOOTAGE} of the videos have no label" in card(store, None)
    verdict = verify("store.zarr", "checksums")
    assert (verdict.whole, verdict.num_unlabelled) == (True, NUM_FOOTAGE)


def test_stores_of_labelled_videos_and_of_footage_merge():
    whole = Path("manifest.csv").read_bytes()
    compute("whole.zarr")
    videos = read_manifest(Path("manifest.csv"))
    train = videos.rows_of("train")
    first = {row.video_id for row in [*(train[place] for place in (0, 3, 5)), videos.rows_of("unlabelled")[0]]}
    for name, chosen in (("one", lambda row: row.video_id in first), ("two", lambda row: row.video_id not in first)):
        rows = [row for row in videos.rows if row.split in ("val", "test") or chosen(row)]
        write_manifest(Path("manifest.csv"), rows)
        compute(f"{name}.zarr")
    Path("manifest.csv").write_bytes(whole)
    stores = [SoftTargetStore(f"{name}.zarr") for name in ("one", "two")]
    merge_videos(stores, Path("merged.zarr"), manifest=videos)
    merged, expected = SoftTargetStore("merged.zarr"), SoftTargetStore("whole.zarr")
    assert merged.num_unlabelled == NUM_FOOTAGE
    assert merged.read_shard(0).digests().tolist() == expected.read_shard(0).digests().tolist()
    right = [store.attributes["teachers"][0]["top1_on_views"] for store in (merged, expected)]
    assert right[0] == pytest.approx(right[1], abs=1e-5)


def train(function, name, *, options=None, **changes):
    """A training of the current folder, by its stage; its curve. `options` are the command's."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    values |= {"train_student": train_params().model_dump(), **changes}
    Path("chosen.yaml").write_text(yaml.safe_dump(values))
    paths = {"manifest_path": Path("manifest.csv"), "frames_path": Path("frames"), "params_path": Path("chosen.yaml")}
    outs = {"out": Path(f"{name}.safetensors"), "curve_path": Path(f"{name}.csv")}
    more = {"soft_targets": "store.zarr"} if function is train_student else {}
    function(**paths, **outs, **more, **(options or {}), device="cpu")
    return read_table(outs["curve_path"], number)


def test_student_and_baseline_make_as_many_steps():
    compute()
    student, baseline = train(train_student, "student"), train(train_baseline, "baseline")
    rates = [[row["learning_rate"] for row in curve] for curve in (student, baseline)]
    assert rates[0] == rates[1]
    found = Path("student.safetensors").read_bytes()
    write_other_manifest(("train", "val", "test"))
    compute()
    assert [row["learning_rate"] for row in train(train_baseline, "few")] != rates[1]
    train(train_student, "few_student")
    assert Path("few_student.safetensors").read_bytes() != found


def test_a_loss_that_needs_labels_is_refused():
    compute()
    before = contents(Path())
    with pytest.raises(ParamsError, match=f"soft_loss dkd looks at the label of each clip; {NUM_FOOTAGE} videos"):
        train(train_student, "student", soft_loss="dkd")
    assert {name for name in contents(Path()) if name.startswith(".work")} == {
        n for n in before if n.startswith(".work")
    }


# footage that the teachers do not agree on


def agreed(min_agreement, **changes):
    return {"soft_targets": {"source": "cache", "teachers": "mean", "min_agreement": min_agreement, **changes}}


def compute_with(seed):
    """A store of a teacher that names every class now and then; how far each video's targets agree, and footage."""
    path = Path("teacher.safetensors")
    teacher = make_teacher(path, seed=seed)
    compute()
    mean_K = SoftTargetStore("store.zarr").read_shard(0).arrays["logits"].astype(np.float32).mean(axis=(0, 1, 2))
    with torch.no_grad():
        teacher.recognizer.network.head[-1].bias -= torch.from_numpy(mean_K)
    save_model(path, teacher.recognizer, class_names=teacher.class_names, trained_on={})
    compute()
    rows = SoftTargetStore("store.zarr").read_shard(0)
    share_of = dict(zip(rows.video_ids, agreement(rows.arrays["logits"].astype(np.float32)).tolist(), strict=True))
    return share_of, [row.video_id for row in read_manifest(Path("manifest.csv")).rows_of("unlabelled")]


@pytest.fixture
def spread():
    """A store where all soft targets of some footage name one class, and not all of the rest."""
    share_of, footage = compute_with(seed=8)
    assert {share_of[name] == 1 for name in footage} == {True, False}
    return share_of, footage


def test_footage_that_agrees_less_is_left_out_and_no_labelled_video(spread):
    (share_of, footage), store = spread, SoftTargetStore("store.zarr")
    samples = [Sample(name, NO_LABEL if name in footage else 0) for name in share_of]
    samples.append(Sample("lacking", NO_LABEL))
    for least in (0.0, 0.5, 0.7, 1.0):
        kept = [sample.video_id for sample in agreed_on(store, samples, least)]
        assert kept == [*(n for n in share_of if n not in footage or share_of[n] >= least), "lacking"]
    labelled = [sample for sample in samples if sample.label != NO_LABEL]
    assert agreed_on(store, samples, None) == labelled
    assert agreed_on(store, labelled, 1.0) == labelled


def test_a_student_without_some_footage_makes_as_many_steps(spread, capsys):
    share_of, footage = spread
    before = contents(Path("store.zarr"))
    whole, some = (train(train_student, name, **agreed(least)) for name, least in (("a", 0.0), ("b", 1.0)))
    assert [row["learning_rate"] for row in whole] == [row["learning_rate"] for row in some]
    assert Path("a.safetensors").read_bytes() != Path("b.safetensors").read_bytes()
    num_left_out = sum(share_of[name] < 1 for name in footage)
    said = f"train_student: {num_left_out} of the {NUM_FOOTAGE} videos without a label are left out"
    assert capsys.readouterr().err.count(said) == 1
    assert contents(Path("store.zarr")) == before


def test_online_and_cached_students_leave_out_the_same(spread):
    write_params(Path(), codec="float32")
    compute()
    train(train_student, "cached", **agreed(1.0))
    online = {"teacher_path": Path("teacher.safetensors"), "enhanced_path": Path("frames")}
    train(train_student, "online", options=online, **agreed(1.0, source="online"))
    weights = [load_model(Path(f"{name}.safetensors")).recognizer.state_dict() for name in ("cached", "online")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_on_labelled_videos_alone_and_without_soft_weight_it_is_the_baseline_bit_by_bit():
    compute()
    once = {"train_student": train_params(epochs=1, warmup_epochs=0.5).model_dump(), "soft_weight": 0.0}
    train(train_student, "student", **agreed(None), **once)
    train(train_baseline, "baseline", **once)
    weights = [load_model(Path(f"{name}.safetensors")).recognizer.state_dict() for name in ("student", "baseline")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    train(train_student, "dkd", **agreed(None), soft_loss="dkd")  # which looks at labels


def test_a_share_that_no_footage_reaches_is_refused_and_a_store_that_does_not_fit_before():
    share_of, footage = compute_with(seed=1)
    assert max(share_of[name] for name in footage) == pytest.approx(2 / 3)
    with pytest.raises(ParamsError, match=r"min_agreement is 1, .* at most 0\.667 of them do") as caught:
        train(train_student, "student", **agreed(1.0))
    assert "null" in caught.value.remedy
    with pytest.raises(StaleArtifactError, match="does not fit this run"):
        train(train_student, "student", **agreed(1.0), teacher="x3d_s")


def test_inspect_counts_the_footage_that_reaches_a_share(spread, capsys):
    (share_of, footage), store = spread, SoftTargetStore("store.zarr")
    found = summarise(store, manifest=read_manifest(Path("manifest.csv")))
    counts = {f"{least:g}": sum(share_of[name] >= least for name in footage) for least in (0.5, 0.7, 0.9)}
    assert found["footage_agreement"] == counts
    print_summary(found)
    assert f"videos that reach it, of {NUM_FOOTAGE} without a label" in capsys.readouterr().out
    print_summary(summarise(store))
    assert "--manifest shows how far" in capsys.readouterr().out
