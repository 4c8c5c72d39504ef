"""The command line is quick, has data on stdout and messages on stderr, and its exit codes say what is wrong."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import subprocess
import sys
import tomllib
from importlib import import_module

import numpy as np
import pytest
from builders import manifest_row
from paths import ROOT
from rich.console import Console

from pipeline.core.errors import DataError, EnvironmentProblem, Interrupted, ParamsError, StaleArtifactError
from pipeline.core.tables import write_curve
from pipeline.data.manifest import write_manifest
from pipeline.evaluate.score.predictions import Predictions, write_predictions
from pipeline.evaluate.tables import write_light
from stages import _shell
from stages.__main__ import COMMANDS, FAMILIES

HEAVY = ("torch", "torchvision", "torchmetrics", "h5py", "zarr", "dask", "distributed", "av", "cv2", "hypothesis")


def first_line(name):
    tree = ast.parse((ROOT / "stages" / f"{FAMILIES.get(name, name)}.py").read_text(encoding="utf-8"))
    (tree,) = [node for node in tree.body if name in FAMILIES and getattr(node, "name", None) == name] or [tree]
    return ast.get_docstring(tree).partition("\n")[0]


# help


def test_help_lists_every_command_with_what_it_does(call):
    code, out, _ = call("--help")
    assert code == 0
    for name in COMMANDS:
        # as the first word: `frames` says that it exports
        (line,) = [line for line in out.splitlines() if line.strip("│ ").startswith(f"{name.replace('_', '-')} ")]
        assert first_line(name) in line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_under_both_spellings(call, name):
    found = {call(spelling, "--help")[:2] for spelling in {name, name.replace("_", "-")}}
    outs = {out.replace("_", "-") for _, out in found}
    assert {code for code, _ in found} == {0}
    assert len(outs) == 1
    assert first_line(name).rstrip(".").replace("_", "-") in outs.pop()


def test_the_version_is_that_of_the_checkout(call):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert call("--version") == (0, f"dlkdd {version}\n", "")


LIGHT = f"""
import sys
from stages.__main__ import main
try:
    main()
finally:
    print(*(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["evaluate", "--help"], ["recipe", "list"]], ids=" ".join
)
def test_what_needs_no_computing_waits_for_no_heavy_library(arguments):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout
    assert done.stderr.split() == []


def test_the_package_is_the_command():
    done = subprocess.run([sys.executable, "-m", "stages", "nothing"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "No such command 'nothing'" in done.stderr
    assert done.stdout == ""


# exit codes


@pytest.mark.parametrize(
    "arguments",
    [["trainstudent"], ["--nothing"], ["evaluate"], ["evaluate", "--nothing"], ["recipe", "nothing"]],
    ids=" ".join,
)
def test_wrong_usage_is_2_and_says_so_on_stderr(call, arguments):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert "Error" in err


@pytest.fixture
def evaluation(tmp_path):
    """Arguments of evaluate for four test videos, with everything there that it reads."""
    rows = [manifest_row(f"v{number}", number % 2, "test", (4, 16, 16)) for number in range(4)]
    write_manifest(tmp_path / "manifest.csv", rows)
    write_light(tmp_path / "light.csv", {row.video_id: float(index) for index, row in enumerate(rows)})
    labels_N = np.array([0, 1, 0, 1])
    for seed, name in enumerate(("teacher", "student", "baseline")):
        probs_NK = np.random.default_rng(seed).dirichlet(np.ones(2), 4)
        found = Predictions(tuple(row.video_id for row in rows), labels_N, probs_NK, ("drink", "jump"))
        write_predictions(tmp_path / f"{name}.csv", found)
    options = {
        "--manifest": tmp_path / "manifest.csv",
        "--light": tmp_path / "light.csv",
        **{f"--{name}": tmp_path / f"{name}.csv" for name in ("teacher", "student", "baseline")},
        "--evaluation": tmp_path / "evaluation.json",
        "--metrics": tmp_path / "metrics.json",
        "--confusion": tmp_path / "confusion",
        "--tables": tmp_path / "tables",
        "--params": ROOT / "params.yaml",
    }
    return [text for option in options.items() for text in option]


@pytest.mark.parametrize(("name", "code"), [("manifest.csv", 3), ("student.csv", 5), ("light.csv", 5), ("params", 2)])
def test_an_error_of_the_user_is_one_message_and_its_code(call, evaluation, tmp_path, name, code):
    missing = tmp_path / name
    missing.unlink(missing_ok=True)
    if name == "params":
        evaluation[-1] = missing
    found, out, err = call("evaluate", *evaluation)
    assert (found, out) == (code, "")
    assert err.startswith(f"error: {missing}: ")
    assert "Traceback" not in err
    assert list(tmp_path.glob("*.json")) == []


@pytest.mark.parametrize(("taught", "is_said"), [(0.7, True), (0.9, False)])
def test_evaluate_says_where_the_teacher_is_not_better_than_the_baseline(call, evaluation, tmp_path, taught, is_said):
    (tmp_path / "curves").mkdir()
    for name, top1 in {"teacher": taught, "baseline": 0.75}.items():
        write_curve(tmp_path / f"curves/{name}.csv", [{"epoch": 0, "val_top1": top1}])
    code, out, err = call("evaluate", *evaluation, "--curves", tmp_path / "curves", "--json")
    assert code == 0
    assert json.loads(out)["num_test_videos"] == 4
    said = "evaluate: the teacher is not better than the baseline on val: top-1 70.0% and 75.0%."
    assert (said in err) == is_said


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ParamsError("wrong", findings=["this", "that"], remedy="mend it"), 2),
        (DataError("wrong", findings=["this", "that"], remedy="mend it"), 3),
        (EnvironmentProblem("wrong", findings=["this", "that"], remedy="mend it"), 4),
        (StaleArtifactError("wrong", findings=["this", "that"], remedy="mend it"), 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_findings_and_help_are_printed_in_lines(call, evaluation, monkeypatch, error, code):
    evaluate = import_module("stages.evaluate")
    monkeypatch.setattr(evaluate, "read_manifest", raising(error))
    assert call("evaluate", *evaluation) == (code, "", "error: wrong\n  - this\n  - that\nhelp: mend it\n")


def raising(error):
    def fail(*_arguments, **_options):
        raise error

    return fail


@pytest.mark.parametrize(("number", "code"), [(2, 130), (15, 143)])
def test_an_interrupted_run_says_that_it_goes_on(call, evaluation, monkeypatch, number, code):
    monkeypatch.setattr(import_module("stages.evaluate"), "compare", raising(Interrupted(number)))
    found, _, err = call("evaluate", *evaluation)
    assert found == code
    assert "the same command goes on from here" in err


def test_an_error_of_ours_shows_where_it_happened(call, evaluation, monkeypatch):
    monkeypatch.setattr(import_module("stages.evaluate"), "compare", raising(RuntimeError("surprise")))
    code, out, err = call("evaluate", *evaluation)
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert "RuntimeError: surprise" in err
    assert err.rstrip().endswith("please report it with the lines above.")


def test_nothing_of_a_message_is_taken_for_markup_or_escape_sequences(capsys):
    _shell.say("[red]a[/red]\x1b[31mb\nc\r[/")
    assert capsys.readouterr().err == "[red]a[/red]\N{REPLACEMENT CHARACTER}[31mb\nc\N{REPLACEMENT CHARACTER}[/\n"


def test_names_of_facts_are_text_as_their_values_are(capsys):
    _shell.print_facts({"digest of \x1b[2J": "\x1b[31m"})
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["a\\[b] c\\", "video :x: of [1/3]", "[/]", "\\[red]"])
def test_a_message_is_printed_as_it_is(capsys, text):
    _shell.say(text)
    assert capsys.readouterr().err == f"{text}\n"


# evaluate, the lightest of the stages, as a user sees it


def test_evaluate_prints_a_table_and_writes_its_files(call, evaluation, tmp_path):
    code, out, _ = call("evaluate", *evaluation)
    assert code == 0
    assert "teacher (enhanced)" in out
    assert "points of top-1" in out
    assert "McNemar p = " in out
    assert "agrees with the teacher (KL from it in nats): student " in out
    assert len({len(line) for line in out.splitlines() if line.startswith(("┏", "│", "└"))}) == 1
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["num_test_videos"] == 4
    assert {path.name for path in (tmp_path / "confusion").iterdir()} == {"teacher.csv", "student.csv", "baseline.csv"}
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {
        "per_class", "by_light", "by_length", "reliability", "videos",
    }  # fmt: skip


def test_evaluate_prints_json_and_nothing_else_when_asked(call, evaluation, tmp_path):
    code, out, err = call("evaluate", *evaluation, "--json")
    assert (code, err) == (0, "")
    printed, written = json.loads(out), json.loads((tmp_path / "evaluation.json").read_text())
    assert printed.keys() | {"digest"} == written.keys()


# progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = [0.0]
    monkeypatch.setattr(_shell.time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_progress_off_a_terminal_is_plain_lines(capsys, clock):
    with _shell.progress("train_teacher", 10, "steps") as advance:
        for step in range(10):
            clock(4.0)
            advance(1, f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "train_teacher: 1/10 steps, 4.0 s/step, 36 s left; loss 0",
        "train_teacher: 4/10 steps, 4.0 s/step, 24 s left; loss 3",
        "train_teacher: 7/10 steps, 4.0 s/step, 12 s left; loss 6",
        "train_teacher: 10/10 steps, 4.0 s/step, 0 s left; loss 9",
    ]


@pytest.mark.parametrize(
    ("seconds", "count", "expected"),
    [
        (10.0, 123, "123/10000 videos, 12.3 videos/s, 13 min left"),
        (0.01, 20, "20/10000 videos, 2,000 videos/s, 5 s left"),
        (5.0, 5, "5/10000 videos, 1.0 videos/s, 2.8 h left"),
        (900.0, 6, "6/10000 videos, 150 s/video, 416.4 h left"),
    ],
)
def test_a_rate_has_the_unit_that_suits_it(capsys, clock, seconds, count, expected):
    with _shell.progress("enhance", 10_000, "videos") as advance:
        clock(seconds)
        advance(count, "")
    assert capsys.readouterr().err == f"enhance: {expected}\n"


def test_what_an_earlier_run_did_counts_but_not_in_the_rate(capsys, clock):
    with _shell.progress("train_student", 100, "steps") as advance:
        clock(1.0)
        advance(80, "from the checkpoint", earlier=True)
        clock(14.0)
        advance(5, "")
        clock(5.0)
        advance(15, "")
    assert capsys.readouterr().err.splitlines() == [
        "train_student: 80/100 steps; from the checkpoint",
        "train_student: 85/100 steps, 3.0 s/step, 45 s left",
        "train_student: 100/100 steps, 1.0 steps/s, 0 s left",
    ]


def test_progress_on_a_terminal_shows_the_same(monkeypatch, clock):
    screen = io.StringIO()
    monkeypatch.setattr(_shell, "console", Console(file=screen, force_terminal=True, width=120))
    with _shell.progress("enhance", 100, "videos") as advance:
        advance(80, "from [before]", earlier=True)
        clock(4.0)
        advance(10, "[shard] 3\x1b[31m")
    shown = screen.getvalue()
    assert "90/100" in shown
    assert "2.5 videos/s, 4 s left" in shown
    assert "[shard] 3" in shown
    assert "\x1b[31m" not in shown


def test_progress_that_ends_early_says_nothing_wrong(capsys):
    with contextlib.suppress(Interrupted), _shell.progress("enhance", 10, "shards") as advance:
        advance(3, "")
        raise Interrupted(2)
    assert "10/10" not in capsys.readouterr().err
