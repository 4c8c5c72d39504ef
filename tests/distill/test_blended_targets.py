"""A bank of mixed views: the store has what each blend is made of, and teacher, student and baseline see the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import CLIP, VIEWS, noise_video, one_thread, train_params, write_frames  # noqa: F401 - a fixture
from precompute_runs import NUM_TRAIN, compute, make_project
from target_stores import SEED, make_teacher, write

from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.tables import number, read_table
from pipeline.data.dataset import BANK, ClipDataset, DrawnViews, load_batches, samples_of
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest, write_manifest
from pipeline.data.views import BlendedView, draw_partners, pixel_digest, read_view
from pipeline.distill.store.rows import Rows, mainly_partners
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.student.cached_targets import load_targets
from pipeline.distill.teacher import bank
from pipeline.models.inference import infer
from pipeline.models.recognizer import load_model
from pipeline.tools.targets.card import card
from pipeline.tools.targets.diff import diff
from pipeline.tools.targets.export import export
from pipeline.tools.targets.merge import merge_teachers, merge_videos
from pipeline.tools.targets.recompute import recompute
from pipeline.tools.targets.summary import summarise
from pipeline.tools.targets.verify import verify
from stages.train import train_baseline
from stages.train_student import main as train_student

NUM_FOOTAGE = 3
MIXED = VIEWS.model_copy(update={"mix": "mixup", "mix_share": 0.7})


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    folder = make_project(tmp_path, monkeypatch, num_footage=NUM_FOOTAGE)
    set_params(views=MIXED.model_dump(), train_student=train_params().model_dump())
    return folder


def set_params(**changes):
    values = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump(values | changes))


def set_mix(mix):
    set_params(views={**MIXED.model_dump(), "mix": mix})
    return MIXED.model_copy(update={"mix": mix})


def taught_ids():
    manifest = read_manifest(Path("manifest.csv"))
    return [[row.video_id for row in manifest.rows_of(split)] for split in ("train", "unlabelled")]


def drawn_views(views=MIXED):
    partners = draw_partners(taught_ids(), views, seed=SEED, purpose=BANK)
    return DrawnViews(FrameStore(Path("frames")), CLIP, views, SEED, BANK, partners)


def loaded(name="store.zarr", *, memory_bytes=2**20, video_ids=None):
    store = SoftTargetStore(name)
    wanted = [*taught_ids()[0], *taught_ids()[1]] if video_ids is None else video_ids
    folder = Path("mapped")
    folder.mkdir(exist_ok=True)
    frames = FrameStore(Path("frames"))
    return load_targets(store, wanted, memory_bytes=memory_bytes, folder=folder, teachers="mean", seed=0, frames=frames)


def numbers_of(ids):
    return [(video_id, number) for video_id in ids for number in range(MIXED.num_views)]


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_the_student_reads_from_the_store_what_the_policy_draws(mix):
    views = set_mix(mix)
    compute()
    drawn, kinds = drawn_views(views), Counter()
    for targets in (loaded(), loaded(memory_bytes=0)):
        for video_id, view in numbers_of([*taught_ids()[0], *taught_ids()[1]]):
            found = targets.lookup(video_id, view)[0]
            assert found == drawn.lookup(video_id, view)[0]
            kinds[type(found)] += 1
    assert min(kinds.values()) > 3
    assert len(kinds) == 2


def test_the_teacher_saw_the_pixels_that_the_student_sees():
    compute()
    store, targets, frames = SoftTargetStore("store.zarr"), loaded(), FrameStore(Path("frames"))
    rows, teacher = store.read_shard(0), load_model(Path("teacher.safetensors")).recognizer
    for row, video_id in enumerate(rows.video_ids):
        shown = [targets.lookup(video_id, view) for view in range(MIXED.num_views)]
        clip_VTHWC = torch.stack([read_view(frames, video_id, view, CLIP) for view, _ in shown])
        digests = [pixel_digest(clip_THWC.numpy()) for clip_THWC in clip_VTHWC]
        assert digests == rows.arrays["pixel_digest"][row, :, 0].tolist()
        expected_VK = infer(teacher, clip_VTHWC, batch_size=4)
        torch.testing.assert_close(torch.from_numpy(np.stack([k for _, k in shown])), expected_VK, rtol=2e-3, atol=2e-3)


def test_student_and_baseline_see_the_same_blends_with_the_same_labels():
    compute()
    manifest, frames = read_manifest(Path("manifest.csv")), FrameStore(Path("frames"))
    taught, train = samples_of(manifest, frames, "train", "unlabelled"), samples_of(manifest, frames, "train")
    names = [sample.video_id for sample in taught]
    keys = numbers_of(sample.video_id for sample in train)
    baseline_views = draw_partners([[sample.video_id for sample in train]], MIXED, seed=SEED, purpose=BANK)
    batches = [
        next(load_batches(ClipDataset(frames, of, source, CLIP), iter([places]), num_workers=0))
        for of, source, places in (
            (taught, loaded(), [(names.index(name), view) for name, view in keys]),
            (train, DrawnViews(frames, CLIP, MIXED, SEED, BANK, baseline_views),
             [([s.video_id for s in train].index(name), view) for name, view in keys]),
        )
    ]  # fmt: skip
    student, baseline = batches
    assert torch.equal(student.clip_BTHWC, baseline.clip_BTHWC)
    assert torch.equal(student.second.labels_B, baseline.second.labels_B)
    assert torch.equal(student.second.own_share_B, baseline.second.own_share_B)
    assert (student.second.own_share_B < 1).any()


def test_a_store_without_blends_is_the_one_that_it_was():
    set_mix("none")
    compute()
    attributes = SoftTargetStore("store.zarr").attributes
    assert attributes["view_policy"] == {**VIEWS.policy(), "seed": SEED, "version": 1}
    assert "mix" not in attributes["view_policy"]
    assert not {"partner", "blends"} & SoftTargetStore("store.zarr").layout.keys()


def test_top1_counts_the_label_of_the_larger_share():
    compute()
    store, manifest = SoftTargetStore("store.zarr"), read_manifest(Path("manifest.csv"))
    rows, drawn = store.read_shard(0), drawn_views()
    best_NV = rows.logits(store.codec)[:, :, 0].argmax(axis=-1)
    right = []
    for row, video_id in enumerate(rows.video_ids):
        if manifest.by_id[video_id].split != "train":
            continue
        for view in range(MIXED.num_views):
            shown = drawn.lookup(video_id, view)[0]
            mainly = isinstance(shown, BlendedView) and shown.blend.own_share(CLIP.size) < 0.5
            assert mainly_partners(rows, CLIP.size)[row, view] == mainly
            named = shown.blend.partner if mainly else video_id
            right.append(best_NV[row, view] == manifest.class_index(manifest.by_id[named]))
    top1 = np.mean(right)
    assert store.attributes["teachers"][0]["top1_on_views"] == pytest.approx(top1, abs=1e-6)
    summary = summarise(store, manifest=manifest)
    by_class, (seen, _) = summary["top1_by_class"].values(), summary["by_seen"]
    assert (seen["videos"], seen["top1"]) == ("seen", pytest.approx(top1, abs=1e-6))
    assert sum(each["num_views"] for each in by_class) == NUM_TRAIN * MIXED.num_views
    assert sum(each["num_views"] * each["top1"] for each in by_class) == pytest.approx(sum(right))


# growing


def test_a_video_that_comes_changes_few_rows_and_the_store_is_the_one_made_from_scratch(monkeypatch):
    whole = read_manifest(Path("manifest.csv"))
    gone = taught_ids()[0][2]
    write_manifest(Path("manifest.csv"), [row for row in whole.rows if row.video_id != gone])
    compute("small.zarr")
    write_manifest(Path("manifest.csv"), whole.rows)
    clips = []
    monkeypatch.setattr(bank, "infer", lambda *given, **named: clips.append(len(given[1])) or infer(*given, **named))
    grown = compute("grown.zarr")
    small, large = (
        draw_partners(
            [[name for name in split if name != without] for split in taught_ids()], MIXED, seed=SEED, purpose=BANK
        )
        for without in (gone, None)
    )
    changed = 1 + sum(small[name] != large[name] for name in small)
    assert changed <= 1 + MIXED.num_views
    assert sum(clips) == changed * MIXED.num_views
    for file in Path(".work").glob("precompute*/*.safetensors"):
        file.unlink()
    assert compute("scratch.zarr") == grown


def test_a_partner_with_other_frames_is_computed_anew():
    compute()
    frames = FrameStore(Path("frames"))
    videos = {name: frames.read(name, range(frames.shape(name)[0])) for name in frames.video_ids}
    changed = taught_ids()[0][0]
    videos[changed] = noise_video("other", frames.shape(changed))
    write_frames(Path("frames"), videos)
    again = compute()
    for file in Path(".work").glob("precompute*/*.safetensors"):
        file.unlink()
    assert compute("scratch.zarr") == again


def test_parts_and_processes_change_nothing(monkeypatch):
    expected = compute()
    for file in Path(".work").glob("precompute*/*.safetensors"):
        file.unlink()
    monkeypatch.setattr("pipeline.distill.teacher.precompute.CLIPS_PER_PART", 1000)
    assert compute("other.zarr") == expected


# tools


def test_a_whole_store_is_whole_to_every_depth():
    compute()
    teachers, frames = [load_model(Path("teacher.safetensors"))], [FrameStore(Path("frames"))]
    verdict = verify("store.zarr", "teacher", teachers=teachers, frames=frames)
    assert verdict.findings == []
    assert verdict.teacher["num_equal"] == (NUM_TRAIN + NUM_FOOTAGE) * MIXED.num_views


def changed_store(change, *, path="changed.zarr"):
    """The store with a change of its rows' arrays, written with digests that fit."""
    store = SoftTargetStore("store.zarr")
    rows = store.read_shard(0)
    arrays = {name: array.copy() for name, array in rows.arrays.items()}
    change(arrays, *(int(place[0]) for place in np.nonzero(arrays["partner"])))
    written = {"format", "format_version", "codec", "rows_per_shard", "shards", "num_rows", "num_views", "num_teachers"}
    attributes = {name: value for name, value in store.attributes.items() if name not in written}
    write(Path(path), Rows(rows.video_ids, arrays), store.codec, attributes)
    return path


CHANGES = {
    "another weight": lambda arrays, row, view: np.add.at(arrays["blends"], (row, view, 7), 1),
    "a weight that is none": lambda arrays, row, view: np.add.at(arrays["blends"], (row, view, 7), 256),
    "a box beyond the clip": lambda arrays, row, view: np.add.at(arrays["blends"], (row, view, 8), 1),
    "a view beyond the partner": lambda arrays, row, view: np.add.at(arrays["blends"], (row, view, 0), 100),
    "a partner that is no video": lambda arrays, row, view: np.add.at(arrays["partner"], (row, view), np.uint64(1)),
    "a blend without a partner": lambda arrays, row, view: np.multiply.at(arrays["partner"], (row, view), np.uint64(0)),
}


def test_what_is_no_blend_is_found():
    compute()
    for name, change in CHANGES.items():
        path = changed_store(change, path=f"{name}.zarr")
        shallow = verify(path, "checksums")
        assert shallow.whole == (name == "another weight"), name
        assert shallow.whole or "is no blend with a video of the store" in shallow.findings[0], name
    teachers, frames = [load_model(Path("teacher.safetensors"))], [FrameStore(Path("frames"))]
    found = verify("another weight.zarr", "teacher", teachers=teachers, frames=frames)
    assert any("the policy draws" in finding for finding in found.findings)
    assert any("saw other pixels" in finding for finding in found.findings)


def test_frames_without_a_partner_are_told(tmp_path):
    compute()
    frames = FrameStore(Path("frames"))
    some = {name: frames.read(name, range(6)) for name in taught_ids()[0][:4]}
    teachers = [load_model(Path("teacher.safetensors"))]
    store = SoftTargetStore("store.zarr")
    rows = store.read_shard(0)
    rows = rows.take([row for row, name in enumerate(rows.video_ids) if name in some])
    few = write_frames(tmp_path / "few", some)
    _, findings = recompute(store, rows, [(teachers[0], few)], torch.device("cpu"), lambda *_: None)
    assert any("lacks a video that it is blended with" in finding for finding in findings)


def test_teachers_of_one_bank_merge_and_different_videos_do_not():
    compute("first.zarr")
    make_teacher(Path("teacher.safetensors"), seed=1)
    compute("second.zarr")
    stores = [SoftTargetStore(name) for name in ("first.zarr", "second.zarr")]
    merge_teachers(stores, Path("merged.zarr"))
    merged = SoftTargetStore("merged.zarr")
    assert verify("merged.zarr", "checksums").whole
    assert np.array_equal(merged.read_shard(0).arrays["blends"], stores[0].read_shard(0).arrays["blends"])
    found = diff(*stores)
    assert found["num_same_views"] == NUM_TRAIN + NUM_FOOTAGE
    with pytest.raises(StaleArtifactError, match="blends of two of its videos"):
        merge_videos(stores, Path("other.zarr"), manifest=read_manifest(Path("manifest.csv")))


def test_other_blends_are_other_views():
    compute()
    changed_store(CHANGES["another weight"])
    found = diff(SoftTargetStore("store.zarr"), SoftTargetStore("changed.zarr"))
    assert found["num_same_views"] == NUM_TRAIN + NUM_FOOTAGE - 1


def test_exports_and_the_card_know_of_blends():
    compute()
    store = SoftTargetStore("store.zarr")
    export(store, Path("store.npz"))
    with np.load("store.npz") as archive:
        assert np.array_equal(archive["blends"], store.read_shard(0).arrays["blends"])
        assert np.array_equal(archive["partner"], store.read_shard(0).arrays["partner"])
    assert "70% of them are blends (mixup) of two videos" in card(store, None)
    parquet = pytest.importorskip("pyarrow.parquet")
    export(store, Path("store.parquet"))
    table = parquet.read_table("store.parquet")
    assert table["partner"].to_pylist() == store.read_shard(0).arrays["partner"].ravel().tolist()
    assert table["blends"].to_pylist() == store.read_shard(0).arrays["blends"].reshape(-1, 12).tolist()


# training


def train(function, name, store="store.zarr"):
    paths = {"manifest_path": Path("manifest.csv"), "frames_path": Path("frames"), "params_path": Path("params.yaml")}
    outs = {"out": Path(f"{name}.safetensors"), "curve_path": Path(f"{name}.csv")}
    more = {"soft_targets": store} if function is train_student else {}
    function(**paths, **outs, **more, device="cpu")
    return read_table(outs["curve_path"], number)


def test_student_and_baseline_train_on_blends():
    compute()
    student, baseline = train(train_student, "student"), train(train_baseline, "baseline")
    assert [row["learning_rate"] for row in student] == [row["learning_rate"] for row in baseline]
    mixed = Path("baseline.safetensors").read_bytes()
    set_mix("none")
    train(train_baseline, "plain")
    assert Path("plain.safetensors").read_bytes() != mixed


def test_partners_that_a_run_does_not_have_are_told_before_it_trains():
    compute()
    few = taught_ids()[0][:3]
    with pytest.raises(StaleArtifactError, match="blended with a video that is none of these"):
        loaded(video_ids=few)


def test_two_ways_to_blend_and_losses_of_one_label_are_refused():
    compute()
    set_mix("none")
    set_params(soft_loss="dkd")
    write_manifest(
        Path("manifest.csv"), [row for row in read_manifest(Path("manifest.csv")).rows if row.split != "unlabelled"]
    )
    with pytest.raises(ParamsError, match="soft_loss dkd looks at the label of each clip; views that are blends"):
        train(train_student, "student")
    set_params(soft_loss="kl", train_student=train_params(mixup=0.4).model_dump())
    with pytest.raises(ParamsError, match=r"train_student has mixup 0\.4, cutmix 0: clips are blended once"):
        train(train_student, "student")
