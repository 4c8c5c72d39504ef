"""What came out of a study: top-1 of every model and seed, and the table that compares them over the seeds."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean

from pipeline.core.errors import StaleArtifactError
from pipeline.core.files import written_whole
from pipeline.data.manifest import Manifest
from pipeline.evaluate.compare import check_predictions
from pipeline.evaluate.score.predictions import read_predictions
from pipeline.tools.study.seed_statistics import Estimate, estimate
from pipeline.tools.study.study import ModelFiles, Study


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
    """Of a study whose steps are all done; `seconds` are those of its steps, by name.

    Raises StaleArtifactError where a table is damaged or of other test videos than the manifest's.
    """
    rows = tuple(
        _read_row(study, seed, files, seconds, manifest) for seed in study.seeds for files in study.models(seed)
    )
    return summarise(rows)


def _read_row(
    study: Study, seed: int, files: ModelFiles, seconds: Mapping[str, float | None], manifest: Manifest
) -> Row:
    test_top1 = None
    if study.with_test:
        predictions = read_predictions(files.predictions)
        check_predictions({str(files.predictions): predictions}, manifest)
        test_top1 = float((predictions.predicted_N == predictions.labels_N).mean())
    variant = files.variant.name if files.variant else ""
    spent = seconds[study.training_step(seed, files)]
    return Row(seed, files.model, variant, _best_val_top1(files.curve), test_top1, spent)


def _best_val_top1(curve: Path) -> float:
    try:
        with curve.open(encoding="utf-8", newline="") as file:
            return max(float(row["val_top1"]) for row in csv.DictReader(file))
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
    def over_seeds(value: Callable[[Row], float | None]) -> Estimate | None:
        values = [found for row in rows if (found := value(row)) is not None]
        return estimate(values) if values else None

    def gain(value: Callable[[Row], float | None]) -> list[float]:
        pairs = ((value(row), value(other)) for row, other in zip(rows, baseline, strict=True))
        return [mine - others for mine, others in pairs if mine is not None and others is not None]

    val_gains, test_gains = (gain(lambda row: row.val_top1), gain(lambda row: row.test_top1))
    is_student = model == "student"
    times = [
        row.seconds / other.seconds for row, other in zip(rows, baseline, strict=True) if row.seconds and other.seconds
    ]
    minutes = [row.seconds / 60 for row in rows if row.seconds is not None]
    val = over_seeds(lambda row: row.val_top1)
    assert val is not None
    return Line(
        model,
        variant,
        val=val,
        val_gain=estimate(val_gains) if is_student else None,
        test=over_seeds(lambda row: row.test_top1),
        test_gain=estimate(test_gains) if is_student and test_gains else None,
        num_above=sum(each > 0 for each in test_gains or val_gains) if is_student else None,
        minutes=fmean(minutes) if minutes else None,
        times_baseline=fmean(times) if times else None,
    )


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A CSV with a line for every seed and model; what is not known is empty."""
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Row))
        for row in rows:
            writer.writerow("" if value is None else _cell(value) for value in astuple(row))


def _cell(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Headers and cells for people: per cent, ± half of the 95 % interval over the seeds."""
    num_seeds = len({row.seed for row in results.rows})
    with_test = results.chosen.test is not None
    headers = ["model", "val top-1", "− baseline", "test top-1", "− baseline", "above", "minutes"]
    cells = [
        [
            line.variant or line.model,
            _percent(line.val),
            _points(line.val_gain),
            _percent(line.test),
            _points(line.test_gain),
            "" if line.num_above is None else f"{line.num_above} of {num_seeds}",
            "" if line.minutes is None else f"{line.minutes:.1f}{_times(line.times_baseline)}",
        ]
        for line in results.lines
    ]
    columns = [number for number in range(len(headers)) if with_test or number not in (3, 4)]
    return [headers[number] for number in columns], [[row[number] for number in columns] for row in cells]


def _percent(found: Estimate | None) -> str:
    return "" if found is None else f"{100 * found.mean:.1f}{_half(found)}"


def _points(found: Estimate | None) -> str:
    return "" if found is None else f"{100 * found.mean:+.1f}{_half(found)}"


def _half(found: Estimate) -> str:
    return "" if found.half is None else f" ± {100 * found.half:.1f}"


def _times(found: float | None) -> str:
    return "" if found is None else f" {found:.2f}×"


def verdict(results: Results) -> str:
    """Which variant val chooses, and what it gives."""
    chosen = results.chosen
    text = f"val chooses {chosen.variant}: {_percent(chosen.val)} % on val"
    if chosen.test is None:
        return text
    num_seeds = len({row.seed for row in results.rows})
    return (
        f"{text}; on test {_percent(chosen.test)} %, {_points(chosen.test_gain)} points against the baseline, "
        f"above it for {chosen.num_above} of {num_seeds} seeds"
    )
