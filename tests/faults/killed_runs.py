"""Runs that are killed and go on: what they start from, what may lie at their outs meanwhile, and what there must be.

A `Bench` has a finished project and one that was finished with other parameters. A case starts from the finished one
without the outs of its stage, or with those, and the work folder, that the other parameters left.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stage_server import Ended, Fault, StageServer, Started
from tiny_project import contents, make_project, stages

KILLED = -9
OTHER = {"prepare__short_side": 20, "enhancer": "gamma", "temperature": 4.0, "train_teacher__learning_rate": 0.001}
# one video a part, so that there is something between parts
SMALL_PARTS = "from pipeline.distill.teacher import precompute; precompute.CLIPS_PER_PART = 2"


def no_setup(_bench: Bench) -> None:
    """The project is ready as it is."""


@dataclass(frozen=True)
class Command:
    """What is run, and the files and folders that it writes. setup: what the project needs beside the chain's."""

    name: str
    arguments: tuple[str, ...]
    outs: tuple[str, ...]
    setup: Callable[[Bench], None] = no_setup
    before: str = ""

    @property
    def trains(self) -> bool:
        return self.name.startswith(("train", "fit"))


COMMANDS = {
    stage.name: Command(
        stage.name,
        tuple(stage.arguments),
        stage.outs,
        before=SMALL_PARTS if stage.name.startswith("precompute") else "",
    )
    for stage in stages()
}


class Bench:
    """Where runs are killed: `project` is made anew for each case."""

    def __init__(self, server: StageServer, folder: Path, seed: int) -> None:
        self.server = server
        self.project = folder / "project"
        self.finished = folder / "finished"
        self.other = folder / "other"
        self.runs: dict[str, Ended] = {}  # of the stages without a fault
        make_project(self.finished, seed=seed, enhancer="zero_dce")
        make_project(self.other, seed=seed + 100, **OTHER)
        for command in COMMANDS.values():
            self.runs[command.name] = self.run(command, project=self.finished)
            assert self.runs[command.name].code == 0, self.runs[command.name].err
            assert self.run(command, project=self.other).code == 0
        shutil.rmtree(self.finished / ".work")
        self._expected: dict[str, dict[str, str]] = {}

    def run(
        self,
        command: Command,
        fault: Fault | None = None,
        *,
        options: tuple[str, ...] = (),
        project: Path | None = None,
        signal_after: tuple[int, float] | None = None,
        log: bool = False,
        before: str = "",
        root: Path | None = None,
    ) -> Ended:
        """Run it, whatever comes of it."""
        started = self.start(command, fault, options=options, project=project, log=log, before=before, root=root)
        return self.server.wait(started, signal_after=signal_after)

    def start(
        self,
        command: Command,
        fault: Fault | None = None,
        *,
        options: tuple[str, ...] = (),
        project: Path | None = None,
        log: bool = False,
        before: str = "",
        root: Path | None = None,
    ) -> Started:
        """Start it; `server.wait` says how it ended."""
        return self.server.start(
            [*command.arguments, *options],
            project or self.project,
            fault=fault,
            log=log,
            before=f"{command.before}\n{before}",
            root=root,
        )

    def begin(self, command: Command, *, with_old: bool) -> Case:
        """A new case: without its outs, or with those that other parameters left."""
        of_the_chain = COMMANDS.get(command.name) is command
        if not of_the_chain and command.name not in self._expected:
            self._restore(command)
            ended = self.run(command)
            assert ended.code == 0, ended.err
            self._expected[command.name] = tree(self.project)
        self._restore(command)
        if of_the_chain:
            for out in command.outs:
                remove(self.project / out)
            if with_old:
                left = [path.relative_to(self.other) for path in (self.other / ".work").glob(f"{command.name}-*")]
                self._copy_together(self.other, [*left, *command.outs])
        whole = self._expected.get(command.name) or tree(self.finished)
        before = {out: contents(self.project, (out,)) for out in command.outs}
        after = {out: {name: value for name, value in whole.items() if of(name, out)} for out in command.outs}
        return Case(self, command, before, after, whole)

    def _restore(self, command: Command) -> None:
        remove(self.project)
        subprocess.run(["cp", "-a", self.finished, self.project], check=True)
        command.setup(self)

    def _copy_together(self, source: Path, names: list[Path | str]) -> None:
        """Copy in one go: shards of a store and of its work folder are one file with two names, and stay that."""
        subprocess.run(["cp", "-a", "--parents", *map(str, names), self.project], cwd=source, check=True)


@dataclass
class Case:
    """A command that is killed and goes on. before, after: what its outs hold then; whole: all files at last."""

    bench: Bench
    command: Command
    before: dict[str, dict[str, str]]
    after: dict[str, dict[str, str]]
    whole: dict[str, str]

    def kill(self, fault: Fault | None = None, **options) -> bool:
        """Run it and kill it; whether it was killed before its end. Each out is then the old or the new one."""
        ended = self.bench.run(self.command, fault, **options)
        assert ended.code in (0, KILLED), ended.err
        if ended.code == KILLED:
            self.check_outs()
        return ended.code == KILLED

    def check_outs(self) -> None:
        """No out is torn, mixed or lost. Tables in a folder are outs of their own: the metrics, last, complete them."""
        for out in self.command.outs:
            found, before, after = contents(self.bench.project, (out,)), self.before[out], self.after[out]
            if out.startswith("results/"):
                found = {name: value for name, value in found.items() if not name.endswith(".partial")}
                assert found.keys() <= before.keys() | after.keys()
                assert before.keys() & after.keys() <= found.keys()
                assert all(value in (before.get(name), after.get(name)) for name, value in found.items()), out
            else:
                assert found in (before, after), out

    def finish(self, **options) -> Ended:
        """Run it to its end: every byte of the project is that of a run without a kill, and nothing else is there."""
        ended = self.bench.run(self.command, log=True, **options)
        assert ended.code == 0, ended.err
        self.check_end()
        return ended

    def check_end(self) -> None:
        """Nothing is left, nothing is lost, nothing differs."""
        assert tree(self.bench.project) == self.whole
        work = self.bench.project / ".work"
        assert not list(work.rglob("*.partial"))
        folders = [path for path in work.glob("*-*") if path.is_dir() and path.name.startswith(self.command.name)]
        assert all((path / "kept.json").exists() or path.name.startswith("precompute") for path in folders)


def tree(project: Path) -> dict[str, str]:
    """Digest of every file outside of `.work`, by its path."""
    return contents(project, tuple(path.name for path in project.iterdir() if path.name != ".work"))


def of(name: str, out: str) -> bool:
    """Whether a file is that out, or lies in it."""
    return name == out or name.startswith(f"{out}/")


def remove(path: Path) -> None:
    """Remove a file, a folder, or nothing."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
