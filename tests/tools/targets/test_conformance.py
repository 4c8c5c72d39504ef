"""Each rule of the format's page is one check: a store that breaks it fails by its name, and by no other."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import zarr
from builders import one_thread  # noqa: F401 - a fixture
from paths import ROOT
from target_stores import make_store, shards_of, write

from pipeline.core.digest import digest_bytes, digest_json
from pipeline.distill.store.codecs import codec_of
from pipeline.distill.store.rows import Rows, row_layout
from pipeline.distill.store.store import SoftTargetStore
from pipeline.tools.targets.conformance import RULES, checks
from pipeline.tools.targets.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of 7 rows in two shards of two chunks."""
    with shards_of(4, chunk_rows=2):
        yield make_store(tmp_path_factory.mktemp("made"))


@pytest.fixture
def path(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "store.zarr")
    return tmp_path / "store.zarr"


def results(path):
    return {check.name: check.result for check in checks(verify(path, "checksums"))}


def broken(path):
    return {name for name, result in results(path).items() if result == "fail"}


def describe(path, change, name="logits"):
    """Change the JSON values of an array's description."""
    file = path / name / "zarr.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def attributes(path, change, *, sign=True):
    """Change the attributes, with a new digest of them."""
    file = path / "zarr.json"
    values = json.loads(file.read_text())
    held = values["attributes"]
    change(held)
    if sign:
        held["attributes_digest"] = digest_json({k: v for k, v in held.items() if k != "attributes_digest"})
    file.write_text(json.dumps(values))


def flip(path):
    (file,) = path.glob("logits/c/0/*/*/*")
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)


def put(path, name, row, value):
    """Write into an array, past all digests."""
    zarr.open_group(path, mode="r+")[name][row] = value


def rewrite(path, made, *, rows=None, **changes):
    """The store again, by our writer, with other arrays: all digests are right."""
    arrays = {**made.rows.arrays, **changes}
    shutil.rmtree(path)
    write(path, rows or Rows(made.rows.video_ids, arrays), SoftTargetStore(made.path).codec, made.attributes)


def other_views(made):
    views = made.rows.arrays["views"].copy()
    views[0, 0, 5] = 999
    return views


def descending(path):
    """The rows of the second shard before those of the first, in a store whose digests are right."""
    group = zarr.open_group(path, mode="r+")
    for name, array in group.arrays():
        if name != "fold":  # the same in all, and nothing but fill values, whose file zarr would remove
            array[:4] = array[:4][::-1]

    def change(held):
        digests = np.asarray(group["row_digest"][:4])
        held["shards"][0] = {"first": str(group["video_id"][0]), "digest": digest_bytes(digests.tobytes())}

    attributes(path, change)


def fill(values):
    values["fill_value"] = 0.0


BREAKS = {
    "format": lambda path, made: attributes(path, lambda held: held.update(format_version=4)),
    "attributes digest": lambda path, made: attributes(path, lambda held: held.update(batch_size=5), sign=False),
    "attributes": lambda path, made: attributes(path, lambda held: held.pop("teachers")),
    "agreement": lambda path, made: attributes(path, lambda held: held.update(num_teachers=2)),
    "files": lambda path, made: (path / "notes.txt").write_text("mine"),
    "shapes": lambda path, made: describe(path, lambda values: values["shape"].__setitem__(0, 8)),
    "types": lambda path, made: describe(path, lambda values: values.update(data_type="float32")),
    "chunks": lambda path, made: describe(
        path, lambda values: values["chunk_grid"]["configuration"]["chunk_shape"].__setitem__(0, 2)
    ),
    "fill values": lambda path, made: describe(path, fill),
    "arrays": lambda path, made: describe(path, lambda values: values.update(attributes={"note": 1})),
    "checksums": lambda path, made: flip(path),
    "row digests": lambda path, made: put(path, "dark_shape", 2, 5),
    "written": lambda path, made: put(path, "logits", 2, np.nan),
    "order": lambda path, made: descending(path),
    "shards": lambda path, made: attributes(path, lambda held: held["shards"][1].update(digest="0" * 32)),
    "views": lambda path, made: rewrite(path, made, views=other_views(made)),
    "folds": lambda path, made: rewrite(path, made, fold=made.rows.arrays["fold"] + 1),
}


def test_a_whole_store_passes_all(path):
    assert set(results(path).values()) == {"pass"}
    assert list(results(path)) == [rule.name for rule in RULES]


@pytest.mark.parametrize("rule", BREAKS)
def test_a_broken_rule_fails_by_its_name_alone(path, made, rule):
    BREAKS[rule](path, made)
    assert broken(path) == {rule}
    found = results(path)
    (step,) = {each.step for each in RULES if each.name == rule}
    unread = {each.name for each in RULES if each.step > step and step not in (5, 8)}
    assert {name for name, result in found.items() if result == "not checked"} - {"blends"} == unread - {"blends"}


def test_a_missing_array_is_a_missing_file(path):
    shutil.rmtree(path / "fold")
    assert broken(path) == {"files", "arrays"}


def test_a_folder_that_is_no_store_has_no_format(tmp_path):
    assert broken(tmp_path) == {"format"}


def test_chunks_have_a_limit(path):
    def change(held):
        held["view_policy"]["num_views"] = held["num_views"] = 2**26
        held["digests"]["view_policy"] = digest_json(held["view_policy"])

    attributes(path, change)
    assert "chunk bytes" in broken(path)


def test_classes_and_blends_have_rules_of_their_own(made, tmp_path):
    codec = codec_of({"name": "topk", "k": 2}, 3)
    rng = np.random.default_rng(0)
    logits_NVMK = made.rows.logits(SoftTargetStore(made.path).codec)
    packed = codec.pack(logits_NVMK)
    packed["topk_classes"][0, 0, 0] = 1
    arrays = {**made.rows.arrays, **packed}
    layout = row_layout(codec, *logits_NVMK.shape[1:3])
    write(tmp_path / "topk", Rows(made.rows.video_ids, {n: arrays[n] for n in layout}), codec, made.attributes)
    assert broken(tmp_path / "topk") == {"classes"}

    codec = SoftTargetStore(made.path).codec
    layout = row_layout(codec, *logits_NVMK.shape[1:3], mixed=True)
    arrays = {
        name: made.rows.arrays.get(name, rng.integers(1, 9, size=(len(made.rows), *array.inner)).astype(array.dtype))
        for name, array in layout.items()
    }
    policy = {**made.attributes["view_policy"], "mix": "mixup", "mix_share": 0.5, "mix_alpha": 1.0}
    digests = {**made.attributes["digests"], "view_policy": digest_json(policy)}
    others = {**made.attributes, "view_policy": policy, "digests": digests}
    write(tmp_path / "mixed", Rows(made.rows.video_ids, arrays), codec, others)
    assert broken(tmp_path / "mixed") == {"blends"}


def test_every_rule_is_broken_by_a_test_of_this_file():
    elsewhere = {"chunk bytes", "classes", "blends", "others"}
    assert {*BREAKS, *elsewhere} == {rule.name for rule in RULES}


def test_a_finding_that_is_of_no_rule_is_not_lost(path):
    verdict = verify(path, "checksums")
    verdict.findings.append("something new")
    assert [check.name for check in checks(verdict) if check.result == "fail"] == ["others"]


def test_files_at_a_url_are_not_checked(path):
    found = results(path.as_uri())
    assert found.pop("files") == "not checked"
    assert set(found.values()) == {"pass"}


def test_the_page_has_the_rules_that_are_checked():
    page = (ROOT / "docs/soft-target-store.md").read_text()
    (lines,) = re.findall(r"\| rule \|.*\n\|---\|---\|\n((?:\|.*\n)+)", page)
    assert lines.splitlines() == [f"| {rule.name} | {rule.text} |" for rule in RULES]
