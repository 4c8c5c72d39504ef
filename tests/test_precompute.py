"""The teacher's logits are the teacher's logits, whoever asked, when, and how often it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import CLIP, VIEWS, noise_video, one_thread, tiny_data, write_frames  # noqa: F401 - a fixture
from target_stores import BATCH_SIZE, SEED, contents, make_store, make_teacher

from pipeline import asking, precompute
from pipeline.asking import ask
from pipeline.errors import DataError, EnvironmentProblem, ParamsError, StaleArtifactError
from pipeline.frames import FrameStore
from pipeline.manifest import read_manifest, write_manifest
from pipeline.models import load_model
from pipeline.precompute import Asking, Part, compute_part
from pipeline.soft_targets import SoftTargetStore
from pipeline.work import out_lock
from stages.precompute_soft_targets import main

ROOT = Path(__file__).parent.parent
NUM_TRAIN = 7


def write_params(folder, **options):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"seed": SEED, "clip": CLIP.model_dump(), "views": VIEWS.model_dump()}
    values["precompute_soft_targets"] |= {"batch_size": BATCH_SIZE, **options}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A folder with data and a teacher, two videos a part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(precompute, "CLIPS_PER_PART", 2 * VIEWS.num_views)
    tiny_data(tmp_path, num_train=NUM_TRAIN, num_val=1, num_test=1, num_classes=3)
    make_teacher(tmp_path / "teacher.safetensors")
    write_params(tmp_path)
    return tmp_path


def compute(out="store.zarr", **options):
    paths = {"manifest_path": Path("manifest.csv"), "frames_path": Path("frames"), "params_path": Path("params.yaml")}
    main(
        **{**paths, "teacher_path": Path("teacher.safetensors"), "device": "cpu", "workers": 1, "out": Path(out)}
        | options
    )
    return contents(Path(out))


@pytest.fixture
def asked(monkeypatch):
    """Numbers of clips that the teacher was asked about."""
    counted = []

    def counting(teacher, clip_BTHWC, *, batch_size):
        counted.append(len(clip_BTHWC))
        return ask(teacher, clip_BTHWC, batch_size=batch_size)

    monkeypatch.setattr(asking, "ask", counting)
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
    assert found.attributes["digests"] == {**expected.attributes["digests"], "enhancer": None}


def test_it_names_its_teacher_and_how_right_that_was(project):
    compute()
    store, manifest = SoftTargetStore(Path("store.zarr")), read_manifest(Path("manifest.csv"))
    rows = store.read_shard(0)
    labels_N = np.array([manifest.class_index(row) for row in manifest.rows_of("train")])
    correct_NV = rows.logits(store.codec)[:, :, 0].argmax(axis=-1) == labels_N[:, None]
    teacher = load_model(Path("teacher.safetensors"))
    assert store.attributes["teachers"] == [
        {"name": "r2plus1d_slim", "digest": teacher.digest, "top1_on_views": pytest.approx(correct_NV.mean(), abs=1e-6)}
    ]


@pytest.mark.parametrize("clips_per_part", [1, 9, 1000])
def test_the_size_of_parts_does_not_show(project, monkeypatch, clips_per_part):
    expected = compute()
    monkeypatch.setattr(precompute, "CLIPS_PER_PART", clips_per_part)
    monkeypatch.setenv("DVC_ROOT", str(project / "elsewhere"))
    assert compute("other.zarr") == expected


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


@pytest.mark.slow
def test_ranks_do_not_show(project):
    expected = compute()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "stages",
        "precompute_soft_targets", "--manifest", "manifest.csv", "--frames", "frames",
        "--teacher", "teacher.safetensors", "--out", "ranks.zarr",
    ]  # fmt: skip
    environment = {**os.environ, "DVC_ROOT": str(project / "ranks"), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, env=environment, timeout=120)
    assert contents(Path("ranks.zarr")) == expected


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


def test_only_new_videos_are_asked_about(project, monkeypatch, asked):
    small = changed_data(project, keep=[0, 2, 3, 6])
    compute(**small)
    asked.clear()
    grown = compute()
    assert sum(asked) == 3 * VIEWS.num_views
    asked.clear()
    assert grown == from_scratch(project, monkeypatch)
    assert sum(asked) == NUM_TRAIN * VIEWS.num_views


def test_videos_that_are_gone_lose_their_rows(project, monkeypatch, asked):
    compute()
    asked.clear()
    small = changed_data(project, keep=[0, 4, 5])
    shrunk = compute(**small)
    assert asked == []
    assert shrunk == from_scratch(project, monkeypatch, **small)
    assert len(parts()) == 2  # those that hold one of them


def test_a_changed_video_is_asked_about_again(project, monkeypatch, asked):
    compute()
    asked.clear()
    changed = changed_data(project, keep=range(NUM_TRAIN), brighter=[4])
    found = compute(**changed)
    assert sum(asked) == VIEWS.num_views
    assert found == from_scratch(project, monkeypatch, **changed)


def test_another_codec_takes_no_teacher(project, monkeypatch, asked):
    compute()
    asked.clear()
    write_params(project, codec="topk", top_k=1, max_kl=10.0)
    found = compute()
    assert asked == []
    assert found == from_scratch(project, monkeypatch)


def test_another_teacher_is_asked_about_everything(project, asked):
    first = compute()
    asked.clear()
    make_teacher(project / "teacher.safetensors", seed=1)
    assert compute() != first
    assert sum(asked) == NUM_TRAIN * VIEWS.num_views


# damage and interruption


def test_a_damaged_part_is_worked_out_again(project, asked):
    expected = compute()
    asked.clear()
    damaged = parts()[1]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert compute() == expected
    assert sum(asked) == 2 * VIEWS.num_views


def start(folder, *options, parts_of=2):
    code = (
        "import sys, torch\n"
        "from pipeline import precompute\n"
        f"precompute.CLIPS_PER_PART = {parts_of * VIEWS.num_views}\n"
        "from stages.__main__ import main\n"
        "sys.argv[0] = 'dlkdd'\n"
        "main()\n"
    )
    command = [
        sys.executable, "-c", code, "precompute_soft_targets", "--manifest", "manifest.csv", "--frames", "frames",
        "--teacher", "teacher.safetensors", "--out", "killed.zarr", "--workers", "1", "--device", "cpu", *options,
    ]  # fmt: skip
    environment = {**os.environ, "DVC_ROOT": str(folder / "killed"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_killed_at_any_point_it_goes_on_and_ends_with_the_same_bytes(tmp_path):
    tiny_data(tmp_path, num_train=60, num_val=1, num_test=1, num_classes=3, shape_THW=(12, 40, 50))
    expected = compute()
    rng = np.random.default_rng(0)
    began = time.monotonic()
    start(tmp_path).wait()
    whole = time.monotonic() - began
    (tmp_path / "killed.zarr").rename(tmp_path / "never_killed.zarr")
    assert contents(tmp_path / "never_killed.zarr") == expected
    for part in (tmp_path / "killed").rglob("*.safetensors"):
        part.unlink()
    num_whole = []
    for _ in range(8):
        process = start(tmp_path)
        time.sleep(rng.uniform(0.5, 1.0) * whole)
        process.kill()
        process.wait()
        num_whole.append(len(list((tmp_path / "killed").rglob("*.safetensors"))))
        if (tmp_path / "killed.zarr").exists():
            assert contents(tmp_path / "killed.zarr") == expected
    assert num_whole == sorted(num_whole)
    assert start(tmp_path).wait() == 0
    assert contents(tmp_path / "killed.zarr") == expected
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
def test_sigterm_keeps_what_is_done(tmp_path):
    tiny_data(tmp_path, num_train=300, num_val=1, num_test=1, num_classes=3, shape_THW=(12, 40, 50))
    process = start(tmp_path)
    while not list((tmp_path / "killed").rglob("*.safetensors")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert list((tmp_path / "killed").rglob("*.safetensors"))
    assert not (tmp_path / "killed.zarr").exists()


def test_two_stages_on_one_store_the_second_is_told(project):
    code = (
        "import sys, time; from pathlib import Path; from pipeline.work import out_lock\n"
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


def test_what_packing_costs_is_gated_and_the_logits_are_kept(project, asked):
    write_params(project, codec="topk", top_k=1, max_kl=1e-9)
    with pytest.raises(DataError, match=r"topk costs more than precompute_soft_targets\.max_kl") as caught:
        compute()
    assert len(caught.value.findings) == 4
    assert caught.value.findings[0].startswith("at temperature 1: ")
    assert not Path("store.zarr").exists()
    asked.clear()
    write_params(project)
    compute()
    assert asked == []


def test_as_many_classes_kept_as_there_are_is_refused_before_the_work(project, asked):
    write_params(project, codec="topk", top_k=3)
    with pytest.raises(ParamsError, match="top_k must be in 1 … 2 for 3 classes"):
        compute()
    assert asked == []


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "not finite"), (np.inf, "not finite"), (1e5, "too large for the codec")]
)
def test_logits_that_cannot_be_kept_name_their_videos(project, monkeypatch, value, words):
    video_ids = [row.video_id for row in read_manifest(Path("manifest.csv")).rows_of("train")]
    calls = []

    def broken(teacher, clip_BTHWC, *, batch_size):
        logits_BK = ask(teacher, clip_BTHWC, batch_size=batch_size)
        calls.append(len(logits_BK))
        if len(calls) == 1:
            logits_BK[VIEWS.num_views] = value  # the first view of the second video
        return logits_BK

    monkeypatch.setattr(asking, "ask", broken)
    with pytest.raises(DataError, match=words) as caught:
        compute()
    assert caught.value.findings == (video_ids[1],)
    assert not Path("store.zarr").exists()


def test_another_teacher_is_refused_with_all_that_differs(project):
    make_teacher(project / "teacher.safetensors", class_names=("drink", "jump", "walk"))
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["clip"]["num_frames"] += 1
    Path("params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(StaleArtifactError, match="does not fit this run") as caught:
        compute()
    assert [finding.split(":")[0] for finding in caught.value.findings] == ["class names", "clip"]


def test_a_file_that_changes_under_a_worker_is_noticed(project):
    how = Asking(
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


def test_the_lock_of_an_out_is_free_afterwards(project):
    for _ in range(2):
        with out_lock("stage", Path("store.zarr")):
            pass
