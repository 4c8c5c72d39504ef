"""Logits of another program make a store like ours, or are refused with all that is wrong with them."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pytest
from builders import CLIP, VIEWS, one_thread, tiny_data  # noqa: F401 - a fixture
from foreign_logits import table_of, write_logits
from hypothesis import given, settings
from hypothesis import strategies as st
from precompute_runs import compute, make_project
from pyarrow import parquet
from student_runs import StudentRun
from target_stores import SEED, Made, make_store

from pipeline.core.errors import DataError, ParamsError, StaleArtifactError
from pipeline.core.weights import load_weights
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest
from pipeline.distill.store.attributes import NOT_KNOWN
from pipeline.distill.store.codecs import codec_of
from pipeline.distill.store.store import SoftTargetStore
from pipeline.tools.targets.card import publish_store
from pipeline.tools.targets.diff import diff
from pipeline.tools.targets.export import export
from pipeline.tools.targets.imported import ForeignTeacher, checked_logits, import_store, read_logits
from pipeline.tools.targets.merge import merge_teachers
from pipeline.tools.targets.summary import summarise
from pipeline.tools.targets.verify import verify
from pipeline.tools.targets.views import draw_bank

TEACHER = ForeignTeacher("video-mae", "0123456789abcdef" * 2)
MIXED = VIEWS.model_copy(update={"mix": "mixup", "mix_share": 0.6})
SUFFIXES = (".npz", ".parquet", ".zarr")


@pytest.fixture(scope="module", params=[VIEWS, MIXED], ids=["plain", "mixed"])
def bank(request, tmp_path_factory):
    manifest, frames = tiny_data(tmp_path_factory.mktemp("data"), num_train=6, num_classes=3, num_footage=2)
    return draw_bank(manifest, frames, clip=CLIP, views=request.param, seed=SEED)


def drawn_logits(bank, seed=0):
    shape = (len(bank.rows), VIEWS.num_views, len(bank.description["class_names"]))
    return np.random.default_rng(seed).normal(scale=3, size=shape).astype(np.float32)


def store_of(path, bank, logits_NVK, *, codec="float32", teacher=TEACHER, max_kl=0.01):
    codec = codec_of({"name": codec, "k": 2}, logits_NVK.shape[-1])
    import_store(path, bank, logits_NVK, teacher, codec=codec, batch_size=4, max_kl=max_kl)
    return SoftTargetStore(path)


# what goes in comes out


@pytest.mark.parametrize("codec", ["float16", "float32", "topk"])
def test_a_store_of_given_logits_is_whole_and_says_where_they_are_from(bank, tmp_path, codec):
    logits_NVK = drawn_logits(bank)
    store = store_of(tmp_path / "store.zarr", bank, logits_NVK, codec=codec, max_kl=9)
    assert verify(store.location, "checksums").findings == []
    rows = store.read_shard(0)
    packed = store.codec.pack(logits_NVK[:, :, None])
    assert all(np.array_equal(rows.arrays[name], array) for name, array in packed.items())
    (teacher,) = store.attributes["teachers"]
    assert (teacher["name"], teacher["digest"], teacher["origin"]) == ("video-mae", TEACHER.digest, "imported")
    assert (teacher["frames"], teacher["enhancer"], teacher["light"]) == (NOT_KNOWN, None, None)
    labelled = ~np.array(
        [name in {row.video_id for row in bank.manifest.rows_of("unlabelled")} for name in rows.video_ids]
    )
    if not bank.mixed:
        labels_N = np.array([bank.manifest.class_index(bank.manifest.by_id[name]) for name in rows.video_ids])
        right = (logits_NVK.argmax(axis=-1) == labels_N[:, None])[labelled].mean()
        assert teacher["top1_on_views"] == pytest.approx(right, abs=1e-6)
    assert store.num_unlabelled == (~labelled).sum()


@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(["float16", "float32", "float64"]))
@settings(max_examples=12, deadline=None)
def test_neither_the_order_of_rows_nor_the_format_changes_a_bit(bank, tmp_path_factory, seed, dtype):
    folder = tmp_path_factory.mktemp("given")
    rng, logits_NVK = np.random.default_rng(seed), drawn_logits(bank, seed).astype(dtype)
    table = table_of(bank, logits_NVK)
    order = rng.permutation(len(table["view"]))
    shuffled = {**table, **{name: table[name][order] for name in ("video_id", "view", "logits")}}
    for suffix in SUFFIXES:
        found_NVK = checked_logits(read_logits(write_logits(folder / f"logits{suffix}", shuffled)), bank)
        assert found_NVK.dtype == np.float32
        assert np.array_equal(found_NVK, logits_NVK.astype(np.float32))
    shutil.rmtree(folder)


def test_our_own_logits_come_back_and_teach_the_same_student(tmp_path, monkeypatch):
    """Exported from a store and imported: the same rows of logits, and of a student the same weights."""
    project = make_project(tmp_path, monkeypatch)
    compute(out="soft_targets.zarr")
    own = SoftTargetStore("soft_targets.zarr")
    export(own, project / "own.npz")
    manifest, frames = read_manifest(project / "manifest.csv"), FrameStore(project / "frames")
    bank = draw_bank(manifest, frames, clip=CLIP, views=VIEWS, seed=SEED)
    with np.load("own.npz") as exported:
        table = table_of(bank, exported["logits"][:, :, 0])
        assert exported["video_id"].tolist() == list(bank.rows.video_ids)
    logits_NVK = checked_logits(read_logits(write_logits(project / "logits.npz", table)), bank)
    store = store_of(project / "imported.zarr", bank, logits_NVK, codec="float16")
    assert np.array_equal(store.read_shard(0).arrays["logits"], own.read_shard(0).arrays["logits"])
    assert diff(own, store)["divergence"]["max_kl"] == 0
    run = StudentRun(
        project, Made(project / "soft_targets.zarr", manifest, frames, [], own.read_shard(0), {})
    ).prepare()
    students = []
    for name in ("soft_targets", "imported"):
        teacher_path = project / "teacher.safetensors"  # of the run, and none of the imported store's
        run.train(name=name, soft_targets=str(project / f"{name}.zarr"), teacher_path=teacher_path)
        students.append(load_weights(project / f"{name}.safetensors"))
    (one, _), (other, attributes) = students
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    assert attributes["trained_on"]["digests"]["teacher"] == TEACHER.digest


# every reader takes it


def test_every_reader_takes_it(bank, tmp_path, capsys):
    store = store_of(tmp_path / "store.zarr", bank, drawn_logits(bank))
    other = store_of(tmp_path / "other.zarr", bank, drawn_logits(bank, 1), teacher=ForeignTeacher("service", "ab" * 16))
    found = summarise(store, manifest=bank.manifest)
    assert [each["videos"] for each in found["by_seen"]] == ["seen or unseen"]
    assert diff(store, other)["num_same_views"] == len(bank.rows)
    merge_teachers([store, other], tmp_path / "both.zarr")
    both = SoftTargetStore(tmp_path / "both.zarr")
    assert [each["origin"] for each in both.attributes["teachers"]] == ["imported"] * 2
    export(store, tmp_path / "x.npz")
    export(store, tmp_path / "x.parquet")
    publish_store(tmp_path / "store.zarr", tmp_path / "published", license_text=None)
    card = (tmp_path / "published/README.md").read_text()
    assert "`video-mae`, imported" in card
    assert "in another program" in card
    assert NOT_KNOWN not in card


def test_it_is_merged_with_a_store_of_ours(tmp_path):
    made = make_store(tmp_path)
    bank = draw_bank(made.manifest, made.frames, clip=CLIP, views=VIEWS, seed=SEED)
    store = store_of(tmp_path / "imported.zarr", bank, drawn_logits(bank), codec="float16")
    merge_teachers([SoftTargetStore(made.path), store], tmp_path / "both.zarr")
    assert SoftTargetStore(tmp_path / "both.zarr").num_teachers == 2
    verdict = verify(tmp_path / "both.zarr", "teacher", teachers=made.teachers, frames=[made.frames])
    assert verdict.findings == []
    assert verdict.notes == [f"not run, since another program gave its logits: video-mae {TEACHER.digest}"]


def test_its_teacher_cannot_be_run_here(bank, tmp_path, monkeypatch):
    store = store_of(tmp_path / "store.zarr", bank, drawn_logits(bank))
    with pytest.raises(ParamsError, match="cannot be run here: another program gave") as caught:
        verify(store.location, "teacher")
    assert caught.value.findings == (f"video-mae {TEACHER.digest}",)


def test_it_has_no_online_teacher(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    made = make_store(tmp_path)
    bank = draw_bank(made.manifest, made.frames, clip=CLIP, views=VIEWS, seed=SEED)
    store_of(tmp_path / "imported.zarr", bank, drawn_logits(bank))
    run = StudentRun(tmp_path, made.at(tmp_path / "imported.zarr")).prepare()
    with pytest.raises(ParamsError, match=r"soft_targets\.source is online") as caught:
        run.train(source="online", teacher_path=tmp_path / "teacher_0.safetensors", enhanced_path=tmp_path / "frames")
    assert any("of another program, which cannot be run here" in finding for finding in caught.value.findings)


# what is refused


def refused(bank, folder, changes, suffix=".npz"):
    """The findings about a table with these changes; a name without value is left out."""
    table = {**table_of(bank, drawn_logits(bank)), **changes}
    path = folder / f"logits{suffix}"
    np.savez(path, **{name: value for name, value in table.items() if value is not None})
    with pytest.raises(StaleArtifactError, match="its logits are not those of this run's views") as caught:
        checked_logits(read_logits(path), bank)
    return caught.value.findings


def test_all_that_is_wrong_with_rows_is_told_at_once(bank, tmp_path):
    table = table_of(bank, drawn_logits(bank))
    ids, view, logits = (table[name].copy() for name in ("video_id", "view", "logits"))
    first, second, third, fourth = (bank.rows.video_ids[place] for place in range(4))
    view[1] = 0  # of the first video
    ids[3:6] = "of/another"  # in place of the second
    view[6] = 7  # of the third
    logits[10] = np.nan  # of the fourth
    names = table["class_names"][::-1]
    description = {**bank.description, "clip": {"num_frames": 9}}
    findings = refused(
        bank,
        tmp_path,
        {"video_id": ids, "view": view, "logits": logits, "class_names": names, "bank": json.dumps(description)},
    )
    assert len(findings) == 9
    for words in (
        'bank: clip is {"num_frames": 9}, of this run {"frame_stride": 2',
        "class_names: the logits have [",
        "no video of the bank: of/another",
        f"no view of the bank: {third}: view 7",
        f"missing: {first}: view 1",
        f"missing: {second}: view 0, 1, 2",
        f"missing: {third}: view 0",
        f"there twice: {first}: view 0",
        f"not finite: {fourth}: view 1",
    ):
        assert any(words in finding for finding in findings), words


CASES = {
    "no names": ({"class_names": None}, "class_names is missing"),
    "names in bytes": ({"class_names": np.array([b"a", b"b", b"c"])}, "class_names: the logits have ["),
    "no bank": ({"bank": None}, "bank is missing"),
    "no logits": ({"logits": None}, "logits is missing"),
    "a bank that is none": ({"bank": np.array(3)}, "bank is missing"),
    "whole numbers": ({"logits": np.zeros((24, 3), int)}, "logits are int64, expected float16"),
    "texts": ({"view": np.array(["0"] * 24)}, "view is <U1, expected whole numbers"),
    "another shape": ({"logits": np.zeros((8, 3, 3), np.float32)}, "logits has the shape (8, 3, 3), expected (24, 3)"),
    "too few classes": ({"logits": np.zeros((24, 2), np.float32)}, "logits has the shape (24, 2), expected (24, 3)"),
    "too few rows": ({"logits": np.zeros((23, 3), np.float32)}, "logits has the shape (23, 3)"),
    "no rows": (
        {"logits": np.zeros((0, 3), np.float32), "view": np.zeros(0, int), "video_id": np.zeros(0, "U1")},
        "view has the shape (0,), expected (24,)",
    ),
    "too large": ({"logits": np.full((24, 3), 1e300)}, "not finite: "),
}


@pytest.mark.parametrize("case", CASES)
def test_a_table_that_is_none_is_refused(bank, tmp_path, case):
    changes, words = CASES[case]
    assert any(words in finding for finding in refused(bank, tmp_path, changes))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_cannot_be_read_is_refused(bank, tmp_path, suffix):
    path = tmp_path / f"logits{suffix}"
    for content in (None, b"", b"PK\x03\x04 and more", b"\x93NUMPY\x01\x00"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(StaleArtifactError, match="cannot be read"):
            read_logits(path)
    np.savez(tmp_path / "pickled.npz", video_id=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(StaleArtifactError, match="cannot be read"):
        read_logits(tmp_path / "pickled.npz")
    with pytest.raises(ParamsError, match=r"ends with \.npz, \.parquet, \.zarr"):
        read_logits(tmp_path / "logits.csv")


NEVER_LOGITS = {"a pair": pa.struct([("a", pa.float32())]), "a map": pa.map_(pa.string(), pa.float32())}


@pytest.mark.parametrize("kind", NEVER_LOGITS)
def test_columns_that_are_no_lists_are_refused(tmp_path, kind):
    logits = pa.array([{"a": 1.0}] if kind == "a pair" else [[("a", 1.0)]], NEVER_LOGITS[kind])
    parquet.write_table(pa.table({"video_id": ["a"], "view": [0], "logits": logits}), tmp_path / "logits.parquet")
    with pytest.raises(StaleArtifactError, match="cannot be read"):
        read_logits(tmp_path / "logits.parquet")


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_damaged_file_is_read_or_refused(bank, tmp_path, suffix):
    path = write_logits(tmp_path / f"logits{suffix}", table_of(bank, drawn_logits(bank)))
    content, rng = path.read_bytes(), np.random.default_rng(0)
    ends = [*range(200), *range(-500, 0)]  # where the formats say what is in between
    for place in rng.choice(ends, 150, replace=False):
        damaged = bytearray(content)
        damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with suppress(StaleArtifactError):
            read_logits(path)


def test_lists_of_different_lengths_are_refused(bank, tmp_path):
    table = table_of(bank, drawn_logits(bank))
    logits = [*table["logits"][:-1], table["logits"][-1][:-1]]
    with pytest.raises(StaleArtifactError, match="different lengths"):
        read_logits(write_logits(tmp_path / "logits.parquet", {**table, "logits": logits}))


def test_logits_that_the_codec_cannot_hold_are_refused(bank, tmp_path):
    with pytest.raises(DataError, match="too large for the codec float16"):
        store_of(tmp_path / "x.zarr", bank, 1e6 * drawn_logits(bank), codec="float16")


@pytest.mark.parametrize(("name", "digest"), [("", "ab" * 16), ("x", "ab"), ("x", "AB" * 16)])
def test_a_teacher_has_a_name_and_a_digest(name, digest):
    with pytest.raises(ParamsError, match="32 hexadecimal digits"):
        ForeignTeacher(name, digest)
