"""Licence, citation, checks before a commit and CI say what the project is and does."""

import hashlib
import re
import tomllib

import pytest
import yaml
from paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# of apache.org's LICENSE-2.0.txt, as Debian's base-files have it
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def yaml_of(name):
    return yaml.safe_load((ROOT / name).read_text())


def makefile_lines(target):
    recipe = re.search(rf"(?m)^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())
    return [line.strip() for line in recipe[1].splitlines()]


def test_the_licence_is_the_one_that_pyproject_names():
    assert PROJECT["license"] == "Apache-2.0"
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2


def test_the_citation_is_of_this_version():
    citation = yaml_of("CITATION.cff")
    assert {key: citation[key] for key in ("title", "version", "license")} == {
        "title": PROJECT["name"], "version": PROJECT["version"], "license": PROJECT["license"],
    }  # fmt: skip


def test_before_a_commit_is_checked_what_lint_checks():
    (repo,) = yaml_of(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    assert [hook["entry"] for hook in repo["hooks"]] == makefile_lines("lint")
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}  # nothing is fetched


def commands(text):
    """Lines of a shell script that do something, but for the exports of a path."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "set ", "cd ", "export "))]


def test_the_workflow_does_what_ci_does_on_every_python_that_is_supported():
    jobs = yaml_of(".github/workflows/ci.yml")["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    ran = [line for step in steps for line in commands(step.get("run", ""))]
    assert ran == commands((ROOT / ".ci/run").read_text())
    lowest, above = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    assert jobs["test"]["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(int(lowest), int(above))]


@pytest.mark.parametrize("name", ["bug.yml", "idea.yml"])
def test_a_form_asks_for_what_it_needs_and_names_what_there_is(name):
    form = yaml_of(f".github/ISSUE_TEMPLATE/{name}")
    assert {"name", "description", "body"} <= form.keys()
    assert any(field.get("validations", {}).get("required") for field in form["body"])
    for path in re.findall(r"\b(?:docs/)?[\w-]+\.md\b", (ROOT / f".github/ISSUE_TEMPLATE/{name}").read_text()):
        assert (ROOT / path).is_file(), path
