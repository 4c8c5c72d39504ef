"""What `inspect` says of a store is what a straightforward computation over all of its rows says."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from builders import one_thread  # noqa: F401 - a fixture
from target_stores import make_store, shards_of, with_class_names, write

from pipeline.core.errors import StaleArtifactError
from pipeline.data.manifest import write_manifest
from pipeline.distill.store.store import SoftTargetStore
from pipeline.tools.targets.summary import NUM_BINS, summarise


@pytest.fixture(scope="module", params=[("float16", 1), ("topk", 2)], ids=str)
def made(request, tmp_path_factory):
    codec, num_teachers = request.param
    with shards_of(4, chunk_rows=2):
        yield make_store(tmp_path_factory.mktemp("made"), codec=codec, num_teachers=num_teachers)


def test_entropy_is_counted_over_all_shards(made):
    store = SoftTargetStore(made.path)
    assert store.num_shards == 2
    found = summarise(store, temperatures=(1.0, 4.0))
    assert found["nearly_hard"] == 0
    assert found["warning"] is None
    assert [each["temperature"] for each in found["entropy"]] == [1.0, 4.0]
    for each in found["entropy"]:
        logits_NVK = made.rows.logits(store.codec).astype(np.float64).mean(axis=2) / each["temperature"]
        p_NVK = np.exp(logits_NVK) / np.exp(logits_NVK).sum(axis=-1, keepdims=True)
        entropy_NV = -(p_NVK * np.log(p_NVK)).sum(axis=-1)
        assert each["most"] == math.log(3)
        assert each["mean"] == pytest.approx(entropy_NV.mean(), rel=1e-5)
        assert sum(each["counts"]) == entropy_NV.size
        ordered = np.sort(entropy_NV.ravel())
        for quarter, value in zip((0.25, 0.5, 0.75), each["quartiles"], strict=True):
            expected = ordered[math.ceil(quarter * len(ordered)) - 1]
            assert value == pytest.approx(expected, abs=math.log(3) / NUM_BINS)


def test_accuracy_is_counted_by_class_from_the_logits(made):
    store = SoftTargetStore(made.path)
    found = summarise(store, manifest=made.manifest)
    logits_NVK = made.rows.logits(store.codec).astype(np.float64).mean(axis=2)
    labels = {row.video_id: row.class_name for row in made.manifest.rows_of("train")}
    for name, values in found["top1_by_class"].items():
        mine = [row for row, video_id in enumerate(made.rows.video_ids) if labels[video_id] == name]
        right = logits_NVK[mine].argmax(axis=-1) == store.class_names.index(name)
        assert values == {"num_views": right.size, "top1": right.mean()}
    assert sum(values["num_views"] for values in found["top1_by_class"].values()) == logits_NVK[..., 0].size


def test_it_names_the_store_and_its_size(made):
    found = summarise(SoftTargetStore(made.path))
    assert found["digest"] == SoftTargetStore(made.path).digest
    assert found["bytes_on_disk"] == sum(path.stat().st_size for path in made.path.rglob("*") if path.is_file())
    assert found["top1_by_class"] is None


def test_all_damaged_shards_are_named(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "damaged")
    name = next(iter(SoftTargetStore(made.path).codec.arrays()))
    files = sorted(path for path in (tmp_path / "damaged" / name / "c").rglob("*") if path.is_file())
    assert len(files) == 2
    for path in files:
        content = bytearray(path.read_bytes())
        content[3] ^= 1
        path.write_bytes(content)
    with pytest.raises(StaleArtifactError) as caught:
        summarise(SoftTargetStore(tmp_path / "damaged"), manifest=made.manifest)
    assert caught.value.exit_code == 5
    for row in (0, 4):
        assert any(f"{name}: rows {row} to {row + 1} cannot be read" in finding for finding in caught.value.findings)


def test_a_video_that_the_manifest_does_not_train_on_is_named(made, tmp_path):
    rows = [
        replace(row, split="val" if row.video_id == made.rows.video_ids[5] else row.split) for row in made.manifest.rows
    ]
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    attributes = {**made.attributes, "digests": {**made.attributes["digests"], "manifest": manifest.digest}}
    write(tmp_path / "other", made.rows, SoftTargetStore(made.path).codec, attributes)
    with pytest.raises(StaleArtifactError) as caught:
        summarise(SoftTargetStore(tmp_path / "other"), manifest=manifest)
    assert caught.value.findings == (f"{made.rows.video_ids[5]} is no train video of the manifest",)


def test_another_manifest_is_refused(made, tmp_path):
    other = make_store(tmp_path, num_train=6).manifest
    with pytest.raises(StaleArtifactError, match="another manifest") as caught:
        summarise(SoftTargetStore(made.path), manifest=other)
    assert other.digest in caught.value.findings[0]
    assert made.manifest.digest in caught.value.findings[0]


def test_a_manifest_with_other_classes_is_refused(made, tmp_path):
    attributes = with_class_names(made.attributes, ["jump", "drink", "wave"])
    write(tmp_path / "other", made.rows, SoftTargetStore(made.path).codec, attributes)
    with pytest.raises(StaleArtifactError, match="another manifest") as caught:
        summarise(SoftTargetStore(tmp_path / "other"), manifest=made.manifest)
    assert caught.value.findings[0].startswith("class_names: the store has")
