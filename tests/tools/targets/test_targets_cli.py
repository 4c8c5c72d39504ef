"""`dlkdd targets` as a user calls it: output, exit codes, JSON, and a store that is published and used from a URL."""

from __future__ import annotations

import functools
import http.server
import json
import threading

import numpy as np
import pyarrow as pa
import pytest
import yaml
from builders import CLIP, VIEWS, one_thread  # noqa: F401 - a fixture
from command_line import output_of
from paths import ROOT
from pyarrow import parquet
from target_stores import SEED, contents, make_store, rows_of_teacher, with_class_names, write

from pipeline.core.errors import DlkddError
from pipeline.distill.store.store import SoftTargetStore
from stages import targets


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("made"), num_teachers=2)


@pytest.fixture
def made(base, tmp_path, monkeypatch):
    """A copy of a store of two teachers; work folders are the test's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    copy = tmp_path / "soft_targets.zarr"
    for name, content in contents(base.path).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    return base.at(copy)


def call(*arguments):
    return output_of(targets.app, *arguments)


def call_json(*arguments):
    return json.loads(call(*arguments, "--json"))


def origin(made):
    teachers = [made.path.parent / f"teacher_{axis}.safetensors" for axis in range(2)]
    for path, axis in zip(teachers, range(2), strict=True):
        path.write_bytes((made.frames.path.parent / f"teacher_{axis}.safetensors").read_bytes())
    return [*(a for path in teachers for a in ("--teacher", path)), "--enhanced", made.frames.path]


def manifest_of(made):
    return made.frames.path.parent / "manifest.csv"


def damage(made):
    path = next(path for path in sorted(made.path.glob("logits/c/**/*")) if path.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def test_inspect(made):
    text = call("inspect", made.path, "--manifest", manifest_of(made))
    store = SoftTargetStore(made.path)
    for words in (store.digest, "7 videos × 3 views × 3 classes", "drink, jump, wave", "█", "top-1"):
        assert words in text
    values = call_json("inspect", made.path, "--temperature", 4)
    assert values["digest"] == store.digest
    assert values["attributes"] == store.attributes
    assert [each["temperature"] for each in values["entropy"]] == [1, 4]
    assert values["top1_by_class"] is None


def test_verify_says_whole_or_ends_with_5(made):
    assert "whole" in call("verify", made.path)
    values = call_json("verify", made.path, "--depth", "teacher", *origin(made), "--sample", 3)
    assert (values["whole"], values["teacher"]["num_videos"], values["teacher"]["num_equal"]) == (True, 3, 2 * 9)
    damage(made)
    with pytest.raises(DlkddError, match="is not whole, findings: 1") as caught:
        call("verify", made.path)
    assert caught.value.exit_code == 5
    assert caught.value.findings


def test_verify_teacher_takes_a_teacher(made):
    with pytest.raises(DlkddError, match="--teacher and --enhanced") as caught:
        call("verify", made.path, "--depth", "teacher")
    assert caught.value.exit_code == 2


def test_diff(made, tmp_path):
    assert call_json("diff", made.path, made.path)["same"] is True
    other = make_store(tmp_path / "other", num_teachers=1)
    text = call("diff", made.path, other.path)
    for words in ("num_teachers", "7 with the same views", "mean KL(A ‖ B)", "videos that differ most"):
        assert words in text


def test_merge_refuses_to_replace_and_to_merge_a_teacher_twice(made, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(DlkddError, match="already exists"):
        call("merge", made.path, made.path, "--out", "there")
    with pytest.raises(DlkddError, match="cannot be merged"):
        call("merge", made.path, made.path, "--out", "there", "--force")
    assert (tmp_path / "there").is_dir()
    assert not list(tmp_path.glob("*.partial"))


def test_force_replaces_stores_and_nothing_else(made, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work/thesis.tex").write_text("years")
    for command in (("merge", made.path, made.path), ("publish", made.path), ("export", made.path)):
        with pytest.raises(DlkddError, match="already exists") as caught:
            call(*command, "--out", "work")
        assert caught.value.exit_code == 2
        with pytest.raises(DlkddError, match=r"holds other things than a store: thesis\.tex"):
            call(*command, "--out", "work", "--force")
    assert (tmp_path / "work/thesis.tex").read_text() == "years"
    for _ in range(2):
        call("publish", made.path, "--out", "given", "--force")
        call("export", made.path, "--out", "x.npz", "--force")
    assert call_json("verify", tmp_path / "given/soft_targets.zarr")["whole"]


def test_force_replaces_nothing_of_another_kind(made, asked, tmp_path):
    for name in ("x.npz", "views.csv"):
        (tmp_path / name).mkdir()
    for command in (("export", made.path, "--out", "x.npz"), ("views", *asked, "--out", "views.csv")):
        with pytest.raises(DlkddError, match="is a folder, expected the name of a file") as caught:
            call(*command, "--force")
        assert caught.value.exit_code == 2
    (tmp_path / "notes.txt").write_text("years")
    for command in (("merge", made.path, made.path), ("publish", made.path)):
        with pytest.raises(DlkddError, match="is a file, expected the name of a folder"):
            call(*command, "--out", "notes.txt", "--force")
    assert (tmp_path / "notes.txt").read_text() == "years"


def test_names_from_a_store_do_not_command_the_terminal(made, tmp_path):
    attributes = with_class_names(made.attributes, ["\x1b[2Jdrink", "jump\x9b", "wave\x07"])
    write(tmp_path / "evil", made.rows, SoftTargetStore(made.path).codec, attributes)
    for command in (("inspect", tmp_path / "evil"), ("diff", tmp_path / "evil", made.path)):
        text = call(*command)
        assert "drink" in text
        assert all(char.isprintable() or char == "\n" for char in text)


def test_merge_of_videos(made, tmp_path):
    parts = []
    codec = SoftTargetStore(made.path).codec
    for number, rows in enumerate((made.rows.take([0, 3, 6]), made.rows.take([1, 2, 4, 5]))):
        digests = {**made.attributes["digests"], "manifest": f"{number:032x}"}
        teachers = [{**teacher, "frames": f"{number:032x}"} for teacher in made.attributes["teachers"]]
        parts.append(tmp_path / f"part{number}")
        write(parts[-1], rows, codec, {**made.attributes, "digests": digests, "teachers": teachers})
    with pytest.raises(DlkddError, match="--manifest names that of all their videos"):
        call("merge", *parts, "--out", "all.zarr")
    with pytest.raises(DlkddError, match=r"teachers\.frames"):
        call("merge", *parts, "--out", "all.zarr", "--manifest", manifest_of(made))
    assert not list(tmp_path.glob("all.zarr*"))
    arguments = ("--manifest", manifest_of(made), "--enhanced", made.frames.path)
    values = call_json("merge", *parts, "--out", "all.zarr", *arguments)
    merged = SoftTargetStore(tmp_path / "all.zarr")
    assert (values["merged"], values["digest"]) == ("videos", merged.digest)
    assert call_json("diff", "all.zarr", made.path)["attributes"].keys() == {"merged_from"}
    assert "7 rows" in call("verify", "all.zarr")
    with pytest.raises(DlkddError, match="made for one manifest"):
        call("merge", made.path, "all.zarr", "--out", "x.zarr", *arguments)


def test_merge_of_teachers(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    one = make_store(tmp_path / "one")
    # the second of two teachers, over the same views
    two = make_store(tmp_path / "two", num_teachers=2)
    attributes = {**two.attributes, "teachers": two.attributes["teachers"][1:]}
    write(tmp_path / "second", rows_of_teacher(two.rows, 1), SoftTargetStore(two.path).codec, attributes)
    values = call_json("merge", one.path, tmp_path / "second", "--out", tmp_path / "ensemble.zarr")
    merged = SoftTargetStore(tmp_path / "ensemble.zarr")
    assert (values["merged"], values["digest"]) == ("teachers", merged.digest)
    assert merged.num_teachers == 2
    assert (merged.read_shard(0).digests() == two.rows.digests()).all()


def test_export(made, tmp_path):
    values = call_json("export", made.path, "--out", tmp_path / "x.npz")
    assert values["bytes"] == (tmp_path / "x.npz").stat().st_size
    assert "bytes" in call("export", made.path, "--out", tmp_path / "x.parquet", "--packed")


def test_what_is_published_is_whole_and_says_what_it_is(made, tmp_path):
    digest = call_json("publish", made.path, "--out", tmp_path / "given", "--license", "CC BY 4.0")["digest"]
    assert contents(tmp_path / "given/soft_targets.zarr") == contents(made.path)
    text = (tmp_path / "given/README.md").read_text()
    store = SoftTargetStore(made.path)
    for words in (digest, store.digest, "7 videos × 3 views × 3 classes", "`drink`, `jump`, `wave`", "CC BY 4.0"):
        assert words in text
    for teacher in store.attributes["teachers"]:
        assert teacher["digest"] in text
    assert not any(words in text for words in ("None was given", "merged store"))
    attributes = {**made.attributes, "merged_from": ["a" * 32, "b" * 32]}
    write(tmp_path / "merged", made.rows, SoftTargetStore(made.path).codec, attributes)
    call("publish", tmp_path / "merged", "--out", tmp_path / "given_merged")
    text = (tmp_path / "given_merged/README.md").read_text()
    for words in (f"| merged store 2 | `{'b' * 32}` |", "None was given"):
        assert words in text
    damage(made)
    with pytest.raises(DlkddError, match="is not published"):
        call("publish", made.path, "--out", tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_a_url_can_be_inspected_verified_and_compared(made, tmp_path):
    call("publish", made.path, "--out", tmp_path / "given")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/given/soft_targets.zarr"
        assert call_json("inspect", url)["bytes_on_disk"] is None
        assert call_json("verify", url)["whole"]
        assert call_json("diff", url, made.path)["same"]
        server.shutdown()


# a teacher of another program


@pytest.fixture
def asked(made, tmp_path):
    """The options that name the run whose views are asked about."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"seed": SEED, "clip": CLIP.model_dump(), "views": VIEWS.model_dump()}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return "--manifest", manifest_of(made), "--frames", made.frames.path


TEACHER = ("--teacher-name", "video-mae", "--teacher-digest", "0123456789abcdef" * 2)


def test_views_go_out_and_logits_come_in(made, asked, tmp_path):
    written = call_json("views", *asked, "--out", "views.parquet")
    table = parquet.read_table("views.parquet")
    logits_RK = np.random.default_rng(0).normal(size=(len(table), 3)).astype(np.float32)
    names = {b"class_names": json.dumps(["drink", "jump", "wave"]).encode()}
    answered = table.append_column("logits", pa.array(list(logits_RK)))
    parquet.write_table(answered.replace_schema_metadata({**table.schema.metadata, **names}), "logits.parquet")
    found = call_json("import", "logits.parquet", *asked, *TEACHER, "--out", "imported.zarr")
    store = SoftTargetStore("imported.zarr")
    assert (written["num_videos"], written["num_views"]) == (store.num_rows, store.num_views)
    assert found == {**found, "digest": store.digest, "top1_on_views": store.attributes["teachers"][0]["top1_on_views"]}
    assert np.array_equal(store.read_shard(0).logits(store.codec)[:, :, 0].reshape(-1, 3), logits_RK.astype(np.float16))
    inspected = call("inspect", "imported.zarr")
    assert "video-mae" in inspected
    assert "imported" in inspected.partition("video-mae")[2]
    assert call_json("verify", "imported.zarr", "--conformance")["conforms"]
    with pytest.raises(DlkddError, match="its teachers cannot be run here"):
        call("verify", "imported.zarr", "--depth", "teacher")
    again = ("import", "logits.parquet", *asked, *TEACHER, "--out", "imported.zarr")
    with pytest.raises(DlkddError, match="already exists"):
        call(*again)
    call(*again, "--force")
    assert SoftTargetStore("imported.zarr").digest == store.digest


def test_a_table_in_csv_and_its_description_are_not_replaced_unasked(asked, tmp_path):
    call("views", *asked, "--out", "views.csv")
    description = json.loads((tmp_path / "views.json").read_text())
    (tmp_path / "views.csv").unlink()
    with pytest.raises(DlkddError, match=r"views\.json: already exists"):
        call("views", *asked, "--out", "views.csv")
    assert call_json("views", *asked, "--out", "views.csv", "--force")["digest"] == description["digest"]


def test_logits_for_other_views_end_with_5_and_leave_nothing(made, asked, tmp_path):
    call("views", *asked, "--out", "views.csv")
    description = json.loads((tmp_path / "views.json").read_text())
    np.savez("logits.npz", bank=json.dumps({**description, "num_views": 9}))
    with pytest.raises(DlkddError, match="not those of this run's views") as caught:
        call("import", "logits.npz", *asked, *TEACHER, "--out", "imported.zarr")
    assert caught.value.exit_code == 5
    assert "bank: num_views is 9, of this run 3" in caught.value.findings
    assert not list(tmp_path.glob("imported*"))


def test_conformance_is_told_rule_by_rule(made):
    found = call_json("verify", made.path, "--conformance")
    assert found["conforms"]
    assert {check["result"] for check in found["checks"]} == {"pass"}
    text = call("verify", made.path, "--conformance")
    assert "fill values" in text
    damage(made)
    with pytest.raises(DlkddError, match="does not conform, rules that it breaks: checksums") as caught:
        call("verify", made.path, "--conformance")
    assert caught.value.exit_code == 5
    assert caught.value.findings[0].startswith("checksums: logits: rows 0 to ")
    with pytest.raises(DlkddError, match="--conformance reads every row and runs no teacher"):
        call("verify", made.path, "--conformance", "--depth", "attributes")
