"""Which enhancer is best for the student: the table of all experiments of this repository, by enhancer over seeds.

    dvc exp run --queue -S 'enhancer=none,gamma,gamma_auto,equalize,clahe,zero_dce,zero_dce_pp,sci' -S 'seed=0,1,2'
    dvc queue start
    python -m benchmarks.enhancer_study

Top-1 on test in per cent, the mean over the seeds. Intervals are of the mean over seeds at 95 %, by Student's t, of
differences within a seed: teacher minus the teacher of `none`, and student minus baseline. `val` is the teacher's best
top-1 on val, which is what an enhancer is chosen by.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
from collections import defaultdict
from dataclasses import astuple, dataclass
from typing import Any

import dvc.api
import numpy as np

from pipeline.enhance.file import ENHANCERS
from pipeline.tools.study.results import estimate


@dataclass(frozen=True)
class Outcome:
    """Top-1 in per cent."""

    teacher_val: float
    teacher: float
    student: float
    baseline: float


def read_outcomes() -> dict[str, dict[int, Outcome]]:
    """By enhancer and seed, of the experiments that have ended well."""
    shown = subprocess.run(["dvc", "exp", "show", "--json"], check=True, capture_output=True, text=True).stdout
    found: dict[str, dict[int, Outcome]] = defaultdict(dict)
    for baseline in json.loads(shown):
        for experiment in baseline.get("experiments") or []:
            for revision in experiment.get("revs") or []:
                data = revision.get("data") or {}
                metrics = (data.get("metrics") or {}).get("results/metrics.json", {}).get("data")
                if metrics:
                    params = data["params"]["params.yaml"]["data"]
                    found[params["enhancer"]][params["seed"]] = outcome(metrics, revision["rev"])
    return found


def outcome(metrics: dict[str, Any], revision: str) -> Outcome:
    top1 = [100 * metrics["top1"][name] for name in ("teacher", "student", "baseline")]
    return Outcome(teacher_val(revision), *top1)


def teacher_val(revision: str) -> float:
    """The best val top-1 on the teacher's curve of that experiment."""
    text = dvc.api.read("results/curves/teacher.csv", rev=revision)
    return 100 * max(float(row["val_top1"]) for row in csv.DictReader(text.splitlines()))


def interval(differences: list[float]) -> str:
    """Mean and 95 % interval of the mean."""
    found = estimate(differences)
    if found.half is None:
        return f"{found.mean:+.1f}"
    return f"{found.mean:+.1f} ({found.mean - found.half:+.1f} to {found.mean + found.half:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", help="of these alone (default: all that there are)")
    wanted = parser.parse_args().seeds
    found = read_outcomes()
    print("| enhancer | seeds | teacher, val | teacher | minus `none` | student | baseline | student − baseline |")
    print("|---|---|---|---|---|---|---|---|")
    for name in ENHANCERS:
        seeds = [seed for seed in sorted(found.get(name, {})) if wanted is None or seed in wanted]
        if not seeds:
            continue
        rows = [found[name][seed] for seed in seeds]
        means = np.mean([astuple(row) for row in rows], axis=0)
        over_none = interval([found[name][s].teacher - found["none"][s].teacher for s in seeds if s in found["none"]])
        gain = interval([row.student - row.baseline for row in rows])
        cells = [*(f"{mean:.1f}" for mean in means[:2]), over_none, *(f"{mean:.1f}" for mean in means[2:]), gain]
        print(f"| {name} | {len(seeds)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
