"""A study for its readers: the two tables in Markdown with what a reader must know, and all of it as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from pipeline.core.params import Params
from pipeline.core.text import code_span, markdown_table
from pipeline.data.listing import ALL_SPLITS, SPLITS
from pipeline.data.manifest import Manifest
from pipeline.tools.study.arms import Design
from pipeline.tools.study.contrasts import Difference, contrast_table
from pipeline.tools.study.results import BEHIND, FAILED, Line, Row, chosen_by_val, percent, table


@dataclass(frozen=True)
class Summary:
    """A finished study. how: how its steps ran. num_folds: None where the manifest's splits hold for all seeds."""

    design: Design
    params: Params
    manifest: Manifest
    num_folds: int | None
    how: str
    rows: Sequence[Row]
    lines: Sequence[Line]
    differences: Sequence[Difference]

    def notes(self) -> list[str]:
        """What a reader of the tables must know, a paragraph each."""
        pairs = ", ".join(f"{each.name}: {each.first} − {each.second}" for each in self.differences)
        return [f"{pairs}.", self._what(), self._intervals(), self.how, *self._unlike(), *self._choice()]

    def values(self) -> dict[str, object]:
        """All of it, for programs: the content of study.json."""
        return {
            "manifest": self.manifest.digest,
            "params": self.params.model_dump(mode="json"),
            "num_folds": self.num_folds,
            "arms": {arm.name: dict(arm.overrides) for arm in self.design.arms},
            "rows": [row.values() for row in self.rows],
            "lines": [asdict(line) for line in self.lines],
            "contrasts": [asdict(each) for each in self.differences],
            "notes": self.notes(),
        }

    def markdown(self) -> str:
        """The content of study.md."""
        tables = [
            markdown_table(headers, ([cell.replace("|", "\\|") for cell in row] for row in cells))
            for headers, cells in (contrast_table(self.differences), table(self.lines))
        ]
        arms = "\n".join(
            f"- {arm.name}: "
            + (
                code_span(json.dumps(dict(arm.overrides), ensure_ascii=False))
                if arm.overrides
                else "the parameter file"
            )
            for arm in self.design.arms
        )
        return "\n\n".join(["# Study", *tables, *self.notes(), "Arms:", arms]) + "\n"

    def _what(self) -> str:
        seeds = sorted({row.seed for row in self.rows})
        over = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]} alone"
        sizes = {split: len(self.manifest.rows_of(split)) for split in ALL_SPLITS}
        if self.num_folds:
            labelled = len(self.manifest.rows_of(*SPLITS))
            videos = f"{labelled} videos, each tested once a seed, in {self.num_folds} folds of groups that it draws"
        else:
            counts = [f"{size} {split}" for split, size in sizes.items() if split in SPLITS or size]
            videos = f"{', '.join(counts)} videos, the same for all seeds"
        return f"Top-1 in per cent over {over}; {videos} (manifest {self.manifest.digest})."

    def _intervals(self) -> str:
        on_test = any(each.on == "test" for each in self.differences)
        both = " Over videos: the 95 % interval when seeds and groups of videos are drawn anew." * on_test
        return (
            "± is half of the 95 % interval of the mean over the seeds, by Student's t. Points are differences within "
            f"a run, the same seed and videos, on {'test' if on_test else 'val'}; sd is theirs.{both} P(above) is the "
            "share of runs in which the first is above the second; ties count half."
        )

    def _unlike(self) -> list[str]:
        """The trainings that failed or stayed behind, by model; those that arms share are counted once."""
        notes = []
        for model in dict.fromkeys(row.model for row in self.rows):
            rows = [row for row in self.rows if row.model == model]
            # of arms that share a training one may have failed to be scored: it goes last, and is the one that is kept
            trainings = {row.folder: row for row in sorted(rows, key=lambda row: bool(row.state))}
            unlike = [row for row in trainings.values() if row.state]
            states = Counter(row.state for row in unlike)
            if unlike:
                counted = " and ".join(f"{count} {state}" for state, count in states.items())
                named = ", ".join(f"{row.place} {row.state}" for row in unlike)
                notes.append(
                    f"Of {len(trainings)} trainings of a {model} {counted}: {named}."
                    + f" What {BEHIND} is in all means." * (BEHIND in states)
                    + f" What {FAILED} has no number." * (FAILED in states)
                )
        return notes

    def _choice(self) -> list[str]:
        chosen = chosen_by_val(self.lines)
        if chosen is None or sum(line.model == "student" for line in self.lines) < 2:
            return []
        on_test = f"; on test {percent(chosen.test)} %" if chosen.test else ""
        return [
            "Arms are chosen by val; the best of many on test would be above by chance. "
            f"Val chooses {chosen.arm}: {percent(chosen.val)} %{on_test}."
        ]


def on_machines(machines: Iterable[str | None]) -> str:
    """Where the steps ran, the most of them first; None: an earlier version recorded no machine."""
    counts = Counter(machine or "a machine that is not recorded" for machine in machines).most_common()
    if len(counts) < 2:
        return "".join(f"All steps ran on {machine}." for machine, _ in counts)
    ran = "; ".join(f"{count} on {machine}" for machine, count in counts)
    return (
        f"Steps that ran: {ran}. Kinds of processor and versions of torch round sums differently, which moves a "
        "training as another seed does."
    )
