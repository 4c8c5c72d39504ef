"""Files at URLs: whole here or an error, and a folder put there is no store before its last file is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fsspec
import pytest
from builders import CLIP, one_thread, tiny_recognizer  # noqa: F401 - a fixture
from command_line import output_of
from served import served
from target_stores import contents, make_store

from pipeline.core.errors import DlkddError, EnvironmentProblem, ParamsError
from pipeline.models.recognizer import load_model, save_model
from pipeline.tools.targets.verify import verify
from pipeline.tools.urls import local_file, put_folder
from stages import targets
from stages.__main__ import app

MARKER = "soft_targets.zarr/zarr.json"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    local_file.cache_clear()
    return tmp_path


@pytest.fixture
def model(folder):
    path = folder / "there/student.safetensors"
    path.parent.mkdir()
    save_model(path, tiny_recognizer(), class_names=("drink", "jump", "wave"), trained_on={})
    return path


def call(*arguments, of=app):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["dlkdd", *map(str, arguments)])  # tells which modules are imported
        return output_of(of, *arguments)


# fetched


def test_a_path_is_itself():
    assert local_file("models/student.safetensors") == Path("models/student.safetensors")


def test_what_lies_at_a_url_is_here_byte_for_byte_and_fetched_once(model):
    asked = []
    with served(model.parent, lambda request: asked.append(request.path)) as address:
        url = f"{address}/student.safetensors"
        path = local_file(url)
        assert path.name == "student.safetensors"
        assert path.read_bytes() == model.read_bytes()
        assert load_model(path).digest == load_model(model).digest
        num_asked = len(asked)
        assert local_file(url) == path
        assert len(asked) == num_asked
    for url in (model.as_uri(), "memory://models/student.safetensors"):
        fsspec.filesystem("memory").pipe("/models/student.safetensors", model.read_bytes())
        assert local_file(url).read_bytes() == model.read_bytes()


def cut_short(request):
    content = Path(request.translate_path(request.path)).read_bytes()
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content[:-9])
    request.close_connection = True
    return True


def of_another_length(request):
    """A whole answer that is shorter than the server said of the file."""
    if request.command == "HEAD":
        return False
    content = Path(request.translate_path(request.path)).read_bytes()[:-9]
    request.send_response(200)
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)
    return True


SPOILT = {
    "500": lambda request: request.send_error(500) or True,
    "404": lambda request: request.send_error(404) or True,
    "cut short": cut_short,
    "another length": of_another_length,
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_what_does_not_come_whole_is_an_error_and_no_file(model, spoil):
    with served(model.parent, SPOILT[spoil]) as address:
        url = f"{address}/student.safetensors"
        with pytest.raises(EnvironmentProblem, match="cannot be fetched") as caught:
            local_file(url)
    assert url in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("url", "package"),
    [("gs://bucket/x", "gcsfs"), ("az://bucket/x", "adlfs"), ("hf://user/repo/x", "huggingface_hub")],
)
def test_a_package_that_is_missing_is_named(url, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EnvironmentProblem, match="cannot be fetched") as caught:
        local_file(url)
    assert package in caught.value.remedy


@pytest.mark.parametrize("name", ["", "../../x", "..", "a/.hidden"])
def test_no_name_leads_out_of_the_folder(folder, name):
    (folder / "x").write_text("x")
    with served(folder, one_byte) as address:
        path = local_file(f"{address}/{name}")
    assert path.parent.parent.name.startswith("dlkdd-")
    assert path.parent.resolve() == path.parent


def one_byte(request):
    request.send_response(200)
    request.send_header("Content-Length", "1")
    request.end_headers()
    request.wfile.write(b"x")
    return True


def test_every_command_with_a_model_takes_a_url(model, folder):
    with served(model.parent) as address:
        url = f"{address}/student.safetensors"
        measured = json.loads(call("bench", url, "--runs", 1, "--warmup", 0, "--json"))
        assert measured["model_digest"] == load_model(model).digest
        call("export", url, "--out", "student.pt2", "--format", "torch")
        assert Path("student.pt2").is_file()
        for command in (
            ("predict", "none.mp4", "--model", f"{address}/gone.safetensors"),
            ("evaluate-model", "--model", f"{address}/gone.safetensors", "--frames", "x", "--manifest", "x"),
        ):
            with pytest.raises(EnvironmentProblem, match=r"gone\.safetensors: cannot be fetched"):
                call(*command)


def test_a_teacher_at_a_url_verifies_its_store(folder):
    made = make_store(folder)
    with served(folder) as address:
        arguments = ("--teacher", f"{address}/teacher_0.safetensors", "--enhanced", made.frames.path, "--json")
        found = json.loads(call("verify", made.path, "--depth", "teacher", *arguments, of=targets.app))
    assert found["whole"]


# put there


@pytest.fixture
def published(folder):
    made = make_store(folder / "made")
    call("publish", made.path, "--out", "published", of=targets.app)
    return folder / "published"


def publish(made, url, *options):
    return json.loads(call("publish", made, "--to", url, "--json", *options, of=targets.app))


@pytest.fixture(params=["memory", "file"])
def place(request, folder):
    """A URL that can be written, and how its files are read."""
    url = "memory://given" if request.param == "memory" else (folder / "given").as_uri()
    yield url
    if request.param == "memory":
        fsspec.filesystem("memory").rm("/", recursive=True)


def files_at(url):
    files, root = fsspec.url_to_fs(url)
    return {str(name).removeprefix(f"{root}/"): files.cat_file(name) for name in files.find(root)}


def test_what_is_put_there_is_what_is_published_here(published, place):
    found = publish(published / "soft_targets.zarr", place)
    assert files_at(place) == contents(published)
    assert found["store"] == f"{place}/soft_targets.zarr"
    assert verify(found["store"], "checksums").whole


def test_nothing_there_is_replaced_unasked(published, place):
    store = published / "soft_targets.zarr"
    publish(store, place)
    with pytest.raises(ParamsError, match="already exists"):
        publish(store, place)
    files, root = fsspec.url_to_fs(place)
    files.pipe_file(f"{root}/soft_targets.zarr/old", b"of another store")
    publish(store, f"{place}/", "--force")
    assert files_at(place) == contents(published)
    files.pipe_file(f"{root}/thesis.tex", b"years")
    with pytest.raises(ParamsError, match=r"holds other things than a store: thesis\.tex"):
        publish(store, place, "--force")
    assert files.cat_file(f"{root}/thesis.tex") == b"years"


def test_a_place_that_is_taken_is_refused_before_the_store_is_read(published, monkeypatch):
    publish(published / "soft_targets.zarr", "memory://given")
    monkeypatch.setattr(targets, "publish_store", lambda *_arguments, **_options: pytest.fail("was read"))
    with pytest.raises(ParamsError, match="already exists"):
        publish(published / "soft_targets.zarr", "memory://given")
    fsspec.filesystem("memory").rm("/", recursive=True)


def test_the_marker_is_written_last_and_removed_first(published, monkeypatch):
    memory = type(fsspec.filesystem("memory"))
    done = []

    def noting(name, real):
        def note(self, *arguments, **options):
            done.append((name, str(arguments[-1])))
            return real(self, *arguments, **options)

        return note

    put_folder(published, "memory://given", marker=MARKER, force=False)
    for name in ("put_file", "rm"):
        monkeypatch.setattr(memory, name, noting(name, getattr(memory, name)))
    put_folder(published, "memory://given", marker=MARKER, force=True)
    assert done[0] == ("rm", f"/given/{MARKER}")
    assert done[-1] == ("put_file", f"/given/{MARKER}")
    assert sum(name == f"/given/{MARKER}" for _, name in done) == 2
    fsspec.filesystem("memory").rm("/", recursive=True)


@pytest.mark.parametrize("last", [0, 3, 12])
def test_a_store_that_was_not_written_to_the_end_is_none(published, monkeypatch, last):
    memory = type(fsspec.filesystem("memory"))
    real, left = memory.put_file, iter(range(last))

    def failing(self, *arguments, **options):
        if next(left, None) is None:
            raise OSError("the line went down")
        return real(self, *arguments, **options)

    monkeypatch.setattr(memory, "put_file", failing)
    with pytest.raises(EnvironmentProblem, match=r"cannot be written: OSError: the line went down"):
        put_folder(published, "memory://given", marker=MARKER, force=False)
    assert not verify("memory://given/soft_targets.zarr", "attributes").whole
    monkeypatch.undo()
    put_folder(published, "memory://given", marker=MARKER, force=True)
    assert verify("memory://given/soft_targets.zarr", "checksums").whole
    fsspec.filesystem("memory").rm("/", recursive=True)


def test_where_to_publish_is_one_place_that_can_be_written(published):
    store = published / "soft_targets.zarr"
    with pytest.raises(ParamsError, match="a web server cannot be written to"):
        publish(store, "http://127.0.0.1:1/given")
    for options in ((), ("--out", "x", "--to", "memory://x")):
        with pytest.raises(DlkddError, match="either --out, a folder, or --to, a URL"):
            call("publish", store, *options, of=targets.app)
    with pytest.raises(EnvironmentProblem, match="cannot be written") as caught:
        publish(store, "gs://bucket/given")
    assert "gcsfs" in caught.value.remedy
