"""What the commands print fits 80 columns: no line is longer, nothing is cut, and digests stay in one piece."""

from __future__ import annotations

import io
import json
import re
from importlib import import_module
from pathlib import Path

import pytest
from builders import CLASSES, one_thread, tiny_recognizer  # noqa: F401 - a fixture
from camera_frames import smooth
from report_runs import metrics_values
from rich.console import Console
from target_stores import make_store

from pipeline.core.digest import digest_bytes
from pipeline.core.work_folder import work_folder
from pipeline.distill.store.store import SoftTargetStore
from pipeline.evaluate.metrics_file import Metrics
from pipeline.models.recognizer import save_model
from pipeline.tools.check.chain import Standing
from pipeline.tools.export.latency import Latency
from pipeline.tools.study.contrasts import Difference, contrast_table
from pipeline.tools.study.results import Estimate, Line, table
from pipeline.videos.reader import write_video
from stages import _shell
from stages._target_tables import print_difference

WIDTH = 80
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def shown(monkeypatch, capsys, tmp_path, call):
    """What a terminal of 80 columns shows of stdout since the last time, checked for its width."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")

    def read(*arguments):
        text = call(*arguments)[1] if arguments else capsys.readouterr().out
        text = ESCAPES.sub("", text)
        assert text
        assert [line for line in text.splitlines() if len(line) > WIDTH] == []
        assert "…" not in text.replace("… and", "")  # as in "… and 3 more"
        return text

    return read


def digests_of(values):
    """All digests in JSON values."""
    if isinstance(values, dict):
        return {digest for value in values.values() for digest in digests_of(value)}
    if isinstance(values, list | tuple):
        return {digest for value in values for digest in digests_of(value)}
    return {values} if re.fullmatch("[0-9a-f]{32}", str(values)) else set()


def all_named(text, digests):
    assert [digest for digest in digests if digest[: _shell.DIGEST_DIGITS] not in text] == []


def test_evaluate(shown):
    import_module("stages.evaluate")._print(Metrics.model_validate(metrics_values()))
    text = " ".join(shown().split())
    for words in ("teacher (enhanced)", "25.0 to 75.0%", "McNemar p = 0.03", "baseline 50.0% (0.400)"):
        assert words in text


def test_study(shown):
    run = (0, None, 0.1)
    found = Difference(
        *("many: student - baseline", "many.student", "many.baseline", "test", 0.081, 0.042, 0.031, 0.124, 0.021),
        *(0.97, 0.81, 1.0, 14, 15, 1, (run,)),
    )
    _shell.print_table(*contrast_table([found]))
    line = Line("bright", "baseline", ("dark", "self"), Estimate(0.9, 0.02), Estimate(0.88, 0.03), 12.3, 5, 1, 0)
    _shell.print_table(*table([line]))
    text = shown()
    for words in ("+8.1 ± 4.2", "88.0 ± 3.0", "1 of 5", "bright.baseline"):
        assert words in text


def test_mean_splits(shown, tmp_path):
    folder = tmp_path / "a folder with a name that is long/results of the three splits"
    folder.mkdir(parents=True)
    paths = [folder / f"split{number}.json" for number in (1, 2, 3)]
    for number, path in enumerate(paths):
        path.write_text(json.dumps(metrics_values(manifest=f"{number}" * 32)))
    text = shown("mean-splits", *paths)
    for words in ("split3", "student − baseline top-1", "baseline mean per class", "+25.0"):
        assert words in text


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [make_store(folder / name, num_teachers=number) for name, number in (("a", 2), ("b", 1))]


def test_targets(shown, stores, monkeypatch):
    made, _ = stores
    store = SoftTargetStore(made.path)
    monkeypatch.chdir(made.path.parent)
    text = shown("targets", "inspect", made.path.name, "--manifest", made.frames.path.parent / "manifest.csv")
    all_named(text, {store.digest, *digests_of(store.attributes["digests"])})
    all_named(text, {teacher[key] for teacher in store.attributes["teachers"] for key in ("digest", "frames")})
    all_named(shown("targets", "verify", made.path.name), {store.digest})


def test_a_difference_of_stores(shown):
    digests = [[digest_bytes(f"{side}{n}".encode()) for side in "ab"] for n in range(3)]
    values = {"digests.manifest": digests[0], "teachers.0.digest": digests[1], "codec.name": ["float16", "float32"]}
    none = {"num_views": 0}
    found = {
        "digests": digests[2],
        "same": False,
        "attributes": values,
        "num_only": [1, 0],
        "only": [["Wave/1"], []],
        "num_common": 7,
        "num_same_views": 7,
        "num_same_rows": 0,
        "divergence": none,
    }
    print_difference("data/soft_targets.zarr", "https://example.org/soft_targets.zarr", found)
    all_named(shown(), digests_of(found))


def test_frames(shown, stores, monkeypatch):
    frames = stores[0].frames
    monkeypatch.chdir(frames.path.parent)
    all_named(shown("frames", "inspect", frames.path.name), {frames.digest})
    all_named(shown("frames", "verify", frames.path.name), {frames.digest})


def test_work_list(shown):
    for stage in ("precompute_soft_targets", "train_teacher"):
        with work_folder(stage, params={}, inputs={}, format_version=1) as work:
            work.keep()
    text = shown("work", "list")
    for words in ("precompute_soft_targets", "kept for reuse", "frees"):
        assert words in text


def test_recipes_and_status(shown):
    assert "dark48" in shown("recipe", "list")
    holder = "process 123456 on a-node-of-a-cluster.example.org; epoch 12, val top-1 25.0%"
    import_module("stages.status").show(
        [
            Standing(
                "precompute_soft_targets", "stale", "precompute_soft_targets.max_kl 0.01 → 0.02; code of pipeline"
            ),
            Standing("train_student", "running", holder),
        ]
    )
    text = shown()
    assert "Compared with dvc.lock" in text
    assert "val top-1 25.0%" in " ".join(text.split())


def test_bench(shown):
    facts = {
        "architecture": "r2plus1d_34",
        "parameters": 63_500_000,
        "gmac_per_clip": 152.4,
        "device": "cuda:0",
        "clip": {"num_frames": 64, "size": 112},
        "threads": 16,
        "batch_size": 32,
    }
    measured = [Latency(way, 1.2345, 1.5, 1234.5, 12.345, 2**34) for way in ("eager", "compiled", "onnx")]
    import_module("stages.bench")._print(facts, measured)
    assert "16384" in shown()


def test_predict(shown):
    save_model(Path("m.safetensors"), tiny_recognizer(), class_names=CLASSES, trained_on={"stage": "train_student"})
    name = "night/a folder/a video whose name is as long as cameras make them 2026-11-27 12.00.mp4"
    write_video(Path(name), smooth(12, 36, 48), fps=10)
    options = ("--clips", 1, "--crops", 1, "--short-side", 20, "--batch-size", 4, "--window", 1)
    text = shown("predict", name, "--model", "m.safetensors", *options)
    assert all(class_name in text for class_name in CLASSES)
    assert "0:00.0 to 0:01.0" in text


def test_check(shown, checked_project):
    """Its lines wrap under their beginning."""
    Path("params.yaml").write_text("seed: 0\n")
    assert "problem" in shown("check", "--device", "cpu")


def test_a_bar_shows_stage_counts_and_pace_with_its_note_below(monkeypatch):
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=WIDTH, color_system=None)
    monkeypatch.setattr(_shell, "console", console)
    monkeypatch.setattr(_shell._Pace, "__str__", lambda _pace: "1,234 clips/s, 12 min left")
    note = "loss 1.234, top-1 50.0%, val top-1 25.0%, waits 1.0%"
    with _shell.progress("precompute_soft_targets", 23456, "clips") as advance:
        advance(12345, note)
    lines = [
        line for line in re.split("[\r\n]", ESCAPES.sub("", terminal.getvalue())) if "12345" in line or note in line
    ]
    assert any(
        "precompute_soft_targets" in line and "12345/23456 clips 1,234 clips/s, 12 min" in line for line in lines
    )
    assert any(line.strip() == note for line in lines)
    assert max(map(len, lines)) <= WIDTH
