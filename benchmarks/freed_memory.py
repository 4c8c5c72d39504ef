"""A training on the CPU whose process keeps freed memory, over one with glibc's own settings.

    python -m benchmarks.freed_memory

Processes with and without `keep_freed_memory` take turns; each makes the same steps with the demo's network and a batch
that lies in memory. CPU time is that of the steps, its share in the kernel is what new pages cost; a ratio is the
median over the rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.training_step import Training
from stages._memory import keep_freed_memory


def steps(num_steps: int) -> dict[str, float]:
    """CPU seconds of the steps, of which in the kernel, and pages that were new."""
    with tempfile.TemporaryDirectory() as folder:
        training = Training(Path(folder), num_steps=num_steps)
        training.resident()  # warm
        before = resource.getrusage(resource.RUSAGE_SELF)
        training.resident()
        after = resource.getrusage(resource.RUSAGE_SELF)
    kernel = after.ru_stime - before.ru_stime
    return {
        "cpu": after.ru_utime - before.ru_utime + kernel,
        "kernel": kernel,
        "pages": after.ru_minflt - before.ru_minflt,
    }


def in_a_process(num_steps: int, *, kept: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.freed_memory", "--steps", str(num_steps), "--one"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([*command, "--kept"] if kept else command, env=env, check=True, capture_output=True)
    values: dict[str, float] = json.loads(done.stdout)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="of a training (default: 30)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="two steps, one round: to see that the script works")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kept:
        keep_freed_memory()
    if options.one:
        print(json.dumps(steps(options.steps)))
        return
    num_steps, num_rounds = (2, 1) if options.tiny else (options.steps, options.rounds)
    rounds = [[in_a_process(num_steps, kept=kept) for kept in (False, True)] for _ in range(num_rounds)]
    print("memory that is freed   CPU ms a step   in the kernel   new pages a step")
    for place, name in enumerate(("given back", "kept")):
        cpu, kernel, pages = (
            statistics.median(pair[place][key] for pair in rounds) for key in ("cpu", "kernel", "pages")
        )
        print(f"{name:20}{cpu / num_steps * 1e3:16.0f}{kernel / cpu:16.1%}{pages / num_steps:19,.0f}")
    ratios = [kept["cpu"] / given_back["cpu"] for given_back, kept in rounds]
    print(f"kept over given back: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
