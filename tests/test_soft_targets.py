"""The store gives back the teacher's logits for exactly the view that was asked, or it is refused; nothing between."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import soft_targets
from pipeline.digest import digest_bytes
from pipeline.errors import StaleArtifactError
from pipeline.soft_targets import Rows, SoftTargetStore, write_store
from pipeline.views import View

ATTRIBUTES = {
    "class_names": ["drink", "jump", "wave"],
    "clip": {"num_frames": 8, "frame_stride": 4, "size": 64},
    "manifest": "0123456789abcdef",
    "view_policy": {"seed": 3, "min_scale": 0.6},
    "teacher_top1_on_views": 0.875,
}


def rows_of(num_rows, num_views=2, num_classes=3, seed=0, video_ids=None):
    rng = np.random.default_rng(seed)
    views = rng.integers(1, 50, (num_rows, num_views, 7), dtype=np.int32)
    views[..., 6] %= 2
    return Rows(
        tuple(video_ids or (f"Drink/Drink_{number}_é" for number in range(num_rows))),
        rng.normal(0, 5, (num_rows, num_views, num_classes)).astype(np.float32),
        views,
        rng.integers(2**64, size=(num_rows, num_views), dtype=np.uint64),
    )


def write(path, rows, *, parts=None, attributes=ATTRIBUTES):
    num_rows, num_views, num_classes = rows.logits_NVK.shape
    sizes = parts or [num_rows]
    ends = np.cumsum(sizes)
    pieces = [
        Rows(*(getattr(rows, name)[start:end] for name in ("video_ids", "logits_NVK", "views_NV7", "pixel_digest_NV")))
        for start, end in zip(ends - sizes, ends, strict=True)
    ]
    write_store(path, pieces, num_rows=num_rows, num_views=num_views, num_classes=num_classes, attributes=attributes)
    return path


def digests_of_files(folder):
    return {str(p.relative_to(folder)): digest_bytes(p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(soft_targets, "CHUNK_ROWS", 2)
    monkeypatch.setattr(soft_targets, "SHARD_ROWS", 4)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "soft_targets.zarr"


# round trip


def check_lookups(store, rows):
    assert store.video_ids == rows.video_ids
    for row, video_id in enumerate(rows.video_ids):
        for number in range(rows.logits_NVK.shape[1]):
            view, logits_K = store.lookup(video_id, number)
            assert view == View(*rows.views_NV7[row, number].tolist())
            assert logits_K.dtype == np.float16
            assert np.array_equal(logits_K, rows.logits_NVK[row, number].astype(np.float16))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=9, unique=True),
    st.integers(1, 4),
    st.integers(1, 5),
)
def test_every_view_of_every_video_comes_back(small_shards, path, video_ids, num_views, num_classes):
    shutil.rmtree(path, ignore_errors=True)
    rows = rows_of(len(video_ids), num_views, num_classes, video_ids=video_ids)
    store = SoftTargetStore(write(path, rows))
    assert store.num_views == num_views
    check_lookups(store, rows)
    assert np.array_equal(store.rows.pixel_digest_NV, rows.pixel_digest_NV)


def test_views_beyond_the_bank_start_over(path):
    store = SoftTargetStore(write(path, rows_of(3, num_views=4)))
    for number in range(4):
        view, logits_K = store.lookup("Drink/Drink_1_é", number)
        again, logits_again_K = store.lookup("Drink/Drink_1_é", number + 8)
        assert view == again
        assert np.array_equal(logits_K, logits_again_K)


def test_attributes_come_back_with_the_format(path):
    store = SoftTargetStore(write(path, rows_of(2)))
    assert store.attributes.items() >= ATTRIBUTES.items()
    assert (store.attributes["format"], store.attributes["format_version"]) == ("dlkdd-soft-targets", 1)


# same rows, same bytes


@pytest.mark.parametrize("parts", [[11], [1] * 11, [5, 6], [4, 4, 3], [9, 2], [3, 0, 8]], ids=str)
def test_the_same_rows_are_the_same_bytes_however_they_are_given(small_shards, tmp_path, parts):
    rows = rows_of(11)
    expected = digests_of_files(write(tmp_path / "whole", rows))
    assert digests_of_files(write(tmp_path / "parts", rows, parts=parts)) == expected
    shards = [name for name in expected if name.startswith("logits/c/")]
    assert len(shards) == 3


def turn(value):
    return dict(reversed(value.items())) if isinstance(value, dict) else value


def test_the_order_of_attributes_does_not_matter(tmp_path):
    turned = {key: turn(value) for key, value in reversed(ATTRIBUTES.items())}
    one, other = write(tmp_path / "one", rows_of(3)), write(tmp_path / "other", rows_of(3), attributes=turned)
    assert digests_of_files(one) == digests_of_files(other)


def test_a_store_of_ordinary_size_is_few_files(path):
    assert len(digests_of_files(write(path, rows_of(300)))) <= 11


def test_the_digest_names_the_content_and_not_its_layout(tmp_path, monkeypatch):
    rows = rows_of(9)
    expected = SoftTargetStore(write(tmp_path / "whole", rows)).digest
    monkeypatch.setattr(soft_targets, "CHUNK_ROWS", 2)
    monkeypatch.setattr(soft_targets, "SHARD_ROWS", 4)
    assert SoftTargetStore(write(tmp_path / "sharded", rows)).digest == expected
    logits_NVK = rows.logits_NVK.copy()
    logits_NVK[8, 1, 2] += 1
    views_NV7 = rows.views_NV7.copy()
    views_NV7[0, 0, 0] += 1
    others = [
        write(tmp_path / "logits", replace(rows, logits_NVK=logits_NVK)),
        write(tmp_path / "views", replace(rows, views_NV7=views_NV7)),
        write(tmp_path / "pixels", replace(rows, pixel_digest_NV=rows.pixel_digest_NV + np.uint64(1))),
        write(tmp_path / "names", replace(rows, video_ids=tuple(f"{name}x" for name in rows.video_ids))),
        write(tmp_path / "attributes", rows, attributes={**ATTRIBUTES, "manifest": "f"}),
    ]
    digests = {expected, *(SoftTargetStore(other).digest for other in others)}
    assert len(digests) == 6


# what is refused when it is written


def test_rows_of_different_shapes_are_refused():
    rows = rows_of(3)
    for wrong in (
        {"video_ids": rows.video_ids[:2]},
        {"logits_NVK": rows.logits_NVK[:2]},
        {"logits_NVK": rows.logits_NVK[:, :1]},
        {"views_NV7": rows.views_NV7[..., :6]},
        {"pixel_digest_NV": rows.pixel_digest_NV[:, :1]},
    ):
        with pytest.raises(ValueError, match="different shapes"):
            replace(rows, **wrong)


@pytest.mark.parametrize("num_rows", [2, 4])
def test_too_few_and_too_many_rows_are_refused_and_leave_no_store(path, num_rows):
    with pytest.raises(ValueError, match=r"3 rows|out of bounds|shape"):
        write_store(path, [rows_of(3)], num_rows=num_rows, num_views=2, num_classes=3, attributes=ATTRIBUTES)
    with pytest.raises(StaleArtifactError):
        SoftTargetStore(path)


def test_a_writer_that_was_stopped_leaves_no_store(small_shards, path):
    def parts():
        yield rows_of(6)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        write_store(path, parts(), num_rows=11, num_views=2, num_classes=3, attributes=ATTRIBUTES)
    with pytest.raises(StaleArtifactError):
        SoftTargetStore(path)


def test_a_store_is_never_written_over_another(path):
    write(path, rows_of(3))
    before = digests_of_files(path)
    with pytest.raises(Exception, match="already contains data"):
        write(path, rows_of(3, seed=1))
    assert digests_of_files(path) == before


# damage


def values(store):
    rows = store.rows
    return [
        store.attributes,
        rows.video_ids,
        rows.logits_NVK.tobytes(),
        rows.views_NV7.tobytes(),
        rows.pixel_digest_NV.tobytes(),
        store.digest,
    ]


def unnoticed(path, flips):
    """Flips of single bits, as (file, position, mask), after which the store is read and has other values."""
    expected = values(SoftTargetStore(path))
    wrong = []
    for file, position, mask in flips:
        content = file.read_bytes()
        damaged = bytearray(content)
        damaged[position] ^= mask
        file.write_bytes(damaged)
        try:
            if values(SoftTargetStore(path)) != expected:
                wrong.append((str(file.relative_to(path)), position, content[max(position - 20, 0) : position + 20]))
        except StaleArtifactError:
            pass
        finally:
            file.write_bytes(content)
    return wrong


def positions(path):
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [(file, position) for file in files for position in range(file.stat().st_size)]


def test_a_flipped_bit_is_noticed_or_changes_nothing(small_shards, path):
    write(path, rows_of(6))
    rng = np.random.default_rng(0)
    everywhere = positions(path)
    flips = [(*everywhere[i], 1 << int(rng.integers(8))) for i in rng.choice(len(everywhere), 200, replace=False)]
    assert unnoticed(path, flips) == []


@pytest.mark.slow
def test_a_flipped_byte_is_noticed_or_changes_nothing_everywhere(small_shards, path):
    write(path, rows_of(6))
    masks = itertools.cycle([0x01, 0xFF])  # one bit here, all bits there
    assert unnoticed(path, [(*place, next(masks)) for place in positions(path)]) == []


@pytest.mark.parametrize("damage", ["missing", "empty", "half"])
def test_no_file_can_be_missing_or_torn(small_shards, path, damage):
    write(path, rows_of(6))
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        content = file.read_bytes()
        if damage == "missing":
            file.unlink()
        else:
            file.write_bytes(content[: len(content) // 2 if damage == "half" else 0])
        with pytest.raises(StaleArtifactError):
            SoftTargetStore(path)
        file.write_bytes(content)
    SoftTargetStore(path)


@pytest.mark.parametrize("name", ["logits", "views", "video_id", "pixel_digest", "row_digest"])
def test_arrays_of_different_lengths_are_refused(small_shards, path, name):
    write(path, rows_of(6))
    description = path / name / "zarr.json"
    changed = json.loads(description.read_text())
    changed["shape"][0] = 7
    description.write_text(json.dumps(changed))
    with pytest.raises(StaleArtifactError):
        SoftTargetStore(path)


def test_shards_cannot_change_places(small_shards, path):
    write(path, rows_of(8))
    first, second = path / "logits/c/0/0/0", path / "logits/c/1/0/0"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(StaleArtifactError, match=r"8 of 8 rows .* do not match their digest"):
        SoftTargetStore(path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_refused_by_name(path, value):
    rows = rows_of(20)
    rows.logits_NVK[3, 1, 0] = value
    rows.logits_NVK[7:] = value
    with pytest.raises(StaleArtifactError, match="14 of 20 rows are unwritten") as caught:
        SoftTargetStore(write(path, rows))
    assert caught.value.findings[:2] == ("Drink/Drink_3_é", "Drink/Drink_7_é")
    assert caught.value.findings[-1] == "… and 4 more"


@pytest.mark.parametrize("what", ["nothing", "file", "empty folder"])
def test_what_is_no_store_is_refused_with_the_command_that_makes_one(path, what):
    if what == "file":
        path.write_text("store")
    elif what == "empty folder":
        path.mkdir()
    with pytest.raises(StaleArtifactError, match="dvc repro precompute_soft_targets"):
        SoftTargetStore(path)


@pytest.mark.parametrize("change", [{"format_version": 2}, {"format": "other-store"}], ids=str)
def test_another_format_is_refused_by_name(path, change):
    write(path, rows_of(2), attributes={**ATTRIBUTES, **change})
    expected = {"format": "dlkdd-soft-targets", "format_version": 1, **change}
    found = f"found {expected['format']} {expected['format_version']}"
    with pytest.raises(StaleArtifactError, match=found) as caught:
        SoftTargetStore(path)
    assert "dlkdd-soft-targets of format version 1" in str(caught.value)


# fit


def test_a_store_that_fits_is_accepted(path):
    store = SoftTargetStore(write(path, rows_of(2)))
    store.require(ATTRIBUTES, remedy="nothing")
    store.require_videos(list(store.video_ids))


def test_every_difference_is_named_with_both_values(path):
    store = SoftTargetStore(write(path, rows_of(2)))
    wanted = {
        **ATTRIBUTES,
        "class_names": ["drink", "jump"],
        "clip": {**ATTRIBUTES["clip"], "size": 112},
        "enhancer": "gamma",
    }
    with pytest.raises(StaleArtifactError, match="made for another run") as caught:
        store.require(wanted, remedy="make it again")
    assert caught.value.findings == (
        "class_names: the store has ['drink', 'jump', 'wave'], this run ['drink', 'jump']",
        "clip: the store has {'frame_stride': 4, 'num_frames': 8, 'size': 64}, "
        "this run {'num_frames': 8, 'frame_stride': 4, 'size': 112}",
        "enhancer: the store has None, this run 'gamma'",
    )
    assert caught.value.remedy == "make it again"


def test_videos_without_a_row_are_named_and_counted(path):
    store = SoftTargetStore(write(path, rows_of(2)))
    with pytest.raises(StaleArtifactError, match="no row for 12 of 13 videos") as caught:
        store.require_videos([store.video_ids[0], *(f"new_{number}" for number in range(12))])
    assert caught.value.findings == (*(f"new_{number}" for number in range(10)), "… and 2 more")
