"""What came out of a study: top-1 of every model and seed, and the table that compares them over the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev

from pipeline.core.errors import StaleArtifactError
from pipeline.core.tables import read_table, write_table
from pipeline.data.manifest import Manifest
from pipeline.evaluate.compare import check_predictions
from pipeline.evaluate.score.predictions import read_predictions
from pipeline.tools.study.study import Study, job_name


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
    """One model of one seed; `test_top1` is None in a study without test, `seconds` where the time is unknown."""

    seed: int
    model: str
    variant: str  # empty for teacher and baseline
    val_top1: float  # best of its epochs
    test_top1: float | None
    seconds: float | None  # of training


@dataclass(frozen=True)
class Line:
    """A model over the seeds. Gains are differences to the baseline of the same seed, of students alone."""

    model: str
    variant: str
    val: Estimate
    val_gain: Estimate | None
    test: Estimate | None
    test_gain: Estimate | None
    num_above: int | None  # seeds in which the student is above the baseline: on test, without test on val
    minutes: float | None
    times_baseline: float | None  # time of training / the baseline's


@dataclass(frozen=True)
class Results:
    """A finished study: its rows by seed, the lines of its table, and the variant with the best mean on val."""

    rows: tuple[Row, ...]
    lines: tuple[Line, ...]
    chosen: Line


def read_results(study: Study, seconds: Mapping[str, float | None], manifest: Manifest) -> Results:
    """Of a study whose jobs are all done; `seconds` are those of its jobs, by name.

    Raises StaleArtifactError where a table is damaged or of other test videos than the manifest's.
    """
    return summarise(
        [
            Row(
                seed,
                files.model,
                files.variant.name if files.variant else "",
                _best_val_top1(files.curve),
                _test_top1(files.predictions, manifest) if study.with_test else None,
                seconds[job_name(seed, f"train_{files.model}", files.variant)],
            )
            for seed in study.seeds
            for files in study.models(seed)
        ]
    )


def _test_top1(path: Path, manifest: Manifest) -> float:
    predictions = read_predictions(path)
    check_predictions({str(path): predictions}, manifest)
    return float(predictions.correct_N.mean())


def _best_val_top1(curve: Path) -> float:
    try:
        return float(max(row["val_top1"] for row in read_table(curve, float)))
    except (OSError, ValueError, KeyError) as error:
        raise StaleArtifactError(
            f"{curve}: not a table of epochs: {error!r}", remedy="remove it; `dlkdd study` makes it again"
        ) from None


def summarise(rows: Sequence[Row]) -> Results:
    """Compare models over seeds; every seed must have every model. Of variants equal on val the first is chosen."""
    by_model: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.seed):
        by_model.setdefault((row.model, row.variant), []).append(row)
    baseline = by_model["baseline", ""]
    lines = tuple(_line(model, variant, found, baseline) for (model, variant), found in by_model.items())
    chosen = max((line for line in lines if line.model == "student"), key=lambda line: line.val.mean)
    return Results(tuple(rows), lines, chosen)


def _line(model: str, variant: str, rows: Sequence[Row], baseline: Sequence[Row]) -> Line:
    is_student, pairs = model == "student", [*zip(rows, baseline, strict=True)]
    tests = [row.test_top1 for row in rows if row.test_top1 is not None]
    others = [row.test_top1 for row in baseline if row.test_top1 is not None]
    val_gains = [row.val_top1 - other.val_top1 for row, other in pairs]
    test_gains = [mine - other for mine, other in zip(tests, others, strict=True)]
    times = [row.seconds / other.seconds for row, other in pairs if row.seconds and other.seconds]
    minutes = [row.seconds / 60 for row in rows if row.seconds is not None]
    return Line(
        model,
        variant,
        val=estimate([row.val_top1 for row in rows]),
        val_gain=estimate(val_gains) if is_student else None,
        test=estimate(tests) if tests else None,
        test_gain=estimate(test_gains) if is_student and tests else None,
        num_above=sum(each > 0 for each in test_gains or val_gains) if is_student else None,
        minutes=fmean(minutes) if minutes else None,
        times_baseline=fmean(times) if times else None,
    )


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A CSV with a line for every seed and model; what is not known is empty."""
    cells = ([f"{value:.6g}" if isinstance(value, float) else value for value in astuple(row)] for row in rows)
    write_table(path, [field.name for field in fields(Row)], cells)


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Headers and cells for people: per cent, ± half of the 95 % interval over the seeds."""
    num_seeds = len({row.seed for row in results.rows})
    with_test = results.chosen.test is not None
    headers = ["model", "val top-1", "− baseline", "test top-1", "− baseline", "above", "minutes"]
    cells = [
        [
            line.variant or line.model,
            _percent(line.val),
            _percent(line.val_gain, "+"),
            _percent(line.test),
            _percent(line.test_gain, "+"),
            "" if line.num_above is None else f"{line.num_above} of {num_seeds}",
            _minutes(line),
        ]
        for line in results.lines
    ]
    columns = [number for number in range(len(headers)) if with_test or number not in (3, 4)]
    return [headers[number] for number in columns], [[row[number] for number in columns] for row in cells]


def _percent(found: Estimate | None, sign: str = "") -> str:
    if found is None:
        return ""
    return f"{100 * found.mean:{sign}.1f}" + ("" if found.half is None else f" ± {100 * found.half:.1f}")


def _minutes(line: Line) -> str:
    if line.minutes is None:
        return ""
    return f"{line.minutes:.1f}" + ("" if line.times_baseline is None else f" {line.times_baseline:.2f}×")


def verdict(results: Results) -> str:
    """Which variant val chooses, and what it gives."""
    chosen = results.chosen
    text = f"val chooses {chosen.variant}: {_percent(chosen.val)} % on val"
    if chosen.test is None:
        return text
    num_seeds = len({row.seed for row in results.rows})
    return (
        f"{text}; on test {_percent(chosen.test)} %, {_percent(chosen.test_gain, '+')} points against the baseline, "
        f"above it for {chosen.num_above} of {num_seeds} seeds"
    )
