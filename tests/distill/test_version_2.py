"""A store of format version 2 is read as one of today's whose teachers all saw the same frames."""

from __future__ import annotations

import numpy as np
import pytest
from builders import one_thread  # noqa: F401 - a fixture
from target_stores import contents, make_store, rows_of_teacher, shards_of, write

from pipeline.core.errors import StaleArtifactError
from pipeline.distill.store import store as soft_targets
from pipeline.distill.store.rows import Rows, concatenate
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.store.version_2 import current_attributes, version_2_layout
from pipeline.tools.targets.card import publish_store
from pipeline.tools.targets.diff import diff
from pipeline.tools.targets.merge import merge_teachers
from pipeline.tools.targets.summary import summarise
from pipeline.tools.targets.verify import verify


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with shards_of(2, chunk_rows=2):
        yield


@pytest.fixture(scope="module", params=["float16", "topk"])
def made(request, tmp_path_factory):
    """A store of two teachers, of today's version."""
    return make_store(tmp_path_factory.mktemp("made"), codec=request.param, num_teachers=2)


def write_version_2(made, path, *, axes=(0, 1)):
    """The same store as the version before wrote it; of some of its teachers."""
    arrays = made.rows.arrays
    codec, teachers = SoftTargetStore(made.path).codec, [made.attributes["teachers"][axis] for axis in axes]
    rows = Rows(
        made.rows.video_ids,
        {
            "views": arrays["views"],
            "pixel_digest": np.ascontiguousarray(arrays["pixel_digest"][:, :, 0]),
            "frame_shape": arrays["dark_shape"],
            "frames_digest": np.ascontiguousarray(arrays["frames_digest"][:, 0]),
            **{name: np.take(arrays[name], axes, axis=2) for name in codec.arrays()},
        },
    )
    digests = {name: value for name, value in made.attributes["digests"].items() if name != "dark"}
    attributes = {
        **made.attributes,
        "digests": {**digests, "frames": teachers[0]["frames"], "enhancer": teachers[0]["enhancer"]},
        "teachers": [{name: teacher[name] for name in ("name", "digest", "top1_on_views")} for teacher in teachers],
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(soft_targets, "FORMAT_VERSION", 2)
        patched.setattr(soft_targets, "row_layout", lambda *sizes, mixed: version_2_layout(*sizes))
        write(path, rows, codec, attributes)
    return path


def all_rows(store):
    return concatenate([store.read_shard(shard) for shard in range(store.num_shards)])


def test_rows_and_attributes_are_those_of_today(made, tmp_path):
    old, new = SoftTargetStore(write_version_2(made, tmp_path / "old")), SoftTargetStore(made.path)
    assert (old.format_version, new.format_version) == (2, 3)
    found, expected = all_rows(old), all_rows(new)
    assert list(found.arrays) == list(expected.arrays)
    for name, array in expected.arrays.items():
        assert np.array_equal(found.arrays[name], array), name
        assert found.arrays[name].dtype == array.dtype
    others = {"teachers": None, "shards": None}  # shards are of other row digests
    assert {**old.attributes, **others} == {**new.attributes, **others}
    assert old.attributes["teachers"] == [{**teacher, "light": None} for teacher in new.attributes["teachers"]]


def test_every_tool_takes_it(made, tmp_path):
    path = write_version_2(made, tmp_path / "old")
    verdict = verify(path, "teacher", teachers=made.teachers, frames=[made.frames])
    assert verdict.whole, verdict.findings
    lacking = 2 * 4  # dark_shape and fold, 4 shards
    assert verdict.num_chunks_checked == verify(made.path, "checksums").num_chunks_checked - lacking
    found = diff(SoftTargetStore(path), SoftTargetStore(made.path))
    assert found["attributes"]["format_version"] == (2, 3)
    assert found["num_same_rows"] == len(made.rows)
    assert not found["same"]
    assert summarise(SoftTargetStore(path))["format_version"] == 2
    publish_store(path, tmp_path / "published", license_text=None)
    assert "format version 2" in (tmp_path / "published/README.md").read_text()
    published = contents(tmp_path / "published/soft_targets.zarr")
    assert published == contents(path)


def test_merged_with_another_teachers_it_is_a_store_of_today(made, tmp_path):
    old = SoftTargetStore(write_version_2(made, tmp_path / "old", axes=(0,)))
    write(tmp_path / "new", rows_of_teacher(made.rows, 1), old.codec, {
        **made.attributes, "teachers": made.attributes["teachers"][1:]
    })  # fmt: skip
    merge_teachers([old, SoftTargetStore(tmp_path / "new")], tmp_path / "merged")
    merged = SoftTargetStore(tmp_path / "merged")
    assert merged.format_version == 3
    assert np.array_equal(all_rows(merged).digests(), all_rows(SoftTargetStore(made.path)).digests())


def test_a_flipped_byte_is_found(made, tmp_path):
    path = write_version_2(made, tmp_path / "old")
    shard = next(file for file in sorted(path.glob("pixel_digest/c/**/*")) if file.is_file())
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StaleArtifactError):
        all_rows(SoftTargetStore(path))


@pytest.mark.parametrize("broken", [{}, {"digests": 3}, {"digests": {}, "teachers": [5]}, {"teachers": {}}], ids=str)
def test_attributes_that_nobody_writes_stay_as_they_are(broken):
    found = current_attributes({"format_version": 2, **broken})
    for name, value in broken.items():
        assert name == "digests" or found[name] == value
