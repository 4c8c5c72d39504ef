"""What came out of a study's runs: top-1 of every model, seed and fold, and the table of them by arm."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from pipeline.core.errors import StaleArtifactError
from pipeline.core.tables import best_on_val, read_curve, write_table
from pipeline.data.manifest import Manifest
from pipeline.evaluate.compare import check_predictions
from pipeline.evaluate.score.predictions import read_predictions
from pipeline.tools.study.chain import Run

FAILED = "failed"  # a job of it ended with an error, or what it waits for: it has no result
BEHIND = "stayed behind"  # its training ended, far below the others of its model
MOST_DEVIATIONS = 5
LEAST_DEVIATION = 0.02  # of top-1: where the others are almost equal, a few points are no failure
OF_NORMAL = 1.4826  # times the median absolute deviation is the standard deviation of a normal distribution


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; its 95 % interval is mean ± half, and half is None for a single seed."""

    mean: float
    half: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of one value a seed, with Student's interval for the mean over all seeds."""
    from scipy.special import stdtrit  # 0.2 s, which other commands need not wait for

    if len(values) < 2:
        return Estimate(fmean(values), None)
    t = float(stdtrit(len(values) - 1, 0.975))
    return Estimate(fmean(values), t * stdev(values) / math.sqrt(len(values)))


@dataclass(frozen=True)
class Row:
    """One model of one run. Numbers are None where its jobs failed; test_top1 also in a study without test.

    val_top1: the best of its epochs. seconds: of training, None where the time is unknown. state: empty, FAILED or
    BEHIND. folder: of its training, in the study's. correct: whether each test video is recognised, by id.
    """

    seed: int
    fold: int | None
    arm: str
    model: str
    val_top1: float | None
    test_top1: float | None
    seconds: float | None
    state: str
    folder: str
    correct: Mapping[str, bool] = field(default_factory=dict, repr=False)

    @property
    def place(self) -> str:
        """Of messages: its arm, seed and fold."""
        return f"{self.arm} seed {self.seed}" + ("" if self.fold is None else f" fold {self.fold}")

    def values(self) -> dict[str, Any]:
        """What tables have of it: all but the single videos."""
        return {name: getattr(self, name) for name in TABLE}


TABLE = tuple(each.name for each in fields(Row) if each.name != "correct")


def read_rows(
    runs: Sequence[Run], seconds: Mapping[str, float | None], manifests: Mapping[Path, Manifest]
) -> list[Row]:
    """A row for each run; `seconds` are those of the jobs that are done, by name.

    Raises StaleArtifactError where a table is damaged or of other test videos than the manifest's.
    """
    known: dict[tuple[Path, ...], Row] = {}  # arms share trainings, and scores where they score alike
    rows = []
    for run in runs:
        folders = tuple(job.folder for job in run.jobs)
        if folders not in known:
            known[folders] = _read_row(run, seconds, manifests[run.manifest])
        rows.append(replace(known[folders], arm=run.arm))
    return mark_behind(rows)


def _read_row(run: Run, seconds: Mapping[str, float | None], manifest: Manifest) -> Row:
    folder = "/".join(run.training.folder.parts[-3:])
    row = Row(run.seed, run.fold, run.arm, run.model, None, None, None, FAILED, folder)
    if any(job.name not in seconds for job in run.jobs):
        return row
    row = replace(row, val_top1=_best_on_val(run.curve), seconds=seconds[run.training.name], state="")
    if run.scoring is None:
        return row
    (path,) = run.scoring.outs
    found = read_predictions(path)
    check_predictions({str(path): found}, manifest)
    correct_N = found.correct_N
    correct = dict(zip(found.video_ids, correct_N.tolist(), strict=True))
    return replace(row, test_top1=float(correct_N.mean()), correct=correct)


def _best_on_val(curve: Path) -> float:
    try:
        return best_on_val(read_curve(curve))
    except (OSError, ValueError, KeyError) as error:
        raise StaleArtifactError(
            f"{curve}: not a table of epochs: {error!r}", remedy="remove it; `dlkdd study` makes it again"
        ) from None


def mark_behind(rows: Sequence[Row]) -> list[Row]:
    """The rows, with BEHIND where val top-1 is far below the median of the arm's model over its runs.

    That is more than 5 robust deviations, each 1.4826 times the median absolute deviation and at least 2 points.
    """
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row.val_top1 is not None:
            values[row.arm, row.model].append(row.val_top1)
    least = {}
    for key, found in values.items():
        middle = median(found)
        deviation = max(OF_NORMAL * median(abs(value - middle) for value in found), LEAST_DEVIATION)
        least[key] = middle - MOST_DEVIATIONS * deviation
    return [
        replace(row, state=BEHIND) if row.val_top1 is not None and row.val_top1 < least[row.arm, row.model] else row
        for row in rows
    ]


@dataclass(frozen=True)
class Line:
    """A model of an arm over the seeds: within a seed the mean over folds on val, and over all videos on test.

    `same_as`: the other arms that share these trainings and scores. `failed` and `behind` count runs; `num_runs` has
    all.
    """

    arm: str
    model: str
    same_as: tuple[str, ...]
    val: Estimate | None
    test: Estimate | None
    minutes: float | None
    num_runs: int
    failed: int
    behind: int


def lines_of(rows: Sequence[Row]) -> list[Line]:
    """A line for each model of each arm; arms whose trainings and scores are the same share one."""
    by_model: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_model[row.arm, row.model].append(row)
    found: dict[object, dict[str, list[Row]]] = defaultdict(dict)
    for (arm, _), of_model in by_model.items():
        found[tuple((row.folder, row.test_top1) for row in of_model)][arm] = of_model
    lines = []
    for by_arm in found.values():
        (arm, of_model), *others = by_arm.items()
        seconds = [row.seconds for row in of_model if row.seconds is not None]
        lines.append(
            Line(
                arm,
                of_model[0].model,
                tuple(name for name, _ in others),
                val=_over_seeds(of_model, val_of_seed),
                test=_over_seeds(of_model, tested_of_seed),
                minutes=fmean(seconds) / 60 if seconds else None,
                num_runs=len(of_model),
                failed=sum(row.state == FAILED for row in of_model),
                behind=sum(row.state == BEHIND for row in of_model),
            )
        )
    return lines


def _over_seeds(rows: Sequence[Row], top1_of_seed: Callable[[Sequence[Row]], float | None]) -> Estimate | None:
    by_seed: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        if row.state != FAILED:
            by_seed[row.seed].append(row)
    values = [value for of_seed in by_seed.values() if (value := top1_of_seed(of_seed)) is not None]
    return estimate(values) if values else None


def val_of_seed(rows: Sequence[Row]) -> float:
    """Mean of val top-1 over a seed's folds, whose results there are."""
    return fmean(row.val_top1 for row in rows if row.val_top1 is not None)


def tested_of_seed(rows: Sequence[Row]) -> float | None:
    """Top-1 over the test videos of all folds of a seed."""
    correct = [each for row in rows for each in row.correct.values()]
    return fmean(correct) if correct else None


def chosen_by_val(lines: Sequence[Line]) -> Line | None:
    """The student with the best mean on val, the first of equals."""
    students = [line for line in lines if line.model == "student" and line.val is not None]
    return max(students, key=lambda line: line.val.mean if line.val else 0.0, default=None)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """A CSV with a line for every run and model; what is not known is empty."""
    cells = ([rounded(value) for value in row.values().values()] for row in rows)
    write_table(path, TABLE, cells)


def rounded(value: object) -> object:
    """A cell of a CSV: numbers to six digits."""
    return f"{value:.6g}" if isinstance(value, float) else value


def table(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells for people: per cent, ± half of the 95 % interval over the seeds."""
    with_test = any(line.test is not None for line in lines)
    headers = ["model", "val top-1", *(["test top-1"] * with_test), "minutes", "failed"]
    cells = [
        [
            name_of(line),
            percent(line.val),
            *([percent(line.test)] * with_test),
            "" if line.minutes is None else f"{line.minutes:.1f}",
            f"{line.failed + line.behind} of {line.num_runs}" if line.failed + line.behind else "",
        ]
        for line in lines
    ]
    return headers, cells


def name_of(line: Line) -> str:
    """`arm.model`, and the arms that share it."""
    return f"{line.arm}.{line.model}" + (f" (and of {', '.join(line.same_as)})" if line.same_as else "")


def percent(found: Estimate | None) -> str:
    """`90.1 ± 2.0`; empty for none."""
    if found is None:
        return ""
    return f"{100 * found.mean:.1f}" + ("" if found.half is None else f" ± {100 * found.half:.1f}")
