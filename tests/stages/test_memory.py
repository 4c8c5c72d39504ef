"""Freed memory is kept for the next allocation, in every command."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from paths import ROOT

SCRIPT = """
import resource
import numpy as np
import stages.__main__

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = faults()
for _ in range(100):
    np.empty(8 << 20, np.uint8)[::4096] = 1
print((faults() - before) * resource.getpagesize() / (8 << 20))
"""


def times_faulted_in(**environment):
    """How often the pages of 8 MiB were new, of a hundred times."""
    command = [sys.executable, "-c", SCRIPT]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = {**inherited, "PYTHONPATH": str(ROOT), **environment}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise():
    assert times_faulted_in() < 3
    assert times_faulted_in(MALLOC_MMAP_THRESHOLD_=str(1 << 20)) > 10  # numpy asks for huge pages
