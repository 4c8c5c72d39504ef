"""Merged stores hold what their parts held; what does not belong together is refused, with all that differs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import one_thread, write_frames  # noqa: F401 - a fixture
from target_stores import contents, make_store, rows_of_teacher, shards_of, write

from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.data.manifest import write_manifest
from pipeline.distill.store import store as soft_targets
from pipeline.distill.store.rows import Rows, concatenate
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.student.cached_targets import load_targets
from pipeline.tools.targets.merge import merge_teachers, merge_videos, same_videos
from pipeline.tools.targets.verify import verify


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with shards_of(2, chunk_rows=2):
        yield


@pytest.fixture(scope="module", params=["float16", "topk"])
def made(request, tmp_path_factory):
    """A store of two teachers."""
    return make_store(tmp_path_factory.mktemp("made"), codec=request.param, num_teachers=2)


def store_of(made, path, rows, **changes):
    codec = SoftTargetStore(made.path).codec
    write(path, rows, codec, {**made.attributes, **changes})
    return SoftTargetStore(path)


def of_teacher(made, path, axis, **changes):
    """The store of one of its teachers."""
    teachers = [made.attributes["teachers"][axis]]
    return store_of(made, path, rows_of_teacher(made.rows, axis), **{"teachers": teachers, **changes})


# teachers


def test_an_ensemble_is_the_store_that_is_made_at_once(made, tmp_path):
    parts = [of_teacher(made, tmp_path / str(axis), axis) for axis in range(2)]
    assert same_videos(parts)
    digest = merge_teachers(parts, tmp_path / "merged")
    merged, whole = SoftTargetStore(tmp_path / "merged"), SoftTargetStore(made.path)
    assert merged.digest == digest
    differing = {name for name, value in merged.attributes.items() if whole.attributes.get(name) != value}
    assert differing == {"merged_from"}
    assert merged.attributes["merged_from"] == [part.digest for part in parts]
    assert verify(tmp_path / "merged", "checksums").whole
    loaded = load_targets(merged, made.rows.video_ids, memory_bytes=2**20, folder=tmp_path, teachers="mean", seed=0)
    _, logits_K = loaded.lookup(made.rows.video_ids[4], 1)
    assert np.array_equal(logits_K, made.rows.logits(whole.codec)[4, 1].mean(axis=0))


def test_the_same_stores_merge_into_the_same_bytes(made, tmp_path):
    parts = [of_teacher(made, tmp_path / str(axis), axis) for axis in range(2)]
    for name in ("a", "b"):
        merge_teachers(parts, tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_means_are_weighted_and_maxima_kept(made, tmp_path):
    errors = [
        {"top1_agreement": share, "mean_kl": {"1": mean}, "max_kl": {"1": most}}
        for share, mean, most in [(1.0, 0.001, 0.5), (0.5, 0.003, 0.2)]
    ]
    parts = [of_teacher(made, tmp_path / str(axis), axis, codec_error=errors[axis]) for axis in range(2)]
    merge_teachers(parts, tmp_path / "merged")
    expected = {"top1_agreement": 0.75, "mean_kl": {"1": 0.002}, "max_kl": {"1": 0.5}}
    assert SoftTargetStore(tmp_path / "merged").attributes["codec_error"] == expected


def test_stores_that_differ_are_refused_with_all_that_differs(made, tmp_path):
    a = of_teacher(made, tmp_path / "a", 0)
    clip = {**made.attributes["clip"], "size": 99}
    b = of_teacher(made, tmp_path / "b", 0, clip=clip, batch_size=77)
    with pytest.raises(StaleArtifactError, match="cannot be merged") as caught:
        merge_teachers([a, b], tmp_path / "merged")
    twice = f"teacher {made.teachers[0].digest} is in more than one store"
    assert [finding.partition(":")[0] for finding in caught.value.findings] == ["clip", "batch_size", twice]
    assert "99" in caught.value.findings[0]
    assert a.location in caught.value.findings[0]
    assert not (tmp_path / "merged").exists()


def test_a_teacher_is_in_an_ensemble_once(made, tmp_path):
    a = of_teacher(made, tmp_path / "a", 0)
    with pytest.raises(StaleArtifactError) as caught:
        merge_teachers([a, a], tmp_path / "merged")
    assert made.teachers[0].digest in caught.value.findings[0]


def test_a_model_is_in_an_ensemble_once_as_a_teacher_or_as_one_of_a_teachers_folds(made, tmp_path):
    teachers = [{**made.attributes["teachers"][0], "folds": ["b" * 32]}, {**made.attributes["teachers"][1]}]
    a = of_teacher(made, tmp_path / "a", 0, teachers=teachers[:1])
    for number, change in enumerate(({"digest": "b" * 32}, {"folds": ["b" * 32]})):
        b = of_teacher(made, tmp_path / f"b{number}", 1, teachers=[{**teachers[1], **change}])
        with pytest.raises(StaleArtifactError) as caught:
            merge_teachers([a, b], tmp_path / "merged")
        assert caught.value.findings == (f"teacher {'b' * 32} is in more than one store",)


def test_what_packing_cost_is_told_at_the_temperatures_that_all_measured(made, tmp_path):
    errors = [{"1": 0.2, "4": 0.1}, {"1": 0.4, "2": 0.3}]
    parts = [
        of_teacher(
            made, tmp_path / str(axis), axis, codec_error={"top1_agreement": 1.0, "mean_kl": error, "max_kl": error}
        )
        for axis, error in enumerate(errors)
    ]
    merge_teachers(parts, tmp_path / "merged")
    found = SoftTargetStore(tmp_path / "merged").attributes["codec_error"]
    assert (found["mean_kl"], found["max_kl"]) == ({"1": 0.3}, {"1": 0.4})


def test_teachers_that_saw_other_pixels_are_refused_with_their_videos(made, tmp_path):
    a, b = (of_teacher(made, tmp_path / str(axis), axis) for axis in range(2))
    changed = made.rows.arrays["pixel_digest"].copy()
    changed[5] += 1
    rows = concatenate([b.read_shard(shard) for shard in range(b.num_shards)])
    other = Rows(rows.video_ids, {**rows.arrays, "pixel_digest": changed[:, :, 1:]})
    c = store_of(made, tmp_path / "c", other, teachers=[made.attributes["teachers"][1]])
    with pytest.raises(StaleArtifactError) as caught:
        merge_teachers([a, c], tmp_path / "merged")
    assert caught.value.findings == (f"{made.rows.video_ids[5]}: pixel_digest differs",)


@pytest.mark.parametrize("name", ["views", "dark_shape"])
def test_teachers_of_other_views_or_dark_videos_are_refused_with_their_videos(made, tmp_path, name):
    a, b = (of_teacher(made, tmp_path / str(axis), axis) for axis in range(2))
    rows = concatenate([b.read_shard(shard) for shard in range(b.num_shards)])
    changed = rows.arrays[name].copy()
    changed[3] += 1
    other = Rows(rows.video_ids, {**rows.arrays, name: changed})
    c = store_of(made, tmp_path / "c", other, teachers=[made.attributes["teachers"][1]])
    with pytest.raises(StaleArtifactError) as caught:
        merge_teachers([a, c], tmp_path / "merged")
    assert caught.value.findings == (f"{made.rows.video_ids[3]}: {name} differs",)


def test_teachers_of_two_lights_keep_what_each_saw(made, tmp_path):
    a, b = (of_teacher(made, tmp_path / str(axis), axis) for axis in range(2))
    rows = concatenate([b.read_shard(shard) for shard in range(b.num_shards)])
    seen = {name: rows.arrays[name] + 1 for name in ("pixel_digest", "frames_digest")}
    light = {"light": "clahe", "enhancer": "c" * 32, "frames": "d" * 32}
    teachers = [{**made.attributes["teachers"][1], **light}]
    c = store_of(made, tmp_path / "c", Rows(rows.video_ids, {**rows.arrays, **seen}), teachers=teachers)
    merge_teachers([a, c], tmp_path / "merged")
    merged = SoftTargetStore(tmp_path / "merged")
    assert merged.attributes["teachers"] == [made.attributes["teachers"][0], *teachers]
    found = concatenate([merged.read_shard(shard) for shard in range(merged.num_shards)])
    for axis, part in enumerate((made.rows, Rows(rows.video_ids, {**rows.arrays, **seen}))):
        expected = rows_of_teacher(part, 0)
        for name in ("pixel_digest", "frames_digest", "frame_shape"):
            assert np.array_equal(rows_of_teacher(found, axis).arrays[name], expected.arrays[name]), name
    assert verify(tmp_path / "merged", "checksums").whole


def test_teachers_of_other_dark_frames_are_refused_and_a_store_that_names_none_is_not(made, tmp_path):
    def of_dark(axis, name, dark):
        digests = {**made.attributes["digests"], "dark": dark}
        return of_teacher(made, tmp_path / name, axis, digests=digests)

    a = of_dark(0, "a", None)
    b, c = of_dark(1, "b", "b" * 32), of_dark(0, "c", "c" * 32)
    merge_teachers([a, b], tmp_path / "merged")
    assert SoftTargetStore(tmp_path / "merged").attributes["digests"]["dark"] == "b" * 32
    with pytest.raises(StaleArtifactError, match=r"digests\.dark"):
        merge_teachers([b, c], tmp_path / "other")


def test_one_store_is_not_merged(made, tmp_path):
    with pytest.raises(ParamsError, match="at least two"):
        merge_teachers([SoftTargetStore(made.path)], tmp_path / "merged")


def test_a_store_whose_rows_do_not_ascend_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.setattr(soft_targets, "check_rows", lambda *_: None)  # as another writer might leave them
    a, b = (of_teacher(made, tmp_path / str(axis), axis) for axis in range(2))
    for number, places in enumerate([[1, 0, 2, 3, 4, 5, 6], [2, 3, 0, 1, 4, 5, 6]]):  # in a shard, between two
        rows = concatenate([b.read_shard(shard) for shard in range(b.num_shards)]).take(places)
        path, teachers = tmp_path / f"c{number}", [made.attributes["teachers"][1]]
        write(path, rows, b.codec, {**made.attributes, "teachers": teachers})
        with pytest.raises(StaleArtifactError, match="ascend"):
            merge_teachers([a, SoftTargetStore(path)], tmp_path / f"merged{number}")


# videos


def split(made, folder, *places):
    """Stores of some of the videos each, with manifests of their own."""
    parts = []
    for number, rows in enumerate(places):
        digests = {**made.attributes["digests"], "manifest": f"{number:032x}"}
        parts.append(store_of(made, folder / str(number), made.rows.take(rows), digests=digests))
    return parts


def test_stores_of_different_videos_make_the_store_of_all(made, tmp_path):
    parts = split(made, tmp_path, [1, 4, 5], [0, 6], [2, 3])
    assert not same_videos(parts)
    merge_videos(parts, tmp_path / "merged", manifest=made.manifest)
    merged, whole = SoftTargetStore(tmp_path / "merged"), SoftTargetStore(made.path)
    differing = {name for name, value in merged.attributes.items() if whole.attributes.get(name) != value}
    assert differing == {"merged_from"}
    for name, content in contents(made.path).items():
        if not name.endswith("zarr.json"):
            assert (tmp_path / "merged" / name).read_bytes() == content, name
    assert verify(tmp_path / "merged", "checksums").whole


def test_accuracy_is_that_of_all_videos(made, tmp_path):
    parts = split(made, tmp_path, [0, 1, 2, 3, 4, 5], [6])
    teachers = [[{**t, "top1_on_views": share} for t in made.attributes["teachers"]] for share in (0.7, 0.0)]
    parts = [
        store_of(made, tmp_path / f"t{i}", p_rows, teachers=teachers[i], digests=part.attributes["digests"])
        for i, (part, p_rows) in enumerate(zip(parts, (made.rows.take(range(6)), made.rows.take([6])), strict=True))
    ]
    merge_videos(parts, tmp_path / "merged", manifest=made.manifest)
    found = SoftTargetStore(tmp_path / "merged").attributes["teachers"]
    assert [teacher["top1_on_views"] for teacher in found] == [0.6, 0.6]


def test_missing_and_doubled_videos_are_named(made, tmp_path):
    ids = made.rows.video_ids
    missing = "is a train video of the manifest and in no store"
    with pytest.raises(StaleArtifactError) as caught:
        merge_videos(split(made, tmp_path, [0, 1, 2], [4, 5]), tmp_path / "merged", manifest=made.manifest)
    assert caught.value.findings == (f"{ids[3]} {missing}", f"{ids[6]} {missing}")
    for number, places in enumerate([([0, 1, 2, 3], [3, 4, 5]), ([0, 1, 2, 3, 6], [3, 4, 5, 6])]):
        parts = split(made, tmp_path / f"parts{number}", *places)
        with pytest.raises(StaleArtifactError) as caught:
            merge_videos(parts, tmp_path / f"merged{number}", manifest=made.manifest)
        assert f"{ids[3]} is in more than one store" in caught.value.findings
        assert caught.value.findings[-1] == (f"{ids[6]} is in more than one store" if number else f"{ids[6]} {missing}")
        assert len(caught.value.findings) == 2


def test_another_manifest_names_the_videos_that_it_has(made, tmp_path):
    rows = [
        replace(row, video_id=row.video_id + "x", path=f"{row.video_id}x.mp4")
        if row.video_id == made.rows.video_ids[2]
        else row
        for row in made.manifest.rows
    ]
    manifest = write_manifest(tmp_path / "other.csv", rows)
    with pytest.raises(StaleArtifactError) as caught:
        merge_videos(split(made, tmp_path, [0, 1, 2, 3], [4, 5, 6]), tmp_path / "merged", manifest=manifest)
    name = made.rows.video_ids[2]
    assert caught.value.findings == (
        f"{name} is no train video of the manifest",
        f"{name}x is a train video of the manifest and in no store",
    )


def test_different_frame_stores_take_one_that_holds_all(made, tmp_path):
    parts = split(made, tmp_path, [0, 1, 2, 3], [4, 5, 6])
    teachers = [{**teacher, "frames": "f" * 32} for teacher in made.attributes["teachers"]]
    parts[1] = store_of(
        made, tmp_path / "other", made.rows.take([4, 5, 6]), teachers=teachers, digests=parts[1].attributes["digests"]
    )
    with pytest.raises(StaleArtifactError, match=r"teachers\.frames"):
        merge_videos(parts, tmp_path / "merged", manifest=made.manifest)
    for number, frames in enumerate(([made.frames], [made.frames] * 2)):
        merge_videos(parts, tmp_path / f"merged{number}", manifest=made.manifest, frames=frames)
        found = SoftTargetStore(tmp_path / f"merged{number}").attributes["teachers"]
        assert {teacher["frames"] for teacher in found} == {made.frames.digest}
    with pytest.raises(ParamsError, match="3 times for 2 teachers"):
        merge_videos(parts, tmp_path / "m", manifest=made.manifest, frames=[made.frames] * 3)
    videos = {name: made.frames.read(name, range(6)) for name in made.frames.video_ids}
    changed = made.rows.video_ids[6]
    videos[changed] = 255 - videos[changed]
    frames = [made.frames, write_frames(tmp_path / "changed", videos)]
    with pytest.raises(StaleArtifactError) as caught:
        merge_videos(parts, tmp_path / "m", manifest=made.manifest, frames=frames)
    path = tmp_path / "changed"
    assert caught.value.findings == (f"{changed}: {path} has not the frames that teacher 1 saw",)


def test_other_teachers_are_refused(made, tmp_path):
    parts = split(made, tmp_path, [0, 1, 2, 3], [4, 5, 6])
    teachers = [{**made.attributes["teachers"][0], "digest": "0" * 32}, made.attributes["teachers"][1]]
    other = store_of(
        made, tmp_path / "other", made.rows.take([4, 5, 6]), teachers=teachers, digests=parts[1].attributes["digests"]
    )
    with pytest.raises(StaleArtifactError) as caught:
        merge_videos([parts[0], other], tmp_path / "merged", manifest=made.manifest)
    (finding,) = caught.value.findings
    assert finding.startswith(f"teachers: {parts[0].location} has ")
