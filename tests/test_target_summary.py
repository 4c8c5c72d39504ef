"""What `inspect` says of a store is what a straightforward computation over all of its rows says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import one_thread  # noqa: F401 - a fixture
from hypothesis import given
from hypothesis import strategies as st
from target_stores import make_store

from pipeline import soft_targets
from pipeline.errors import StaleArtifactError
from pipeline.soft_targets import SoftTargetStore
from pipeline.target_summary import NUM_BINS, entropy, summarise


@pytest.fixture(scope="module", params=[("float16", 1), ("topk", 2)], ids=str)
def made(request, tmp_path_factory):
    codec, num_teachers = request.param
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(soft_targets, "CHUNK_ROWS", 2)
        patched.setattr(soft_targets, "SHARD_ROWS", 4)
        yield make_store(tmp_path_factory.mktemp("made"), codec=codec, num_teachers=num_teachers)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_is_counted_over_all_shards(made, temperature):
    store = SoftTargetStore(made.path)
    assert store.num_shards == 2
    found = summarise(store, temperature=temperature, manifest=made.manifest)
    logits_NVK = made.rows.logits(store.codec).astype(np.float64).mean(axis=2)
    p_NVK = np.exp(logits_NVK / temperature) / np.exp(logits_NVK / temperature).sum(axis=-1, keepdims=True)
    entropy_NV = -(p_NVK * np.log(p_NVK)).sum(axis=-1)
    assert found.entropy.mean == pytest.approx(entropy_NV.mean(), rel=1e-5)
    assert sum(found.entropy.counts) == entropy_NV.size
    ordered = np.sort(entropy_NV.ravel())
    for quarter, value in zip((0.25, 0.5, 0.75), found.entropy.quartiles, strict=True):
        expected = ordered[math.ceil(quarter * len(ordered)) - 1]
        assert value == pytest.approx(expected, abs=math.log(3) / NUM_BINS)
    labels = {row.video_id: row.class_name for row in made.manifest.rows_of("train")}
    for name, values in found.top1_by_class.items():
        mine = [row for row, video_id in enumerate(made.rows.video_ids) if labels[video_id] == name]
        right = logits_NVK[mine].argmax(axis=-1) == store.class_names.index(name)
        assert values == {"num_views": right.size, "top1": right.mean()}
    assert sum(values["num_views"] for values in found.top1_by_class.values()) == entropy_NV.size


def test_it_names_the_store_and_its_size(made):
    found = summarise(SoftTargetStore(made.path))
    assert found.digest == SoftTargetStore(made.path).digest
    assert found.bytes_on_disk == sum(path.stat().st_size for path in made.path.rglob("*") if path.is_file())
    assert found.top1_by_class is None


def test_another_manifest_is_refused(made, tmp_path):
    other = make_store(tmp_path, num_train=6).manifest
    with pytest.raises(StaleArtifactError, match="another manifest") as caught:
        summarise(SoftTargetStore(made.path), manifest=other)
    assert other.digest in caught.value.findings[0]
    assert made.manifest.digest in caught.value.findings[0]


@given(st.integers(1, 30), st.floats(0, 200))
def test_entropy_is_between_nothing_and_log_k(num_classes, spread):
    logits_K = np.linspace(0, spread, num_classes)
    assert 0 <= entropy(logits_K) <= math.log(num_classes) + 1e-9
    assert entropy(np.zeros(num_classes)) == pytest.approx(math.log(num_classes))
