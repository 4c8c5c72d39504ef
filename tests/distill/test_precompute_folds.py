"""Soft targets of teachers in folds: a training video's logits are of a teacher that was trained without its group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders import one_thread  # noqa: F401 - a fixture
from fold_runs import give_groups, make_folds
from precompute_runs import compute, make_project, write_params
from target_stores import make_teacher

from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.data.manifest import write_manifest
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.teacher import bank
from pipeline.models.inference import infer
from pipeline.models.recognizer import load_model
from pipeline.tools.targets.verify import verify

FOLDS = Path("folds")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Seven videos of train in groups of two, three without a label, and a teacher in two folds."""
    folder = make_project(tmp_path, monkeypatch, num_footage=3)
    give_groups(folder)
    set_folds(2)
    return folder


@pytest.fixture
def groups(project):
    return make_folds(FOLDS, give_groups(project), 2)


def set_folds(number):
    values = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump({**values, "teacher_folds": number}))


def rows_of(path):
    store = SoftTargetStore(Path(path))
    (rows,) = [store.read_shard(shard) for shard in range(store.num_shards)]
    return rows


def test_a_row_is_that_of_the_model_that_never_saw_its_group(project, groups):
    compute(folds_path=FOLDS)
    rows = rows_of("store.zarr")
    manifest = give_groups(project)
    expected = [groups.get(manifest.by_id[name].group, -1) for name in rows.video_ids]
    assert set(expected) == {-1, 0, 1}
    assert rows.arrays["fold"][:, 0].tolist() == expected
    set_folds(None)
    for fold in (-1, 0, 1):
        path = Path("teacher.safetensors") if fold < 0 else FOLDS / f"fold{fold}.safetensors"
        compute(f"alone{fold}.zarr", teacher_path=path)
        alone = rows_of(f"alone{fold}.zarr")
        assert alone.arrays["fold"].max() == -1
        for place in np.flatnonzero(np.array(expected) == fold):
            for name in ("logits", "pixel_digest", "views", "frames_digest"):
                assert np.array_equal(rows.arrays[name][place], alone.arrays[name][place])


def test_the_store_names_the_models_and_how_right_they_are(project, groups):
    compute(folds_path=FOLDS)
    store, rows = SoftTargetStore(Path("store.zarr")), rows_of("store.zarr")
    (teacher,) = store.attributes["teachers"]
    assert teacher["digest"] == load_model(Path("teacher.safetensors")).digest
    assert teacher["folds"] == [load_model(FOLDS / f"fold{fold}.safetensors").digest for fold in (0, 1)]
    manifest = give_groups(project)
    labels = np.array([manifest.class_index(manifest.by_id[name]) for name in rows.video_ids])
    right = rows.logits(store.codec)[:, :, 0].argmax(axis=-1)[labels >= 0] == labels[labels >= 0, None]
    assert teacher["top1_on_views"] == pytest.approx(right.mean(), abs=1e-6)
    assert verify(Path("store.zarr"), "checksums").whole


def test_without_folds_nothing_is_of_a_fold(project):
    make_folds(FOLDS, give_groups(project), 0)
    set_folds(None)
    with_folder = compute(folds_path=FOLDS)
    assert compute("other.zarr") == with_folder
    assert "folds" not in SoftTargetStore(Path("store.zarr")).attributes["teachers"][0]


def test_what_is_known_is_not_computed_again(project, groups, monkeypatch):
    counted = []

    def counting(teacher, clip_BTHWC, *, batch_size):
        counted.append(len(clip_BTHWC))
        return infer(teacher, clip_BTHWC, batch_size=batch_size)

    monkeypatch.setattr(bank, "infer", counting)
    first = compute(folds_path=FOLDS)
    counted.clear()
    assert compute(folds_path=FOLDS) == first
    assert counted == []
    cached = sorted(Path(".work").glob("precompute*/*.safetensors"))
    assert len({path.parent for path in cached}) == 3
    cached[0].unlink()
    assert compute(folds_path=FOLDS) == first
    assert 0 < sum(counted) <= 6  # a part: two videos of three views


def test_footage_of_a_group_that_was_trained_on_is_its_folds(project, groups):
    manifest = give_groups(project)
    held = next(row for row in manifest.rows if row.split == "unlabelled")
    group = next(row.group for row in manifest.rows if row.split == "train")
    write_manifest(
        project / "manifest.csv", [replace(row, group=group) if row is held else row for row in manifest.rows]
    )
    compute(folds_path=FOLDS)
    rows = rows_of("store.zarr")
    assert rows.arrays["fold"][rows.video_ids.index(held.video_id), 0] == groups[group]


def test_folds_that_are_not_given_or_are_others_are_refused(project, groups):
    with pytest.raises(ParamsError, match="teacher_folds is 2, and --teacher-folds"):
        compute()
    set_folds(3)
    with pytest.raises(StaleArtifactError, match="holds the models of 2 folds, teacher_folds is 3"):
        compute(folds_path=FOLDS)
    set_folds(None)
    with pytest.raises(StaleArtifactError, match="holds the models of 2 folds, teacher_folds is null"):
        compute(folds_path=FOLDS)


def test_folds_of_another_run_than_the_teachers_are_refused(project, groups):
    make_teacher(project / "teacher.safetensors", class_names=("drink", "jump", "run"))
    manifest = give_groups(project)
    write_manifest(
        project / "manifest.csv",
        [replace(row, class_name="run") if row.label == 2 else row for row in manifest.rows],
    )
    with pytest.raises(StaleArtifactError, match="its folds are not of the run that trained it") as raised:
        compute(folds_path=FOLDS)
    assert all("classes" in finding for finding in raised.value.findings)


def test_params_that_are_written_anew_have_no_folds(project):
    write_params(project)
    assert yaml.safe_load(Path("params.yaml").read_text())["teacher_folds"] is None
