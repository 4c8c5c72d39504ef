"""The teacher's logits are the teacher's logits, whoever clips, when, and how often it was killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import CLIP, VIEWS, manifest_row, one_thread, tiny_data, write_frames  # noqa: F401 - a fixture
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT
from precompute_runs import NUM_TRAIN, NUM_VAL, compute, make_project, more_teachers, write_params, write_record
from target_stores import BATCH_SIZE, SEED, make_store, make_teacher, rows_of_teacher

from pipeline.core.errors import DataError, EnvironmentProblem, ParamsError, StaleArtifactError
from pipeline.core.weights import load_weights, save_weights
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest, write_manifest
from pipeline.data.views import View, pixel_digest, read_view
from pipeline.distill.store.codecs import codec_of
from pipeline.distill.store.rows import Rows, row_layout
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.teacher import bank, precompute
from pipeline.distill.teacher.precompute import CachedTeacher, Packing, Part, TeacherInference, compute_part, parts_of
from pipeline.distill.teacher.row_cache import RowCache, write_part
from pipeline.models.inference import infer
from pipeline.models.recognizer import load_model
from pipeline.tools.targets.verify import verify
from stages import precompute_soft_targets as stage


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    return make_project(tmp_path, monkeypatch)


@pytest.fixture
def clips(monkeypatch):
    """Numbers of clips in each batch of teacher inference."""
    counted = []

    def counting(teacher, clip_BTHWC, *, batch_size):
        counted.append(len(clip_BTHWC))
        return infer(teacher, clip_BTHWC, batch_size=batch_size)

    monkeypatch.setattr(bank, "infer", counting)
    return counted


def parts():
    return sorted(Path(".work").glob("precompute*/*.safetensors"))


# what is in the store


@pytest.mark.parametrize("codec", ["float16", "float32", "topk"])
def test_it_is_the_store_that_is_made_by_hand(project, codec):
    write_params(project, codec=codec, top_k=2, max_kl=10.0)
    compute()
    by_hand = make_store(project / "by_hand", codec=codec)
    found, expected = SoftTargetStore(Path("store.zarr")), SoftTargetStore(by_hand.path)
    (rows,) = [found.read_shard(shard) for shard in range(found.num_shards)]
    assert rows.video_ids == by_hand.rows.video_ids
    for name, array in by_hand.rows.arrays.items():
        assert np.array_equal(rows.arrays[name], array), name
    assert found.attributes["shards"] == expected.attributes["shards"]
    assert found.attributes["codec_error"] == expected.attributes["codec_error"]
    assert found.attributes.keys() == expected.attributes.keys()
    made_here = ("teachers", "digests")
    assert all(found.attributes[n] == v for n, v in expected.attributes.items() if n not in made_here)
    assert found.attributes["digests"] == expected.attributes["digests"]


def test_it_names_its_teacher_and_how_right_that_was(project):
    compute()
    store, manifest = SoftTargetStore(Path("store.zarr")), read_manifest(Path("manifest.csv"))
    rows = store.read_shard(0)
    labels_N = np.array([manifest.class_index(row) for row in manifest.rows_of("train")])
    correct_NV = rows.logits(store.codec)[:, :, 0].argmax(axis=-1) == labels_N[:, None]
    teacher = load_model(Path("teacher.safetensors"))
    assert store.attributes["teachers"] == [
        {
            "name": "r2plus1d_slim",
            "digest": teacher.digest,
            "top1_on_views": pytest.approx(correct_NV.mean(), abs=1e-6),
            "light": None,
            "enhancer": None,
            "frames": FrameStore(Path("frames")).digest,
            "clip": CLIP.model_dump(),
        }
    ]


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_soft_targets_that_are_nearly_hard_labels_are_told_of(project, capsys, scale):
    path = Path("teacher.safetensors")
    tensors, attributes = load_weights(path)
    head = "network.head.3.weight"
    save_weights(path, {**tensors, head: scale * tensors[head]}, attributes)
    write_params(project, codec="float32")
    compute()
    said = capsys.readouterr().err
    assert "mean entropy " in said
    assert ("of the soft targets are nearly hard labels" in said) == (scale > 1)


@pytest.mark.parametrize("clips_per_part", [1, 9, 1000])
def test_the_size_of_parts_does_not_show(project, monkeypatch, clips_per_part):
    expected = compute()
    monkeypatch.setattr(precompute, "CLIPS_PER_PART", clips_per_part)
    monkeypatch.setenv("DVC_ROOT", str(project / "elsewhere"))
    assert compute("other.zarr") == expected


@pytest.mark.parametrize(("device", "num_videos"), [("cpu", 128), ("cuda", 2048), ("cuda:1", 2048)])
def test_a_gpu_takes_larger_parts(tmp_path, monkeypatch, device, num_videos):
    monkeypatch.setattr(precompute, "CLIPS_PER_PART", 512)
    views = VIEWS.model_copy(update={"num_views": 4})
    artifact = (tmp_path, "00" * 16)
    how = TeacherInference("teacher", artifact, artifact, tmp_path, CLIP, views, SEED, BATCH_SIZE, device, 0)
    names = [f"{number:04}" for number in range(5000)]
    parts = parts_of(names, how)
    assert [len(part.video_ids) for part in parts[:2]] == [num_videos] * 2
    assert [name for part in parts for name in part.video_ids] == names


@given(cuts=st.sets(st.integers(1, 29)))
def test_the_size_of_parts_does_not_show_in_sums(tmp_path_factory, cuts):
    def error(cuts):
        folder = tmp_path_factory.mktemp("parts")
        for start, stop in pairwise([0, *sorted(cuts), 30]):
            write_part(folder, rows.take(slice(start, stop)))
        keys = [(name, "00" * 16, (0, 0, 0), "") for name in rows.video_ids]
        teachers = [CachedTeacher(RowCache(folder), keys)]
        packing = Packing(teachers, [0] * 30, codec_of({"name": "topk", "k": 2}, 5))
        list(packing.rows())
        return packing.error

    names = tuple(f"{index:02}" for index in range(30))
    layout = row_layout(codec_of({"name": "float32"}, 5), 2, 1)
    rows = Rows(names, {name: np.zeros((30, *array.inner), array.dtype) for name, array in layout.items()})
    rows.arrays["logits"][:] = np.random.default_rng(0).normal(size=(30, 2, 1, 5))
    assert error(cuts) == error(())


def test_neither_processes_nor_data_loaders_show(project, monkeypatch):
    expected = compute()
    monkeypatch.setenv("DVC_ROOT", str(project / "workers"))
    assert compute("workers.zarr", workers=2) == expected
    write_params(project, num_workers=2)
    monkeypatch.setenv("DVC_ROOT", str(project / "loaders"))
    assert compute("loaders.zarr") == expected


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_show(project, threads):
    expected = compute()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for part in parts():
            part.unlink()
        assert compute() == expected
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


# growing, shrinking, other codecs


def changed_data(folder, *, keep, brighter=()):
    """The same videos, of the train ones only some, of these some in another light."""
    manifest, frames = read_manifest(folder / "manifest.csv"), FrameStore(folder / "frames")
    train = [row.video_id for row in manifest.rows_of("train")]
    kept = [row for row in manifest.rows if row.video_id not in train or train.index(row.video_id) in keep]
    videos = {row.video_id: frames.read(row.video_id, range(row.num_frames)) for row in kept}
    for index in brighter:
        videos[train[index]] = videos[train[index]] // 2 + 100
    write_manifest(folder / "changed.csv", kept)
    return {"manifest_path": folder / "changed.csv", "frames_path": write_frames(folder / "changed", videos).path}


def from_scratch(project, monkeypatch, **options):
    with monkeypatch.context() as patched:
        patched.setenv("DVC_ROOT", str(project / "scratch"))
        return compute("scratch.zarr", **options)


def test_only_new_videos_are_computed(project, monkeypatch, clips):
    small = changed_data(project, keep=[0, 2, 3, 6])
    compute(**small)
    clips.clear()
    grown = compute()
    assert sum(clips) == 3 * VIEWS.num_views
    clips.clear()
    assert grown == from_scratch(project, monkeypatch)
    assert sum(clips) == NUM_TRAIN * VIEWS.num_views


def test_videos_that_are_gone_lose_their_rows(project, monkeypatch, clips):
    compute()
    clips.clear()
    small = changed_data(project, keep=[0, 4, 5])
    shrunk = compute(**small)
    assert clips == []
    assert shrunk == from_scratch(project, monkeypatch, **small)
    assert len(parts()) == 2  # those that hold one of them


def test_a_changed_video_is_computed_again(project, monkeypatch, clips):
    compute()
    clips.clear()
    changed = changed_data(project, keep=range(NUM_TRAIN), brighter=[4])
    found = compute(**changed)
    assert sum(clips) == VIEWS.num_views
    assert found == from_scratch(project, monkeypatch, **changed)


def test_another_codec_takes_no_teacher(project, monkeypatch, clips):
    compute()
    clips.clear()
    write_params(project, codec="topk", top_k=1, max_kl=10.0)
    found = compute()
    assert clips == []
    assert found == from_scratch(project, monkeypatch)


def test_another_teacher_computes_everything(project, clips):
    first = compute()
    clips.clear()
    make_teacher(project / "teacher.safetensors", seed=1)
    assert compute() != first
    assert sum(clips) == NUM_TRAIN * VIEWS.num_views


def test_black_frames_of_another_shape_are_other_frames(project, monkeypatch, clips):
    rows, videos = [], {}
    for split, shape in (("train", (6, 18, 22)), ("test", (6, 18, 22))):
        rows.append(manifest_row(f"black_{split}", 0, split, shape))
        videos[f"black_{split}"] = np.zeros((*shape, 3), dtype=np.uint8)
    write_manifest(project / "manifest.csv", rows)
    make_teacher(project / "teacher.safetensors", class_names=("drink",), num_classes=1)
    write_frames(project / "frames", videos)
    compute()
    clips.clear()
    turned = {name: video.transpose(0, 2, 1, 3) for name, video in videos.items()}
    assert compute(frames_path=write_frames(project / "turned", turned).path) == from_scratch(
        project, monkeypatch, frames_path=project / "turned"
    )
    assert sum(clips) == 2 * VIEWS.num_views


@pytest.mark.parametrize("changed", ["version of the view policy", "seed", "batch_size", "num_views"])
def test_rows_of_other_views_or_batches_are_not_taken(project, monkeypatch, clips, changed):
    compute()
    clips.clear()
    if changed == "version of the view policy":
        monkeypatch.setattr(stage, "VIEW_POLICY_VERSION", 2)
    else:
        values = yaml.safe_load(Path("params.yaml").read_text())
        section = {"seed": values, "num_views": values["views"]}.get(changed, values["precompute_soft_targets"])
        section[changed] += 1
        Path("params.yaml").write_text(yaml.safe_dump(values))
    compute()
    assert sum(clips) == NUM_TRAIN * (VIEWS.num_views + (changed == "num_views"))


# damage and interruption


def test_a_damaged_part_is_computed_again(project, clips):
    expected = compute()
    clips.clear()
    damaged = max(parts(), key=lambda path: path.stat().st_size)  # of two videos, not the last one's
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert compute() == expected
    assert sum(clips) == 2 * VIEWS.num_views


def damages():
    """Ways to damage a store: a flipped byte, a missing shard, a missing description, no store at all."""
    shards = [path for path in sorted(Path("store.zarr").rglob("*")) if path.is_file() and path.name != "zarr.json"]

    def flip():
        content = bytearray(shards[0].read_bytes())
        content[len(content) // 3] ^= 1
        shards[0].write_bytes(content)

    return {
        "flipped byte": flip,
        "missing shard": shards[-1].unlink,
        "missing description": Path("store.zarr/zarr.json").unlink,
        "missing store": lambda: shutil.rmtree("store.zarr"),
    }


@pytest.mark.parametrize("damage", ["flipped byte", "missing shard", "missing description", "missing store"])
def test_a_second_run_replaces_a_damaged_store_and_computes_only_what_the_work_folder_lacks(project, clips, damage):
    """The store is built from the rows in the work folder: those that are whole there are not computed again."""
    expected = compute()
    damages()[damage]()
    clips.clear()
    assert compute() == expected
    assert clips == []
    damages()[damage]()
    max(parts(), key=lambda path: path.stat().st_size).unlink()  # of two videos, not the last one's
    assert compute() == expected
    assert sum(clips) == 2 * VIEWS.num_views
    damages()[damage]()
    shutil.rmtree(".work")
    clips.clear()
    assert compute() == expected
    assert sum(clips) == NUM_TRAIN * VIEWS.num_views


def test_two_stages_on_one_store_the_second_is_told(project):
    code = (
        "import sys, time; from pathlib import Path; from pipeline.core.work_folder import out_lock\n"
        "with out_lock('another', Path('store.zarr')): print('held', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(EnvironmentProblem, match=rf"process {holder.pid} on .* is already writing store.zarr"):
                compute()
        finally:
            holder.kill()
    compute()


# refusals


def test_what_packing_costs_is_gated_and_the_logits_are_kept(project, clips):
    write_params(project, codec="topk", top_k=1, max_kl=1e-9)
    with pytest.raises(DataError, match=r"topk costs more than precompute_soft_targets\.max_kl") as caught:
        compute()
    assert len(caught.value.findings) == 4
    assert caught.value.findings[0].startswith("at temperature 1: ")
    assert not Path("store.zarr").exists()
    clips.clear()
    write_params(project)
    compute()
    assert clips == []


def test_as_many_classes_kept_as_there_are_is_refused_before_the_work(project, clips):
    write_params(project, codec="topk", top_k=3)
    with pytest.raises(ParamsError, match="top_k must be in 1 … 2 for 3 classes"):
        compute()
    assert clips == []


@pytest.mark.parametrize(
    ("value", "words", "num_new"),
    [
        (np.nan, "not finite on 2 videos", 2),
        (np.inf, "not finite", 2),
        (1e5, "too large for the codec float16 on 2", 0),
    ],
)
def test_all_videos_with_logits_that_cannot_be_kept_are_named(project, monkeypatch, clips, value, words, num_new):
    video_ids = [row.video_id for row in read_manifest(Path("manifest.csv")).rows_of("train")]
    counted = bank.infer
    batches = []

    def broken(teacher, clip_BTHWC, *, batch_size):
        logits_BK = counted(teacher, clip_BTHWC, batch_size=batch_size)
        batches.append(len(logits_BK))
        if len(batches) in (1, 4):  # of 4, 2, 4, 2, … clips: in the first part, and in the second
            logits_BK[-1] = value
        return logits_BK

    with monkeypatch.context() as patched:
        patched.setattr(bank, "infer", broken)
        with pytest.raises(DataError, match=words) as caught:
            compute()
    prefix = "teacher, " if num_new else ""
    assert caught.value.findings == (f"{prefix}{video_ids[1]}: view 0", f"{prefix}{video_ids[3]}: view 2")
    assert not Path("store.zarr").exists()
    clips.clear()
    write_params(project, codec="float32")
    compute()
    assert sum(clips) == num_new * VIEWS.num_views


def test_another_teacher_is_refused_with_all_that_differs(project):
    make_teacher(project / "teacher.safetensors", class_names=("drink", "jump", "walk"), levels="companded")
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["clip"]["num_frames"] += 1
    Path("params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(StaleArtifactError, match="does not fit this run") as caught:
        compute()
    assert [finding.split(":")[0] for finding in caught.value.findings] == ["class names", "clip", "levels"]


def test_a_file_that_changes_under_a_worker_is_noticed(project):
    how = TeacherInference(
        name="teacher",
        teacher=(project / "teacher.safetensors", "0" * 32),
        frames=(project / "frames", FrameStore(project / "frames").digest),
        folder=project,
        clip=CLIP,
        views=VIEWS,
        seed=SEED,
        batch_size=BATCH_SIZE,
        device="cpu",
        num_workers=0,
    )
    with pytest.raises(StaleArtifactError, match="has another digest here"):
        compute_part(Part(("video",), how))


# several teachers


def all_rows(path):
    store = SoftTargetStore(Path(path))
    return store, store.read_shard(0)


def test_the_store_of_several_teachers_is_that_of_each_side_by_side(project):
    options = more_teachers(project, "second", "third")
    compute(**options)
    store, rows = all_rows("store.zarr")
    paths = [("teacher.safetensors", "frames")]
    paths += [(f"more/made/{name}/model.safetensors", f"more/made/{name}/frames") for name in ("second", "third")]
    write_params(project)
    for axis, (teacher, frames) in enumerate(paths):
        compute("one.zarr", teacher_path=Path(teacher), frames_path=Path(frames))
        one, expected = all_rows("one.zarr")
        on_val = {name: store.attributes["teachers"][axis][name] for name in ("weight", "top1_on_val")}
        assert store.attributes["teachers"][axis] == {**one.attributes["teachers"][0], **on_val}
        assert store.attributes["teachers"][axis]["frames"] == FrameStore(Path(frames)).digest
        found = rows_of_teacher(rows, axis)
        for name, array in expected.arrays.items():
            assert np.array_equal(found.arrays[name], array), name


def test_a_new_teacher_is_computed_alone_and_one_that_goes_costs_nothing(project, monkeypatch, clips):
    compute()
    clips.clear()
    options = more_teachers(project, "second")
    two = compute(**options)
    assert sum(clips) == NUM_TRAIN * VIEWS.num_views + 2 * NUM_VAL  # val is for several teachers
    clips.clear()
    options = more_teachers(project, "second", "third")
    compute(**options)
    assert sum(clips) == NUM_TRAIN * VIEWS.num_views + NUM_VAL
    clips.clear()
    options = more_teachers(project, "second")
    assert compute(**options) == two
    assert clips == []
    assert two == from_scratch(project, monkeypatch, **options)


def test_a_changed_light_is_computed_again_for_its_teacher_alone(project, monkeypatch, clips):
    compute(**more_teachers(project, "second", "third"))
    clips.clear()
    options = more_teachers(project, "second", "third", light=1)
    found = compute(**options)
    assert sum(clips) == 2 * (NUM_TRAIN * VIEWS.num_views + NUM_VAL)
    assert found == from_scratch(project, monkeypatch, **options)


def test_neither_processes_nor_the_size_of_parts_show_with_several_teachers(project, monkeypatch):
    options = more_teachers(project, "second")
    expected = compute(**options)
    monkeypatch.setenv("DVC_ROOT", str(project / "workers"))
    monkeypatch.setattr(precompute, "CLIPS_PER_PART", 5)
    assert compute("workers.zarr", workers=2, **options) == expected


def test_one_teacher_that_fell_apart_is_named_and_the_rows_of_the_others_are_kept(project, monkeypatch, clips):
    options = more_teachers(project, "second")
    second = load_model(Path("more/made/second/model.safetensors"))
    head, whole = second.recognizer.network.head[-1].weight, bank.infer

    def broken(teacher, clip_BTHWC, *, batch_size):
        logits_BK = whole(teacher, clip_BTHWC, batch_size=batch_size)
        return logits_BK * np.nan if torch.equal(teacher.network.head[-1].weight, head) else logits_BK

    with monkeypatch.context() as patched:
        patched.setattr(bank, "infer", broken)
        with pytest.raises(DataError, match=f"not finite on {NUM_TRAIN + NUM_VAL} videos") as caught:
            compute(**options)
    assert all(finding.startswith("second, ") for finding in caught.value.findings)
    clips.clear()
    compute(**options)
    assert sum(clips) == NUM_TRAIN * VIEWS.num_views + NUM_VAL
    assert SoftTargetStore(Path("store.zarr")).attributes["teachers"][1]["digest"] == second.digest


def test_teachers_that_do_not_fit_each_other_are_refused_before_the_work(project, clips):
    options = more_teachers(project, "second", "third")
    shutil.copy("more/made/second/model.safetensors", "more/made/third/model.safetensors")
    frames, changed = FrameStore(Path("frames")), read_manifest(Path("manifest.csv")).rows_of("train")[2].video_id
    longer = {name: np.zeros((7 if name == changed else 6, 18, 22, 3), np.uint8) for name in frames.video_ids}
    write_frames(project / "more/made/third/frames", longer)
    write_record("third")
    with pytest.raises(StaleArtifactError, match="do not fit each other") as caught:
        compute(**options)
    assert caught.value.findings == (
        "more/made/third/model.safetensors: the same teacher as more/made/second/model.safetensors",
        f"{changed}: more/made/third/frames has frames, height, width (7, 18, 22), frames {frames.shape(changed)}",
    )
    assert clips == []


def test_frames_of_other_dark_frames_are_refused(project, clips):
    options = more_teachers(project, "second")
    frames = FrameStore(Path("frames"))
    videos = {name: frames.read(name, range(frames.shape(name)[0])) for name in frames.video_ids}
    for path, dark in (("frames", "a" * 32), ("more/made/second/frames", "b" * 32)):
        write_frames(project / path, videos, origin={"dark": dark, "enhancer": "c" * 32, "light": "gamma"})
    write_record("second")
    with pytest.raises(StaleArtifactError, match="do not fit each other") as caught:
        compute(**options)
    assert caught.value.findings[0].startswith(
        f"more/made/second/frames: made from the dark frames {'b' * 32}, frames from"
    )
    assert clips == []


def test_teachers_that_are_named_and_not_there_are_told(project):
    options = more_teachers(project, "second")
    write_record("second", model="0" * 32)
    with pytest.raises(StaleArtifactError, match="are not here") as caught:
        compute(**options)
    assert caught.value.findings[0].startswith(f"more/records/second.json: names the model {'0' * 32}, here is ")
    for text in ("<<<<<<< HEAD\n{}", "17", '"second"'):
        Path("more/records/second.json").write_text(text)
        with pytest.raises(StaleArtifactError, match="are not here") as caught:
            compute(**options)
        assert caught.value.findings[0].startswith("more/records/second.json: cannot be read: ")
    shutil.rmtree("more/made/second/frames")
    with pytest.raises(StaleArtifactError, match="are not here") as caught:
        compute(**options)
    assert caught.value.findings == ("more/made/second/frames does not exist",)
    with pytest.raises(ParamsError, match="--more-teachers, the folder that holds them, is not given"):
        compute()


def test_a_teacher_sees_the_same_views_with_more_frames_and_pixels(project):
    teacher_clip = CLIP.model_copy(update={"num_frames": 4, "frame_stride": 1, "size": 20})
    path = Path("teacher.safetensors")
    compute("plain.zarr")
    make_teacher(path, clip=teacher_clip)
    with pytest.raises(StaleArtifactError, match="does not fit this run"):
        compute()
    values = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump({**values, "teacher_clip": teacher_clip.model_dump()}))
    compute()
    (store, rows), (_, plain) = all_rows("store.zarr"), all_rows("plain.zarr")
    assert store.attributes["clip"] == CLIP.model_dump()
    assert store.attributes["teachers"][0]["clip"] == teacher_clip.model_dump()
    assert np.array_equal(rows.arrays["views"], plain.arrays["views"])
    teacher, frames = load_model(path), FrameStore(Path("frames"))
    for row, video_id in enumerate(rows.video_ids):
        views = [View(*numbers) for numbers in rows.arrays["views"][row].tolist()]
        clips = torch.stack([read_view(frames, video_id, view, CLIP, shown_as=teacher_clip) for view in views])
        assert clips.shape[1:] == (4, 20, 20, 3)
        digests = [pixel_digest(clip_THWC.numpy()) for clip_THWC in clips]
        assert rows.arrays["pixel_digest"][row, :, 0].tolist() == digests
        logits_VK = infer(teacher.recognizer, clips, batch_size=BATCH_SIZE).numpy()
        assert np.allclose(rows.logits(store.codec)[row, :, 0], logits_VK, atol=0.05)
    verdict = verify("store.zarr", "teacher", teachers=[teacher], frames=[frames])
    assert verdict.whole, verdict.findings
    assert verdict.teacher["num_equal"] == NUM_TRAIN * VIEWS.num_views
