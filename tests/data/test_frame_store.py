"""The frame store: what is read is what was written, or an error says which file is damaged."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.digest import with_digest
from pipeline.core.errors import DataError, EnvironmentProblem, StaleArtifactError
from pipeline.data.frame_shard import IndexRow, write_shard
from pipeline.data.frame_store import FrameStore, shard_of, shard_path, write_index
from pipeline.data.frames import shown

SHAPES = {"Jump/Jump_1_1": (9, 12, 16), "Run/Run_2_7": (5, 12, 20), "Wave/Wave_11_3": (12, 16, 12)}


def some_videos(shapes=SHAPES):
    return {name: smooth(np.random.default_rng(len(name)), shape) for name, shape in shapes.items()}


def smooth(rng, shape):
    """Frames that JPEG can hold: a gradient that moves."""
    num_frames, height, width = shape
    t, y, x = np.mgrid[:num_frames, :height, :width]
    channels = [(5 * t + 3 * y + 4 * x + phase) % 200 for phase in rng.integers(0, 20, 3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def build(folder, videos, *, num_shards=2, codec="raw", quality=95):
    rows = []
    for shard in range(num_shards):
        members = [(name, lambda frames=frames: iter(frames)) for name, frames in sorted(videos.items())
                   if shard_of(name, num_shards) == shard]  # fmt: skip
        path = shard_path(folder, shard)
        result = write_shard(path, members, shard=shard, codec=codec, jpeg_quality=quality)
        assert not result.broken
        rows += result.rows
    write_index(folder, rows, codec=codec, jpeg_quality=quality, origin={"videos": "0f"})
    return FrameStore(folder)


@pytest.fixture(scope="module")
def raw_store(tmp_path_factory):
    return build(tmp_path_factory.mktemp("raw"), some_videos())


@pytest.mark.parametrize("writes", range(0, 40, 3))
def test_a_disk_that_is_full_is_told_when_a_shard_is_written(tmp_path, monkeypatch, writes):
    """HDF5 crashed the process where it could not write what it held back."""

    class Full(FileIO):
        left = writes

        def write(self, data):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data[: max(1, len(data) // 2)])  # as much as fits

    def opened(self, mode="r", *args, **options):
        return Full(self, mode) if mode == "wb+" else open_(self, mode, *args, **options)

    open_ = Path.open
    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(EnvironmentProblem, match=r"shard-000\.h5: cannot be written: No space"):
        build(tmp_path, some_videos(), num_shards=1)
    assert list(tmp_path.iterdir()) == []


@given(data=st.data())
@settings(max_examples=60)
def test_any_frames_and_box_are_those_written(raw_store, data):
    name = data.draw(st.sampled_from(sorted(SHAPES)))
    num_frames, height, width = raw_store.shape(name)
    numbers = data.draw(st.lists(st.integers(0, num_frames - 1), max_size=20))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box_height, box_width = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    read = raw_store.read(name, np.array(numbers, np.int32), top=top, left=left, height=box_height, width=box_width)
    expected = some_videos()[name][numbers, top : top + box_height, left : left + box_width]
    np.testing.assert_array_equal(read, expected)
    assert read.dtype == np.uint8


def test_a_box_without_a_size_reaches_to_the_border(raw_store):
    read = raw_store.read("Run/Run_2_7", [4, 0], top=3, left=2)
    np.testing.assert_array_equal(read, some_videos()["Run/Run_2_7"][[4, 0], 3:, 2:])


def test_a_store_says_what_it_holds(raw_store):
    assert raw_store.video_ids == tuple(sorted(SHAPES))
    assert {name: raw_store.shape(name) for name in SHAPES} == SHAPES
    assert raw_store.origin == {"videos": "0f"}
    raw_store.verify()


def test_what_is_not_there_is_an_error(raw_store):
    with pytest.raises(StaleArtifactError, match="no video 'Sit/Sit_1_1'"):
        raw_store.read("Sit/Sit_1_1", [0])
    for frames, box in (([9], {}), ([-1], {}), ([0], {"top": 12}), ([0], {"left": 1, "width": 16}), ([0], {"top": -1})):
        with pytest.raises(IndexError, match="Jump/Jump_1_1"):
            raw_store.read("Jump/Jump_1_1", frames, **box)


def test_the_same_videos_give_the_same_bytes(tmp_path):
    for codec in ("raw", "jpeg"):
        build(tmp_path / "a", some_videos(), codec=codec)
        build(tmp_path / "b", some_videos(), codec=codec)
        names = sorted(path.name for path in (tmp_path / "a").iterdir())
        assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
        for name in names:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_digest_names_the_content_and_not_the_shards(tmp_path):
    digests = {build(tmp_path / str(count), some_videos(), num_shards=count).digest for count in (1, 2, 7)}
    assert len(digests) == 1
    changed = some_videos()
    changed["Run/Run_2_7"][3, 5, 5, 1] ^= 1
    assert build(tmp_path / "changed", changed).digest not in digests
    assert build(tmp_path / "jpeg", some_videos(), codec="jpeg").digest not in digests


def test_a_new_video_touches_one_shard(tmp_path):
    frames = smooth(np.random.default_rng(0), (3, 8, 8))
    before = {f"Run/Run_{number}_1": frames for number in range(12)}
    build(tmp_path / "before", before, num_shards=4)
    build(tmp_path / "after", {**before, "Sit/Sit_1_1": frames}, num_shards=4)
    shards = [{path.name: path.read_bytes() for path in (tmp_path / name).glob("*.h5")} for name in ("before", "after")]
    changed = {name for name in shards[1] if shards[0].get(name) != shards[1][name]}
    assert changed == {shard_path(tmp_path, shard_of("Sit/Sit_1_1", 4)).name}


def test_shards_are_named_by_blake2b_of_the_id():
    for name in SHAPES:  # b2sum -l 128 of the id, its first 16 digits, modulo 16
        first = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()[:16]
        assert shard_of(name, 16) == int(first, 16) % 16


def test_other_readers_find_plain_hdf5(raw_store):
    row = next(row for row in raw_store.rows if row.video_id == "Wave/Wave_11_3")
    with h5py.File(shard_path(raw_store.path, row.shard), "r") as file:
        assert file["video_id"][row.row].decode() == row.video_id
        np.testing.assert_array_equal(file[f"{row.row:06d}"][()], some_videos()[row.video_id])


def test_jpeg_frames_are_near_and_any_decoder_reads_them(tmp_path):
    store = build(tmp_path, some_videos(), codec="jpeg")
    store.verify()
    for row in store.rows:
        read = store.read(row.video_id, range(row.frames))
        original = some_videos()[row.video_id].astype(int)
        assert np.abs(read - original).mean() < 4
        with h5py.File(shard_path(tmp_path, row.shard), "r") as file:
            first_frames = np.concatenate([[0], np.cumsum(file["frames"][()])])
            end = file["frame_end"][first_frames[row.row]]
            decoded = cv2.imdecode(file[f"{row.row:06d}"][:end], cv2.IMREAD_COLOR_RGB)
        assert np.abs(decoded.astype(int) - read[0]).max() <= 2  # decoders may round differently


def test_a_video_that_breaks_leaves_no_trace(tmp_path):
    good = some_videos()

    def breaks() -> Iterator[np.ndarray]:
        yield from good["Jump/Jump_1_1"][:4]
        raise DataError("frame 4 cannot be decoded")

    def grows() -> Iterator[np.ndarray]:
        yield np.zeros((8, 8, 3), np.uint8)
        yield np.zeros((8, 9, 3), np.uint8)

    options = {"shard": 0, "codec": "raw", "jpeg_quality": 95}
    members = [(name, lambda frames=frames: iter(frames)) for name, frames in good.items()]
    strangers = [("a", breaks), ("c", grows), ("d", lambda: iter(()))]
    plain = write_shard(tmp_path / "plain.h5", members, **options)
    result = write_shard(tmp_path / "mixed.h5", [strangers[0], members[0], *strangers[1:], *members[1:]], **options)
    assert result.rows == plain.rows
    assert (tmp_path / "mixed.h5").read_bytes() == (tmp_path / "plain.h5").read_bytes()
    reasons = dict(result.broken)
    assert reasons["a"] == "frame 4 cannot be decoded"
    assert "frame 1 is 9×8, those before 8×8" in reasons["c"]
    assert reasons["d"] == "it has no frame"


def test_a_shard_without_videos_is_no_file(tmp_path):
    result = write_shard(tmp_path / "s.h5", [], shard=0, codec="raw", jpeg_quality=95)
    assert result.rows == result.broken == ()
    assert list(tmp_path.iterdir()) == []


def test_frames_are_taken_one_at_a_time(tmp_path):
    """A reader may reuse its buffer, so that a long video is never held whole."""
    frames = some_videos()["Jump/Jump_1_1"]

    def reuses() -> Iterator[np.ndarray]:
        buffer = np.empty_like(frames[0])
        for frame in frames:
            buffer[:] = frame
            yield buffer
            buffer[:] = 0

    result = write_shard(shard_path(tmp_path, 0), [("a", reuses)], shard=0, codec="raw", jpeg_quality=95)
    write_index(tmp_path, result.rows, codec="raw", jpeg_quality=95, origin={})
    np.testing.assert_array_equal(FrameStore(tmp_path).read("a", range(9)), frames)


def test_a_bug_in_a_reader_is_not_a_broken_video(tmp_path):
    path = tmp_path / "s.h5"
    with pytest.raises(TypeError, match="uint8"):
        write_shard(path, [("a", lambda: iter([np.zeros((4, 4, 3))]))], shard=0, codec="raw", jpeg_quality=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_a_flipped_bit_is_an_error_or_harmless_but_never_other_frames(tmp_path, codec):
    whole = build(tmp_path, some_videos(), num_shards=1, codec=codec)
    expected = {name: whole.read(name, range(SHAPES[name][0])) for name in SHAPES}
    path = shard_path(tmp_path, 0)
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    noticed = 0
    for place in rng.integers(0, len(content), 150):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << int(rng.integers(8))]) + content[place + 1 :])
        store = FrameStore(tmp_path)
        for name in SHAPES:
            try:
                read = store.read(name, range(SHAPES[name][0]))
            except StaleArtifactError:
                noticed += 1
            else:
                np.testing.assert_array_equal(read, expected[name])
    assert noticed > 50


def test_damage_names_the_video_and_spares_the_others(tmp_path):
    store = build(tmp_path, some_videos(), num_shards=1)
    path = shard_path(tmp_path, 0)
    content = path.read_bytes()
    frame = some_videos()["Run/Run_2_7"][3].tobytes()
    place = content.index(frame) + 7
    path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    np.testing.assert_array_equal(store.read("Run/Run_2_7", [2, 4]), some_videos()["Run/Run_2_7"][[2, 4]])
    with pytest.raises(StaleArtifactError, match="frame 3 of Run/Run_2_7") as error:
        store.read("Run/Run_2_7", [2, 3])
    assert str(path) in str(error.value)
    with pytest.raises(StaleArtifactError, match="1 of 3 videos are damaged"):
        store.verify()


@pytest.mark.parametrize("keep", [0, 100, 2000, -100])
def test_a_cut_or_missing_shard_is_an_error(tmp_path, keep):
    build(tmp_path, some_videos(), num_shards=1)
    path = shard_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StaleArtifactError, match=path.name):
        FrameStore(tmp_path).read("Wave/Wave_11_3", range(12))
    path.unlink()
    with pytest.raises(StaleArtifactError, match=path.name):
        FrameStore(tmp_path).read("Wave/Wave_11_3", range(12))


def test_a_shard_of_another_store_is_an_error(tmp_path):
    build(tmp_path / "a", some_videos(), num_shards=1)
    other = {name.replace("Run", "Sit"): frames for name, frames in some_videos().items()}
    build(tmp_path / "b", other, num_shards=1)
    shard_path(tmp_path / "b", 0).replace(shard_path(tmp_path / "a", 0))
    with pytest.raises(StaleArtifactError, match="is not the Run/Run_2_7"):
        FrameStore(tmp_path / "a").read("Run/Run_2_7", [0])


def test_a_store_is_whole_only_with_its_description(tmp_path):
    build(tmp_path, some_videos())
    index, description = tmp_path / "index.csv", tmp_path / "store.json"
    values = json.loads(description.read_text())
    description.write_text(json.dumps({**values, "format_version": 2}))
    with pytest.raises(StaleArtifactError, match="format version 2, this program reads 1"):
        FrameStore(tmp_path)
    description.write_text(json.dumps(values))
    index.write_text(index.read_text().replace(",9,", ",8,"))
    with pytest.raises(StaleArtifactError, match="not the index"):
        FrameStore(tmp_path)
    for text in ("{", "[]", "{}"):
        description.write_text(text)
        with pytest.raises(StaleArtifactError, match=r"store\.json"):
            FrameStore(tmp_path)
    description.unlink()
    with pytest.raises(StaleArtifactError, match="no whole frame store"):
        FrameStore(tmp_path)
    with pytest.raises(StaleArtifactError, match="no whole frame store"):
        FrameStore(tmp_path / "absent")


@pytest.mark.parametrize("change", [{"jpeg_quality": 50}, {"origin": {"dark": "1"}}, {"codec": "raw"}, {"more": 1}])
def test_a_description_that_was_changed_is_refused(tmp_path, change):
    build(tmp_path, some_videos(), codec="jpeg")
    path = tmp_path / "store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StaleArtifactError, match="not the description"):
        FrameStore(tmp_path)


def test_a_description_of_the_first_stores_has_no_digest_and_is_read(tmp_path):
    digest = build(tmp_path, some_videos()).digest
    path = tmp_path / "store.json"
    values = json.loads(path.read_text())
    del values["digest"], values["levels"]
    path.write_text(json.dumps(values))
    found = FrameStore(tmp_path)
    assert (found.digest, found.levels) == (digest, "linear")


def stated(folder, **changes):
    """The store with other words in its description, and the digest of these."""
    path = folder / "store.json"
    values = {**json.loads(path.read_text()), **changes}
    del values["digest"]
    path.write_text(json.dumps(with_digest(values)))
    return folder


def test_what_the_bytes_mean_is_part_of_a_store(tmp_path):
    linear = build(tmp_path, some_videos())
    name, numbers = linear.video_ids[0], [0, 1]
    companded = FrameStore(stated(tmp_path, levels="companded"))
    assert companded.levels == "companded"
    assert companded.digest != linear.digest
    codes_THWC = companded.read(name, numbers)
    np.testing.assert_array_equal(codes_THWC, linear.read(name, numbers))
    np.testing.assert_array_equal(companded.read_shown(name, numbers), shown(codes_THWC, "companded"))
    np.testing.assert_array_equal(linear.read_shown(name, numbers), codes_THWC)


def test_levels_that_are_not_known_are_refused(tmp_path):
    build(tmp_path, some_videos())
    with pytest.raises(StaleArtifactError, match="not the description that the store was completed with"):
        FrameStore(stated(tmp_path, levels="cubic"))


def test_an_id_in_two_rows_is_refused(tmp_path):
    rows = [IndexRow("a", 0, row, 1, 1, 1, "") for row in range(2)]
    with pytest.raises(ValueError, match="two rows"):
        write_index(tmp_path, rows, codec="raw", jpeg_quality=95, origin={})


def test_ids_may_hold_any_text(tmp_path):
    frames = smooth(np.random.default_rng(0), (2, 8, 8))
    names = ["é/ü 1", 'a,"b"', "c\nd", "#x", "日本"]
    store = build(tmp_path, dict.fromkeys(names, frames), num_shards=1)
    assert store.video_ids == tuple(sorted(names))
    for name in names:
        np.testing.assert_array_equal(store.read(name, [1, 0]), frames[[1, 0]])


def test_a_store_may_be_pickled_and_used_after_a_fork(raw_store):
    expected = raw_store.read("Run/Run_2_7", [1, 1, 3])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(raw_store)).read("Run/Run_2_7", [1, 1, 3]), expected)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for read in pool.starmap(raw_store.read, [("Run/Run_2_7", [1, 1, 3])] * 4):
            np.testing.assert_array_equal(read, expected)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_few_files_are_open_at_once(tmp_path):
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    store = build(tmp_path, {f"v{number}": frames for number in range(400)}, num_shards=70)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for name in store.video_ids * 2:
        store.read(name, [0])
    assert len(os.listdir("/proc/self/fd")) - before <= 64  # noqa: PTH208
    del store
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
