"""`dlkdd` alone says where the chain stands, by dvc.lock; tests/test_wiring.py compares with `dvc status`."""

from __future__ import annotations

import hashlib
import json
import time

import pytest
from held_locks import at_work

from pipeline.core.work_folder import out_lock_path
from pipeline.tools.check.chain import chain_standing, is_project
from pipeline.tools.check.declared import read_lock

DVC_YAML = """stages:
  prepare:
    cmd: >-
      python -m stages prepare
      --dark data/dark
    deps: [stages/prepare.py]
    params: [seed, prepare]
    outs: [data/dark]
  train_teacher:
    cmd: python -m stages train_teacher
    deps: [data/dark]
    params: [seed]
    outs: [models/teacher.safetensors]
"""
BESIDE = {
    "demo": """vars: [../params.yaml]
stages:
  render:
    foreach: ${render}
    do:
      wdir: ..
      cmd: render ${item}
      outs:
      - data/${item}
""",
    "teachers": """vars: [../params.yaml]
stages:
  train_more:
    foreach: ${more}
    do:
      wdir: ..
      cmd: train ${key} in ${item.light}
      params:
      - seed
      - more.${key}
      outs:
      - teachers/${key}.json:
          cache: false
""",
}
PARAMS = "seed: 0\nprepare:\n  root: data/smoke\n  frames: null\n  splits: [1, 2]\n"
CODE = "code"
LOCK = """schema: '2.0'
stages:
  prepare:
    cmd: python -m stages prepare
      --dark data/dark
    deps:
    - path: stages/prepare.py
      hash: md5
      md5: {code}
      size: 4
    params:
      params.yaml:
        prepare:
          root: data/smoke
          frames:
          splits:
          - 1
          - 2
        seed: 0
    outs:
    - path: data/dark
      hash: md5
      md5: {dark}.dir
      size: 9
      nfiles: 2
  train_teacher:
    cmd: python -m stages train_teacher
    deps:
    - path: data/dark
      hash: md5
      md5: {dark}.dir
      size: 9
      nfiles: 2
    params:
      params.yaml:
        seed: 0
    outs:
    - path: models/teacher.safetensors
      hash: md5
      md5: {model}
      size: 3
""".format(code=hashlib.md5(CODE.encode()).hexdigest(), dark="d" * 32, model="e" * 32)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A chain of two stages that has run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for name, text in {
        "dvc.yaml": DVC_YAML,
        "params.yaml": PARAMS,
        "dvc.lock": LOCK,
        "stages/prepare.py": CODE,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "data/dark").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/teacher.safetensors").write_text("abc")
    return tmp_path


def standing(folder):
    return {each.stage: (each.state, each.why) for each in chain_standing(folder)}


def replaced(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_ran_with_these_parameters_command_and_code_is_done(project):
    assert standing(project) == {"prepare": ("done", ""), "train_teacher": ("done", "")}


@pytest.mark.parametrize(
    ("name", "old", "new", "why"),
    [
        ("params.yaml", "smoke", "mine", "prepare.root data/smoke → data/mine"),
        ("params.yaml", "frames: null", "frames: img_*", "prepare.frames null → img_*"),
        ("params.yaml", "[1, 2]", "[1]", "prepare.splits [1, 2] → [1]"),
        ("dvc.yaml", "--dark data/dark\n", "--dark data/dark --more\n", "its command"),
        ("stages/prepare.py", CODE, "other", "code of stages/prepare.py"),
    ],
)
def test_a_change_makes_a_stage_stale_and_those_that_follow(project, name, old, new, why):
    replaced(project / name, old, new)
    assert standing(project) == {"prepare": ("stale", why), "train_teacher": ("stale", "follows prepare")}


def test_an_input_that_was_made_again_is_known_by_dvc_lock(project):
    lock = (project / "dvc.lock").read_text().partition("  train_teacher:")
    (project / "dvc.lock").write_text(lock[0].replace("d" * 32, "f" * 32) + lock[1] + lock[2])
    assert standing(project)["train_teacher"] == ("stale", "another data/dark")


def test_what_is_not_here_or_never_ran_is_missing(project):
    (project / "models/teacher.safetensors").unlink()
    state, why = standing(project)["train_teacher"]
    assert state == "missing"
    assert "models/teacher.safetensors is not here; `dvc checkout`" in why
    (project / "dvc.lock").unlink()
    assert {state for state, _ in standing(project).values()} == {"missing"}


def test_a_stage_that_holds_its_lock_runs_and_live_says_how_far_it_is(project):
    (project / "live").mkdir()
    (project / "live/teacher.json").write_text(json.dumps({"teacher": {"epoch": 3, "val_top1": 0.25}}))
    with at_work("train_teacher", "models/teacher.safetensors") as process:
        state, why = standing(project)["train_teacher"]
    assert state == "running"
    assert why.startswith(f"process {process.pid} on ")
    assert why.endswith("; epoch 3, val top-1 25.0%")
    assert standing(project)["train_teacher"][0] == "done"
    assert out_lock_path(project / "models/teacher.safetensors").name.startswith("out-")


def test_without_a_command_a_project_shows_its_chain_and_another_folder_the_help(call, project, tmp_path, monkeypatch):
    replaced(project / "params.yaml", "seed: 0", "seed: 1")
    code, out, _ = call()
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[:2]] == [["prepare", "stale"], ["train_teacher", "stale"]]
    assert "seed 0 → 1" in out
    assert "Next: `dvc repro` runs prepare" in out
    assert out.rstrip().endswith("`dlkdd --help`.")
    assert json.loads(call("status", "--json")[1])[0] == {"stage": "prepare", "state": "stale", "why": "seed 0 → 1"}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert not is_project(tmp_path / "elsewhere")
    code, out, _ = call()
    assert code == 2
    assert "Usage:" in out
    code, _, err = call("status")
    assert (code, "no dvc.yaml of this project" in err) == (2, True)


@pytest.mark.parametrize("content", [None, b"", b"seed: \xff", b"- seed"])
def test_a_parameter_file_that_cannot_be_read_is_an_error_of_the_user(call, project, content):
    (project / "params.yaml").unlink()
    if content is not None:
        (project / "params.yaml").write_bytes(content)
    for command in ((), ("status",)):
        code, _, err = call(*command)
        assert (code, "error: params.yaml: " in err) == (2, True)


def test_a_stage_may_depend_on_nothing(project):
    replaced(project / "dvc.yaml", "    deps: [stages/prepare.py]\n", "")
    replaced(project / "dvc.lock", LOCK[LOCK.index("    deps:") : LOCK.index("    params:")], "")
    assert standing(project)["prepare"] == ("done", "")


def test_stages_for_each_name_in_the_recipe_stand_where_the_chain_needs_them(project):
    for name, text in BESIDE.items():
        (project / name).mkdir()
        (project / name / "dvc.yaml").write_text(text)
    replaced(project / "dvc.yaml", "deps: [stages/prepare.py]", "deps: [stages/prepare.py, '${prepare.root}']")
    replaced(project / "dvc.yaml", "deps: [data/dark]", "deps: [data/dark, teachers]")
    before = standing(project)
    assert before == {"prepare": ("done", ""), "train_teacher": ("stale", "teachers")}  # the recipe names none

    with (project / "params.yaml").open("a") as file:
        file.write("render: [smoke]\nmore: {second: {light: gamma}, third: {light: none}}\n")
    (project / "teachers/dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  train_more@third:\n    cmd: train third in none\n    params:\n      params.yaml:\n"
        "        more.third:\n          light: clahe\n        seed: 0\n    outs:\n    - path: teachers/third.json\n"
    )
    (project / "teachers/third.json").write_text("{}")
    found = standing(project)
    assert list(found) == ["render@smoke", "prepare", "train_more@second", "train_more@third", "train_teacher"]
    assert found["render@smoke"] == ("missing", "has not run: dvc.lock does not know it")
    assert found["prepare"] == ("stale", "follows render@smoke")
    assert found["train_more@third"] == ("stale", "more.third.light clahe → none")


def test_names_and_values_are_text(call, project):
    replaced(project / "params.yaml", "data/smoke", "'[red]x[/red]'")
    assert "data/smoke → [red]x[/red]" in call("status")[1]


def test_a_whole_dvc_lock_is_read_in_a_moment():
    """A YAML parser takes most of a second."""
    one = LOCK.partition("stages:\n")[2]
    started = time.process_time()
    found = read_lock("schema: '2.0'\nstages:\n" + "".join(one.replace("prepare:", f"s{n}:", 1) for n in range(30)))
    assert time.process_time() - started < 0.3
    assert len(found) == 31
