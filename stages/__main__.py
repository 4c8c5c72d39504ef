"""The command `dlkdd`: each command's module in this package is imported only when the command is called."""

from __future__ import annotations

import ast
import os
import sys
import tomllib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module, metadata
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TextIO, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from pipeline.core.errors import DlkddError, ParamsError, out_of_memory
from pipeline.core.files import disk_error
from pipeline.core.progress import signals_handled_by
from stages._help import help_of
from stages._memory import keep_freed_memory
from stages._shell import say_error

# Threads of the CPU kernels that wait should spin for microseconds and then sleep: longer holds up whatever else the
# machine does, and to sleep at once costs a wake-up for each kernel (benchmarks.waiting_threads). Read when torch is
# imported; GNU's OpenMP goes by the count, others by the policy.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
# Intel's MKL otherwise sums a row of a matrix product in an order that depends on the row's place in the batch: the
# same clip then had other logits (by 1e-8) beside other neighbours (LOG.md). Read at the first product.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
keep_freed_memory()

# Commands that torchrun can start in several processes, one for each GPU. With DLKDD_PROCESSES=4 in the environment
# they start them by themselves, under `dvc repro` as well, whose command lines are fixed.
PARALLEL = (
    *("train_teacher", "train_more_teacher", "train_teacher_folds", "train_student", "train_baseline"),
    "precompute_soft_targets",
)

# By group, as `dlkdd --help` lists them. A command is `main` of the module of its name, whose docstring begins with its
# help.
GROUPS = {
    "The chain, in order: `dvc repro` runs it": (
        "prepare",
        "fit_enhancer",
        "enhance",
        "train_teacher",
        "train_more_teacher",
        "train_teacher_folds",
        "precompute_soft_targets",
        "train_student",
        "train_baseline",
        "measure_light",
        "score_teacher",
        "score_student",
        "score_baseline",
        "evaluate",
        "report",
    ),
    "Use a model": ("predict", "export", "bench"),
    "Data and recipes": ("recipe", "darken", "demo_videos"),
    "Look and compare": ("study", "evaluate_model", "mean_splits", "targets", "frames"),
    "Maintain": ("status", "check", "work"),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)
# Modules of several commands, each a function of its name with its help.
FAMILIES = {
    "train_teacher": "train",
    "train_more_teacher": "train",
    "train_baseline": "train",
    "score_teacher": "score",
    "score_student": "score",
    "score_baseline": "score",
}


class LazyGroup(TyperGroup):
    """Imports a command's module when it runs: `dlkdd --help` and the light stages never wait for torch."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names as the user types them."""
        return [name.replace("_", "-") for name in COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, spelt with - or _; a stub with its help where only the list is printed."""
        name = cmd_name.replace("-", "_")
        if name not in COMMANDS:
            return None
        if name == "evaluate" and any(word.partition("=")[0] == "--model" for word in sys.argv):
            return self._command("evaluate_model", "evaluate-model")  # one model alone: another command, the same word
        if name not in {word.replace("-", "_") for word in _words_typed()}:
            group = next(group for group, names in GROUPS.items() if name in names)
            return TyperCommand(cmd_name, help=_first_line(name), rich_help_panel=group)
        return self._command(name, cmd_name)

    def _command(self, name: str, cmd_name: str) -> Any:
        module = import_module(f"stages.{FAMILIES.get(name, name)}")
        if hasattr(module, "app"):
            command = get_command(module.app)
        else:
            app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            app.command(cmd_name)(getattr(module, name) if name in FAMILIES else module.main)
            command = get_command(app)
        for each in (command, *getattr(command, "commands", {}).values()):
            each.help = help_of(name, each.help or "")
        return command


def _words_typed() -> list[str]:
    """The words of the command line; for a shell's completion, those typed so far."""
    typed = " ".join(os.environ.get(name, "") for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"))
    return [*sys.argv[1:], *(typed.split() if "_DLKDD_COMPLETE" in os.environ else ())]


def _first_line(name: str) -> str:
    """The first line of a command's docstring, without importing its module."""
    source = Path(__file__).with_name(f"{FAMILIES.get(name, name)}.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    return (ast.get_docstring(functions.get(name, tree)) or "").partition("\n")[0]


app = typer.Typer(cls=LazyGroup, invoke_without_command=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    """Print the version of the code that runs, which in a checkout need not be the one that was installed."""
    if wanted:
        project = Path(__file__).parent.parent / "pyproject.toml"
        of_checkout = tomllib.loads(project.read_text(encoding="utf-8"))["project"] if project.is_file() else {}
        typer.echo(f"dlkdd {of_checkout.get('version') or metadata.version('dlkdd')}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version, and exit.")
]


@app.callback()
def dlkdd(context: typer.Context, *, version: VersionOption = False) -> None:
    """Offline knowledge distillation for action recognition in dark video.

    `dvc repro` runs the whole chain; each stage is also a command of its own.
    Without a command: where the chain stands in this folder.
    docs/README.md lists the pages that say more.
    """
    if context.invoked_subcommand is not None:
        return
    from pipeline.tools.check.chain import chain_standing, is_project
    from stages.status import show

    if not is_project(Path()):
        typer.echo(context.get_help())
        context.exit(2)
    show(chain_standing(Path()))
    typer.echo("`dvc status` reads all of it. Every command: `dlkdd --help`.")


def main() -> None:
    """Run the command line; errors of the user end with one message and their exit code, never with a traceback."""
    if sys.stderr is not None:  # a shell may have closed it
        sys.stderr = cast(TextIO, _LastingStream(sys.stderr))
    try:
        _start_processes()
        with _ended_by_signals():
            app()
    except DlkddError as error:
        _fail(error)
    except Exception as error:
        if (problem := disk_error(error) or out_of_memory(error)) is not None:
            _fail(problem)
        traceback.print_exc()
        say_error("This is a bug in dlkdd, not in your data: please report it with the lines above.")
        sys.exit(1)


def _fail(error: DlkddError) -> None:
    say_error(f"error: {error}")
    sys.exit(error.exit_code)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End with all blocks left, so that half-written files go. Long stages save progress."""

    def end(signal_number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + signal_number)

    with signals_handled_by(end):
        yield


class _LastingStream:
    """A stream whose terminal or pipe may go away: what is said then is lost, and the work goes on, or cleans up."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _start_processes() -> None:
    """Become torchrun where several processes are wanted and this is not one of them already."""
    wanted = os.environ.get("DLKDD_PROCESSES", "1")
    if not wanted.isdecimal() or int(wanted) < 1:
        raise ParamsError(f"DLKDD_PROCESSES: expected the number of processes, not {wanted!r}")
    command = next((name for name in sys.argv[1:] if not name.startswith("-")), "").replace("-", "_")
    if int(wanted) == 1 or "WORLD_SIZE" in os.environ or command not in PARALLEL or "--help" in sys.argv:
        return
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", wanted]
    os.execv(sys.executable, [sys.executable, *torchrun, "-m", "stages", *sys.argv[1:]])


if __name__ == "__main__":
    main()
