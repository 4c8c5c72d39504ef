"""Every sample once an epoch, the same batches whatever starts, stops and how many workers load them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest
import torch
from builders import CLIP, VIEWS, manifest_row, noise_video, tiny_data, write_frames
from hypothesis import given
from hypothesis import strategies as st
from target_stores import SEED, make_store

from pipeline.core.errors import DataError, StaleArtifactError
from pipeline.data.dataset import (
    BANK,
    ClipDataset,
    DrawnViews,
    EpochPlan,
    Sample,
    UniformViews,
    in_order,
    load_batches,
    pixel_statistics,
    samples_of,
)
from pipeline.data.manifest import write_manifest
from pipeline.data.views import pixel_digest, read_view, uniform_view
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.student.cached_targets import load_targets

PLANS = st.builds(
    EpochPlan, num_samples=st.integers(1, 60), batch_size=st.integers(1, 20), seed=st.integers(0, 2**32 - 1)
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def drawn(data):
    return DrawnViews(data[1], CLIP, VIEWS, seed=0, purpose=BANK)


# samples


def test_samples_are_the_split_in_the_order_of_the_manifest(data):
    manifest, frames = data
    samples = samples_of(manifest, frames, "train")
    assert [sample.video_id for sample in samples] == [row.video_id for row in manifest.rows if row.split == "train"]
    assert [manifest.class_names[sample.label] for sample in samples] == [
        row.class_name for row in manifest.rows_of("train")
    ]


def test_labels_are_class_indices_whatever_numbers_the_data_set_uses(tmp_path):
    shape = (4, 16, 16)
    rows = [manifest_row(f"v{label}", label, "train", shape, class_name=str(label)) for label in (5, 7, 10)]
    frames = write_frames(tmp_path, {row.video_id: noise_video(row.video_id, shape) for row in rows})
    samples = samples_of(write_manifest(tmp_path / "manifest.csv", rows), frames, "train")
    assert {sample.video_id: sample.label for sample in samples} == {"v10": 2, "v5": 0, "v7": 1}


@pytest.mark.parametrize("change", ["other videos", "another video", "one video less"])
def test_frames_of_other_videos_than_the_manifests_are_refused(tmp_path, change):
    shape = (4, 16, 16)
    rows = [manifest_row(name, 0, "train", shape) for name in "abc"]
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    videos = {name: noise_video(name, shape) for name in "abc"}
    frames = write_frames(tmp_path, videos, origin={"videos": manifest.videos_digest})
    assert len(samples_of(manifest, frames, "train")) == 3
    moved = [replace(row, split="val" if row.video_id == "c" else "train") for row in rows]
    assert len(samples_of(write_manifest(tmp_path / "manifest.csv", moved), frames, "train")) == 2
    changed = [
        replace(row, digest="0" * 32) if row.video_id == "a" or change == "other videos" else row for row in rows
    ]
    other = write_manifest(tmp_path / "manifest.csv", rows[1:] if change == "one video less" else changed)
    with pytest.raises(StaleArtifactError, match="digest of all videos"):
        samples_of(other, frames, "train")


def test_frames_of_another_length_than_the_manifests_are_refused(tmp_path):
    rows = [manifest_row(name, 0, "train", (4, 16, 16)) for name in "ab"]
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    videos = {name: noise_video(name, (4 if name == "a" else 3, 16, 16)) for name in "ab"}
    frames = write_frames(tmp_path, videos, origin={"videos": manifest.videos_digest})
    with pytest.raises(StaleArtifactError, match="b: 3 frames are stored, the manifest has 4"):
        samples_of(manifest, frames, "train")


@pytest.mark.parametrize("num_missing", [2, 12])
def test_videos_that_the_store_lacks_are_named_and_counted(tmp_path, num_missing):
    shape = (2, 16, 16)
    rows = [manifest_row(f"v{number:02d}", 0, "train", shape) for number in range(num_missing + 1)]
    frames = write_frames(tmp_path, {"v00": noise_video("v00", shape)})
    with pytest.raises(
        StaleArtifactError, match=f"lacks {num_missing} of the {num_missing + 1} train videos"
    ) as caught:
        samples_of(write_manifest(tmp_path / "manifest.csv", rows), frames, "train")
    assert caught.value.findings == tuple(f"v{number:02d}" for number in range(1, num_missing + 1))


def test_a_split_without_videos_is_an_error(tmp_path):
    shape = (2, 16, 16)
    manifest = write_manifest(tmp_path / "manifest.csv", [manifest_row("v", 0, "train", shape)])
    with pytest.raises(DataError, match="no val video"):
        samples_of(manifest, write_frames(tmp_path, {"v": noise_video("v", shape)}), "val")


# the order


@given(PLANS, st.integers(0, 50))
def test_every_sample_is_in_an_epoch_once_and_shows_the_view_of_that_epoch(plan, epoch):
    batches = plan.batches(epoch)
    assert Counter(key for batch in batches for key in batch) == {(i, epoch): 1 for i in range(plan.num_samples)}
    assert len(batches) == plan.steps_per_epoch


@given(PLANS)
def test_batches_are_of_nearly_equal_size(plan):
    sizes = [len(batch) for batch in plan.batches(0)]
    assert max(sizes) <= plan.batch_size
    assert max(sizes) - min(sizes) <= 1


@given(PLANS, st.integers(1, 4), st.data())
def test_starting_at_a_step_gives_the_tail_of_the_whole(plan, num_epochs, data):
    step = data.draw(st.integers(0, plan.steps_per_epoch * num_epochs))
    whole = [batch for epoch in range(num_epochs) for batch in plan.batches(epoch)]
    assert list(plan.batches_from(0, num_epochs)) == whole
    assert list(plan.batches_from(step, num_epochs)) == whole[step:]


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed, epoch):
        return tuple(index for batch in EpochPlan(30, 7, seed).batches(epoch) for index, _ in batch)

    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9
    assert order(0, 1) == order(0, 1)


@given(st.integers(0, 9), st.integers(1, 4), st.integers(1, 8))
def test_in_order_goes_through_all_views_of_one_sample_after_the_other(num_samples, num_clips, batch_size):
    batches = list(in_order(num_samples, num_clips, batch_size))
    keys = [key for batch in batches for key in batch]
    assert keys == [(index, number) for index in range(num_samples) for number in range(num_clips)]
    assert all(len(batch) == batch_size for batch in batches[:-1])


# what is loaded


def loaded(data, source, batches, num_workers=0):
    manifest, frames = data
    dataset = ClipDataset(frames, samples_of(manifest, frames, "train"), source, CLIP)
    return list(load_batches(dataset, iter(batches), num_workers=num_workers))


def same(one, other):
    return (
        torch.equal(one.clip_BTHWC, other.clip_BTHWC)
        and torch.equal(one.labels_B, other.labels_B)
        and one.video_ids == other.video_ids
    )


def test_workers_change_nothing(data, drawn):
    batches = list(EpochPlan(8, 3, 0).batches_from(1, 2))
    expected = loaded(data, drawn, batches)
    assert [len(batch.video_ids) for batch in expected] == [len(batch) for batch in batches]
    for num_workers in (1, 2):
        found = loaded(data, drawn, batches, num_workers)
        assert all(map(same, found, expected))
        assert len(found) == len(expected)


def test_loading_draws_nothing_from_the_global_generators(data, drawn):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002 - it must stay untouched
    loaded(data, drawn, EpochPlan(8, 4, 0).batches(0))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_a_batch_has_the_clips_labels_and_names_of_its_keys(data, drawn):
    manifest, frames = data
    samples = samples_of(manifest, frames, "train")
    (batch,) = loaded(data, drawn, [[(5, 2), (0, 1)]])
    assert batch.video_ids == (samples[5].video_id, samples[0].video_id)
    assert batch.labels_B.tolist() == [samples[5].label, samples[0].label]
    assert batch.labels_B.dtype == torch.int64
    assert batch.teacher_BK is None
    for clip_THWC, (index, number) in zip(batch.clip_BTHWC, [(5, 2), (0, 1)], strict=True):
        view, _ = drawn.lookup(samples[index].video_id, number)
        assert torch.equal(clip_THWC, read_view(frames, samples[index].video_id, view, CLIP))


def test_epochs_beyond_the_bank_start_over(data, drawn):
    name = data[1].video_ids[0]
    views = [drawn.lookup(name, number)[0] for number in range(2 * VIEWS.num_views)]
    assert views[: VIEWS.num_views] == views[VIEWS.num_views :]
    assert len(set(views)) == VIEWS.num_views


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("made"), codec="float32")


def targets_of(made, folder):
    store = SoftTargetStore(made.path)
    return load_targets(store, made.rows.video_ids, memory_bytes=2**30, folder=folder, teachers="mean", seed=0)


def test_student_and_baseline_differ_by_the_soft_targets_alone(made, tmp_path):
    keys = list(EpochPlan(7, 3, 0).batches_from(0, VIEWS.num_views + 1))
    data, drawn = (made.manifest, made.frames), DrawnViews(made.frames, CLIP, VIEWS, seed=SEED, purpose=BANK)
    baseline, student = loaded(data, drawn, keys), loaded(data, targets_of(made, tmp_path), keys)
    assert all(map(same, student, baseline))
    logits_NVMK = made.rows.arrays["logits"]
    for batch, batch_keys in zip(student, keys, strict=True):
        rows = [made.rows.video_ids.index(video_id) for video_id in batch.video_ids]
        views = [number % VIEWS.num_views for _, number in batch_keys]
        assert batch.teacher_BK.dtype == torch.float32
        assert np.array_equal(batch.teacher_BK.numpy(), logits_NVMK[rows, views, 0])
        assert batch.teacher_clip_BTHWC is None


def test_the_student_sees_the_pixels_that_the_teacher_was_asked_about(made, tmp_path):
    (batch,) = loaded((made.manifest, made.frames), targets_of(made, tmp_path), [[(3, 1)]])
    row = made.rows.video_ids.index(batch.video_ids[0])
    assert pixel_digest(batch.clip_BTHWC[0].numpy()) == made.rows.arrays["pixel_digest"][row, 1]


def test_with_teacher_frames_a_batch_has_the_same_views_of_these(data, drawn, tmp_path):
    manifest, frames = data
    negative = write_frames(tmp_path, {name: 255 - frames.read(name, range(6)) for name in frames.video_ids})
    dataset = ClipDataset(frames, samples_of(manifest, frames, "train"), drawn, CLIP, negative)
    (batch,) = load_batches(dataset, iter([[(5, 2), (0, 1)]]), num_workers=0)
    sums = batch.clip_BTHWC.int() + batch.teacher_clip_BTHWC.int()
    assert (sums - 255).abs().max() <= 1  # resizing rounds each
    assert batch.teacher_BK is None


def test_a_batch_moves_to_a_device_whole(data, drawn):
    (batch,) = loaded(data, drawn, [[(0, 0)]])
    there = batch.to(torch.device("meta"))
    assert {there.clip_BTHWC.device.type, there.labels_B.device.type} == {"meta"}
    assert there.video_ids == batch.video_ids
    assert there.teacher_BK is None
    assert there.teacher_clip_BTHWC is None


# geometry and pixels


def test_pixel_statistics_are_the_mean_and_spread_of_the_middle_clips(data):
    manifest, frames = data
    samples = samples_of(manifest, frames, "train")
    views = [uniform_view(frames.shape(sample.video_id), CLIP, index=0, num_clips=1) for sample in samples]
    clips = [read_view(frames, s.video_id, view, CLIP).numpy() for s, view in zip(samples, views, strict=True)]
    pixels_MC = np.stack(clips).reshape(-1, 3) / 255
    mean_C, std_C = pixel_statistics(frames, samples, CLIP)
    assert mean_C == pytest.approx(pixels_MC.mean(axis=0).tolist(), rel=1e-9)
    assert std_C == pytest.approx(pixels_MC.std(axis=0).tolist(), rel=1e-6)


@pytest.mark.parametrize("level", [0, 255])
def test_videos_without_any_contrast_have_a_spread_to_divide_by(tmp_path, level):
    frames = write_frames(tmp_path, {"v": np.full((3, 16, 16, 3), level, np.uint8)})
    mean_C, std_C = pixel_statistics(frames, [Sample("v", 0)], CLIP)
    assert mean_C == pytest.approx([level / 255] * 3)
    assert min(std_C) == pytest.approx(1 / 255)


def test_uniform_views_are_the_source_of_validation(data):
    frames = data[1]
    source = UniformViews(frames, CLIP, num_clips=3)
    name = frames.video_ids[0]
    found = [source.lookup(name, number) for number in range(3)]
    assert found == [(uniform_view(frames.shape(name), CLIP, index=i, num_clips=3), None) for i in range(3)]


def test_the_crops_of_a_clip_come_after_each_other(data):
    frames = data[1]
    name = frames.video_ids[0]
    source = UniformViews(frames, CLIP, num_clips=2, num_crops=3)
    expected = [
        uniform_view(frames.shape(name), CLIP, index=index, num_clips=2, crop=crop, num_crops=3)
        for index in range(2)
        for crop in range(3)
    ]
    assert [source.lookup(name, number)[0] for number in range(6)] == expected
    assert len(set(expected)) == 6


def test_batches_are_loaded_when_they_are_asked_for(data, drawn):
    manifest, frames = data
    dataset = ClipDataset(frames, samples_of(manifest, frames, "train"), drawn, CLIP)
    endless = ([(number % 8, number)] for number in count())
    assert len(list(islice(load_batches(dataset, endless, num_workers=0), 3))) == 3
