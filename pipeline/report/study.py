"""What a study says in a report: its contrasts, each with the runs behind it, and the headline that the first gives.

`dlkdd study` writes study.json, which docs/study.md describes. A report has it where it is, and goes without it where
it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.errors import StaleArtifactError
from pipeline.core.params import Params
from pipeline.report.figures import WIDTH, difference_axis, kind_of, points
from pipeline.report.svg import Drawing, Scale, shortened

ROW = 38.0  # height of a contrast in the figure


class Contrast(BaseModel):
    """A difference of two models over runs, in shares of top-1; None where there are too few runs to say."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    name: str
    first: str
    second: str
    on: Literal["test", "val"]
    mean: float | None
    half_over_seeds: float | None
    low: float | None  # of the interval over seeds and groups of videos
    high: float | None
    sd: float | None
    better: float | None
    num_above: int
    num_runs: int
    num_missing: int
    runs: list[tuple[int, int | None, float]]  # seed, fold, difference

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %: over seeds and videos where it was measured on test, else over seeds; None of a single seed."""
        if self.low is not None and self.high is not None and self.half_over_seeds is not None:
            return self.low, self.high
        if self.mean is None or self.half_over_seeds is None:
            return None
        return self.mean - self.half_over_seeds, self.mean + self.half_over_seeds

    @property
    def kind(self) -> str:
        """What the interval says; unsure where there is none."""
        return kind_of(*self.interval) if self.interval else "unsure"

    def row(self) -> tuple[str, ...]:
        """Its numbers as texts, for a table."""
        interval = self.interval
        return (
            self.name,
            f"{self.first} − {self.second}",
            "" if self.mean is None else points(self.mean),
            "" if interval is None else f"{points(interval[0])} to {points(interval[1])}",
            "" if self.sd is None else f"{100 * self.sd:.1f}",
            f"{self.num_above} of {self.num_runs}",
            "" if self.better is None else f"{self.better:.2f}",
        )


class Study(BaseModel):
    """What the report takes of study.json."""

    model_config = ConfigDict(frozen=True)

    manifest: str
    params: dict[str, Any] | None = None  # the first did not state them
    contrasts: list[Contrast] = Field(min_length=1)
    notes: list[str]

    def is_of(self, manifest: str, params: Params) -> bool:
        """Whether it was made of these videos, with these parameters; its seeds are its own."""
        stated = {name: value for name, value in (self.params or {}).items() if name != "seed"}
        return self.manifest == manifest and _holds(stated, params.model_dump(mode="json"))


def _holds(stated: Any, current: Any) -> bool:
    """Whether all that is stated is so; a parameter that came later is not stated."""
    if isinstance(stated, dict) and isinstance(current, dict):
        return all(name in current and _holds(value, current[name]) for name, value in stated.items())
    return bool(stated == current)


def read_study(path: Path) -> Study | None:
    """The study of a report; None where there is none. Raises StaleArtifactError where it is damaged."""
    if not path.exists():
        return None
    try:
        return Study.model_validate_json(path.read_bytes())
    except OSError as error:
        findings = [error.strerror or str(error)]
    except ValidationError as error:
        findings = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()]
    raise StaleArtifactError(
        f"{path}: is not what `dlkdd study` writes",
        findings=findings,
        remedy="`dlkdd study` with its arms makes it again, or remove it",
    )


def study_verdict(study: Study) -> dict[str, str] | None:
    """The headline of the first contrast, with its sentence and caution; None where a single seed is behind it."""
    found = study.contrasts[0]
    if found.mean is None or found.interval is None:
        return None
    brought, (low, high) = points(found.mean), found.interval
    headline = {
        "good": f"Distillation brings {brought} points of top-1",
        "bad": f"Distillation costs {brought.lstrip('−')} points of top-1",
        "unsure": f"Distillation: {brought} points of top-1, which may be chance",
    }[found.kind]
    sd = "" if found.sd is None else f"; their standard deviation is {100 * found.sd:.1f} points"
    return {
        "kind": found.kind,
        "headline": headline,
        "sentence": f"The mean of {found.num_runs} pairs of trainings on {found.on} ({found.first} − {found.second}): "
        f"95 % interval {points(low)} to {points(high)}, above zero in {found.num_above} of {found.num_runs}{sd}.",
    }


def differences(contrasts: Sequence[Contrast]) -> Markup:
    """All contrasts below each other: a small mark for each run, and the mean with its interval."""
    shown = [each for each in contrasts if each.mean is not None]
    words = ", ".join(f"{each.name} {points(each.mean or 0)}" for each in shown)
    bottom = 14 + ROW * len(shown)
    drawing = Drawing(WIDTH, bottom + 36, f"Differences in points of top-1, a mark for each run: {words}.")
    values = [0.0, *(value for each in shown for value in (*(run[2] for run in each.runs), *(each.interval or ())))]
    margin = 0.06 * max(0.02, *map(abs, values))
    scale = Scale(min(values) - margin, max(values) + margin, 112, WIDTH - 20)
    difference_axis(drawing, scale, 8, bottom)
    for index, each in enumerate(shown):
        assert each.mean is not None
        y = 14 + ROW * (index + 0.5)
        drawing.text(0, y + 4, shortened(each.name, 17), "small", note=each.name)
        for seed, fold, value in each.runs:
            place = f"seed {seed}" + ("" if fold is None else f", fold {fold}")
            drawing.mark(scale(value), y + 6, "circle", "run", size=2.5, note=f"{place}: {points(value)}")
        for low, high in [each.interval] if each.interval else []:
            drawing.line(scale(low), y - 4, scale(high), y - 4, f"whisker {each.kind}")
        drawing.mark(scale(each.mean), y - 4, "diamond", f"mark {each.kind}", size=5, note=points(each.mean))
    drawing.text(WIDTH - 20, bottom + 32, "difference, points", "dim", anchor="end")
    return drawing.markup()
