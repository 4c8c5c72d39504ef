"""Fixtures that several test files share."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from dask_runs import Cluster


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
