"""The command line as its help tells it, and `dlkdd` as a program that imports the code of the folder it runs in."""

import sys
from importlib import import_module

from typer.main import get_command

from stages.__main__ import COMMANDS, LazyGroup

PROGRAM = """#!{python}
import os, sys
sys.path.insert(0, os.getcwd())
from stages.__main__ import main
main()
"""


def install_program(folder):
    """Write `dlkdd` into a folder for PATH. An installed one would run the code of where it was installed from."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dlkdd").write_text(PROGRAM.format(python=sys.executable))
    (folder / "dlkdd").chmod(0o755)
    return folder


def leaves():
    """Every command that does something, by the words that are typed: ("targets", "export"), ("evaluate",)."""
    found = {}
    for name in COMMANDS:
        module = import_module(f"stages.{name}")
        words = (name.replace("_", "-"),)
        if not hasattr(module, "app"):
            found[words] = None
            continue
        found.update(dict.fromkeys((*words, sub) for sub in get_command(module.app).commands))
    return sorted(found)


def parameters(words, monkeypatch):
    """Options of a command: each name with whether a value follows it."""
    monkeypatch.setattr(sys, "argv", ["dlkdd", *words])
    command = LazyGroup(name="dlkdd").get_command(None, words[0])
    for word in words[1:]:
        command = command.commands[word]
    named = [param for param in command.params if param.param_type_name == "option"]
    return {
        spelt: not getattr(param, "is_flag", False) for param in named for spelt in (*param.opts, *param.secondary_opts)
    } | {"--help": False}
