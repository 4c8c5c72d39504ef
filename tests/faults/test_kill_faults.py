"""SIGKILL, at named boundaries and anywhere: the same command goes on, and ends with the same bytes."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import yaml
from killed_runs import COMMANDS, KILLED, Bench, Case, Command, remove
from long_run import LONG
from stage_server import ALL, Ended, Fault

SEEDS = range(3) if LONG else range(1)
PREPARE, FIT, ENHANCE, TEACHER, _, TARGETS, STUDENT, BASELINE, SCORE, _, _, LIGHT, EVALUATE, REPORT = COMMANDS.values()
OFTEN = ("--checkpoint-seconds", "0")


# what the run that goes on may not do again


def anything(_ended: Ended) -> None:
    """Nothing was promised yet, or all of it lies in one file."""


def says(pattern: str) -> Callable[[Ended], None]:
    def check(ended: Ended) -> None:
        assert re.search(pattern, ended.err), ended.err

    return check


def writes_none(*texts: str) -> Callable[[Ended], None]:
    """No file is made whose path has one of these in it."""

    def check(ended: Ended) -> None:
        made = [path for kind, path, _ in ended.log if kind == "create"]
        assert made
        assert not [path for path in made if any(text in path for text in texts)]

    return check


from_checkpoint = says("from the checkpoint")
one_shard = writes_none("shard-000.h5.")
no_shards = writes_none("shard-000.h5.", "shard-001.h5.")
all_known = says("0 videos computed")


# commands beside the chain's


def second_store(bench: Bench) -> None:
    """Soft targets of another teacher for the same videos."""
    project, made = bench.project, bench.project.with_name("second.zarr")
    if not made.exists():
        values = yaml.safe_load((project / "params.yaml").read_text())
        values["train_teacher"]["learning_rate"] = 0.005
        (project / "second.yaml").write_text(yaml.safe_dump(values))
        assert bench.run(TEACHER, options=("--params", "second.yaml", "--out", "second.safetensors")).code == 0
        assert bench.run(TARGETS, options=("--teacher", "second.safetensors", "--out", "second.zarr")).code == 0
        shutil.copytree(project / "second.zarr", made)
        remove(project)
        shutil.copytree(bench.finished, project)
    shutil.copytree(made, project / "second.zarr")


def leave_work(bench: Bench) -> None:
    """A folder that is kept, and one of a run that was killed."""
    assert bench.run(PREPARE).code == 0
    after_a_step = Fault("kill after", 1, ("rename",), "checkpoint.pt")
    assert bench.run(STUDENT, after_a_step, options=OFTEN).code == KILLED


MERGE = Command(
    "merge",
    ("targets", "merge", "data/soft_targets.zarr", "second.zarr", "--out", "merged.zarr", "--force"),
    ("merged.zarr",),
    second_store,
)
EXPORT = Command(
    "export", ("targets", "export", "data/soft_targets.zarr", "--out", "targets.npz", "--force"), ("targets.npz",)
)
FRAMES_EXPORT = Command(
    "frames", ("frames", "export", "data/dark", "exported", "--force", "--limit", "2"),
    ("exported/jump/jump0.mp4", "exported/jump/jump1.mp4"),
)  # fmt: skip
PREDICT = Command(
    "predict",
    ("predict", "data/jump/jump0.mp4", "--model", "models/student.safetensors", "--csv", "said.csv"),
    ("said.csv",),
)
RECIPE = Command("recipe", ("recipe", "use", "smoke"), ("params.yaml",))
CLEAR = Command("clear", ("work", "clear", "--yes"), (), leave_work)


@dataclass(frozen=True)
class Boundary:
    """The call before or after which a run is killed, such as "after rename", on a path that contains `match`.

    among: each seed takes the at-th or another of so many such calls. used: what must hold of the run that goes on.
    needs_old: without an older out there is no such call.
    """

    name: str
    command: Command
    call: str
    match: str
    used: Callable[[Ended], None] = anything
    at: int = 1
    among: int = 1
    needs_old: bool = False
    ci: bool = False

    def fault(self, seed: int) -> Fault:
        when, kind = self.call.split()
        return Fault(f"kill {when}", self.at + seed % self.among, (kind,), self.match)

    @property
    def options(self) -> tuple[str, ...]:
        return OFTEN if self.command.trains else ()

    def __str__(self) -> str:
        return f"{self.command.name}: {self.name}"


BOUNDARIES = [
    Boundary("within a shard", PREPARE, "after write", "records/000.attempt", among=3),
    Boundary("a shard, not in place", PREPARE, "before rename", "frames/shard-000.h5"),
    Boundary("a shard without its record", PREPARE, "after rename", "frames/shard-000.h5", ci=True),
    Boundary("between two shards", PREPARE, "after rename", "records/000.json", one_shard),
    Boundary("the records, no manifest", PREPARE, "before rename", "data/manifest.csv", no_shards),
    Boundary("the manifest, no quarantine", PREPARE, "after rename", "data/manifest.csv", no_shards),
    Boundary("the quarantine, no frames", PREPARE, "after rename", "data/quarantine", no_shards),
    Boundary("the store's index, not its description", PREPARE, "after rename", "built/index", no_shards),
    Boundary("new and old store exchanged", PREPARE, "after rename", "data/dark", no_shards, needs_old=True, ci=True),
    Boundary("while the old store goes", PREPARE, "after remove", "dark.old", no_shards, among=3, needs_old=True),
    Boundary("published, its work not kept", PREPARE, "before rename", "kept.json", no_shards),
    Boundary("between two steps", FIT, "after rename", "checkpoint.pt", from_checkpoint, among=2),
    Boundary("the curve, no weights", FIT, "after rename", "/curve.csv", from_checkpoint),
    Boundary("fitted, not published", FIT, "before rename", "curves/enhancer.csv", writes_none("checkpoint")),
    Boundary("the curve is published, no weights", FIT, "after rename", "curves/enhancer.csv", ci=True),
    Boundary("within a shard", ENHANCE, "after write", "records/001.attempt", one_shard, among=3),
    Boundary("between two shards", ENHANCE, "after rename", "records/000.json", one_shard, ci=True),
    Boundary("new and old store exchanged", ENHANCE, "after rename", "data/enhanced", no_shards, needs_old=True),
    Boundary("published, its work not kept", ENHANCE, "before rename", "kept.json", no_shards),
    Boundary("within a checkpoint", TEACHER, "before sync", "checkpoint.new", from_checkpoint, at=2, among=3),
    Boundary(
        "new checkpoint beside the old", STUDENT, "after rename", "checkpoint.new", from_checkpoint, at=2, among=3
    ),
    Boundary(
        "old checkpoint moved", BASELINE, "after rename", "checkpoint.previous", from_checkpoint, among=3, ci=True
    ),
    Boundary("between two steps", STUDENT, "after rename", "checkpoint.pt", from_checkpoint, among=3),
    Boundary("after the last epoch, no weights", TEACHER, "before create", "model.safetensors", from_checkpoint),
    Boundary("weights and curve, not published", BASELINE, "before rename", "curves/baseline", from_checkpoint),
    Boundary(
        "the curve is published, no weights", STUDENT, "before rename", "models/student", from_checkpoint, ci=True
    ),
    Boundary("published, its work not removed", TEACHER, "after rename", "models/teacher", from_checkpoint),
    Boundary("while its work is removed", BASELINE, "after remove", "checkpoint", among=2),
    Boundary("within a part", TARGETS, "before sync", ".safetensors", says("[1-3] known before"), at=2, among=3),
    Boundary("between two parts", TARGETS, "after rename", ".safetensors", says("[1-3] known"), at=2, among=2, ci=True),
    Boundary("among the arrays", TARGETS, "after rename", "logits/c", all_known),
    Boundary("the arrays, no attributes", TARGETS, "before rename", "targets.zarr.partial/zarr.json", all_known, at=2),
    Boundary(
        "new and old store exchanged",
        TARGETS,
        "after rename",
        "data/soft_targets",
        all_known,
        needs_old=True,
        ci=True,
    ),
    Boundary("published", TARGETS, "after rename", "data/soft_targets.zarr", all_known),
    Boundary("a table, not in place", SCORE, "before rename", "predictions/teacher.csv", ci=True),
    Boundary("a table, not in place", LIGHT, "before rename", "data/light.csv"),
    Boundary("between two tables", EVALUATE, "after rename", "results/tables", among=3),
    Boundary("the tables, no evaluation", EVALUATE, "before rename", "results/evaluation.json", ci=True),
    Boundary("the page, not in place", REPORT, "before rename", "results/report.html"),
    Boundary("among the arrays", MERGE, "after rename", "logits/c"),
    Boundary("a file, not in place", EXPORT, "before rename", "targets.npz"),
    Boundary("between two videos", FRAMES_EXPORT, "after rename", "jump0.mp4"),
    Boundary("a table, not in place", PREDICT, "before rename", "said.csv"),
    Boundary("parameters, not in place", RECIPE, "before rename", "params.yaml"),
    Boundary("between two files", CLEAR, "after remove", ".work", at=2, among=3),
]


@pytest.mark.fault("Runs", "SIGKILL at a named boundary", "R")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("boundary", [each for each in BOUNDARIES if LONG or each.ci], ids=str)
def test_killed_at_a_boundary_it_goes_on_from_there(bench, boundary, seed):
    case = bench(seed).begin(boundary.command, with_old=boundary.needs_old or seed % 2 == 1)
    assert case.kill(boundary.fault(seed), options=boundary.options)
    boundary.used(case.finish(options=boundary.options))


# anywhere


def kill_now_and_then(bench: Bench, rng: np.random.Generator) -> int:
    """Kill one stage up to four times and let it end; returns how often it was killed."""
    names = list(COMMANDS)
    seconds = np.array([bench.runs[name].seconds for name in names])
    command = COMMANDS[names[rng.choice(len(names), p=seconds / seconds.sum())]]
    case = bench.begin(command, with_old=bool(rng.integers(2)))
    options = OFTEN if command.trains and rng.integers(2) else ()
    killed = 0
    for _ in range(rng.integers(1, 5)):
        if not kill_once(case, rng, options):
            case.check_end()
            return killed
        killed += 1
    case.finish(options=options)
    return killed


def kill_once(case: Case, rng: np.random.Generator, options: tuple[str, ...]) -> bool:
    whole = case.bench.runs[case.command.name]
    if rng.integers(2):
        mode = ("kill before", "kill after")[rng.integers(2)]
        return case.kill(Fault(mode, int(rng.integers(1, whole.calls + 1)), ALL), options=options)
    return case.kill(signal_after=(signal.SIGKILL, rng.uniform(0, whole.seconds)), options=options)


@pytest.mark.fault("Runs", "SIGKILL anywhere in a stage", "R")
@pytest.mark.parametrize("chunk", range(20) if LONG else range(1))
def test_killed_anywhere_it_goes_on_and_ends_with_the_same_bytes(bench, chunk, scale, cases):
    rng = np.random.default_rng([7, chunk])
    wanted, killed = scale(25, 50), 0
    while killed < wanted:
        killed += kill_now_and_then(bench(chunk % len(SEEDS)), rng)
    cases(killed)


# each of 60 steps

NUM_STEPS = 60
CLIPS_A_STEP = 2


def write_sixty(bench: Bench) -> None:
    """Parameters of a student with 60 steps: 30 epochs of the four train videos."""
    values = yaml.safe_load((bench.project / "params.yaml").read_text())
    values["train_student"] |= {"epochs": NUM_STEPS // 2, "batch_size": CLIPS_A_STEP}
    (bench.project / "sixty.yaml").write_text(yaml.safe_dump(values))


SIXTY = Command(
    "train_student of 60 steps",
    (*STUDENT.arguments, "--params", "sixty.yaml"),
    STUDENT.outs,
    write_sixty,
)


@pytest.mark.fault("Runs", "SIGKILL after each of 60 steps of a training", "R")
@pytest.mark.parametrize("first", range(1, 7))
def test_killed_after_any_of_60_steps_a_training_ends_with_the_same_bytes(bench, first, scale, cases):
    steps = range(first, NUM_STEPS + 1, 6) if scale(0, 1) else [first * 10 - 3]
    for step in steps:
        case = bench(0).begin(SIXTY, with_old=True)
        assert case.kill(Fault("kill after", step, ("rename",), "/checkpoint.pt"), options=OFTEN)
        ended = case.finish()
        assert f"{step * CLIPS_A_STEP}/{NUM_STEPS * CLIPS_A_STEP} clips; from the checkpoint" in ended.err
    cases(len(steps))
