"""CONTRIBUTING.md, done as it is written: each example is made in a copy of the project, and its commands are run."""

from __future__ import annotations

import re
import subprocess

import pytest
from clones import clone, environment, run
from command_line import install_program
from paths import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = {found[1].lower(): found[2] for found in re.finditer(r"(?ms)^## (.*?)\n(.*?)(?=^## |\Z)", TEXT)}
EXAMPLES = [name for name in SECTIONS if name.startswith(("an ", "a "))]
STEP = re.compile(r"^(?:`([\w/.]+)`(?:, new)?:|```(python|diff)\n(.*?)^```)$", re.DOTALL | re.MULTILINE)


def steps(name):
    """The blocks of an example, each with the file that the line above names."""
    path = None
    for named, language, text in STEP.findall(SECTIONS[name]):
        path = named or path
        if language:
            yield path, language, text


def edited(before, diff):
    """A file's text after a block of lines with `-`, `+` or a blank before them; the old ones stand there once."""
    lines = diff.splitlines(keepends=True)
    old, new = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
    assert before.count(old) == 1, f"{before.count(old)} times:\n{old}"
    return before.replace(old, new)


def make(name, folder):
    for path, language, text in steps(name):
        if language == "python":
            assert not (ROOT / path).exists(), path
            (folder / path).write_text(text, encoding="utf-8")
        else:
            (folder / path).write_text(edited((folder / path).read_text(encoding="utf-8"), text), encoding="utf-8")


def test_every_example_is_run():
    assert len(EXAMPLES) == 5
    assert re.findall(r"<!-- run in: (.*) -->", TEXT) == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_an_example_changes_is_there(name):
    texts = {}
    for path, language, text in steps(name):
        if language == "python":
            compile(text, path, "exec")
        else:
            texts[path] = edited(texts.get(path) or (ROOT / path).read_text(encoding="utf-8"), text)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_works(tmp_path, name):
    folder, programs = tmp_path / "clone", install_program(tmp_path / "bin")
    clone(folder, "demo")
    make(name, folder)
    (commands,) = re.findall(r"<!-- run in: .* -->\n```sh\n(.*?)```", SECTIONS[name], re.DOTALL)
    script = f'export PATH="{programs}:$PATH" PYTHONPATH="$PWD"\n{commands}'
    done = subprocess.run(
        ("bash", "-euo", "pipefail", "-c", script), cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_examples_pass_the_lint(tmp_path):
    clone(tmp_path, "demo")
    for name in EXAMPLES:
        make(name, tmp_path)
    for command in re.search(r"(?m)^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())[1].split("\n\t"):
        run(tmp_path, "bash", "-c", f'export PYTHONPATH="$PWD"; {command.strip()}')
