"""A store at a URL is the store at a path: fetched once, no more than is needed, refused where it is not whole."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from builders import one_thread  # noqa: F401 - a fixture
from student_runs import StudentRun
from target_stores import make_store, shards_of

from pipeline.core.errors import EnvironmentProblem, StaleArtifactError
from pipeline.distill.store import urls
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.student.cached_targets import load_targets
from stages.__main__ import main


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with shards_of(4, chunk_rows=2):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A store of 11 rows in 3 shards, and what a student needs beside it."""
    folder = tmp_path_factory.mktemp("run")
    return StudentRun(folder, make_store(folder, num_train=11)).prepare()


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder; the server's `spoil` may answer first."""

    def do_GET(self):
        self.server.requests[self.path] += 1
        if not self.server.spoil(self):
            super().do_GET()

    def log_message(self, *_arguments):
        pass

    def answer(self, content, *, length=None):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection |= length is not None
        return True

    def hang_up(self):
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True
        return True

    @property
    def content(self):
        return Path(self.translate_path(self.path)).read_bytes()


class RangeHandler(Handler):
    """Knows ranges, as most servers do; keeps connections open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def send_head(self):
        wanted = self.headers.get("Range")
        if wanted is None:
            return super().send_head()
        self.server.requests["ranges"] += 1
        first, last = wanted.removeprefix("bytes=").split("-")
        content = self.content
        part = content[int(first) : int(last) + 1] if first else content[-int(last) :]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        return None


class Served:
    """A folder at a URL, with a count of requests."""

    def __init__(self, folder, handler):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
        self.server.daemon_threads = True
        self.server.requests, self.server.spoil = Counter(), lambda _request: False
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/soft_targets.zarr"

    def spoil(self, spoil, *, matching="/c/"):
        self.server.spoil = lambda request: matching in request.path and spoil(request)

    @property
    def requests(self):
        """Requests by name within the store."""
        return {path.removeprefix("/soft_targets.zarr/"): count for path, count in self.server.requests.items()}

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture(params=[Handler, RangeHandler])
def served(run, request):
    served = Served(run.folder, request.param)
    yield served
    served.close()


def load(location, video_ids, folder):
    store = SoftTargetStore(location)
    return load_targets(store, video_ids, memory_bytes=2**30, folder=folder, teachers="mean", seed=0)


def check_same(one, other, video_ids):
    for video_id in video_ids:
        for number in range(3):
            view, logits_K = one.lookup(video_id, number)
            other_view, other_logits_K = other.lookup(video_id, number)
            assert (view, logits_K.tolist()) == (other_view, other_logits_K.tolist())


def files(made):
    return {path.relative_to(made.path).as_posix() for path in made.path.rglob("*") if path.is_file()}


# what is fetched


def test_every_object_is_fetched_once_and_gives_what_the_path_gives(run, served, tmp_path):
    ids = run.made.rows.video_ids
    check_same(load(served.url, ids, tmp_path), load(run.made.path, ids, tmp_path), ids)
    assert served.requests == dict.fromkeys(files(run.made), 1)


def test_no_shard_is_fetched_that_is_not_needed(run, served, tmp_path):
    wanted = [run.made.rows.video_ids[row] for row in (0, 2, 9)]
    check_same(load(served.url, wanted, tmp_path), load(run.made.path, wanted, tmp_path), wanted)
    needed = {name for name in files(run.made) if "/c/1" not in name}  # of the shards 0, 1, 2
    assert served.requests == dict.fromkeys(needed, 1)
    assert len(needed) < len(files(run.made))


def test_opening_fetches_descriptions_alone(run, served):
    assert SoftTargetStore(served.url).digest == SoftTargetStore(run.made.path).digest
    assert served.requests == {name: 1 for name in files(run.made) if name.endswith("zarr.json")}


def test_other_urls_are_read_too(run, tmp_path):
    ids = run.made.rows.video_ids
    expected = load(run.made.path, ids, tmp_path)
    fsspec.filesystem("memory").put(str(run.made.path), "/soft_targets.zarr", recursive=True)
    try:
        for url in (f"file://{run.made.path}", f"{run.made.path.as_uri()}/", "memory://soft_targets.zarr"):
            check_same(load(url, ids, tmp_path), expected, ids)
    finally:
        fsspec.filesystem("memory").rm("/soft_targets.zarr", recursive=True)


def test_a_student_trained_from_a_url_is_the_same_bytes(run, served, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    run.train(name="path")
    expected = (run.folder / "path.safetensors").read_bytes()
    for memory_mib in (0, 100):
        served.server.requests.clear()
        run.train(name="url", soft_targets=served.url, memory_mib=memory_mib)
        assert (run.folder / "url.safetensors").read_bytes() == expected
        assert served.requests == dict.fromkeys(files(run.made), 1)


# what goes wrong on the way


def refuse(status):
    return lambda request: request.send_error(status) or True


ON_THE_WAY = {
    "500": refuse(500),
    "403": refuse(403),
    "hung up": Handler.hang_up,
    "cut short": lambda request: request.answer(request.content[:-9], length=len(request.content)),
}


@pytest.mark.parametrize("matching", ["/c/", "zarr.json", "logits/c/2"])
@pytest.mark.parametrize("spoil", ON_THE_WAY)
def test_a_store_that_cannot_be_reached_is_a_problem_of_the_environment(run, served, tmp_path, spoil, matching):
    served.spoil(ON_THE_WAY[spoil], matching=matching)
    with pytest.raises(EnvironmentProblem, match="cannot be fetched") as caught:
        load(served.url, run.made.rows.video_ids, tmp_path)
    assert served.url in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_server_that_says_nothing_does_not_hold_up_for_ever(run, served, tmp_path, monkeypatch):
    monkeypatch.setattr(urls, "TIMEOUT_SECONDS", 0.2)
    done = threading.Event()
    served.spoil(lambda _request: done.wait(), matching="logits/c")
    try:
        with pytest.raises(EnvironmentProblem, match="Timeout"):
            load(served.url, run.made.rows.video_ids, tmp_path)
    finally:
        done.set()


def test_a_slow_server_is_waited_for(run, served, tmp_path, monkeypatch):
    monkeypatch.setattr(urls, "TIMEOUT_SECONDS", 2)

    def drip(request):
        content = request.content
        request.answer(content[:1], length=len(content))
        for byte in range(1, 8):
            time.sleep(0.3)
            request.wfile.write(content[byte : byte + 1])
        request.wfile.write(content[8:])
        return True

    ids = run.made.rows.video_ids
    served.spoil(drip, matching="logits/c/0")
    check_same(load(served.url, ids, tmp_path), load(run.made.path, ids, tmp_path), ids)


def test_a_server_that_is_gone(run, tmp_path):
    served = Served(run.folder, Handler)
    store = SoftTargetStore(served.url)
    served.close()
    for use in (lambda: SoftTargetStore(served.url), lambda: store.read_shard(0)):
        with pytest.raises(EnvironmentProblem, match="cannot be fetched"):
            use()


@pytest.mark.parametrize("url", ["gs://bucket/x.zarr", "gopher://host/x.zarr"])
def test_a_protocol_without_its_package_is_told(url):
    with pytest.raises(EnvironmentProblem, match="cannot be opened") as caught:
        SoftTargetStore(url)
    assert "gcsfs" in caught.value.remedy


# what is wrong with the store


def flipped(request, at=0.5):
    content = bytearray(request.content)
    content[int(at * (len(content) - 1))] ^= 4
    return request.answer(bytes(content))


DAMAGE = {
    "404": refuse(404),
    "a flipped byte": flipped,
    "the first byte flipped": partial(flipped, at=0),
    "the last byte flipped": partial(flipped, at=1),
    "shorter": lambda request: request.answer(request.content[:-9]),
    "empty": lambda request: request.answer(b""),
    "another page": lambda request: request.answer(b"<html>log in first</html>"),
}


@pytest.mark.parametrize(
    "matching", ["logits/c/1", "video_id/c/0", "views/c", "frame_shape/zarr.json", ".zarr/zarr.json"]
)
@pytest.mark.parametrize("spoil", DAMAGE)
def test_a_store_that_is_not_whole_is_refused(run, served, tmp_path, spoil, matching):
    served.spoil(DAMAGE[spoil], matching=matching)
    with pytest.raises(StaleArtifactError) as caught:
        load(served.url, run.made.rows.video_ids, tmp_path)
    assert served.url in str(caught.value)
    assert caught.value.exit_code == 5


def test_damage_in_a_shard_that_is_not_needed_is_not_met(run, served, tmp_path):
    served.spoil(DAMAGE["a flipped byte"], matching="logits/c/1")
    load(served.url, run.made.rows.video_ids[:4], tmp_path)


@pytest.mark.parametrize(("gone", "code"), [(True, 4), (False, 5)])
def test_the_command_line_ends_with_the_right_code(run, tmp_path, monkeypatch, capsys, gone, code):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    shutil.copytree(run.made.path, tmp_path / "served/soft_targets.zarr")
    served = Served(tmp_path / "served", Handler)
    if gone:
        served.close()
    else:
        (tmp_path / "served/soft_targets.zarr/logits/c/1/0/0/0").unlink()
    run.train(name="params")  # writes the parameters
    arguments = {
        "--params": run.folder / "params.yaml",
        "--manifest": run.folder / "manifest.csv",
        "--frames": run.folder / "dark",
        "--soft-targets": served.url,
        "--out": tmp_path / "student.safetensors",
        "--curve": tmp_path / "student.csv",
        "--device": "cpu",
    }
    words = [str(word) for pair in arguments.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["dlkdd", "train-student", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "student.safetensors").exists()
    if not gone:
        served.close()
