"""`dlkdd check` as a user calls it: one look at everything, exit codes, JSON, and nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from check_setups import write_params
from paths import ROOT

GROUPS = ["parameters", "data", "disk", "environment", "dvc"]


@pytest.fixture
def check(checked_project, call, monkeypatch):
    """The smoke recipe on eight videos in a DVC project without git, and the command."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.delenv("DLKDD_PROCESSES", raising=False)
    for name in (".dvc/config", "dvc.yaml"):
        (checked_project / name).parent.mkdir(exist_ok=True)
        (checked_project / name).write_text((ROOT / name).read_text())
    write_params()

    def run(*arguments):
        return call("check", "--processes", 1, *arguments)

    return run


def of_json(out):
    found = json.loads(out)
    return found, {group["name"]: group for group in found["groups"]}


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_sound_project_has_no_problem_and_stays_as_it_is(check, checked_project):
    before = files(checked_project)
    code, out, err = check()
    assert code == 0, out
    assert out.rstrip().splitlines()[-1].startswith("no problem")
    assert [line for line in out.splitlines() if line and not line.startswith(" ")][:-1] == [
        "Parameters", "Data", "Disk", "Environment", "DVC",
    ]  # fmt: skip
    assert "8 videos of 2 classes: 4 train, 2 val, 2 test" in out
    assert "8/8 videos" in err
    assert files(checked_project) == before


def test_all_groups_are_looked_at_whatever_is_wrong(check):
    write_params(teacher="mvit_v2_s")
    Path("data/jump/jump0.mp4").unlink()
    Path("data/wave/wave0.mp4").write_bytes(b"")
    Path("dvc.yaml").unlink()
    code, out, _ = check("--json")
    found, groups = of_json(out)
    assert list(groups) == GROUPS
    assert code == found["exit_code"] == 2
    problems = {
        name: sum(finding["level"] == "problem" for finding in group["findings"]) for name, group in groups.items()
    }
    assert problems == {"parameters": 2, "data": 1, "disk": 0, "environment": 0, "dvc": 1}
    assert found["num_problems"] == 4
    assert all(finding["remedy"] for group in groups.values() for finding in group["findings"])


@pytest.mark.parametrize(
    ("damage", "wanted"),
    [
        (lambda: Path("params.yaml").write_text("sed: 0\n"), 2),
        (lambda: Path("params.yaml").unlink(), 2),
        (lambda: Path("data/jump/jump0.mp4").unlink(), 3),
        (lambda: Path(".dvc/config").rename("config") and Path(".dvc").rmdir(), 4),
    ],
    ids=["unknown parameter", "no parameters", "a missing video", "no DVC repository"],
)
def test_the_exit_code_says_which_kind_of_problem(check, damage, wanted):
    damage()
    code, out, _ = check()
    assert code == wanted
    assert "problem: " in out
    assert "help: " in out
    assert out.rstrip().splitlines()[-1].startswith("1 problem")


def test_without_parameters_the_rest_is_checked_still(check):
    Path("params.yaml").write_text("sed: 0\n")
    _, groups = of_json(check("--json")[1])
    assert "did you mean seed" in "".join(groups["parameters"]["findings"][0]["details"])
    assert groups["data"]["facts"] == ["not looked at: the parameters could not be read"]
    assert groups["environment"]["facts"]
    assert groups["dvc"]["facts"]


def test_every_frame_is_asked_for(check):
    assert "no packet is missing and the first frame decodes; the others were not decoded" in check()[1]
    assert "8 of 8 videos: decoded from end to end" in check("--every-frame")[1]


def test_a_device_that_is_not_there(check):
    code, out, _ = check("--device", "cuda:7")
    assert code == 4
    assert "cuda:7" in out


def test_names_from_lists_cannot_command_the_terminal(check):
    with Path("data/videos.csv").open("a") as file:
        file.write("jump/\x1b[2J.mp4,jump,x,train\n")
    code, out, _ = check()
    assert code == 3
    assert "\x1b" not in out


WITHOUT_AV = """
import sys
sys.modules["av"] = None
from stages.__main__ import main
main()
"""


def test_a_missing_package_is_a_finding_and_no_traceback(check):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_AV, "check", "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    _, groups = of_json(done.stdout)
    assert "cannot be imported" in groups["environment"]["findings"][0]["message"]
    assert "Traceback" not in done.stderr
