"""glibc's allocator, told to keep what a network frees for its next layer."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@cache
def keep_freed_memory() -> None:
    """Keep what is freed, up to 256 MiB, for the next allocation; MALLOC_MMAP_THRESHOLD_ of the environment goes first.

    glibc gives large pieces back at once, and the next layer then waits for new pages: a sixth of a training's CPU time
    or more, and two thirds on dask's workers, which start with a MALLOC_TRIM_THRESHOLD_ of their own (LOG.md).
    """
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 256 * 2**20)
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the most that glibc takes
