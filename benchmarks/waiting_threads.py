"""A training step by how the CPU's threads wait for one another, on an idle machine and beside as many busy processes.

    python -m benchmarks.waiting_threads

The trainer's own loop with the demo's network and a batch that lies in memory, on as many threads as there are CPUs.
GNU's OpenMP reads how to wait when torch is imported, so each run is a process. The ways take turns; a ratio is the
median over the rounds of the ratio to PASSIVE within a round, less is better.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAYS = {
    "sleep at once (PASSIVE)": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 3,000 times": {"GOMP_SPINCOUNT": "3000"},
    "spin 30,000 times": {"GOMP_SPINCOUNT": "30000"},
    "torch's default": {},
}


def seconds_of_a_step(num_steps: int) -> float:
    """In this process."""
    from benchmarks.training_step import Training

    with tempfile.TemporaryDirectory() as folder:
        return Training(Path(folder), num_steps=num_steps, num_videos=2).resident().seconds


def in_a_process(way: dict[str, str], num_steps: int) -> float:
    others = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, "-m", "benchmarks.waiting_threads", "--one", "--steps", str(num_steps)]
    answer = subprocess.run(command, env={**others, **way}, capture_output=True, check=True, text=True)
    return float(answer.stdout)


# not even a parent that is killed leaves it behind
COMPUTE = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"


@contextmanager
def busy(num_processes: int) -> Iterator[None]:
    """Beside so many processes that only compute; in sessions of their own, as other people's are."""
    command = [sys.executable, "-c", COMPUTE]
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(num_processes)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15, help="of a training (default: 15)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", action="store_true", help="a run in this process: prints its seconds a step")
    parser.add_argument("--tiny", action="store_true", help="one round of two ways: to see that it works")
    options = parser.parse_args()
    steps, num_rounds = (2, 1) if options.tiny else (options.steps, options.rounds)
    if options.one:
        print(seconds_of_a_step(steps))
        return
    names = list(WAYS)[: 2 if options.tiny else None]
    for num_busy in (0, 1 if options.tiny else os.cpu_count() or 1):
        with busy(num_busy):
            rounds = [[in_a_process(WAYS[name], steps) for name in names] for _ in range(num_rounds)]
        of_the_first = statistics.median(first for first, *_ in rounds)
        print(f"beside {num_busy} busy processes: a step of PASSIVE {of_the_first * 1e3:.0f} ms")
        for number, name in enumerate(names):
            ratios = [seconds[number] / seconds[0] for seconds in rounds]
            print(f"  {name:26} {statistics.median(ratios):5.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
