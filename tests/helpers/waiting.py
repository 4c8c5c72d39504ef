"""Waiting for what another process does."""

import time


def wait_for(look, good, seconds=60):
    """What `look` gives once it is `good`."""
    deadline = time.monotonic() + seconds
    while not good(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen
