"""What is lost is asked again, what is not is kept, and the result has the same bytes or says that it has not."""

from __future__ import annotations

import json
import shutil
from functools import cache

import numpy as np
import pytest
from builders import noise_video, one_thread, write_frames  # noqa: F401 - a fixture
from target_stores import contents, make_store, make_teacher, write

from pipeline.core.digest import digest_json
from pipeline.core.errors import DataError, ParamsError, StaleArtifactError
from pipeline.data.manifest import write_manifest
from pipeline.distill.store import store as soft_targets
from pipeline.distill.store.store import Rows, SoftTargetStore
from pipeline.distill.teacher import bank
from pipeline.tools.targets import repair as target_repair
from pipeline.tools.targets.repair import repair
from pipeline.tools.targets.verify import verify

KINDS = [("float16", 1), ("float32", 2), ("topk", 1)]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch, tmp_path):
    """Of 7 rows, chunks of 2 and shards of 4; work folders apart."""
    monkeypatch.setattr(soft_targets, "CHUNK_ROWS", 2)
    monkeypatch.setattr(soft_targets, "SHARD_ROWS", 4)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@cache
def originals(folder, codec, num_teachers):
    folder.mkdir()
    return make_store(folder, codec=codec, num_teachers=num_teachers)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture
def made(request, base, tmp_path):
    """A copy of a store; parametrised by (codec, number of teachers)."""
    codec, num_teachers = getattr(request, "param", ("float16", 1))
    original = originals(base / f"{codec}_{num_teachers}", codec, num_teachers)
    copy = tmp_path / "soft_targets.zarr"
    shutil.copytree(original.path, copy)
    return original.at(copy)


every_kind = pytest.mark.parametrize("made", KINDS, indirect=True)


@pytest.fixture
def asked(monkeypatch):
    """Numbers of clips that teachers were asked about."""
    counted = []
    infer = bank.infer

    def counting(teacher, clip_BTHWC, *, batch_size):
        counted.append(len(clip_BTHWC))
        return infer(teacher, clip_BTHWC, batch_size=batch_size)

    monkeypatch.setattr(bank, "infer", counting)
    return counted


def answers(monkeypatch, change):
    """Teachers that answer on another device: `change` of their logits."""
    infer = bank.infer
    monkeypatch.setattr(bank, "infer", lambda *args, **options: change(infer(*args, **options)))


def flip(path, position, mask=1):
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)


def rewritten(made, rows=None, attributes=None):
    """The same store with other rows or attributes, its digests right."""
    codec = SoftTargetStore(made.path).codec
    shutil.rmtree(made.path)
    write(made.path, rows or made.rows, codec, {**made.attributes, **(attributes or {})})
    return made


def leftovers(tmp_path):
    return [path for path in (tmp_path / ".work").rglob("*") if path.suffix != ".lock"]


# the same bytes


@every_kind
@pytest.mark.parametrize("seed", range(4))
def test_what_was_damaged_anywhere_comes_back_bit_for_bit(made, asked, tmp_path, seed):
    before = contents(made.path)
    rng = np.random.default_rng(seed)
    for name in rng.choice(sorted(set(before) - {"zarr.json"}), 3, replace=False):
        path = made.path / str(name)
        damage = rng.integers(4)
        if damage == 0:
            path.unlink()
        elif damage == 1:
            path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])
        else:
            flip(path, rng.integers(path.stat().st_size), 1 << int(rng.integers(8)))
    assert not verify(made.path, "checksums").whole
    result = repair(made.path, **made.origin)
    assert contents(made.path) == before
    assert result.outcome == "identical"
    assert result.new_digest == result.digest == SoftTargetStore(made.path).digest
    assert result.control is None
    assert result.findings
    assert (result.num_rows, result.num_rows_asked) == (7, sum(asked) // (3 * len(made.teachers)))
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["outcome"] == "identical"
    assert leftovers(tmp_path) == []


def test_only_the_rows_of_a_damaged_chunk_are_asked_again(made, asked):
    before = contents(made.path)
    flip(made.path / "logits/c/0/0/0/0", 5)
    result = repair(made.path, **made.origin)
    assert result.num_rows_asked == 2
    assert sum(asked) == 2 * 3
    assert max(asked) <= 4  # the store's batch size
    assert contents(made.path) == before


@every_kind
def test_a_store_without_any_shard_comes_back(made, asked):
    before = contents(made.path)
    for name in before:
        if "/c/" in name:
            (made.path / name).unlink()
    assert repair(made.path, **made.origin).num_rows_asked == 7
    assert contents(made.path) == before


def test_descriptions_come_back_without_asking(made, asked):
    before = contents(made.path)
    (made.path / "logits/zarr.json").unlink()
    (made.path / "views/zarr.json").write_text("{}")
    root = json.loads((made.path / "zarr.json").read_text())
    (made.path / "zarr.json").write_text(json.dumps({**root, "node_type": "array"}))
    result = repair(made.path, **made.origin)
    assert (result.outcome, result.num_rows_asked, asked) == ("identical", 0, [])
    assert contents(made.path) == before


def test_strangers_go_and_the_card_stays(made, asked):
    before = contents(made.path)
    (made.path / "README.md").write_text("what it is")
    (made.path / "logits/c/7").mkdir()
    (made.path / "logits/c/7/0").write_text("from another store")
    assert repair(made.path, **made.origin).findings == ("logits/c/7/0 is no part of the store",)
    assert contents(made.path) == {**before, "README.md": b"what it is"}
    assert asked == []


def test_shards_of_another_teacher_are_asked_again(made, asked, base, tmp_path):
    before = contents(made.path)
    changed = {**made.rows.arrays, "logits": -made.rows.arrays["logits"]}
    other = tmp_path / "other.zarr"
    write(other, Rows(made.rows.video_ids, changed), SoftTargetStore(made.path).codec, made.attributes)
    for name in before:
        if "/c/0" in name:
            shutil.copyfile(other / name, made.path / name)
    assert repair(made.path, **made.origin).num_rows_asked == 4
    assert contents(made.path) == before


def test_shards_that_changed_places_are_asked_again(made, asked):
    before = contents(made.path)
    for name, content in before.items():
        if "/c/0" in name:
            second = name.replace("/c/0", "/c/1", 1)
            (made.path / name).write_bytes(before[second])
            (made.path / second).write_bytes(content)
    assert repair(made.path, **made.origin).num_rows_asked == 7
    assert contents(made.path) == before


def test_the_order_in_which_teachers_are_given_does_not_matter(base, tmp_path, asked):
    original = originals(base / "float32_2", "float32", 2)
    path = tmp_path / "soft_targets.zarr"
    shutil.copytree(original.path, path)
    before = contents(path)
    flip(path / "logits/c/1/0/0/0", 5)
    repair(path, **{**original.origin, "teachers": original.teachers[::-1]})
    assert contents(path) == before


def test_onto_another_place_the_damaged_store_stays_as_it_is(made, tmp_path):
    before = contents(made.path)
    flip(made.path / "logits/c/0/0/0/0", 5)
    damaged = contents(made.path)
    result = repair(made.path, out=tmp_path / "mended.zarr", **made.origin)
    assert result.out == str(tmp_path / "mended.zarr")
    assert contents(tmp_path / "mended.zarr") == before
    assert contents(made.path) == damaged


def test_nothing_is_written_where_nothing_is_wrong(made, asked, tmp_path):
    times = {path: path.stat().st_mtime_ns for path in made.path.rglob("*")}
    result = repair(made.path, out=tmp_path / "mended.zarr", **made.origin)
    assert (result.outcome, result.findings, result.out) == ("nothing to repair", (), None)
    assert {path: path.stat().st_mtime_ns for path in made.path.rglob("*")} == times
    assert not (tmp_path / "mended.zarr").exists()
    assert asked == []
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("where", ["_mend", "_write", "publish"])
def test_stopped_anywhere_it_leaves_the_store_and_is_done_the_next_time(made, monkeypatch, tmp_path, where):
    before = contents(made.path)
    flip(made.path / "logits/c/0/0/0/0", 5)
    damaged = contents(made.path)

    def stop(*_args, **_options):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(target_repair, where, stop)
        with pytest.raises(KeyboardInterrupt):
            repair(made.path, **made.origin)
    assert contents(made.path) == damaged
    assert leftovers(tmp_path) == []
    repair(made.path, **made.origin)
    assert contents(made.path) == before


# another device


@pytest.mark.parametrize("made", [("float32", 2)], indirect=True)
def test_another_device_is_checked_against_good_rows_and_said(made, monkeypatch):
    store = SoftTargetStore(made.path)
    with pytest.MonkeyPatch.context() as patched:
        answers(patched, lambda logits_BK: logits_BK * (1 + 1e-5))
        flip(made.path / "logits/c/0/0/0/0", 5)
        result = repair(made.path, **made.origin)
        assert result.outcome == "other device"
        assert (result.num_rows_asked, result.control.num_videos, result.control.num_equal) == (2, 2, 0)
        assert 0 < result.control.max_relative < 1e-4
        mended = SoftTargetStore(made.path)
        assert result.new_digest == mended.digest != result.digest == store.digest
        assert mended.attributes["repaired_rows"] == 2
        flip(made.path / "logits/c/1/0/0/0", 5)
        repair(made.path, **made.origin)
    mended = SoftTargetStore(made.path)
    assert mended.attributes["repaired_rows"] == 4
    assert verify(made.path, "teacher", teachers=made.teachers, frames=made.frames).whole
    rows = [mended.read_shard(shard) for shard in range(2)]
    logits = np.concatenate([part.arrays["logits"] for part in rows])
    assert np.allclose(logits, made.rows.arrays["logits"], rtol=1e-4)
    assert np.array_equal(logits[2:4], made.rows.arrays["logits"][2:4])  # those that were not lost
    assert {name: value for name, value in mended.attributes.items() if name in made.attributes} == made.attributes


def refused(made, words, **changes):
    """Findings of a repair that must refuse, and leave everything as it was."""
    before = contents(made.path)
    with pytest.raises(StaleArtifactError, match=words) as caught:
        repair(made.path, **{**made.origin, **changes})
    assert contents(made.path) == before
    assert caught.value.exit_code == 5
    assert caught.value.remedy
    return caught.value.findings


def test_teachers_that_contradict_good_rows_are_refused(made, monkeypatch):
    answers(monkeypatch, lambda logits_BK: logits_BK * 1.1)
    flip(made.path / "logits/c/0/0/0/0", 5)
    findings = refused(made, "nothing was written")
    assert all("the logits of teacher 0" in finding for finding in findings)
    assert {finding.partition(":")[0] for finding in findings} == set(made.rows.video_ids[2:4])


def test_strange_rows_in_a_damaged_shard_are_not_taken_for_good(made, tmp_path):
    """Rows that fit their own digests but not the shard's, in a shard whose digest cannot tell any more."""
    other = tmp_path / "other.zarr"
    changed = {**made.rows.arrays, "logits": -made.rows.arrays["logits"]}
    write(other, Rows(made.rows.video_ids, changed), SoftTargetStore(made.path).codec, made.attributes)
    for name in contents(made.path):
        if "/c/0" in name:
            shutil.copyfile(other / name, made.path / name)
    flip(made.path / "logits/c/0/0/0/0", 5)
    assert "the logits of teacher 0" in refused(made, "nothing was written")[0]


@pytest.mark.parametrize("made", [("float32", 2)], indirect=True)
def test_where_a_shard_is_lost_whole_others_are_the_control(made, monkeypatch):
    answers(monkeypatch, lambda logits_BK: logits_BK * (1 + 1e-5))
    (made.path / "logits/c/1/0/0/0").unlink()
    assert repair(made.path, **made.origin).control.num_videos == 4


@pytest.mark.parametrize("made", [("float32", 2)], indirect=True)
def test_on_another_device_something_must_be_left_to_compare_with(made, monkeypatch):
    answers(monkeypatch, lambda logits_BK: logits_BK * (1 + 1e-5))
    for shard in (made.path / "logits").rglob("0"):
        if shard.is_file():
            shard.unlink()
    refused(made, "nothing was written")


# refusals


def test_every_difference_is_named_at_once(made, tmp_path):
    flip(made.path / "logits/c/0/0/0/0", 5)
    other = make_teacher(tmp_path / "other.safetensors", seed=9)
    manifest = write_manifest(
        tmp_path / "manifest.csv", [row for row in made.manifest.rows if row.video_id != made.rows.video_ids[1]]
    )
    frames = write_frames(tmp_path / "frames", {"a": noise_video("a", (6, 18, 22))})
    findings = refused(made, "was not made from", teachers=[other], manifest=manifest, frames=frames)
    assert [finding.partition(":")[0] for finding in findings] == [
        "digests.manifest",
        "number of train videos",
        "first ids of the shards",
        "digests.frames",
        "teachers",
    ]
    assert all("the store has" in finding for finding in findings)


@pytest.mark.parametrize("made", [("float32", 2)], indirect=True)
def test_all_teachers_must_be_given(made):
    flip(made.path / "logits/c/0/0/0/0", 5)
    (finding,) = refused(made, "was not made from", teachers=made.teachers[:1])
    assert finding.startswith("teachers: the store has")


def test_views_of_another_policy_cannot_be_drawn_again(made):
    policy = {**made.attributes["view_policy"], "version": 99}
    digests = {**made.attributes["digests"], "view_policy": digest_json(policy)}
    rewritten(made, attributes={"view_policy": policy, "digests": digests})
    flip(made.path / "logits/c/0/0/0/0", 5)
    assert refused(made, "was not made from") == ("view_policy.version: the store has 99, this run 1",)


def test_damaged_attributes_cannot_be_mended(made):
    content = (made.path / "zarr.json").read_bytes()
    flip(made.path / "zarr.json", content.index(b"drink"))
    refused(made, "the attributes do not have their digest")
    (made.path / "zarr.json").unlink()
    refused(made, "cannot be read")


def test_attributes_that_contradict_each_other_cannot_be_mended(made):
    rewritten(made, attributes={"batch_size": 0})
    assert "batch_size" in refused(made, "cannot be mended")[0]


def test_what_was_written_wrong_is_not_mended_in_silence(made):
    arrays = {**made.rows.arrays, "views": made.rows.arrays["views"].copy()}
    arrays["views"][6, 0, 6] = 2
    rewritten(made, rows=Rows(made.rows.video_ids, arrays))
    assert made.rows.video_ids[6] in refused(made, "was written so")[0]


def test_urls_are_read_only(made):
    with pytest.raises(ParamsError, match="only a store in a folder"):
        repair(f"file://{made.path}", **made.origin)


def test_answers_that_are_not_finite_are_refused_by_name(made, monkeypatch):
    answers(monkeypatch, lambda logits_BK: logits_BK * 1e8)
    flip(made.path / "logits/c/0/0/0/0", 5)
    damaged = contents(made.path)
    with pytest.raises(DataError, match="not finite") as caught:
        repair(made.path, **made.origin)
    assert caught.value.findings == made.rows.video_ids[:2]
    assert contents(made.path) == damaged
