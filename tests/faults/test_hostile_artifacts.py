"""Artifacts that were made to do harm: refused soon and in little memory, no code run, no other file read, and nothing
but text printed to a terminal, a page or a Markdown file."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import cv2
import hostile_files
import numpy as np
import pytest
import torch
from builders import noise_video, one_thread, tiny_recognizer, write_frames  # noqa: F401 - one is a fixture
from dvc_render.vega import VegaRenderer
from hostile_files import KINDS, SECRET
from paths import ROOT
from target_stores import make_store, with_class_names, write

from pipeline.core.checkpoint import load_checkpoint, save_checkpoint
from pipeline.core.digest import digest_bytes
from pipeline.core.errors import EnvironmentProblem, StaleArtifactError
from pipeline.core.text import code_span, printable
from pipeline.distill.store.store import SoftTargetStore
from pipeline.enhance.classical import Gamma
from pipeline.enhance.file import save_enhancer
from pipeline.evaluate.compare import write_confusion
from pipeline.evaluate.cost import cost_of
from pipeline.evaluate.score.predictions import Predictions
from pipeline.models.recognizer import load_model, save_model
from pipeline.tools.export.card import card, describe
from pipeline.tools.export.onnx_file import DESCRIPTION, open_onnx
from pipeline.tools.targets.card import card as target_card

MOST_SECONDS = 120
FAULTS = {
    "weights": "weights made to do harm: code, huge or crossing sizes, deep or broken JSON",
    "frames": "HDF5 made to do harm: links, outside or virtual storage, objects, huge shapes, filters",
    "targets": "zarr made to do harm: objects, pickle codecs, huge shapes, links, deep or broken JSON",
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.fault("Security", fault, "E")) for kind, fault in FAULTS.items()],
)
def test_hostile_files_are_refused_in_little_memory(tmp_path, kind, cases):
    command = [sys.executable, "-W", "ignore", hostile_files.__file__, kind, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name: what for name, what in found["outcomes"].items() if not what.startswith("refused: ")} == {}
    assert found["outcomes"].keys() == KINDS[kind][0].keys()
    assert found["peak_bytes"] < 1 << 30
    assert not (tmp_path / "canary").exists()
    assert SECRET not in done.stdout
    cases(len(found["outcomes"]))


@pytest.mark.fault("Security", "code in a checkpoint that has a right digest", "E")
def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path, evil = tmp_path / "checkpoint.pt", tmp_path / "evil.pt"
    hostile_files.WEIGHTS["what torch.save made of code"](evil)
    content = evil.read_bytes()
    path.write_bytes(bytes.fromhex(digest_bytes(content)) + content)
    with pytest.raises(StaleArtifactError, match="damaged"):
        load_checkpoint(path)
    save_checkpoint(path, {"step": 1})  # the hostile one is the one before now
    assert load_checkpoint(path) == {"step": 1}
    assert not (tmp_path / "canary").exists()
    torch.load(evil, weights_only=False)
    assert (tmp_path / "canary").exists()  # what it would have done


# a server that gives something else


class _Answers(BaseHTTPRequestHandler):
    """Gives one body for every address."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_HEAD = do_GET

    def log_message(self, *_arguments):
        pass


BODIES = {
    "a page": b"<!doctype html><title>Sign in</title><script>alert(1)</script>",
    "nothing": b"",
    "noise": np.random.default_rng(0).bytes(1 << 16),
    "deep JSON": hostile_files.DEEP.encode(),
    "an array": b'{"zarr_format": 3, "node_type": "array"}',
    "a pickle": hostile_files.pickle.dumps({"a": 1}),
}


@pytest.mark.fault("Security", "a server that answers with a page, noise or nothing in place of a store", "E")
def test_a_server_with_something_else_is_told(cases):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    try:
        for body in BODIES.values():
            server.body = body
            started = time.monotonic()
            with pytest.raises((StaleArtifactError, EnvironmentProblem)):
                SoftTargetStore(f"http://127.0.0.1:{server.server_port}/soft_targets.zarr")
            assert time.monotonic() - started < 10
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    cases(len(BODIES))


# names that are more than names

NAMES = (
    "\x1b]0;title\x07\x1b[2J\x1b[31mred",
    "first\rsecond\nthird",
    "abc\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe\x9b31m",
)
MARKUP = ("[bold red]rich[/] [link=file:///etc]", "`</code><script>alert(1)</script>", "a|b\\|**{{ 7*7 }}**")


@pytest.fixture(scope="module")
def hostile_chain(tmp_path_factory):
    """A model, a store of frames and one of soft targets, all with names that are more than names."""
    folder = tmp_path_factory.mktemp("names")
    names = (*NAMES, *MARKUP)
    save_model(
        folder / "model.safetensors",
        tiny_recognizer(num_classes=len(names)),
        class_names=names,
        trained_on={"digests": {"manifest": "`<script>`"}, "weights": NAMES[0]},
    )
    write_frames(folder / "frames", {f"{name}/{n}": noise_video(name, (6, 18, 22)) for n, name in enumerate(names)})
    made = make_store(folder / "made")
    teachers = [{**teacher, "name": NAMES[0] + MARKUP[0]} for teacher in made.attributes["teachers"]]
    changed = {**with_class_names(made.attributes, MARKUP[:1] + NAMES[:2]), "teachers": teachers}
    write(folder / "targets.zarr", made.rows, SoftTargetStore(made.path).codec, changed)
    save_enhancer(folder / "enhancer.safetensors", Gamma(2.0), fitted_on={})
    video = folder / "night\x1b[31m"
    video.mkdir()
    for number, frame in enumerate(noise_video("video", (6, 18, 22))):
        assert cv2.imwrite(str(video / f"{number:03d}.png"), frame)
    return folder


COMMANDS = {
    "predict": (
        *("predict", "night\x1b[31m", "--model", "model.safetensors", "--clips", "1", "--crops", "1"),
        *("--short-side", "18", "--batch-size", "1", "--top-k", "6", "--device", "cpu"),
    ),
    "frames inspect": ("frames", "inspect", "frames"),
    "frames verify": ("frames", "verify", "frames"),
    "targets inspect": ("targets", "inspect", "targets.zarr"),
    "targets verify": ("targets", "verify", "targets.zarr"),
    "targets diff": ("targets", "diff", "targets.zarr", "made/soft_targets.zarr"),
    "a model of other classes": (
        *("evaluate-model", "--model", "model.safetensors", "--frames", "frames"),
        *("--manifest", "made/manifest.csv", "--split", "test", "--params", "params.yaml"),
    ),
    "a missing video": ("predict", "no\x1b[31mvideo\r", "--model", "model.safetensors"),
}


@pytest.mark.fault("Security", "escape sequences, returns, overrides and markup in names, on a terminal", "=")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
def test_a_terminal_is_told_text(hostile_chain, call, monkeypatch, name, as_json):
    monkeypatch.chdir(hostile_chain)
    shutil.copyfile(ROOT / "params.yaml", hostile_chain / "params.yaml")
    arguments = COMMANDS[name]
    if as_json and name not in ("a missing video",):
        arguments = (*arguments, "--json")
    code, out, err = call(*arguments)
    assert code in (0, 2, 3, 5), err
    assert out or err
    for text in (out, err):
        assert [char for char in text if not char.isprintable() and char != "\n"] == []
    if name == "predict":
        shown = json.dumps(MARKUP[0])[1:-1] if as_json else MARKUP[0]
        assert shown in out
    if as_json and out:
        json.loads(out)


@pytest.mark.fault("Security", "markup in class names, in the cards of models and of soft targets", "=")
def test_a_card_shows_names_as_they_are(hostile_chain):
    model = load_model(hostile_chain / "model.safetensors")
    said = {
        **describe(model, cost_of(model.recognizer), bare=False),
        "file": {"name": "m.onnx", "format": "onnx", "bytes": 1, "digest": "0"},
        "comparison": {"clips": "clips", "max_difference": 0.0, "top1_agreement": 1.0, "tolerance": 0.1},
        "metrics": None,
    }
    for text in (card(said), target_card(SoftTargetStore(hostile_chain / "targets.zarr"), None)):
        assert [char for char in text if not char.isprintable() and char != "\n"] == []
        fenced = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        # CommonMark: a span ends at as many backticks as it began with
        outside = re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", fenced)
        assert not re.search(r"<script|\[bold|\{\{", outside), outside
        for line in fenced.splitlines():
            if line.startswith("| `"):
                assert line.count("|") in (4, 5, 8), line


@pytest.mark.fault("Security", "a span of code in Markdown, whatever is in it", "=")
def test_a_code_span_holds_what_it_is_given():
    rng = np.random.default_rng(0)
    for _ in range(500):
        text = "".join(rng.choice(list("`|ab <\n\x1b"), size=rng.integers(1, 9)))
        span = code_span(text)
        assert printable(span, kept="") == span
        assert "|" not in span
        fence = re.match("`+", span)[0]
        assert re.fullmatch(rf"{fence}(?!`)(.*)(?<!`){fence}", span), span
        assert fence not in re.findall("`+", span[len(fence) : -len(fence)])


@pytest.mark.fault("Security", "the end of a script in a class name, on the page of dvc plots", "=")
def test_a_class_name_ends_no_script_of_the_plots(tmp_path):
    names = ("</script><script>alert(1)</script>", "<!--<script>", "wave")
    found = Predictions(("a", "b", "c"), np.arange(3), np.eye(3), names)
    write_confusion(tmp_path / "confusion.csv", found)
    with (tmp_path / "confusion.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    page = VegaRenderer(rows, name="confusion", template="confusion", x="actual", y="predicted").generate_html()
    assert "alert(1)" in page  # it is there, as a text
    assert not re.search(r"</?script>.{0,9}alert|<!--", page)


# programs


def _described(description):
    def change(_onnx, model, _folder):
        entry = model.metadata_props.add()
        entry.key, entry.value = DESCRIPTION, description

    return change


def _outside(onnx, model, folder):
    (folder / "secret").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (weights,) = model.graph.initializer
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", "../secret"


PROGRAMS = {
    "numbers of another file": _outside,
    "no description": lambda _onnx, _model, _folder: None,
    "a description in 100,000 lists": _described(hostile_files.DEEP),
    "a description that is a list": _described("[]"),
    "a description of other fields": _described("{}"),
    "a description of half a text": _described('{"a'),
}


@pytest.mark.fault("Security", "ONNX made to do harm: another file's numbers, descriptions that are none", "E")
def test_hostile_programs_are_refused(tmp_path, cases):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "models"
    folder.mkdir()
    for number, change in enumerate(PROGRAMS.values()):
        value = partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT, shape=[4])
        weights = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w")
        add = onnx.helper.make_node("Add", ["x", "w"], ["y"])
        graph = onnx.helper.make_graph([add], "g", [value("x")], [value("y")], [weights])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        change(onnx, model, tmp_path)
        path = folder / f"{number}.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(StaleArtifactError, match="help: make it again"):
            open_onnx(path, num_threads=1)
    cases(len(PROGRAMS))
