"""The command line as its help tells it, and `dlkdd` as a program that imports the code of the folder it runs in."""

import ast
import sys

from paths import ROOT
from typer.testing import CliRunner

from stages.__main__ import COMMANDS, FAMILIES, LazyGroup

PROGRAM = """#!{python}
import os, sys
sys.path.insert(0, os.getcwd())
from stages.__main__ import main
if __name__ == "__main__":  # it is imported by the processes that it starts
    main()
"""


def output_of(app, *arguments, columns=100):
    """Standard output of a command of an app; raises its error."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": str(columns)})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def install_program(folder):
    """Write `dlkdd` into a folder for PATH. An installed one would run the code of where it was installed from."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dlkdd").write_text(PROGRAM.format(python=sys.executable))
    (folder / "dlkdd").chmod(0o755)
    return folder


def leaves():
    """Every command that does something, by the words that are typed: ("targets", "export"), ("evaluate",).

    Read from the source: to import all modules would take seconds, while tests are collected.
    """
    found = []
    for name in COMMANDS:
        tree = ast.parse((ROOT / f"stages/{FAMILIES.get(name, name)}.py").read_text(encoding="utf-8"))
        words = (name.replace("_", "-"),)
        subcommands = [(*words, sub) for node in tree.body if (sub := _subcommand(node))]
        found.extend(subcommands or [words])
    return sorted(found)


def _subcommand(node):
    for decorator in getattr(node, "decorator_list", ()):
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "app.command":
            return decorator.args[0].value if decorator.args else node.name.replace("_", "-")
    return None


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
