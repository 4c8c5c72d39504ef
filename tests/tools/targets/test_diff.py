"""What differs between two stores is named: attributes, rows, and their teachers' logits."""

from __future__ import annotations

import numpy as np
import pytest
from builders import one_thread  # noqa: F401 - a fixture
from target_stores import make_store, shards_of, with_class_names, write

from pipeline.distill.store.codecs import kl_divergence
from pipeline.distill.store.rows import Rows
from pipeline.distill.store.store import SoftTargetStore
from pipeline.tools.targets.diff import diff


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with shards_of(2, chunk_rows=2):
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("made"))


def store_of(made, path, rows, **changes):
    """Another store with some attributes changed."""
    write(path, rows, SoftTargetStore(made.path).codec, {**made.attributes, **changes})
    return SoftTargetStore(path)


def with_logits(rows, logits):
    return Rows(rows.video_ids, {**rows.arrays, "logits": logits})


def test_a_store_is_the_same_as_itself(made):
    found = diff(SoftTargetStore(made.path), SoftTargetStore(made.path))
    assert found["same"]
    assert found["attributes"] == {}
    assert found["num_only"] == [0, 0]
    assert found["num_common"] == found["num_same_views"] == found["num_same_rows"] == len(made.rows)
    assert found["divergence"] == {"num_views": 21, "mean_kl": 0.0, "max_kl": 0.0, "top1_agreement": 1.0}


def test_rows_of_one_store_alone_are_named(made, tmp_path):
    a = store_of(made, tmp_path / "a", made.rows.take([0, 1, 2, 4, 6]))
    b = store_of(made, tmp_path / "b", made.rows.take([2, 3, 4, 5]))
    ids = made.rows.video_ids
    found = diff(a, b)
    assert found["only"] == ([ids[0], ids[1], ids[6]], [ids[3], ids[5]])
    assert (found["num_only"], found["num_common"], found["num_same_rows"]) == ([3, 2], 2, 2)
    assert not found["same"]


def test_what_the_teachers_say_is_compared_class_by_class(made, tmp_path):
    rng = np.random.default_rng(0)
    logits = made.rows.arrays["logits"]
    other = (logits + rng.normal(size=logits.shape)).astype(np.float16)
    other[3] = logits[3]
    b = store_of(made, tmp_path / "b", with_logits(made.rows, other))
    found = diff(SoftTargetStore(made.path), b)
    a_NVK, b_NVK = logits[:, :, 0].astype(np.float32), other[:, :, 0].astype(np.float32)
    kl_NV = kl_divergence(a_NVK, b_NVK)
    best_NV, agreeing_NV = a_NVK.argmax(axis=-1), a_NVK.argmax(axis=-1) == b_NVK.argmax(axis=-1)
    assert found["num_same_rows"] == 1
    values = found["divergence"]
    assert values["mean_kl"] == pytest.approx(kl_NV.mean())
    assert values["max_kl"] == kl_NV.max()
    assert values["top1_agreement"] == agreeing_NV.mean()
    most = {"video_id": made.rows.video_ids[kl_NV.mean(axis=1).argmax()], "mean_kl": kl_NV.mean(axis=1).max()}
    assert found["most_divergent"][0] == most
    for name, part in found["by_class"].items():
        mine = best_NV == made.manifest.class_names.index(name)
        assert part["num_views"] == mine.sum()
        assert part["mean_kl"] == pytest.approx(kl_NV[mine].mean())


def test_attributes_that_differ_have_both_values(made, tmp_path):
    clip = {**made.attributes["clip"], "size": 32}
    teachers = [{**made.attributes["teachers"][0], "top1_on_views": 0.75}]
    b = store_of(made, tmp_path / "b", made.rows, clip=clip, merged_from=["0" * 32], teachers=teachers)
    assert diff(SoftTargetStore(made.path), b)["attributes"] == {
        "clip.size": (16, 32),
        "merged_from": (None, ["0" * 32]),
        "teachers.0.top1_on_views": (0.5, 0.75),
    }


def test_other_views_and_other_classes_are_not_compared(made, tmp_path):
    views = made.rows.arrays["views"].copy()
    views[0, 0, 0] += 1
    b = store_of(made, tmp_path / "b", Rows(made.rows.video_ids, {**made.rows.arrays, "views": views}))
    found = diff(SoftTargetStore(made.path), b)
    assert found["num_same_views"] == len(made.rows) - 1
    assert found["divergence"]["num_views"] == found["num_same_views"] * 3
    c = store_of(made, tmp_path / "c", made.rows, **with_class_names(made.attributes, ["drink", "wave", "jump"]))
    assert diff(SoftTargetStore(made.path), c)["divergence"]["num_views"] == 0
