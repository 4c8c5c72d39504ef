"""Does it help, and what of it? Train the arms of a study over seeds and folds, and compare their models."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import DataError
from pipeline.core.files import write_text_whole
from pipeline.core.params import Params, load_params
from pipeline.core.progress import interruptible
from pipeline.core.text import code_span, markdown_table
from pipeline.core.work_folder import out_lock
from pipeline.data.listing import ALL_SPLITS, SPLITS
from pipeline.data.manifest import Manifest, read_manifest, write_manifest
from pipeline.tools.study.arms import Arm, Design, read_design
from pipeline.tools.study.bright import adopt_bright
from pipeline.tools.study.chain import Chain, Data, Run
from pipeline.tools.study.contrasts import Difference, contrast_table, differences, write_contrasts
from pipeline.tools.study.folds import Splits, rewritten
from pipeline.tools.study.forks import forking
from pipeline.tools.study.jobs import run_jobs
from pipeline.tools.study.results import (
    FAILED,
    Line,
    Row,
    chosen_by_val,
    lines_of,
    percent,
    read_rows,
    table,
    write_rows,
)
from stages._shell import (
    PARAMS_PATH,
    DeviceOption,
    JsonOption,
    ManifestOption,
    ParamsOption,
    print_json,
    print_line,
    print_table,
    progress,
    say,
)

STAGE = "study"


def main(
    *,
    manifest_path: ManifestOption,
    dark: Annotated[Path, typer.Option(help="The dark frames that `prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="The folder of the study; an existing study is continued.")],
    bright: Annotated[
        Path | None, typer.Option(help="Frames of the same videos before they were darkened, for enhancer: bright.")
    ] = None,
    arms_path: Annotated[
        Path | None, typer.Option("--arms", help="A file of arms and contrasts, as configs/studies/demo.yaml.")
    ] = None,
    arms: Annotated[
        list[str] | None,
        typer.Option("--arm", help="`name: key=value …`, beside those of the file; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of the seeds; the others follow it.")] = 0,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Test every video once for each seed, in so many folds of groups drawn by it."),
    ] = None,
    test: Annotated[bool, typer.Option(help="With --no-test no model sees a test video: to choose arms.")] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Steps at a time.")] = 1,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of a step; another number rounds sums differently.")
    ] = 1,
    device: DeviceOption = "auto",
    params_path: ParamsOption = PARAMS_PATH,
    as_json: JsonOption = False,
) -> None:
    """Does it help, and what of it? Train the arms of a study over seeds and folds, and compare their models.

    An arm is the parameter file with other values: another teacher, light, loss, training, or share of labels. Without
    an arm it is the file as it is. After an interrupt, or with another seed or arm, the same command runs only what is
    new. Writes study.md, study.csv, contrasts.csv and study.json into the folder.

    Example: dlkdd study --manifest data/manifest.csv --dark data/dark --out results/study
    --arm "light:" --arm "self: enhancer=none"
    """
    params = load_params(params_path)
    design = read_design(arms_path, arms or [], params, with_bright=bright is not None)
    manifest = read_manifest(manifest_path)
    given = [dark] if bright is None else [dark, bright]
    if missing := [f"{path}: no such folder" for path in given if not path.is_dir()]:
        raise DataError("frame stores are missing", findings=missing, remedy="`dvc repro prepare` makes the dark one")
    places = [(seed, fold) for seed in range(first_seed, first_seed + seeds) for fold in range(folds or 1)]
    wanted = {
        (seed, fold, arm.name): _splits(params, seed, fold if folds else None, folds or 1, arm)
        for seed, fold in places
        for arm in design.arms
    }
    new_rows = rewritten(manifest, [*dict.fromkeys(wanted.values())])
    with out_lock(STAGE, out), interruptible() as stop:
        paths = {splits: out / "manifests" / f"{splits.name}.csv" for splits in new_rows}
        manifests = {paths[splits]: write_manifest(paths[splits], rows) for splits, rows in new_rows.items()}
        manifests[manifest_path] = manifest
        if bright is not None:
            adopt_bright(bright, dark, out / "bright")
        chain = Chain(out, Data(manifest_path, dark, bright and out / "bright"), test, threads, device)
        runs: list[Run] = []
        for (seed, fold), arm in ((place, arm) for place in places for arm in design.arms):
            path = paths.get(wanted[seed, fold, arm.name], manifest_path)
            runs += chain.add_runs(arm, path, seed=seed, fold=fold if folds else None)
        steps = list(chain.jobs.values())
        with progress(STAGE, len(steps), "steps") as advance, forking(threads) as start:
            outcome = run_jobs(steps, start=start, at_once=jobs, say=say, stop=stop, advance=advance)
        rows = read_rows(runs, outcome.seconds, manifests)
        found = differences(design.contrasts, rows, {row.video_id: row.group for row in manifest.rows})
        lines = lines_of(rows)
        notes = [*_notes(manifest, rows, chain, at_once=jobs, num_folds=folds), *_choice(lines)]
        write_rows(out / "study.csv", rows)
        write_contrasts(out / "contrasts.csv", found)
        values = _values(design, rows, lines, found, notes)
        write_text_whole(out / "study.json", json.dumps(values, indent=1) + "\n")
        write_text_whole(out / "study.md", _markdown(design, lines, found, notes))
    if as_json:
        print_json(values)
    else:
        print_table(*table(lines))
        print_table(*contrast_table(found))
        for note in notes:
            print_line(note)
    say(f"{STAGE}: {len(steps)} steps -> {out / 'study.md'}, study.csv, contrasts.csv, study.json")
    if outcome.error is not None:
        raise outcome.error


def _splits(params: Params, seed: int, fold: int | None, num_folds: int, arm: Arm) -> Splits:
    """How the videos of a run are divided; without folds and taken labels as the manifest has them, for all seeds."""
    if fold is None and not arm.unlabelled_share:
        seed = 0
    return Splits(seed, fold, num_folds, params.prepare.val_share, arm.unlabelled_share)


def _notes(manifest: Manifest, rows: Sequence[Row], chain: Chain, *, at_once: int, num_folds: int | None) -> list[str]:
    """What a reader of the tables must know."""
    seeds = sorted({row.seed for row in rows})
    over = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]} alone"
    sizes = {split: len(manifest.rows_of(split)) for split in ALL_SPLITS}
    counts = ", ".join(f"{sizes[split]} {split}" for split in ALL_SPLITS if split in SPLITS or sizes[split])
    videos = f"{counts} videos"
    if num_folds:
        labelled = len(manifest.rows_of(*SPLITS))
        videos = f"{labelled} videos, each tested once for each seed, in {num_folds} folds of groups drawn by the seed"
    notes = [
        f"Top-1 in per cent over {over}; {videos} (manifest {manifest.digest}). ± is half of the 95 % interval of the "
        "mean over the seeds, by Student's t. Differences are within a run, the same seed and videos"
        + (
            "; over videos too: 95 % interval when seeds and groups of videos are drawn anew."
            if chain.with_test
            else ", on val."
        )
        + " P(above): the share of runs in which the first is above the second, ties count half.",
        f"Minutes are of training (CPU threads a step: {chain.threads}; steps at a time: {at_once}; "
        f"device: {chain.device}).",
    ]
    for model in ("teacher", "baseline", "student"):
        unlike = {row.folder: row for row in rows if row.model == model and row.state}
        if unlike:
            states = Counter(row.state for row in unlike.values())
            total = len({row.folder for row in rows if row.model == model})
            counted = ", ".join(f"{count} {state}" for state, count in states.items())
            named = ", ".join(
                f"{row.arm} seed {row.seed}" + ("" if row.fold is None else f" fold {row.fold}")
                for row in unlike.values()
            )
            notes.append(
                f"Of {total} {model}s: {counted} ({named}). "
                + ("Failed ones have no number. " if FAILED in states else "")
                + "Those that stayed behind are in all means." * ("stayed behind" in states)
            )
    return notes


def _choice(lines: Sequence[Line]) -> list[str]:
    """Which arm val chooses, and what it gives."""
    chosen = chosen_by_val(lines)
    if chosen is None or sum(line.model == "student" for line in lines) < 2:
        return []
    on_test = f"; on test {percent(chosen.test)} %" if chosen.test else ""
    return [
        f"Choose on val: the best of many on test is above by chance. Val chooses {chosen.arm}: "
        f"{percent(chosen.val)} %{on_test}."
    ]


def _values(
    design: Design, rows: Sequence[Row], lines: Sequence[Line], found: Sequence[Difference], notes: Sequence[str]
) -> dict[str, object]:
    """All of it, for programs."""
    without: Mapping[str, object] = {"correct": None}
    return {
        "arms": {arm.name: dict(arm.overrides) for arm in design.arms},
        "rows": [{key: value for key, value in asdict(row).items() if key not in without} for row in rows],
        "lines": [asdict(line) for line in lines],
        "contrasts": [asdict(each) for each in found],
        "notes": list(notes),
    }


def _markdown(design: Design, lines: Sequence[Line], found: Sequence[Difference], notes: Sequence[str]) -> str:
    tables = []
    for headers, cells in (contrast_table(found), table(lines)):
        escaped = ([cell.replace("|", "\\|") for cell in row] for row in cells)
        tables.append(markdown_table(headers, escaped))
    written = {arm.name: json.dumps(dict(arm.overrides), ensure_ascii=False) for arm in design.arms if arm.overrides}
    arms = "\n".join(
        f"- {arm.name}: {code_span(written[arm.name]) if arm.overrides else 'the parameter file'}"
        for arm in design.arms
    )
    return "\n\n".join(["# Study", *tables, *notes, "Arms:", arms]) + "\n"
