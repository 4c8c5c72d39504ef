"""What the suite itself must do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from paths import ROOT

FAILING = r"""
import pytest

@pytest.mark.parametrize("name", ["n\udcff"])
def test_it(name):
    print(name)
    assert name == "another"
"""


def test_a_failure_with_a_name_that_is_no_utf_8_ends_no_other_test(tmp_path):
    (tmp_path / "test_names.py").write_text(FAILING)
    command = (sys.executable, "-m", "pytest", "-p", "sendable_reports", "-n", "1", "--rootdir", tmp_path, tmp_path)
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(ROOT / "tests/helpers")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert r"assert 'n\udcff' == 'another'" in done.stdout


@pytest.mark.slow
def test_a_long_run_that_only_collects_leaves_the_table_of_the_last_one():
    page = ROOT / "docs/reliability.md"
    before = page.read_text()
    command = (sys.executable, "-m", "pytest", "--quiet", "--collect-only", "-m", "slow", "tests/faults")
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "DLKDD_FAULTS": "long"}, capture_output=True)
    after = page.read_text()
    if after != before:
        page.write_text(before)
    assert (done.returncode, after) == (0, before)
