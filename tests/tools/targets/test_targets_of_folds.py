"""The tools know that rows of a teacher in folds are of several models, and what each has not seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders import one_thread  # noqa: F401 - a fixture
from command_line import output_of
from fold_runs import give_groups, make_folds
from precompute_runs import compute, make_project
from target_stores import make_store, write

from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.data.manifest import read_manifest
from pipeline.distill.store.store import SoftTargetStore
from pipeline.tools.targets.card import card
from pipeline.tools.targets.diff import diff
from pipeline.tools.targets.export import export
from pipeline.tools.targets.merge import merge_videos
from pipeline.tools.targets.seen import SPREAD_CLIPS, Spread
from pipeline.tools.targets.summary import summarise
from pipeline.tools.targets.verify import verify
from stages import targets

FOLDS = Path("folds")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a store of a teacher in two folds, of seven videos of train and three without a label."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        make_project(folder, patch, num_footage=3)
        make_folds(FOLDS, give_groups(folder), 2)
        values = yaml.safe_load(Path("params.yaml").read_text())
        compute("whole.zarr")
        Path("params.yaml").write_text(yaml.safe_dump({**values, "teacher_folds": 2}))
        compute(folds_path=FOLDS)
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)


def call(*arguments):
    return output_of(targets.app, *arguments, columns=200)


def test_inference_is_repeated_by_the_model_of_each_row():
    given = ("--teacher", "teacher.safetensors", "--teacher", FOLDS, "--enhanced", "frames")
    found = json.loads(call("verify", "store.zarr", "--depth", "teacher", *given, "--json"))
    assert found["whole"]
    assert found["teacher"] == {
        "num_videos": 10,
        "num_views": 30,
        "num_equal": 30,
        "max_difference": 0,
        "max_relative": 0,
    }


def test_inference_without_a_models_rows_says_what_is_missing():
    with pytest.raises(ParamsError, match="takes all models of a teacher, which has folds") as raised:
        call("verify", "store.zarr", "--depth", "teacher", "--teacher", "teacher.safetensors", "--enhanced", "frames")
    missing = [finding.partition(":")[0] for finding in raised.value.findings]
    assert missing == ["teacher 0, fold 0", "teacher 0, fold 1"]
    assert "models/teacher_folds" in str(raised.value)


def test_what_was_seen_and_what_was_not_is_told_apart():
    manifest = read_manifest(Path("manifest.csv"))
    (unseen,) = summarise(SoftTargetStore("store.zarr"), manifest=manifest)["by_seen"]
    assert (unseen["videos"], unseen["num_views"]) == ("unseen", 30)
    store = SoftTargetStore("store.zarr")
    assert unseen["top1"] == pytest.approx(store.attributes["teachers"][0]["top1_on_views"], abs=1e-6)
    seen, footage = summarise(SoftTargetStore("whole.zarr"), manifest=manifest)["by_seen"]
    assert [(each["videos"], each["num_views"]) for each in (seen, footage)] == [("seen", 21), ("unseen", 9)]
    assert footage["top1"] is None
    (unknown,) = summarise(SoftTargetStore("whole.zarr"))["by_seen"]
    assert (unknown["videos"], unknown["num_views"], unknown["top1"]) == ("seen or unseen", 30, None)


def test_a_store_without_footage_was_seen_as_a_whole(tmp_path):
    by_hand = make_store(tmp_path, num_teachers=2)
    found = summarise(SoftTargetStore(by_hand.path))["by_seen"]
    assert [each["teacher"] for each in found] == [0, 1]
    assert all((each["videos"], each["num_views"]) == ("seen", 21) for each in found)
    logits_NVMK = by_hand.rows.logits(SoftTargetStore(by_hand.path).codec).astype(np.float64)
    p = np.exp(logits_NVMK) / np.exp(logits_NVMK).sum(axis=-1, keepdims=True)
    for each, p_NVK in zip(found, np.moveaxis(p, 2, 0), strict=True):
        assert each["mean_entropy"] == pytest.approx(-(p_NVK * np.log(p_NVK)).sum(axis=-1).mean(), rel=1e-4)


def test_the_spread_is_that_of_means_that_are_drawn():
    rng = np.random.default_rng(0)
    logits_NVK = rng.normal(0, 3, (500, 4, 5)).astype(np.float32)
    found = Spread(5)
    for part in np.array_split(logits_NVK, 3):
        found.add(part)
    p_BK = np.exp(logits_NVK).reshape(-1, 5)
    p_BK /= p_BK.sum(axis=-1, keepdims=True)
    drawn_SK = np.stack([p_BK[rng.integers(len(p_BK), size=SPREAD_CLIPS)].mean(axis=0) for _ in range(2000)])
    assert found.value == pytest.approx(drawn_SK.std(axis=0, ddof=1).mean(), rel=0.03)


def test_hard_labels_have_the_spread_that_is_said():
    found = Spread(4)
    found.add(np.where(np.eye(4), 100, 0).astype(np.float32)[None].repeat(500, axis=0))
    assert found.value == pytest.approx(found.of_hard_labels, rel=1e-3)
    softer = Spread(4)
    softer.add(np.zeros((5, 2, 4), np.float32))
    assert softer.value == 0


def test_people_are_told(made):
    shown = call("inspect", "store.zarr", "--manifest", "manifest.csv")
    for words in ("in 2 folds", "unseen", "spread of the mean probability of 320 clips"):
        assert words in shown
    text = card(SoftTargetStore("store.zarr"), None)
    assert "are of that one of 2 models which was trained without the video's group" in text
    assert "without the video's group" not in card(SoftTargetStore("whole.zarr"), None)


def test_stores_with_and_without_folds_are_compared_and_not_merged(tmp_path):
    with_folds, without = SoftTargetStore("store.zarr"), SoftTargetStore("whole.zarr")
    found = diff(with_folds, without)
    assert found["attributes"]["teachers.0.folds"][1] is None
    assert found["num_same_views"] == 10
    assert found["num_same_rows"] == 3  # of the whole teacher
    with pytest.raises(StaleArtifactError, match="cannot be merged") as raised:
        merge_videos([with_folds, without], tmp_path / "merged", manifest=read_manifest(Path("manifest.csv")))
    assert any(finding.startswith("teachers: ") for finding in raised.value.findings)


def test_a_row_of_a_fold_that_is_none_is_named(tmp_path):
    made = make_store(tmp_path)
    fold = made.rows.arrays["fold"].copy()
    fold[2] = 1
    rows = type(made.rows)(made.rows.video_ids, {**made.rows.arrays, "fold": fold})
    write(tmp_path / "wrong.zarr", rows, SoftTargetStore(made.path).codec, made.attributes)
    (finding,) = verify(tmp_path / "wrong.zarr", "checksums").findings
    assert finding == f"{made.rows.video_ids[2]}: folds [1] of teachers that have [0]"


def test_the_table_has_the_fold_of_each_view(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    export(SoftTargetStore("store.zarr"), tmp_path / "t.parquet", packed=False)
    table = pq.read_table(tmp_path / "t.parquet").to_pydict()
    assert set(table["fold"]) == {-1, 0, 1}
    assert len(table["fold"]) == 30
