"""An exported file holds what the store holds, for whoever has no zarr."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from builders import one_thread  # noqa: F401 - a fixture
from pyarrow import parquet
from target_stores import make_store, shards_of

from pipeline.core.errors import EnvironmentProblem, ParamsError
from pipeline.data.views import View
from pipeline.distill.store.store import SoftTargetStore
from pipeline.tools.targets.export import export


@pytest.fixture(scope="module", params=[("float16", 1), ("topk", 2)], ids=str)
def made(request, tmp_path_factory):
    codec, num_teachers = request.param
    with shards_of(4, chunk_rows=2):
        yield make_store(tmp_path_factory.mktemp("made"), codec=codec, num_teachers=num_teachers)


def test_parquet_has_a_row_for_each_view_of_each_teacher(made, tmp_path):
    store = SoftTargetStore(made.path)
    export(store, tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    logits_NVMK = made.rows.logits(store.codec)
    assert np.array_equal(np.array(table["logits"].to_pylist(), np.float32), logits_NVMK.reshape(-1, 3))
    expected = [
        (video_id, view, teacher.digest)
        for video_id in made.rows.video_ids
        for view in range(store.num_views)
        for teacher in made.teachers
    ]
    columns = [table[name].to_pylist() for name in ("video_id", "view", "teacher_digest")]
    assert list(zip(*columns, strict=True)) == expected
    assert set(table["teacher"].to_pylist()) == {"r2plus1d_slim"}
    for name in ("frame_shape", "frames_digest", "fold"):
        array = made.rows.arrays[name]
        of_views = np.repeat(array[:, None], store.num_views, axis=1).reshape(-1, *array.shape[2:])
        assert np.array_equal(np.array(table[name].to_pylist()), of_views), name
    dark = np.repeat(made.rows.arrays["dark_shape"], store.num_views * store.num_teachers, axis=0)
    assert np.array_equal(np.array(table["dark_shape"].to_pylist()), dark)
    fields = list(View.__dataclass_fields__)
    views = np.array([table[name].to_pylist() for name in fields]).T
    assert np.array_equal(views, np.repeat(made.rows.arrays["views"].reshape(-1, 7), store.num_teachers, axis=0))
    digests = np.array(table["pixel_digest"].to_pylist(), np.uint64)
    assert np.array_equal(digests, made.rows.arrays["pixel_digest"].ravel())
    assert json.loads(table.schema.metadata[b"attributes"]) == store.attributes
    assert parquet.ParquetFile(tmp_path / "x.parquet").num_row_groups == store.num_shards


def test_packed_parquet_has_the_codecs_arrays(made, tmp_path):
    store = SoftTargetStore(made.path)
    export(store, tmp_path / "x.parquet", packed=True)
    table = parquet.read_table(tmp_path / "x.parquet")
    for name in store.codec.arrays():
        expected = made.rows.arrays[name]
        assert np.array_equal(np.array(table[name].to_pylist()).reshape(expected.shape), expected), name
    assert ("logits" in table.column_names) == ("logits" in store.codec.arrays())


@pytest.mark.parametrize("packed", [False, True])
def test_npz_has_the_arrays(made, tmp_path, packed):
    store = SoftTargetStore(made.path)
    export(store, tmp_path / "x.npz", packed=packed)
    with np.load(tmp_path / "x.npz") as found:
        assert tuple(found["video_id"].tolist()) == made.rows.video_ids
        assert json.loads(str(found["attributes"])) == store.attributes
        expected = dict(made.rows.arrays)
        if not packed:
            expected = {name: array for name, array in expected.items() if name not in store.codec.arrays()}
            expected["logits"] = made.rows.logits(store.codec)
        assert set(found.files) == {"video_id", "attributes", *expected}
        for name, array in expected.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array), name


@pytest.mark.parametrize("name", ["x.npz", "x.parquet"])
def test_the_same_store_gives_the_same_file(made, tmp_path, name):
    for folder in ("a", "b"):
        export(SoftTargetStore(made.path), tmp_path / folder / name)
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_another_kind_of_file_is_refused(made, tmp_path):
    with pytest.raises(ParamsError, match=r"ends with \.parquet or \.npz"):
        export(SoftTargetStore(made.path), tmp_path / "x.csv")


def test_parquet_without_pyarrow_says_what_helps(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'dlkdd\[parquet\]'"):
        export(SoftTargetStore(made.path), tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []
