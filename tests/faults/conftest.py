"""The fault suite: what happens to pipelines, each with the outcome that docs/reliability.md promises.

A test says what it shows by the marker `fault(category, fault, outcome)`. Outcomes: E, an error that names what is
wrong, before work is lost or done; Q, quarantined with a reason while the rest goes on; R, goes on where it was, with
the same bytes; = the right result. `make faults` runs the whole suite and prints a row for each fault; with the other
slow tests a seeded part of it runs.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest
from killed_runs import Bench
from stage_server import StageServer

LONG = os.environ.get("DLKDD_FAULTS") == "long"
CATEGORIES = ("Videos", "Lists", "Runs", "Disk", "Artifacts", "Numbers", "Security")
OUTCOMES = ("E", "Q", "R", "=")
FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.slow)
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


def table(reports):
    """The outcome of a run by fault, as lines of Markdown."""
    counts = defaultdict(lambda: [0, 0, 0])
    for report in reports:
        properties = dict(report.user_properties)
        if "fault" not in properties:
            continue
        row = counts[tuple(properties["fault"])]
        row[0] += report.passed * properties.get("cases", 1)
        row[1] += report.failed
        row[2] += report.skipped
    lines = ["| category | fault | outcome | cases | failed |", "|---|---|---|---:|---:|"]
    for (category, fault, outcome), (passed, failed, skipped) in sorted(
        counts.items(), key=lambda row: CATEGORIES.index(row[0][0])
    ):
        tried = f"{passed:,}" if passed or not skipped else "not here"
        lines.append(f"| {category} | {fault} | {outcome} | {tried} | {failed} |")
    return lines


def pytest_terminal_summary(terminalreporter):
    if not LONG:
        return
    stats = terminalreporter.stats
    reports = [report for kind in ("passed", "failed", "error", "skipped") for report in stats.get(kind, ())]
    terminalreporter.section("faults")
    lines = table(reports)
    terminalreporter.write_line("\n".join(lines))
    if (path := os.environ.get("DLKDD_FAULTS_TABLE")) is not None:
        Path(path).write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def stage_server(tmp_path_factory):
    """Stages as forks of a process that has everything imported, with faults of the disk: stage_server.py."""
    with StageServer(tmp_path_factory.mktemp("stage_server")) as server:
        yield server


@pytest.fixture(scope="session")
def bench(stage_server, tmp_path_factory):
    """`bench(seed)`: a finished project to kill runs in, made once for each seed."""
    made: dict[int, Bench] = {}

    def get(seed: int) -> Bench:
        if seed not in made:
            made[seed] = Bench(stage_server, tmp_path_factory.mktemp("bench"), seed)
        return made[seed]

    return get
