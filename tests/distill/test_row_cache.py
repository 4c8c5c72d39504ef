"""The cache gives back the rows that were put in, or does not know them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.digest import digest_bytes
from pipeline.distill.store.rows import Rows, concatenate
from pipeline.distill.teacher import row_cache
from pipeline.distill.teacher.row_cache import RowCache, write_part

SHAPE = (6, 18, 22)


def rows_of(video_ids, *, brightness=0, shape=SHAPE, num_classes=3):
    """Rows whose values depend on id, brightness and shape alone."""
    seeds = [int(digest_bytes(f"{name} {brightness} {shape}".encode())[:8], 16) for name in video_ids]
    digests = [bytes.fromhex(digest_bytes(f"{name} {brightness}".encode())) for name in video_ids]
    logits = [np.random.default_rng(seed).normal(size=(2, 1, num_classes)) for seed in seeds]
    arrays = {
        "views": np.array(seeds, dtype="<u4").astype("<i4")[:, None, None] * np.ones((1, 2, 7), dtype="<i4"),
        "dark_shape": np.array([shape] * len(video_ids), dtype="<i4").reshape(-1, 3),
        "pixel_digest": np.array(seeds, dtype="<u8")[:, None, None].repeat(2, axis=1),
        "frame_shape": np.array([shape] * len(video_ids), dtype="<i4").reshape(-1, 1, 3),
        "frames_digest": np.array([list(digest) for digest in digests], dtype="u1").reshape(-1, 1, 16),
        "logits": np.array(logits, dtype="<f4").reshape(-1, 2, 1, num_classes),
    }
    return Rows(tuple(video_ids), arrays)


def keys_of(video_ids, *, brightness=0, shape=SHAPE):
    return [(name, digest_bytes(f"{name} {brightness}".encode()), shape, "") for name in video_ids]


def assert_same(found, expected):
    assert found.video_ids == expected.video_ids
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array), name


NAMES = st.sampled_from("abcdefghij")
PARTS = st.lists(st.lists(NAMES, min_size=1, unique=True), min_size=1, max_size=8)


@given(parts=PARTS, data=st.data())
def test_rows_come_in_the_order_of_the_keys_whatever_the_parts(tmp_path_factory, parts, data):
    folder = tmp_path_factory.mktemp("parts")
    for part in parts:
        write_part(folder, rows_of(part))
    cache = RowCache(folder)
    known = sorted(set().union(*parts))
    assert [name for name in "abcdefghij" if keys_of([name])[0] in cache] == known
    wanted = data.draw(st.lists(st.sampled_from(known), min_size=1))
    assert_same(concatenate(list(cache.rows(keys_of(wanted)))), rows_of(wanted))


def test_the_same_rows_make_the_same_file(tmp_path):
    for folder in ("a", "b", "b"):
        write_part(tmp_path / folder, rows_of(["x", "y"]))
    (a,), (b,) = ((tmp_path / folder).iterdir() for folder in ("a", "b"))
    assert (a.name, a.read_bytes()) == (b.name, b.read_bytes())


def test_other_frames_of_a_video_are_another_row(tmp_path):
    dark, bright, turned = {}, {"brightness": 1}, {"shape": (6, 22, 18)}
    write_part(tmp_path, rows_of(["x"], **dark))
    cache = RowCache(tmp_path)
    others = [keys_of(["x"], **other)[0] for other in (bright, turned)]
    assert [key in cache for key in others] == [False, False]
    with pytest.raises(KeyError):
        list(cache.rows(others))
    for other in (bright, turned):
        write_part(tmp_path, rows_of(["x"], **other))
    cache.refresh()
    for which in (dark, bright, turned):
        (found,) = cache.rows(keys_of(["x"], **which))
        assert_same(found, rows_of(["x"], **which))


def test_a_part_with_any_damaged_byte_is_whole_or_not_there(tmp_path):
    expected = rows_of(["x", "y"])
    write_part(tmp_path, expected)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    num_harmless = 0
    for index in range(len(content)):
        path.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        cache = RowCache(tmp_path)
        if keys_of(["x"])[0] in cache:
            num_harmless += 1
            assert_same(*cache.rows(keys_of(["x", "y"])), expected)
    assert num_harmless < 10  # the padding of the header


def test_a_torn_part_is_not_there_until_it_is_written_again(tmp_path):
    write_part(tmp_path, rows_of(["x"]))
    write_part(tmp_path, rows_of(["y"]))
    sizes = {path: path.stat().st_size for path in tmp_path.iterdir()}
    for path, size in sizes.items():
        with path.open("rb+") as file:
            file.truncate(size - 1)
    cache = RowCache(tmp_path)
    assert keys_of(["x"])[0] not in cache
    write_part(tmp_path, rows_of(["x"]))
    cache.refresh()
    assert [key in cache for key in keys_of(["x", "y"])] == [True, False]
    cache.remove_others(keys_of(["x"]))
    assert len(list(tmp_path.iterdir())) == 1


def test_parts_of_which_no_row_is_asked_for_are_removed(tmp_path):
    for names in ("ab", "cd", "ef"):
        write_part(tmp_path, rows_of(list(names)))
    RowCache(tmp_path).remove_others(keys_of(["b", "e"]))
    cache = RowCache(tmp_path)
    assert [name for name in "abcdef" if keys_of([name])[0] in cache] == list("abef")


def test_a_few_parts_are_in_memory_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(row_cache, "_NUM_HELD_PARTS", 2)
    names = [f"{index:02}" for index in range(40)]
    for start in range(0, 40, 2):
        write_part(tmp_path, rows_of(names[start : start + 2], num_classes=50_000))
    (part_bytes,) = {path.stat().st_size for path in tmp_path.iterdir()}
    tracemalloc.start()
    try:
        cache = RowCache(tmp_path)
        assert sum(len(rows) for rows in cache.rows(keys_of(names))) == 40
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * part_bytes
