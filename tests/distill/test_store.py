"""A store gives back exactly the rows that were written, or it is refused; nothing between.

tests/tools/targets/test_verify.py flips every byte of every file.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from target_stores import contents, store_attributes

from pipeline.core.errors import StaleArtifactError
from pipeline.distill.store import store as soft_targets
from pipeline.distill.store.codecs import codec_of
from pipeline.distill.store.rows import Rows, concatenate, row_layout
from pipeline.distill.store.store import SoftTargetStore, write_store

ATTRIBUTES = store_attributes(["drink", "jump", "wave"], num_views=2)
CODECS = [{"name": "float16"}, {"name": "float32"}, {"name": "topk", "k": 2}]


def rows_of(num_rows, codec=CODECS[0], *, num_views=2, num_teachers=1, seed=0, video_ids=None):
    rng = np.random.default_rng(seed)
    video_ids = tuple(sorted(video_ids or (f"Drink/Drink_{number:03d}_é" for number in range(num_rows))))
    logits_NVMK = rng.normal(0, 5, (num_rows, num_views, num_teachers, 3)).astype(np.float32)
    arrays = {
        "views": rng.integers(0, 50, (num_rows, num_views, 7), dtype="<i4"),
        "dark_shape": rng.integers(1, 50, (num_rows, 3), dtype="<i4"),
        "pixel_digest": rng.integers(2**64, size=(num_rows, num_views, num_teachers), dtype="<u8"),
        "frame_shape": rng.integers(1, 50, (num_rows, num_teachers, 3), dtype="<i4"),
        "frames_digest": rng.integers(0, 256, (num_rows, num_teachers, 16), dtype="u1"),
        "fold": rng.integers(-1, 3, (num_rows, num_teachers), dtype="<i2"),
        **codec_of(codec, 3).pack(logits_NVMK),
    }
    return Rows(video_ids, arrays)


def write(path, rows, codec=CODECS[0], *, sizes=None, attributes=None, **changes):
    """Write rows in pieces of these sizes."""
    ends = np.cumsum(sizes or [len(rows)])
    pieces = [rows.take(slice(end - size, end)) for size, end in zip(sizes or [len(rows)], ends, strict=True)]
    _, num_views, num_teachers = next(rows.arrays[name] for name in codec_of(codec, 3).arrays()).shape[:3]
    counts = {"num_rows": len(rows), "num_views": num_views, "num_teachers": num_teachers, **changes}
    attributes = attributes or store_attributes(
        ["drink", "jump", "wave"], num_views=num_views, num_teachers=num_teachers
    )
    write_store(path, pieces, codec=codec_of(codec, 3), attributes=attributes, **counts)
    return path


def read_all(path):
    store = SoftTargetStore(path)
    return concatenate([store.read_shard(shard) for shard in range(store.num_shards)])


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(soft_targets, "CHUNK_ROWS", 2)
    monkeypatch.setattr(soft_targets, "SHARD_ROWS", 4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "soft_targets.zarr"


# round trip


@settings(max_examples=20)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=9, unique=True),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(CODECS),
)
def test_every_row_comes_back(small_shards, tmp_path_factory, video_ids, num_views, num_teachers, codec):
    rows = rows_of(len(video_ids), codec, num_views=num_views, num_teachers=num_teachers, video_ids=video_ids)
    path = write(tmp_path_factory.mktemp("store") / "x", rows, codec)
    found, store = read_all(path), SoftTargetStore(path)
    assert found.video_ids == rows.video_ids
    assert list(found.arrays) == list(row_layout(store.codec, num_views, num_teachers))
    for name, array in rows.arrays.items():
        assert np.array_equal(found.arrays[name], array), name
        assert found.arrays[name].dtype == array.dtype
    assert (store.num_rows, store.num_views, store.num_teachers) == (len(video_ids), num_views, num_teachers)


def test_attributes_come_back_with_those_of_the_format(path):
    attributes = SoftTargetStore(write(path, rows_of(2))).attributes
    assert attributes.items() >= ATTRIBUTES.items()
    assert (attributes["format"], attributes["format_version"]) == ("dlkdd-soft-targets", 3)


def test_attributes_of_other_versions_are_ignored(path):
    """`targets repair` of earlier versions counted rows; a later version may add attributes."""
    write(path, rows_of(2), attributes={**ATTRIBUTES, "repaired_rows": 1, "later": {"x": None}})
    assert len(read_all(path)) == 2


def test_attributes_are_read_last(path):
    attributes = dict(ATTRIBUTES)

    def parts():
        yield rows_of(3)
        attributes["measured"] = 1.5

    codec = codec_of(CODECS[0], 3)
    write_store(path, parts(), codec=codec, num_rows=3, num_views=2, num_teachers=1, attributes=attributes)
    assert SoftTargetStore(path).attributes["measured"] == 1.5


# shards


def test_a_video_is_in_the_shard_that_is_named(small_shards, path):
    rows = rows_of(11)
    store = SoftTargetStore(write(path, rows))
    assert store.num_shards == 3
    for video_id in rows.video_ids:
        (shard,) = store.shards_of([video_id])
        assert video_id in store.read_shard(shard).video_ids
    assert store.shards_of([]) == []
    assert store.shards_of([rows.video_ids[0], rows.video_ids[3], rows.video_ids[9]]) == [0, 2]
    assert store.shards_of(["A", "Z"]) == [0, 2]  # where they would be


def test_a_shard_is_read_without_the_others(small_shards, path):
    store = SoftTargetStore(write(path, rows_of(11)))
    for file in path.glob("*/c/0/**/*"):
        if file.is_file():
            file.unlink()
    assert len(store.read_shard(1)) == 4
    with pytest.raises(StaleArtifactError):
        store.read_shard(0)


# same rows, same bytes


@pytest.mark.parametrize("sizes", [[11], [1] * 11, [5, 6], [4, 4, 3], [9, 2], [3, 0, 8]], ids=str)
def test_the_same_rows_are_the_same_bytes_however_they_are_given(small_shards, tmp_path, sizes):
    rows = rows_of(11)
    expected = contents(write(tmp_path / "whole", rows))
    assert contents(write(tmp_path / "parts", rows, sizes=sizes)) == expected
    assert len([name for name in expected if name.startswith("logits/c/")]) == 3


def test_the_order_of_attributes_does_not_matter(tmp_path):
    turned = {key: dict(reversed(v.items())) if isinstance(v, dict) else v for key, v in reversed(ATTRIBUTES.items())}
    one, other = write(tmp_path / "one", rows_of(3)), write(tmp_path / "other", rows_of(3), attributes=turned)
    assert contents(one) == contents(other)


def test_a_store_of_ordinary_size_is_few_files(path):
    assert len(contents(write(path, rows_of(300)))) == 1 + 2 * 9


def test_every_value_changes_the_digest(tmp_path):
    rows = rows_of(5)
    stores = [write(tmp_path / "whole", rows)]
    for name, array in rows.arrays.items():
        changed = array.copy()
        changed.flat[-1] += 1
        stores.append(write(tmp_path / name, Rows(rows.video_ids, {**rows.arrays, name: changed})))
    stores.append(write(tmp_path / "names", replace(rows, video_ids=tuple(f"{name}x" for name in rows.video_ids))))
    stores.append(write(tmp_path / "attributes", rows, attributes={**ATTRIBUTES, "batch_size": 5}))
    assert len({SoftTargetStore(store).digest for store in stores}) == len(stores) == 10


# what is refused when it is written


def test_arrays_of_different_lengths_are_no_rows():
    rows = rows_of(3)
    with pytest.raises(ValueError, match="arrays of other lengths"):
        replace(rows, video_ids=rows.video_ids[:2])
    with pytest.raises(ValueError, match=r"'views': \(2,"):
        replace(rows, arrays={**rows.arrays, "views": rows.arrays["views"][:2]})


def wrong_layouts():
    rows = rows_of(3)
    arrays = rows.arrays
    yield {name: array for name, array in arrays.items() if name != "views"}
    yield {**arrays, "views": arrays["views"].astype("<i8")}
    yield {**arrays, "views": arrays["views"][:, :, :6]}
    yield {**arrays, "logits": arrays["logits"][:, :1]}
    yield {**arrays, "more": arrays["logits"]}
    yield dict(reversed(arrays.items()))  # the order is that of the digests


@pytest.mark.parametrize("arrays", [*wrong_layouts()])
def test_rows_of_another_layout_are_refused(path, arrays):
    options = {"num_rows": 3, "num_views": 2, "num_teachers": 1, "attributes": ATTRIBUTES}
    with pytest.raises(ValueError, match="another layout"):
        write_store(path, [Rows(rows_of(3).video_ids, arrays)], codec=codec_of(CODECS[0], 3), **options)


@pytest.mark.parametrize("order", [[0, 2, 1], [0, 0, 1], [2, 1, 0]], ids=str)
@pytest.mark.parametrize("sizes", [[3], [1, 2], [2, 1]], ids=str)
def test_rows_that_do_not_ascend_are_refused(small_shards, path, order, sizes):
    with pytest.raises(ValueError, match="not in ascending order"):
        write(path, rows_of(3).take(order), sizes=sizes)


def test_rows_that_do_not_ascend_from_shard_to_shard_are_refused(small_shards, path):
    with pytest.raises(ValueError, match="not in ascending order"):
        write(path, rows_of(8).take([4, 5, 6, 7, 0, 1, 2, 3]))


@pytest.mark.parametrize("num_rows", [2, 4])
def test_too_few_and_too_many_rows_are_refused_and_leave_no_store(path, num_rows):
    with pytest.raises(ValueError, match="3 rows were given for a store of"):
        write(path, rows_of(3), num_rows=num_rows)
    with pytest.raises(StaleArtifactError):
        SoftTargetStore(path)


def test_a_writer_that_was_stopped_leaves_no_store(small_shards, path):
    def parts():
        yield rows_of(6)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        write_store(
            path, parts(), codec=codec_of(CODECS[0], 3), num_rows=11, num_views=2, num_teachers=1, attributes=ATTRIBUTES
        )
    with pytest.raises(StaleArtifactError):
        SoftTargetStore(path)


def test_a_store_is_never_written_over_another(path):
    write(path, rows_of(3))
    before = contents(path)
    with pytest.raises(Exception, match="already contains data"):
        write(path, rows_of(3, seed=1))
    assert contents(path) == before


# what is refused when it is read


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_a_row_with_unwritten_logits_is_named(path, codec):
    rows = rows_of(5, codec)
    name = next(iter(codec_of(codec, 3).arrays()))
    rows.arrays[name][2, 1] = np.nan
    store = SoftTargetStore(write(path, rows, codec))
    with pytest.raises(StaleArtifactError, match="1 of the 5 rows") as caught:
        store.read_shard(0)
    assert caught.value.findings == (f"{rows.video_ids[2]} has logits that are not finite: never written",)


def test_a_row_that_fails_its_digest_is_named_and_the_others_are_there(small_shards, path, tmp_path):
    rows = rows_of(8)
    store = SoftTargetStore(write(path, rows))
    views = rows.arrays["views"].copy()
    views[5] += 1
    other = write(tmp_path / "other", Rows(rows.video_ids, {**rows.arrays, "views": views}))
    (path / "views/c/1/0/0").write_bytes((other / "views/c/1/0/0").read_bytes())
    examined = store.examine_shard(1)
    assert examined.findings == (f"{rows.video_ids[5]} fails its digest",)
    assert examined.bad_N.tolist() == [False, True, False, False]
    assert examined.start == 4
    with pytest.raises(StaleArtifactError, match="1 of the 4 rows from 4 on") as caught:
        store.read_shard(1)
    assert caught.value.findings == examined.findings
    assert "dvc repro precompute_soft_targets" in caught.value.remedy


def test_a_damaged_chunk_costs_its_rows(small_shards, path):
    rows = rows_of(8)
    store = SoftTargetStore(write(path, rows))
    file = path / "logits/c/1/0/0/0"
    content = bytearray(file.read_bytes())
    content[3] ^= 1  # in the first of two chunks
    file.write_bytes(content)
    examined = store.examine_shard(1)
    assert examined.bad_N.tolist() == [True, True, False, False]
    assert examined.findings[0].startswith("logits: rows 4 to 5 cannot be read")
    assert np.array_equal(examined.rows.arrays["logits"][2:], rows.arrays["logits"][6:8])


def test_the_shard_of_another_store_is_refused_though_its_rows_are_right(small_shards, path, tmp_path):
    store = SoftTargetStore(write(path, rows_of(8)))
    other = write(tmp_path / "other", rows_of(8, seed=1))
    for file in (file for pattern in ("*/c/1", "*/c/1/**/*") for file in other.glob(pattern)):
        if file.is_file():
            (path / file.relative_to(other)).write_bytes(file.read_bytes())
    with pytest.raises(StaleArtifactError, match="4 of the 4 rows from 4 on") as caught:
        store.read_shard(1)
    assert caught.value.findings == ("rows 4 to 7 are not the rows that the attributes name",)


@pytest.mark.parametrize("order", [[0, 2, 1, 3, 4, 5], [4, 5, 0, 1, 2, 3]], ids=str)
def test_rows_in_another_order_are_refused_though_their_digests_are_right(small_shards, path, monkeypatch, order):
    monkeypatch.setattr(soft_targets, "check_rows", lambda *_: None)  # a writer without care
    write(path, rows_of(6).take(order))
    with pytest.raises(StaleArtifactError, match=r"rows ascend by their ids|first ids of the shards do not ascend"):
        SoftTargetStore(path).read_shard(0)


@pytest.mark.parametrize("what", ["nothing", "file", "folder", "array", "text"])
def test_what_is_no_store_is_refused_with_the_command_that_makes_one(path, what):
    if what == "file":
        path.write_text("x")
    elif what == "folder":
        path.mkdir()
    elif what == "array":
        write(path, rows_of(3))
        path = path / "views"
    elif what == "text":
        path.mkdir()
        (path / "zarr.json").write_text("no JSON")
    with pytest.raises(StaleArtifactError) as caught:
        SoftTargetStore(path)
    assert str(path) in str(caught.value)
    assert "dvc repro precompute_soft_targets" in caught.value.remedy


@pytest.mark.parametrize("change", [{"format_version": 1}, {"format_version": 4}, {"format": "zip"}], ids=str)
def test_another_format_is_refused_by_name(path, change):
    write(path, rows_of(3))
    root = path / "zarr.json"
    values = json.loads(root.read_text())
    values["attributes"] |= change
    root.write_text(json.dumps(values))
    with pytest.raises(
        StaleArtifactError, match=r"expected dlkdd-soft-targets of format version 2 or 3, found"
    ) as caught:
        SoftTargetStore(path)
    assert str(next(iter(change.values()))) in str(caught.value)


def test_attributes_without_their_digest_are_refused(path):
    write(path, rows_of(3))
    root = path / "zarr.json"
    root.write_text(root.read_text().replace('"batch_size": 4', '"batch_size": 5'))
    with pytest.raises(StaleArtifactError, match="do not have their digest"):
        SoftTargetStore(path)


@pytest.mark.parametrize("name", ["logits", "views", "video_id", "row_digest"])
def test_an_array_that_is_described_in_another_way_is_refused(path, name):
    write(path, rows_of(6))
    description = path / name / "zarr.json"
    changed = json.loads(description.read_text())
    changed["shape"][0] = 7
    description.write_text(json.dumps(changed))
    with pytest.raises(StaleArtifactError) as caught:
        SoftTargetStore(path)
    assert len(caught.value.findings) == 1
    assert caught.value.findings[0].startswith(f"{name}/zarr.json: ")


def test_reading_writes_nothing(path):
    write(path, rows_of(6))
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    read_all(path)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
