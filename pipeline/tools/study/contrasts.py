"""Differences between two models of a study, with intervals over seeds, and over seeds and groups of videos.

A run is a seed, or with folds a seed's fold. What is compared is of the same run: the same videos, split and seed.

Axes: S seeds, G groups, R resamplings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from pipeline.core.tables import write_table
from pipeline.tools.study.arms import Contrast
from pipeline.tools.study.results import FAILED, Row, estimate, rounded

NUM_RESAMPLINGS = 10_000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A contrast as measured, `on` test or val; None where there are too few runs to say.

    mean: over the seeds; of a seed it is over its videos on test, over its folds on val. half_over_seeds: half of
    Student's 95 % interval. low, high: 95 % percentile interval of resampled seeds and groups. sd: of the runs'
    differences. better: the share of runs in which the first is above, ties count half, with its interval over
    resampled seeds (Bouthillier et al., "Accounting for variance in machine learning benchmarks", MLSys 2021). runs:
    seed, fold and difference of each. num_missing: runs in which one of the two failed.
    """

    name: str
    first: str
    second: str
    on: str
    mean: float | None
    half_over_seeds: float | None
    low: float | None
    high: float | None
    sd: float | None
    better: float | None
    better_low: float | None
    better_high: float | None
    num_above: int
    num_runs: int
    num_missing: int
    runs: tuple[tuple[int, int | None, float], ...]


COLUMNS = tuple(each.name for each in fields(Difference) if each.name != "runs")


def differences(contrasts: Sequence[Contrast], rows: Sequence[Row], groups: Mapping[str, str]) -> list[Difference]:
    """Each contrast as measured: on test where models were scored, else on val. `groups` are of the videos, by id."""
    found = {(row.arm, row.model, row.seed, row.fold): row for row in rows}
    runs = list(dict.fromkeys((row.seed, row.fold) for row in rows))
    result = []
    for contrast in contrasts:
        pairs = [
            (
                found[contrast.first.arm, contrast.first.model, *run],
                found[contrast.second.arm, contrast.second.model, *run],
            )
            for run in runs
        ]
        whole = [pair for pair in pairs if FAILED not in (pair[0].state, pair[1].state)]
        result.append(_difference(contrast, whole, groups, num_missing=len(pairs) - len(whole)))
    return result


Pair = tuple[Row, Row]


def _difference(
    contrast: Contrast, pairs: Sequence[Pair], groups: Mapping[str, str], *, num_missing: int
) -> Difference:
    on_test = any(pair[0].correct for pair in pairs)
    of_runs = tuple((first.seed, first.fold, _of_run(first, second, on_test=on_test)) for first, second in pairs)
    values = [value for _, _, value in of_runs]
    by_seed: dict[int, list[float]] = defaultdict(list)
    for seed, _, value in of_runs:
        by_seed[seed].append(value)
    of_seeds = [fmean(each) for each in by_seed.values()]
    low = high = better_low = better_high = None
    if on_test:
        gains_SG, sizes_SG = by_seed_and_group(pairs, groups)
        of_seeds = (gains_SG.sum(axis=1) / sizes_SG.sum(axis=1)).tolist()
        low, high = interval_over_both(gains_SG, sizes_SG)
    better_S = np.array([fmean((np.sign(each) + 1) / 2) for each in by_seed.values()])
    if len(by_seed) > 1:
        better_low, better_high = interval_over_seeds(better_S)
    over_seeds = estimate(of_seeds) if of_seeds else None
    return Difference(
        contrast.name,
        str(contrast.first),
        str(contrast.second),
        "test" if on_test else "val",
        mean=over_seeds.mean if over_seeds else None,
        half_over_seeds=over_seeds.half if over_seeds else None,
        low=low,
        high=high,
        sd=stdev(values) if len(values) > 1 else None,
        better=fmean((np.sign(values) + 1) / 2) if values else None,
        better_low=better_low,
        better_high=better_high,
        num_above=sum(value > 0 for value in values),
        num_runs=len(values),
        num_missing=num_missing,
        runs=of_runs,
    )


def _of_run(first: Row, second: Row, *, on_test: bool) -> float:
    values = [row.test_top1 if on_test else row.val_top1 for row in (first, second)]
    assert values[0] is not None
    assert values[1] is not None
    return values[0] - values[1]


def by_seed_and_group(pairs: Sequence[Pair], groups: Mapping[str, str]) -> tuple[Array, Array]:
    """gains_SG: videos that the first model alone recognises minus those that the second alone does; sizes_SG: videos.

    Pooled over a seed's folds.
    """
    seeds = list(dict.fromkeys(first.seed for first, _ in pairs))
    names = sorted({groups[name] for first, _ in pairs for name in first.correct})
    row_of, column_of = ({name: index for index, name in enumerate(each)} for each in (seeds, names))
    gains_SG, sizes_SG = np.zeros((2, len(seeds), len(names)))
    for first, second in pairs:
        for name, correct in first.correct.items():
            place = row_of[first.seed], column_of[groups[name]]
            gains_SG[place] += correct - second.correct[name]
            sizes_SG[place] += 1
    return gains_SG, sizes_SG


def interval_over_both(gains_SG: Array, sizes_SG: Array) -> tuple[float, float]:
    """95 % percentile interval of the pooled difference, when both seeds and groups are drawn anew.

    Each resampling draws S seeds and G groups with replacement; a pair that is drawn k times counts k times (the
    pigeonhole bootstrap: Owen, Annals of Applied Statistics 1, 2007). Its interval is somewhat too wide, never too
    narrow in the limit.
    """
    num_seeds, num_groups = gains_SG.shape
    rng = np.random.default_rng([NUM_RESAMPLINGS, num_seeds, num_groups])
    seeds_RS = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), NUM_RESAMPLINGS)
    groups_RG = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), NUM_RESAMPLINGS)
    sums_R, sizes_R = (((seeds_RS @ each_SG) * groups_RG).sum(axis=1) for each_SG in (gains_SG, sizes_SG))
    drawn = sizes_R > 0  # with failed folds a draw may have no video
    low, high = np.percentile(sums_R[drawn] / sizes_R[drawn], [2.5, 97.5])
    return float(low), float(high)


def interval_over_seeds(values_S: Array) -> tuple[float, float]:
    """95 % percentile interval of the mean, when seeds are drawn anew."""
    num_seeds = len(values_S)
    rng = np.random.default_rng([NUM_RESAMPLINGS, num_seeds])
    seeds_RS = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), NUM_RESAMPLINGS)
    low, high = np.percentile(seeds_RS @ values_S / num_seeds, [2.5, 97.5])
    return float(low), float(high)


def write_contrasts(path: Path, found: Sequence[Difference]) -> None:
    """A CSV with a line for each contrast; what is not known is empty."""
    cells = ([rounded(getattr(each, name)) for name in COLUMNS] for each in found)
    write_table(path, COLUMNS, cells)


def contrast_table(found: Sequence[Difference]) -> tuple[list[str], list[list[str]]]:
    """Headers and cells for people: points of top-1."""
    on_test = any(each.on == "test" for each in found)
    headers = ["contrast", "points", *(["over videos"] * on_test), "sd", "P(above)", "above"]
    cells = [
        [
            each.name,
            _points(each.mean) + ("" if each.half_over_seeds is None else f" ± {100 * each.half_over_seeds:.1f}"),
            *([_interval(each.low, each.high)] * on_test),
            "" if each.sd is None else f"{100 * each.sd:.1f}",
            _share(each),
            f"{each.num_above} of {each.num_runs}" + (f", {each.num_missing} missing" if each.num_missing else ""),
        ]
        for each in found
    ]
    return headers, cells


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{_points(low)} to {_points(high)}"


def _share(found: Difference) -> str:
    if found.better is None:
        return ""
    within = "" if found.better_low is None else f" ({found.better_low:.2f} to {found.better_high:.2f})"
    return f"{found.better:.2f}{within}"
