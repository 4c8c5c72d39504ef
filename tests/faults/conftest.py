"""The fault suite: what happens to pipelines, each with the outcome that docs/reliability.md promises.

A test says what it shows by the marker `fault(category, fault, outcome)`. Outcomes: E, an error that names what is
wrong, before work is lost or done; Q, quarantined with a reason while the rest goes on; R, goes on where it was, with
the same bytes; = the right result. `make faults` runs the whole suite and prints a row for each fault; with the other
slow tests a seeded part of it runs.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from disk_runs import Scene, add_others, make_scene
from fault_table import CATEGORIES, OUTCOMES, in_page, rows_of, table
from killed_runs import Bench
from long_run import LONG
from stage_server import StageServer

FOLDER = Path(__file__).parent
BEGAN = pytest.StashKey[float]()
PAGE = FOLDER.parents[1] / "docs/reliability.md"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if item.path.stem == "test_reliability_page":
                continue
            category, fault, outcome = item.get_closest_marker("fault").args
            assert category in CATEGORIES
            assert outcome in OUTCOMES
            item.user_properties.append(("fault", (category, fault, outcome)))


@pytest.fixture
def scale():
    """`scale(ci, long)`: how many cases this run takes."""
    return lambda ci, long: long if LONG else ci


@pytest.fixture
def cases(record_property):
    """`cases(number)`: that many were tried by this test; without a word from it, it is one."""
    return lambda number: record_property("cases", number)


@pytest.fixture(scope="session")
def stage_server(tmp_path_factory):
    """Stages as forks of a process that has everything imported, with faults of the disk: stage_server.py."""
    with StageServer(tmp_path_factory.mktemp("stage_server")) as server:
        yield server


def pytest_sessionstart(session):
    session.config.stash[BEGAN] = time.monotonic()


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    """After a long run of the whole suite the table is printed, and put into its page."""
    if not LONG or config.option.collectonly:
        return
    stats = terminalreporter.stats
    reports = [report for kind in ("passed", "failed", "error", "skipped") for report in stats.get(kind, ())]
    lines = table(rows_of(reports))
    terminalreporter.section("faults")
    terminalreporter.write_line("\n".join(lines))
    if exitstatus == 0 and not config.option.keyword and config.option.file_or_dir == ["tests/faults"]:
        minutes = (time.monotonic() - config.stash[BEGAN]) / 60
        when = f"{time.strftime('%Y-%m-%d')}, {minutes:.0f} minutes on {len(os.sched_getaffinity(0))} cores"
        PAGE.write_text(in_page(PAGE.read_text(), lines, when))


@pytest.fixture(scope="session")
def scene(stage_server, tmp_path_factory):
    """A tiny project in which the chain was run, twice: disk_runs.py."""
    return make_scene(stage_server, tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="session")
def all_run(scene: Scene):
    """The scene, once the commands that are no stages were run as well."""
    add_others(scene)
    return scene


@pytest.fixture(scope="session")
def bench(stage_server, tmp_path_factory):
    """`bench(seed)`: a finished project to kill runs in, made once for each seed."""
    made: dict[int, Bench] = {}

    def get(seed: int) -> Bench:
        if seed not in made:
            made[seed] = Bench(stage_server, tmp_path_factory.mktemp("bench"), seed)
        return made[seed]

    return get
