"""Fixtures that several test files share."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from dask_runs import Cluster
from hypothesis import HealthCheck, settings
from sendable_reports import pytest_report_to_serializable  # noqa: F401 - a hook

from stages.__main__ import main

# How long an example takes depends on what else the machine does; examples that share a folder write their files anew
UNDISTURBED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("dlkdd", deadline=None, suppress_health_check=UNDISTURBED)
settings.load_profile("dlkdd")


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where trainings and scores of tests compute (cpu, cuda)")


def pytest_configure(config):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under `nohup pytest` the tests' children would ignore it
    os.environ["DLKDD_TEST_DEVICE"] = config.getoption("--device")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real videos and annotation lists, which are no part of the project; without them their tests are skipped."""
    named = os.environ.get("DLKDD_SHARED_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; DLKDD_SHARED_DATA may name another folder")
    return folder


@pytest.fixture
def cluster(tmp_path):
    """A dask scheduler and workers, to be started; they end with the test."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    with ExitStack() as stack:
        yield Cluster(folder, stack)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line in this process; returns exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dlkdd", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    monkeypatch.setenv("COLUMNS", "200")  # no line of help is broken
    return run


@pytest.fixture(scope="session")
def eight_videos(tmp_path_factory):
    """The videos of check_setups, made once."""
    from check_setups import write_videos

    root = tmp_path_factory.mktemp("eight_videos")
    write_videos(root)
    return root


@pytest.fixture
def checked_project(eight_videos, tmp_path, monkeypatch):
    """A project folder that is the current one, with a copy of the eight videos in `data`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    shutil.copytree(eight_videos, tmp_path / "data")
    return tmp_path
