"""Footage in a soft-target store, and the student that learns from it; the baseline makes as many steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from builders import VIEWS, one_thread, train_params  # noqa: F401 - a fixture
from precompute_runs import NUM_TRAIN, compute, make_project
from target_stores import contents

from pipeline.core.errors import ParamsError
from pipeline.core.tables import number, read_table
from pipeline.data.manifest import read_manifest, write_manifest
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.teacher import bank
from pipeline.models.inference import infer
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


def train(function, name, **changes):
    """A training of the current folder, by its stage; its curve."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    values |= {"train_student": train_params().model_dump(), **changes}
    Path("chosen.yaml").write_text(yaml.safe_dump(values))
    paths = {"manifest_path": Path("manifest.csv"), "frames_path": Path("frames"), "params_path": Path("chosen.yaml")}
    outs = {"out": Path(f"{name}.safetensors"), "curve_path": Path(f"{name}.csv")}
    more = {"soft_targets": "store.zarr"} if function is train_student else {}
    function(**paths, **outs, **more, device="cpu")
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
