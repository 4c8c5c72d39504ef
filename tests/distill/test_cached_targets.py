"""A training gets from its copy of the store what the store holds, however the copy is kept and whoever reads it."""

from __future__ import annotations

import errno
import gc
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from builders import write_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from target_stores import store_attributes, write
from torch.utils.data import DataLoader, Dataset

from pipeline.core.digest import digest_bytes
from pipeline.core.errors import EnvironmentProblem, StaleArtifactError
from pipeline.data.views import View
from pipeline.distill.store import store as soft_targets
from pipeline.distill.store.codecs import codec_of
from pipeline.distill.store.rows import Rows
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.student.cached_targets import differences, load_targets

SHAPE = (6, 18, 22)
PLENTY = 2**40
CODECS = ("float16", "float32", "topk")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(soft_targets, "CHUNK_ROWS", 2)
    monkeypatch.setattr(soft_targets, "SHARD_ROWS", 4)


def random_store(path, video_ids, *, codec="float16", num_views=3, num_teachers=1, num_classes=4, seed=0, change=None):
    """A store of random rows; returns it with its logits_NVMK as they are stored.

    change: row, view and field of a view that gets another value.
    """
    video_ids = tuple(sorted(video_ids))
    rng, n = np.random.default_rng(seed), len(video_ids)
    packing = codec_of({"name": codec, "k": 2}, num_classes)
    packed = packing.pack(rng.normal(0, 5, (n, num_views, num_teachers, num_classes)).astype(np.float32))
    views = rng.integers(1, [4, 3, 9, 12, 10, 10, 50], (n, num_views, 7), dtype="<i4")  # none leaves SHAPE
    views[..., 6] %= 2
    if change is not None:
        views[change[:3]] = change[3]
    arrays = {
        "views": views,
        "dark_shape": np.tile(np.array(SHAPE, "<i4"), (n, 1)),
        "pixel_digest": rng.integers(2**64, size=(n, num_views, num_teachers), dtype="<u8"),
        "frame_shape": np.tile(np.array(SHAPE, "<i4"), (n, num_teachers, 1)),
        "frames_digest": rng.integers(256, size=(n, num_teachers, 16), dtype="u1"),
        "fold": np.full((n, num_teachers), -1, dtype="<i2"),
        **packed,
    }
    class_names = [f"class {k}" for k in range(num_classes)]
    attributes = store_attributes(class_names, num_views=num_views, num_teachers=num_teachers)
    write(path, Rows(video_ids, arrays), packing, attributes)
    return SoftTargetStore(path), packing.unpack(packed)


def names(count):
    return [f"Drink/Drink_{number:04d}_é" for number in range(count)]


def load(store, video_ids, folder, *, memory_bytes=PLENTY, teachers="mean", seed=0, **options):
    return load_targets(
        store, video_ids, memory_bytes=memory_bytes, folder=folder, teachers=teachers, seed=seed, **options
    )


def check_same(one, other, video_ids, numbers=range(6)):
    for video_id in video_ids:
        for number in numbers:
            view, logits_K = one.lookup(video_id, number)
            other_view, other_logits_K = other.lookup(video_id, number)
            assert view == other_view
            assert logits_K.tobytes() == other_logits_K.tobytes()


# what is looked up


CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cc"])  # which no video's id has


@settings(max_examples=25)
@given(
    st.lists(st.text(CHARACTERS, min_size=1, max_size=5), min_size=1, max_size=11, unique=True),
    st.sampled_from(CODECS),
    st.integers(1, 3),
    st.booleans(),
    st.data(),
)
def test_every_wanted_view_is_what_the_store_holds(tmp_path_factory, ids, codec, num_teachers, mapped, data):
    folder = tmp_path_factory.mktemp("store")
    store, logits_NVMK = random_store(folder / "s.zarr", ids, codec=codec, num_teachers=num_teachers)
    views_NV7 = np.concatenate([store.read_shard(shard).arrays["views"] for shard in range(store.num_shards)])
    wanted = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=11))
    targets = load(store, wanted, folder / "mapped", memory_bytes=0 if mapped else PLENTY)
    assert (targets.folder is not None) == mapped
    for video_id in wanted:
        row = sorted(ids).index(video_id)
        for number in range(7):
            view, logits_K = targets.lookup(video_id, number)
            assert view == View(*views_NV7[row, number % 3].tolist())
            assert logits_K.dtype == np.float32
            assert np.array_equal(logits_K, logits_NVMK[row, number % 3].mean(axis=0))
    for other in set(ids) - set(wanted):
        with pytest.raises(KeyError):
            targets.lookup(other, 0)


def test_only_the_shards_that_hold_wanted_videos_are_read_each_once(tmp_path, monkeypatch):
    store, _ = random_store(tmp_path / "s.zarr", names(19))
    shards = []
    read_shard = SoftTargetStore.read_shard
    monkeypatch.setattr(
        SoftTargetStore, "read_shard", lambda self, shard: shards.append(shard) or read_shard(self, shard)
    )
    ids = names(19)
    load(store, [ids[17], ids[5], ids[4], ids[5]], tmp_path / "mapped")
    assert shards == [1, 4]


def test_a_damaged_row_is_never_looked_up(tmp_path):
    store, _ = random_store(tmp_path / "s.zarr", names(9))
    shard = tmp_path / "s.zarr/logits/c/1/0/0/0"
    content = bytearray(shard.read_bytes())
    content[5] ^= 1
    shard.write_bytes(content)
    for memory_bytes in (0, PLENTY):
        with pytest.raises(StaleArtifactError, match="cannot be used"):
            load(store, names(9), tmp_path / "mapped", memory_bytes=memory_bytes)
    assert list((tmp_path / "mapped").iterdir()) == []
    load(store, names(4), tmp_path / "mapped")  # another shard


# several teachers


@pytest.mark.parametrize("codec", CODECS)
def test_of_one_teacher_mean_and_draw_are_the_same_bits(tmp_path, codec):
    store, _ = random_store(tmp_path / "s.zarr", names(6), codec=codec)
    check_same(load(store, names(6), tmp_path), load(store, names(6), tmp_path, teachers="draw"), names(6))


@pytest.mark.parametrize("temperature", [1, 4.5])
def test_the_mean_is_the_normalised_geometric_mean_of_the_probabilities(tmp_path, temperature):
    store, logits_NVMK = random_store(tmp_path / "s.zarr", names(1), codec="float32", num_teachers=3)
    _, logits_K = load(store, names(1), tmp_path).lookup(names(1)[0], 1)
    geometric_K = np.prod(softmax(logits_NVMK[0, 1] / temperature), axis=0) ** (1 / 3)
    assert softmax(logits_K / temperature) == pytest.approx(geometric_K / geometric_K.sum(), rel=1e-4)


def softmax(logits_K):
    exponentials = np.exp(logits_K.astype(np.float64) - logits_K.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def drawn(targets, logits_NVMK, ids, numbers):
    """Which teacher it was, for each video and number."""
    chosen = {}
    for row, video_id in enumerate(ids):
        for number in numbers:
            _, logits_K = targets.lookup(video_id, number)
            same_M = (logits_NVMK[row, number % logits_NVMK.shape[1]] == logits_K).all(axis=-1)
            (chosen[video_id, number],) = np.flatnonzero(same_M)
    return chosen


def test_a_draw_is_one_teacher_and_depends_on_its_name_alone(tmp_path):
    ids, numbers = names(30), range(30)
    store, logits_NVMK = random_store(tmp_path / "s.zarr", ids, num_teachers=3)
    chosen = drawn(load(store, ids, tmp_path, teachers="draw", seed=7), logits_NVMK, ids, numbers)
    counts = np.bincount(list(chosen.values()), minlength=3)
    assert counts.min() > 900 / 3 - 5 * np.sqrt(900 * 2 / 9)  # five standard deviations
    some = load(store, ids[5:9], tmp_path / "mapped", memory_bytes=0, teachers="draw", seed=7)
    for video_id, number in reversed([key for key in chosen if key[0] in ids[5:9]]):
        _, logits_K = some.lookup(video_id, number)
        assert np.array_equal(logits_K, logits_NVMK[ids.index(video_id), number % 3, chosen[video_id, number]])
    assert drawn(load(store, ids, tmp_path, teachers="draw", seed=8), logits_NVMK, ids, numbers) != chosen


def test_a_view_that_comes_again_may_have_another_teacher(tmp_path):
    store, logits_NVMK = random_store(tmp_path / "s.zarr", names(1), num_teachers=3)
    chosen = drawn(load(store, names(1), tmp_path, teachers="draw"), logits_NVMK, names(1), range(0, 60, 3))
    assert len(set(chosen.values())) == 3


# where it is kept


def test_it_is_in_memory_to_the_byte_of_the_budget(tmp_path):
    store, _ = random_store(tmp_path / "s.zarr", names(9), num_teachers=2)
    in_memory = load(store, names(9), tmp_path / "mapped")
    num_bytes = sum(array.nbytes for array in in_memory.arrays.values())
    assert load(store, names(9), tmp_path / "mapped", memory_bytes=num_bytes).folder is None
    assert not (tmp_path / "mapped").exists()
    mapped = load(store, names(9), tmp_path / "mapped", memory_bytes=num_bytes - 1)
    assert mapped.folder == tmp_path / "mapped"
    assert not mapped.arrays["logits"].flags.owndata
    assert not list(tmp_path.rglob("*.partial"))
    check_same(in_memory, mapped, names(9))


@pytest.fixture
def no_reading(monkeypatch):
    def refuse():
        def read_shard(self, shard):
            raise AssertionError

        monkeypatch.setattr(SoftTargetStore, "read_shard", read_shard)

    return refuse


def test_files_of_an_earlier_run_are_used_again(tmp_path, no_reading):
    store, _ = random_store(tmp_path / "s.zarr", names(9))
    first = load(store, names(9), tmp_path / "mapped", memory_bytes=0)
    no_reading()
    check_same(first, load(store, names(9), tmp_path / "mapped", memory_bytes=0), names(9))


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: flip(folder / "logits.npy"),
        lambda folder: flip(folder / "video_ids.npy"),
        lambda folder: (folder / "views.npy").unlink(),
        lambda folder: (folder / "contents.json").write_text("{}"),
        lambda folder: (folder / "contents.json").write_text("[torn"),
        lambda folder: (folder / "contents.json").unlink(),
    ],
)
def test_files_that_are_not_whole_are_made_again(tmp_path, spoil):
    store, _ = random_store(tmp_path / "s.zarr", names(9))
    expected = load(store, names(9), tmp_path)
    load(store, names(9), tmp_path / "mapped", memory_bytes=0)
    spoil(tmp_path / "mapped")
    check_same(expected, load(store, names(9), tmp_path / "mapped", memory_bytes=0), names(9))


def test_files_of_another_store_or_of_other_videos_are_made_again(tmp_path):
    store, _ = random_store(tmp_path / "s.zarr", names(9))
    other, _ = random_store(tmp_path / "other.zarr", names(9), seed=1)
    for made, ids in ((store, names(9)), (store, names(8)), (other, names(8))):
        mapped = load(made, ids, tmp_path / "mapped", memory_bytes=0)
        check_same(mapped, load(made, ids, tmp_path), ids)


def test_a_full_disk_is_told_and_leaves_nothing_that_counts(tmp_path, monkeypatch):
    store, _ = random_store(tmp_path / "s.zarr", names(9))

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(np.lib.format, "write_array_header_1_0", full)
        with pytest.raises(EnvironmentProblem, match="No space left"):
            load(store, names(9), tmp_path / "mapped", memory_bytes=0)
    assert list((tmp_path / "mapped").iterdir()) == []
    load(store, names(9), tmp_path / "mapped", memory_bytes=0)


# other processes


@pytest.mark.parametrize("memory_bytes", [0, PLENTY])
def test_a_pickled_copy_finds_the_same(tmp_path, memory_bytes):
    store, _ = random_store(tmp_path / "s.zarr", names(9), num_teachers=2, num_classes=400)
    targets = load(store, names(9), tmp_path / "mapped", memory_bytes=memory_bytes, teachers="draw")
    content = pickle.dumps(targets)
    num_bytes = sum(array.nbytes for array in targets.arrays.values())
    assert (len(content) < 2000) == (memory_bytes == 0)  # files go as a path
    assert num_bytes > 40_000
    check_same(targets, pickle.loads(content), names(9))


class LooksUpAll(Dataset):
    """An item looks up everything and says by how much that made the process's own memory grow."""

    def __init__(self, targets, video_ids):
        self.targets, self.video_ids = targets, video_ids

    def __getitem__(self, _index):
        gc.disable()  # a collection writes to all young objects of the parent, whose pages the fork then copies
        before = own_bytes()
        targets = self.targets() if callable(self.targets) else self.targets
        for video_id in self.video_ids:
            for number in range(8):
                targets.lookup(video_id, number)
        return own_bytes() - before


def own_bytes():
    return 1024 * int(re.search(r"Private_Dirty: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())[1])


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="measured as Linux tells it")
@pytest.mark.parametrize("memory_bytes", [0, PLENTY])
def test_two_workers_share_it(tmp_path, monkeypatch, memory_bytes):
    monkeypatch.undo()  # one shard
    ids = names(1500)
    store, _ = random_store(tmp_path / "s.zarr", ids, num_views=8, num_classes=800)
    targets = load(store, ids, tmp_path / "mapped", memory_bytes=memory_bytes)
    num_bytes = sum(array.nbytes for array in targets.arrays.values())
    assert num_bytes > 16 * 2**20

    def growth(shown):
        loader = DataLoader(LooksUpAll(shown, ids), sampler=[0, 1], batch_size=None, num_workers=2)
        return list(loader)

    # pages of the parent, which it or the other worker writes to meanwhile, count as this worker's own: up to 3.5 MB
    assert max(growth(targets)) < num_bytes / 2
    if memory_bytes:  # the measure does see a copy
        assert min(growth(lambda: pickle.loads(pickle.dumps(targets)))) > num_bytes


# what does not fit


@pytest.mark.parametrize("memory_bytes", [0, PLENTY])
def test_everything_that_does_not_fit_is_in_one_error(tmp_path, memory_bytes):
    ids = names(9)
    store, _ = random_store(tmp_path / "s.zarr", ids)
    shapes = dict.fromkeys([*ids, "Wave/new"], SHAPE) | {ids[2]: (6, 18, 20), ids[8]: (7, 18, 22)}
    frames = write_frames(tmp_path / "dark", {name: np.zeros((*shape, 3), np.uint8) for name, shape in shapes.items()})
    with pytest.raises(StaleArtifactError) as caught:
        load(
            store, [*ids, "Wave/new"], tmp_path / "mapped", memory_bytes=memory_bytes, frames=frames,
            findings=["clip: the store has 1, this run 2"],
        )  # fmt: skip
    findings = caught.value.findings
    assert findings[0] == "clip: the store has 1, this run 2"
    assert [finding.partition(":")[0] for finding in findings[1:3]] == [ids[2], ids[8]]
    assert "(6, 18, 22)" in findings[1]
    assert "(6, 18, 20)" in findings[1]
    assert findings[3:] == ("lacks 1 of the 10 videos:", "Wave/new")
    assert "precompute_soft_targets" in caught.value.remedy
    assert caught.value.exit_code == 5
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize(("field", "value"), [(0, 6), (3, 22)])
def test_a_view_that_leaves_its_video_is_refused(tmp_path, field, value):
    store, _ = random_store(tmp_path / "s.zarr", names(3), change=(1, 2, field, value))
    frames = write_frames(tmp_path / "dark", {name: np.zeros((*SHAPE, 3), np.uint8) for name in names(3)})
    with pytest.raises(StaleArtifactError) as caught:
        load(store, names(3), tmp_path, frames=frames)
    assert caught.value.findings == (
        f"{names(3)[1]}: has views that leave the video; `dlkdd targets verify` names them",
    )


def test_many_missing_videos_are_counted_and_some_named(tmp_path):
    store, _ = random_store(tmp_path / "s.zarr", names(3))
    with pytest.raises(StaleArtifactError, match="lacks 12 of the 15 videos") as caught:
        load(store, names(15), tmp_path)
    assert caught.value.findings[1:] == tuple(sorted(set(names(15)) - set(names(3))))


def test_frames_that_fit_are_no_finding(tmp_path):
    store, _ = random_store(tmp_path / "s.zarr", names(5))
    frames = write_frames(tmp_path / "dark", {name: np.zeros((*SHAPE, 3), np.uint8) for name in names(5)})
    load(store, names(5), tmp_path / "mapped", frames=frames, memory_bytes=0)
    load(store, names(5), tmp_path / "mapped", frames=frames, memory_bytes=0)


WANTED = {
    "class_names": [f"class {k}" for k in range(4)],
    "clip": {"num_frames": 2, "frame_stride": 2, "size": 16},
    "digests.manifest": digest_bytes(b"manifest"),
    "teachers.frames": digest_bytes(b"frames"),
    "teachers.name": "teacher 1",
    "teachers.digest": digest_bytes(b"\0"),
}


def test_what_the_store_was_made_from_is_no_difference(tmp_path):
    store, _ = random_store(tmp_path / "s.zarr", names(3), num_teachers=2)
    assert differences(store, WANTED) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("class_names", [f"class {k}" for k in (1, 0, 2, 3)]),
        ("clip", {"num_frames": 2, "frame_stride": 2, "size": 32}),
        ("digests.manifest", "c4"),
        ("teachers.frames", "c3"),
        ("teachers.name", "x3d_m"),
        ("teachers.digest", "b"),
    ],
)
def test_each_difference_is_told_with_both_values(tmp_path, name, value):
    store, _ = random_store(tmp_path / "s.zarr", names(3), num_teachers=2)
    (finding,) = differences(store, {**WANTED, name: value})
    assert finding.startswith(f"{name}: the store has ")
    assert finding.endswith(f"this run {json.dumps(value, sort_keys=True)}")
    assert len(differences(store, dict.fromkeys(WANTED, "other"))) == len(WANTED)
