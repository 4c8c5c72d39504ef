"""The help of every command has an example, which is right, and the shell completes what is typed."""

import os
import shlex
import subprocess

import pytest
import yaml
from command_line import install_program, leaves
from paths import ROOT

from stages._help import help_of

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.mark.parametrize("words", leaves(), ids=" ".join)
def test_every_command_has_an_example(call, words):
    code, out, _ = call(*words, "--help")
    assert code == 0
    _, _, example = out.partition("Example:")
    assert example.split()[: len(words) + 1] == ["dlkdd", *words]


@pytest.mark.parametrize("family", sorted({words[0] for words in leaves() if len(words) > 1}))
def test_completion_is_an_option_of_dlkdd_alone(call, family):
    code, out, _ = call(family, "--help")
    assert code == 0
    assert "completion" not in out


@pytest.mark.parametrize("name", STAGES)
def test_examples_of_stages_are_their_commands_in_dvc_yaml(name):
    lines = help_of(name, "Text.").partition("Example:")[2].strip().splitlines()
    assert all(line.endswith(" \\") and len(line) <= 78 for line in lines[:-1])
    run = STAGES[name]["cmd"].split()
    assert run[:3] == ["python", "-m", "stages"]
    assert shlex.split("\n".join(lines).replace("\\\n", " ")) == ["dlkdd", name.replace("_", "-"), *run[4:]]


def test_prose_is_filled_and_commands_keep_their_lines():
    text = "One\nline.\n\nTwo\nlines.\n\nExample:\ndlkdd a \\\n  --b"
    for name in ("targets", "prepare"):  # its own example is all that a command has
        assert help_of(name, text) == "One line.\n\nTwo lines.\n\nExample:\ndlkdd a \\\n  --b"
    assert help_of("targets", "Read.") == "Read."


COMPLETE = """
source <(dlkdd --show-completion)
try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _dlkdd_completion dlkdd; echo "${COMPREPLY[*]}"; }
try dlkdd tra
try dlkdd targets ex
try dlkdd recipe ''
try dlkdd evaluate --c
"""
INSTALL = """
dlkdd --install-completion
source "$HOME/.bashrc"
complete -p dlkdd
"""


@pytest.fixture
def bash(tmp_path):
    """Run lines in a bash whose home is a folder of the test."""
    path = f"{install_program(tmp_path / 'bin')}:{os.environ['PATH']}"
    home = tmp_path / "home"
    home.mkdir()

    def run(script):
        command = ("bash", "--norc", "-euo", "pipefail", "-c", f"{script}\ntrue")
        keep = {key: value for key, value in os.environ.items() if not key.startswith(("_TYPER", "COMP_"))}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**keep, "PATH": path, "HOME": str(home)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_bash_completes_commands_and_their_options(bash):
    commands, subcommands, recipe, options = bash(COMPLETE).splitlines()
    assert commands.split() == [
        "train-teacher",
        "train-more-teacher",
        "train-teacher-folds",
        "train-student",
        "train-baseline",
    ]
    assert subcommands == "export"
    assert recipe.split() == ["list", "show", "use"]
    assert options.split() == ["--confusion", "--curves"]


def test_completion_is_installed_for_bash(bash, tmp_path):
    assert "complete -o default -F _dlkdd_completion dlkdd" in bash(INSTALL)
    assert {path.name for path in (tmp_path / "home").iterdir()} >= {".bashrc"}
