"""What is wrong with a store is found, named, and found completely; what is right is not complained about."""

from __future__ import annotations

import json
import shutil
from functools import cache

import numpy as np
import pytest
from builders import CLIP, VIEWS, noise_video, one_thread, write_frames  # noqa: F401 - a fixture
from hypothesis import given
from hypothesis import strategies as st
from long_run import LONG
from target_stores import contents, make_store, make_teacher, shards_of, teacher_attributes, write

from pipeline.core.digest import digest_json
from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.data.views import View, draw_view, uniform_view
from pipeline.distill.store import store as soft_targets
from pipeline.distill.store.codecs import codec_of
from pipeline.distill.store.rows import Rows, outside
from pipeline.distill.store.store import SoftTargetStore, read_attributes
from pipeline.tools.targets import verify as target_checks
from pipeline.tools.targets.recompute import RELATIVE_TOLERANCE, compare_logits
from pipeline.tools.targets.verify import file_findings, verify

CODECS = ["float16", "float32", "topk"]


@pytest.fixture(autouse=True)
def small_shards():
    """Of 7 rows, chunks of 2 and shards of 4."""
    with shards_of(4, chunk_rows=2):
        yield


@cache
def originals(folder, codec, num_teachers):
    with shards_of(4, chunk_rows=2):
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


every_kind = pytest.mark.parametrize("made", [*((codec, 1) for codec in CODECS), ("float16", 2)], indirect=True)


def rewritten(made, tmp_path, *, rows=None, **attributes):
    """The same store with other rows or attributes, its digests right."""
    path = tmp_path / "rewritten.zarr"
    codec = codec_of(SoftTargetStore(made.path).attributes["codec"], 3)
    write(path, rows or made.rows, codec, {**made.attributes, **attributes})
    return made.at(path)


def changed(rows, name, place, value):
    """Rows with one value replaced."""
    array = rows.arrays[name].copy()
    array[place] = value
    return Rows(rows.video_ids, {**rows.arrays, name: array})


def with_teacher(made, **options):
    return verify(made.path, "teacher", **{"teachers": made.teachers, "frames": [made.frames], **options})


# nothing wrong


@every_kind
def test_a_whole_store_is_whole_at_every_depth_and_untouched(made):
    before = contents(made.path)
    verdicts = [verify(made.path, "attributes"), verify(made.path, "checksums"), with_teacher(made)]
    for verdict in verdicts:
        assert verdict.whole
        assert (verdict.findings, verdict.notes) == ([], [])
        assert (verdict.num_rows, verdict.num_rows_bad) == (7, 0)
        assert verdict.digest == SoftTargetStore(made.path).digest
        assert json.loads(json.dumps(verdict.to_dict(), allow_nan=False))["whole"]
    attributes, checksums, teacher = verdicts
    num_arrays = len(made.rows.arrays) + 2
    assert (attributes.num_rows_checked, attributes.num_chunks_checked, attributes.teacher) == (0, 0, None)
    assert (checksums.num_rows_checked, checksums.num_chunks_checked, checksums.teacher) == (7, 4 * num_arrays, None)
    num_views = 21 * len(made.teachers)
    found = [teacher.teacher[name] for name in ("num_videos", "num_views", "num_equal")]
    assert found == [7, num_views, num_views]
    assert (teacher.teacher["max_difference"], teacher.teacher["max_relative"]) == (0, 0)
    assert contents(made.path) == before


def test_a_card_is_no_stranger(made):
    (made.path / "README.md").write_text("what it is")
    assert verify(made.path, "checksums").whole


def test_a_store_is_verified_at_a_url(made):
    assert with_teacher(made, num_sampled=2).whole
    url = f"file://{made.path}"
    assert verify(url, "checksums").whole
    damage(made.path / "logits/c/0/0/0/0")
    verdict = verify(url, "checksums")
    assert verdict.num_rows_bad == 2
    assert any("logits: rows 0 to 1 cannot be read" in finding for finding in verdict.findings)


def test_the_sample_is_drawn_by_the_seed_and_of_the_given_size(made):
    seen = []
    for seed in range(8):
        verdict = with_teacher(made, num_sampled=2, seed=seed, frames=[write_frames(made.path.parent / f"{seed}", {})])
        findings = [finding.partition(":")[0] for finding in verdict.findings[1:]]
        again = with_teacher(made, num_sampled=2, seed=seed, frames=[write_frames(made.path.parent / f"{seed}", {})])
        assert [finding.partition(":")[0] for finding in again.findings[1:]] == findings
        assert len(findings) == 2
        seen += findings
    assert len(set(seen)) > 4


# attributes


CONTRADICTIONS = {
    "a name twice": {"class_names": ["drink", "jump", "jump"]},
    "names of another digest": {"class_names": ["drink", "jump", "sit"]},
    "view_policy.num_views": {"view_policy": {**VIEWS.policy(), "num_views": 4, "seed": 3, "version": 1}},
    "view_policy.flip": {"view_policy": {**VIEWS.policy(), "flip": None, "seed": 3, "version": 1}},
    "number of teachers": {"teachers": []},
    "a teacher twice": {"teachers": [teacher_attributes("x", "0" * 32)] * 2},
    "teachers.0.top1_on_views": {"teachers": [teacher_attributes("x", "0" * 32, top1_on_views=1.5)]},
    "teachers.0.digest": {"teachers": [teacher_attributes("x", "short")]},
    "batch_size": {"batch_size": 0},
    "clip.size": {"clip": {"num_frames": 2, "frame_stride": 2, "size": "16"}},
    "codec_error.max_kl": {"codec_error": {"top1_agreement": 1.0, "mean_kl": {"1": 0.0}}},
    "temperatures of codec_error": {"codec_error": {"top1_agreement": 1.0, "mean_kl": {"1": 0.0}, "max_kl": {}}},
    "teachers.0.weight": {"teachers": [teacher_attributes("x", "0" * 32, weight=None)]},
    "merged_from": {"merged_from": 5},
    "teachers.0.enhancer": {"teachers": [teacher_attributes("x", "0" * 32, enhancer="gamma")]},
    "digests.dark": {"digests": {}},
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_attributes_that_contradict_each_other_are_named(made, tmp_path, name):
    verdict = verify(rewritten(made, tmp_path, **CONTRADICTIONS[name]).path, "checksums")
    words = {"a name twice": "class_names has a name twice", "names of another digest": "digests.class_names"}
    words |= {"number of teachers": "teachers", "a teacher twice": "has a teacher twice"}
    assert any(words.get(name, name) in finding for finding in verdict.findings), verdict.findings
    assert verdict.num_rows_checked == 0
    assert "no row was read" in verdict.notes[0]


def test_all_contradictions_are_named_at_once(made, tmp_path):
    other = rewritten(
        made,
        tmp_path,
        class_names=["drink", "jump", "jump"],
        view_policy={**VIEWS.policy(), "seed": 1, "version": 1, "num_views": 9},
    )
    findings = verify(other.path, "attributes").findings
    for words in ("class_names has a name twice", "digests.class_names", "digests.view_policy", "num_views"):
        assert any(words in finding for finding in findings), words


def with_attributes(path, change):
    """The attributes changed by hand, with a digest that fits."""
    document = json.loads((path / "zarr.json").read_text())
    attributes = document["attributes"]
    del attributes["attributes_digest"]
    change(attributes)
    attributes["attributes_digest"] = digest_json(attributes)
    (path / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a["shards"].reverse(), "first ids of the shards do not ascend"),
        (lambda a: a["shards"].pop(), "number of shards"),
        (lambda a: a.update(num_teachers=2), "number of teachers"),
        (lambda a: a.update(num_rows=8), "logits/zarr.json"),
        (lambda a: a.pop("batch_size"), "batch_size"),
        (
            lambda a: a.update(format_version=1),
            "expected dlkdd-soft-targets of format version 2 or 3, found dlkdd-soft-targets 1",
        ),
        (lambda a: a.pop("shards"), "shards"),
        (lambda a: a.pop("codec"), "codec"),
        (lambda a: a.update(codec={"name": "zip"}), "no codec is called 'zip'"),
        (lambda a: a.update(codec={"name": "topk", "k": 3}), "top_k must be in 1 … 2"),
    ],
)
def test_attributes_that_were_forged_with_their_digest_are_still_refused(made, change, words):
    with_attributes(made.path, change)
    findings = verify(made.path, "checksums").findings
    assert any(words in finding for finding in findings), findings


# files


def damage(path, kind="flipped"):
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "flipped":
        path.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    else:
        path.write_bytes(content[: len(content) // 2 if kind == "half" else 0])


@pytest.mark.parametrize("kind", ["missing", "empty", "half"])
def test_no_file_can_be_missing_or_torn(made, kind):
    for name, content in contents(made.path).items():
        damage(made.path / name, kind)
        verdict = verify(made.path, "checksums")
        array = name.partition("/")[0]
        assert any(array in finding for finding in verdict.findings), (name, verdict.findings)
        (made.path / name).write_bytes(content)
    assert verify(made.path, "checksums").whole


def test_every_damaged_file_is_named_not_only_the_first(made):
    names = ["logits/c/0/0/0/0", "video_id/c/1", "views/c/0/0/0"]
    for name in names:
        (made.path / name).unlink()
    (made.path / "notes.txt").write_text("mine")
    assert set(verify(made.path, "attributes").findings) == {
        *(f"{name} is missing" for name in names),
        "notes.txt is no part of the store",
    }


def test_a_description_that_says_more_is_named(made):
    path = made.path / "logits/zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dimension_names": ["n", "v", "m", "k"]}))
    assert any("logits/zarr.json" in finding for finding in verify(made.path, "attributes").findings)


@pytest.mark.parametrize("what", ["nothing", "file", "empty folder"])
def test_what_is_no_store_has_a_finding_and_no_digest(tmp_path, what):
    path = tmp_path / "soft_targets.zarr"
    if what == "file":
        path.write_text("store")
    elif what == "empty folder":
        path.mkdir()
    verdict = verify(path, "checksums")
    assert not verdict.whole
    assert verdict.digest is None


# rows


@every_kind
def test_a_damaged_chunk_costs_its_rows_and_names_them(made):
    name = next(name for name in contents(made.path) if "logits/c/0" in name)
    damage(made.path / name)
    verdict = verify(made.path, "checksums")
    assert (verdict.num_rows_bad, verdict.num_rows_checked) == (2, 7)
    assert any("rows 0 to 1" in finding for finding in verdict.findings)


def test_a_chunk_that_was_never_written_is_named_by_its_videos(made, tmp_path):
    unwritten = rewritten(made, tmp_path, rows=changed(made.rows, "logits", slice(2, 4), np.nan))
    verdict = verify(unwritten.path, "checksums")
    for video_id in made.rows.video_ids[2:4]:
        assert any(video_id in finding and "never written" in finding for finding in verdict.findings)
    assert verdict.num_rows_bad == 2


@pytest.mark.parametrize("arrays", ["all", "logits"])
def test_shards_of_another_store_are_refused(made, base, tmp_path, arrays):
    other = rewritten(made, tmp_path, rows=changed(made.rows, "logits", (..., 0), 1))
    for name in contents(made.path):
        if "/c/1" in name and (arrays == "all" or name.startswith(arrays)):
            shutil.copyfile(other.path / name, made.path / name)
    verdict = verify(made.path, "checksums")
    assert verdict.num_rows_bad == 3
    wanted = "rows 4 to 6 are not the rows" if arrays == "all" else "fails its digest"
    assert any(wanted in finding for finding in verdict.findings)


def test_shards_cannot_change_places(made):
    for name, content in contents(made.path).items():
        if "/c/0" in name:
            second = made.path / name.replace("/c/0", "/c/1", 1)
            (made.path / name).write_bytes(second.read_bytes())
            second.write_bytes(content)
    assert verify(made.path, "checksums").num_rows_bad == 7


def test_ids_that_do_not_ascend_are_named(made, tmp_path, monkeypatch):
    monkeypatch.setattr(soft_targets, "check_rows", lambda *_: None)  # a writer without care
    order = [0, 2, 1, 3, 4, 5, 6]
    verdict = verify(rewritten(made, tmp_path, rows=made.rows.take(order)).path, "checksums")
    assert verdict.findings == [
        f"{made.rows.video_ids[1]} comes after {made.rows.video_ids[2]}: rows ascend by their ids"
    ]


@pytest.mark.parametrize(("field", "value"), [(0, 6), (0, -1), (1, 0), (2, 18), (4, 19), (5, 0), (6, 2)])
def test_a_view_outside_of_its_video_is_named(made, tmp_path, field, value):
    wrong = rewritten(made, tmp_path, rows=changed(made.rows, "views", (3, 1, field), value))
    verdict = verify(wrong.path, "checksums")
    (finding,) = verdict.findings
    assert finding.startswith(f"{made.rows.video_ids[3]}: view 1 ")
    assert verdict.num_rows_bad == 1


@pytest.mark.parametrize("made", [("topk", 1)], indirect=True)
@pytest.mark.parametrize("classes", [(1, 1), (0, 3)], ids=["twice", "unknown"])
def test_kept_classes_are_different_ones(made, tmp_path, classes):
    wrong = rewritten(made, tmp_path, rows=changed(made.rows, "topk_classes", (5, 2, 0), classes))
    finding = f"{made.rows.video_ids[5]}: topk_classes are not different ones of 3"
    assert verify(wrong.path, "checksums").findings == [finding]
    with pytest.raises(StaleArtifactError) as caught:  # nor does a student learn from them
        SoftTargetStore(wrong.path).read_shard(1)
    assert caught.value.findings == (finding,)


shapes = st.tuples(st.integers(1, 12), st.integers(1, 20), st.integers(1, 20))
numbers = st.integers(-1, 14)


@given(shapes, st.tuples(numbers, numbers, numbers, numbers, numbers, numbers, st.integers(-1, 2)), st.integers(1, 6))
def test_outside_is_what_no_view_may_be(shape, fields, num_frames):
    def is_inside():
        try:
            view = View(*fields)
        except ValueError:
            return False
        frames = [view.first_frame + view.frame_stride * step for step in range(num_frames)]
        starts_over = view.frame_stride * (num_frames - 1) >= shape[0]
        in_time = view.first_frame < shape[0] and (frames[-1] < shape[0] or starts_over)
        return in_time and view.top + view.height <= shape[1] and view.left + view.width <= shape[2]

    found = outside(np.array([[fields]], np.int32), np.array([shape], np.int32), num_frames)
    assert found.tolist() == [[not is_inside()]]


@given(shapes, st.integers(0, 1000))
def test_views_that_are_drawn_are_inside(shape, number):
    drawn = draw_view(shape, CLIP, VIEWS, seed=1, purpose="bank", video_id="a", number=number)
    spread = uniform_view(shape, CLIP, index=number % 3, num_clips=3)
    views_NV7 = np.array([[drawn.row(), spread.row()]], np.int32)
    assert not outside(views_NV7, np.array([shape], np.int32), CLIP.num_frames).any()


# teacher


def test_inference_takes_a_teacher_and_frames(made):
    for missing in ({"teachers": []}, {"frames": []}):
        with pytest.raises(ParamsError):
            with_teacher(made, **missing)


def test_another_teacher_is_named_and_not_run(made, tmp_path):
    other = make_teacher(tmp_path / "other.safetensors", seed=9)
    verdict = with_teacher(made, teachers=[other])
    assert verdict.teacher is None
    assert verdict.findings == [f"teacher {other.digest} is none of the store's: {made.teachers[0].digest}"]


@pytest.mark.parametrize("made", [("float16", 2)], indirect=True)
def test_one_of_several_teachers_is_compared_on_its_own_axis(made, tmp_path):
    for teacher in made.teachers:
        assert with_teacher(made, teachers=[teacher]).teacher["num_equal"] == 21
    assert with_teacher(made, teachers=made.teachers[::-1]).teacher["num_equal"] == 2 * 21
    wrong = rewritten(made, tmp_path, rows=changed(made.rows, "logits", (2, 1, 1, 0), 99.0))
    assert with_teacher(wrong, teachers=made.teachers[:1]).whole
    for teachers in (made.teachers[1:], made.teachers):
        (finding,) = with_teacher(wrong, teachers=teachers).findings
        assert finding.startswith(f"{made.rows.video_ids[2]}: the logits of teacher 1 in views [1] differ by up to")


def test_frames_that_the_teacher_did_not_see_are_named(made, tmp_path):
    ids = made.rows.video_ids
    videos = {name: made.frames.read(name, range(made.frames.shape(name)[0])) for name in ids[1:]}
    videos[ids[1]] = noise_video("other", (6, 18, 22))
    videos[ids[2]] = noise_video("longer", (7, 18, 22))
    frames = write_frames(tmp_path / "frames", videos)
    verdict = with_teacher(made, frames=[frames])
    assert verdict.teacher["num_videos"] == 4
    assert verdict.findings[0].startswith(f"teachers.frames: teacher {made.teachers[0].digest} saw")
    seen = {name: (row.digest, (6, 18, 22)) for row in made.frames.rows for name in [row.video_id]}
    now = {row.video_id: (row.digest, (row.frames, row.height, row.width)) for row in frames.rows}
    assert verdict.findings[1:] == [
        f"{name}: frames: teacher 0 saw {seen[name]}, {frames.path} has {now.get(name, 'no such video')}"
        for name in ids[:3]
    ]


@pytest.mark.parametrize(
    ("name", "place", "value", "words"),
    [
        ("pixel_digest", (4, 2, 0), 5, "pixel_digest: teacher 0 saw other pixels in views [2]"),
        ("views", (4, 0, 6), None, "view 0 is"),
        ("logits", (4, 1, 0, 2), 99.0, "the logits of teacher 0 in views [1] differ by up to"),
        ("frames_digest", (4, 0, 3), None, "frames: teacher 0 saw"),
    ],
)
def test_a_row_that_inference_does_not_confirm_is_named(made, tmp_path, name, place, value, words):
    value = 1 - int(made.rows.arrays[name][place]) % 2 if value is None else value
    wrong = rewritten(made, tmp_path, rows=changed(made.rows, name, place, value))
    assert verify(wrong.path, "checksums").whole
    findings = with_teacher(wrong).findings
    assert findings[0].startswith(f"{made.rows.video_ids[4]}: {words}"), findings


def test_views_of_another_policy_version_are_computed_but_not_drawn(made, tmp_path):
    policy = {**made.attributes["view_policy"], "version": 99, "new_field": 1}
    digests = {**made.attributes["digests"], "view_policy": digest_json(policy)}
    verdict = with_teacher(rewritten(made, tmp_path, view_policy=policy, digests=digests))
    assert verdict.whole
    assert verdict.teacher["num_equal"] == 21
    assert "another version" in verdict.notes[0]


def test_damaged_frames_raise(made, tmp_path):
    shutil.copytree(made.frames.path, tmp_path / "frames")
    frames = type(made.frames)(tmp_path / "frames")
    for shard in (tmp_path / "frames").glob("*.h5"):
        damage(shard, "half")
    with pytest.raises(StaleArtifactError, match="damaged"):
        with_teacher(made, frames=[frames])


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("seed", range(5))
def test_another_device_may_differ_by_the_tolerance_and_no_more(name, seed):
    """The noise of another device, in shares of the tolerance, moves every number by no more than the share."""
    rng = np.random.default_rng(seed)
    codec = codec_of({"name": name, "k": 3}, 20)
    logits_NVMK = rng.normal(0, 6, (40, 2, 2, 20)).astype(np.float32)
    largest = np.abs(logits_NVMK).max(axis=-1, keepdims=True)
    noise = rng.choice([-1.0, 1.0], logits_NVMK.shape) * largest * RELATIVE_TOLERANCE
    near = compare_logits(codec, codec.pack(logits_NVMK), (logits_NVMK + 0.99 * noise).astype(np.float32))
    assert near.close_NV.all()
    assert not near.equal_NV.any()
    far = compare_logits(codec, codec.pack(logits_NVMK), (logits_NVMK + 3 * noise).astype(np.float32))
    assert not far.close_NV.any()
    same = compare_logits(codec, codec.pack(logits_NVMK), logits_NVMK)
    assert same.equal_NV.all()
    assert same.difference_NV.max() == same.relative_NV.max() == 0


def test_near_ties_of_kept_classes_may_change_places():
    codec = codec_of({"name": "topk", "k": 1}, 3)
    stored = codec.pack(np.array([[[[5.0, 5.001, 1.0]]]], np.float32))
    assert compare_logits(codec, stored, np.array([[[[5.001, 5.0, 1.0]]]], np.float32)).close_NV.all()
    assert not compare_logits(codec, stored, np.array([[[[5.5, 5.0, 1.0]]]], np.float32)).close_NV.any()


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_logits_that_are_not_finite_are_far_from_everything(name, value):
    codec = codec_of({"name": name, "k": 2}, 3)
    logits = np.array([[[[1.0, 2.0, 3.0]]]], np.float32)
    answer = logits.copy()
    answer[..., 1] = value
    found = compare_logits(codec, codec.pack(logits), answer)
    assert not found.close_NV.any()
    assert np.isfinite(found.difference_NV).all()


# single bytes


def tiny(folder, codec, monkeypatch):
    """Three rows in two shards, one view: few bytes."""
    monkeypatch.setattr(soft_targets, "CHUNK_ROWS", 1)
    monkeypatch.setattr(soft_targets, "SHARD_ROWS", 2)
    monkeypatch.setattr(target_checks, "files_of", remembering(soft_targets.files_of))
    return make_store(folder, codec=codec, num_train=3, num_views=1).path


def remembering(function):
    """The same function of JSON values, computed once for each."""
    known = {}

    def remembered(values):
        key = json.dumps(values)
        if key not in known:
            known[key] = function(values)
        return known[key]

    return remembered


def values(path):
    """Everything that a reader can get from a store."""
    store = SoftTargetStore(path)
    shards = [store.read_shard(shard) for shard in range(store.num_shards)]
    arrays = [(name, array.tobytes()) for rows in shards for name, array in rows.arrays.items()]
    return store.digest, store.attributes, [rows.video_ids for rows in shards], arrays


def unnoticed(path, flips):
    """Flips, as (file, position, mask), that verify does not find although they mean something.

    Of an array's description its file's findings are looked at first; verify reports them, and reads all the rest.
    """
    expected, attributes = values(path), read_attributes(path)
    wrong = []
    for file, position, mask in flips:
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[position] ^= mask
        file.write_bytes(flipped)
        described = file.name == "zarr.json"
        found = described and file.parent != path and file_findings(path, attributes)
        if not found and verify(path, "checksums").whole:
            meaningless = described and json.loads(flipped) == json.loads(content) and values(path) == expected
            if not meaningless:
                wrong.append((file.relative_to(path).as_posix(), position, mask))
        file.write_bytes(content)
    assert verify(path, "checksums").whole
    return wrong


def places(path):
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [(file, position) for file in files for position in range(file.stat().st_size)]


@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_byte_is_found(tmp_path, monkeypatch, codec):
    path = tiny(tmp_path, codec, monkeypatch)
    rng = np.random.default_rng(0)
    everywhere = places(path)
    shards = [place for place in everywhere if place[0].name != "zarr.json"]
    chosen = [
        *rng.choice(len(everywhere), 40, replace=False),
        *rng.choice(len(shards), 20, replace=False) - len(shards),
    ]
    everywhere += shards
    flips = [(*everywhere[place], 1 << int(rng.integers(8))) for place in chosen]
    assert unnoticed(path, flips) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a verification for each
def test_flipped_bytes_all_over_the_store_are_found(tmp_path, monkeypatch):
    """One bit of a byte or all, by turns: of every byte in the long run, else of every fifth."""
    path = tiny(tmp_path, "float16", monkeypatch)
    flips = [(*place, (0x01, 0xFF)[number % 2]) for number, place in enumerate(places(path))]
    assert unnoticed(path, flips if LONG else flips[::5]) == []


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["float32", "topk"])
def test_many_flipped_bytes_are_found_whatever_the_codec(tmp_path, monkeypatch, codec):
    path = tiny(tmp_path, codec, monkeypatch)
    rng = np.random.default_rng(1)
    chosen = [place for place in places(path) if rng.random() < 0.05]
    assert unnoticed(path, [(*place, mask) for place in chosen for mask in (0x01, 0xFF)]) == []


def test_white_space_of_a_description_has_no_meaning(made):
    expected = values(made.path)
    other = {ord(" "): ord("\t"), ord("\n"): ord(" ")}
    for path in made.path.rglob("zarr.json"):
        path.write_bytes(bytes(other.get(byte, byte) for byte in path.read_bytes()))
    assert verify(made.path, "checksums").whole
    assert values(made.path) == expected


@pytest.mark.parametrize("content", [b"null", b"[]", b"{}", b'{"attributes": 1}', b"[" * 100_000, b"\xff" * 300])
def test_no_content_of_a_file_makes_verify_raise(made, content):
    for name, original in contents(made.path).items():
        if name.startswith(("pixel", "frame", "row")):
            continue  # like the others
        (made.path / name).write_bytes(content)
        assert not verify(made.path, "checksums").whole, name
        (made.path / name).write_bytes(original)
