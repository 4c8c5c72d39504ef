"""`dlkdd work`: what lies in the work folder, and removing it only where nobody works and somebody agreed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from held_locks import at_work

from pipeline.core.errors import EnvironmentProblem
from pipeline.core.work_folder import remove_work_folder, work_folder


@pytest.fixture
def work(tmp_path, monkeypatch, call):
    """A project with what a finished `prepare` keeps and a stopped training left, and the command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with work_folder("prepare", params={}, inputs={}, format_version=1) as kept:
        kept.keep()
    with work_folder("train_teacher", params={}, inputs={}, format_version=1) as stopped:
        (stopped.path / "checkpoint.pt").write_bytes(bytes(3000))
    Path("data").mkdir()
    Path("data/manifest.csv").touch()
    return lambda *arguments: call("work", *arguments)


@pytest.fixture
def holder(work):
    """A process that works in a folder that comes after another one."""
    with at_work("train_student") as process:
        yield process


def folders():
    return sorted(path.name.rpartition("-")[0] for path in Path(".work").iterdir() if path.is_dir())


def test_list_says_what_each_folder_is_there_for(work):
    code, out, _ = work("list")
    assert code == 0
    (prepare,) = [line for line in out.splitlines() if " prepare " in line]
    (teacher,) = [line for line in out.splitlines() if " train_teacher " in line]
    assert "kept for reuse" in prepare
    assert "not finished" in teacher
    found = json.loads(work("list", "--json")[1])
    assert [(folder["stage"], folder["unfinished"], folder["holder"]) for folder in found] == [
        ("prepare", False, None),
        ("train_teacher", True, None),
    ]
    assert found[1]["num_bytes"] > 3000


def test_what_is_linked_elsewhere_frees_nothing(work):
    (teacher,) = Path(".work").glob("train_teacher-*/")
    Path("data/linked.pt").hardlink_to(teacher / "checkpoint.pt")
    found = json.loads(work("list", "--json")[1])[1]
    assert found["num_bytes"] - found["freed_bytes"] == 3000
    assert "removing them frees" in work("list")[1]


def test_list_names_who_is_at_work(work, holder):
    assert f"process {holder.pid}" in work("list")[1]


def test_an_empty_work_folder(work):
    assert work("clear", "--yes")[0] == 0
    code, out, err = work("list")
    assert (code, out) == (0, "")
    assert "empty" in err
    assert json.loads(work("list", "--json")[1]) == []
    assert "nothing to remove" in work("clear", "--yes")[2]


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ([], []),
        (["--unfinished"], ["prepare"]),
        (["train-teacher"], ["prepare"]),
        (["prepare"], ["train_teacher"]),
        (["prepare", "--unfinished"], ["prepare", "train_teacher"]),
    ],
    ids=str,
)
def test_clear_removes_what_was_named_and_no_result(work, arguments, left):
    assert work("clear", "--yes", *arguments)[0] == 0
    assert folders() == left
    assert Path("data/manifest.csv").exists()


def test_a_stage_without_a_folder_is_an_error(work):
    code, _, err = work("clear", "--yes", "train_techer")
    assert code == 2
    assert "prepare, train_teacher" in err
    assert folders() == ["prepare", "train_teacher"]


def test_nothing_is_removed_while_a_run_is_at_work(work, holder):
    code, _, err = work("clear", "--yes")
    assert code == 4
    assert f"process {holder.pid}" in err
    assert folders() == ["prepare", "train_student", "train_teacher"]
    assert work("clear", "--yes", "--unfinished")[0] == 4
    assert work("clear", "--yes", "prepare")[0] == 0
    assert folders() == ["train_student", "train_teacher"]


def test_a_run_that_began_after_the_look_is_left_alone(work, holder):
    (path,) = Path(".work").glob("train_student-*/")
    with pytest.raises(EnvironmentProblem, match="is at work"):
        remove_work_folder(path)
    assert path.is_dir()


def test_it_asks_first(work, monkeypatch):
    code, _, err = work("clear")
    assert code == 2
    assert "--yes" in err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: False)
    assert work("clear")[0] == 0
    assert folders() == ["prepare", "train_teacher"]
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: True)
    assert work("clear")[0] == 0
    assert folders() == []


def test_a_folder_that_goes_while_the_question_stands_is_no_error(work, monkeypatch):
    """A run began meanwhile, ended well, and removed its own."""

    def confirm(*_, **__):
        (finished,) = Path(".work").glob("train_teacher-*/")
        remove_work_folder(finished)
        return True

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", confirm)
    code, _, err = work("clear")
    assert code == 0, err
    assert "removed .work/prepare" in err
    assert folders() == []
