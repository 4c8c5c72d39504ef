"""Does it help? Train the arms of a study over seeds, and compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.device import choose_device, machine_name
from pipeline.core.errors import DataError
from pipeline.core.files import write_text_whole
from pipeline.core.params import load_params
from pipeline.core.progress import interruptible
from pipeline.core.work_folder import out_lock
from pipeline.data.manifest import read_manifest, write_manifest
from pipeline.tools.study.arms import read_design
from pipeline.tools.study.bright import adopt_bright
from pipeline.tools.study.chain import Chain, Data, Run
from pipeline.tools.study.contrasts import contrast_table, differences, write_contrasts
from pipeline.tools.study.folds import Splits, rewritten
from pipeline.tools.study.forks import forking
from pipeline.tools.study.jobs import run_jobs
from pipeline.tools.study.results import lines_of, read_rows, table, write_rows
from pipeline.tools.study.summary import Summary, on_machines
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
    """Does it help? Train the arms of a study over seeds, and compare.

    An arm is the parameter file with other values: another teacher, light, loss, training, or share of labels. Without
    an arm it is the file as it is. After an interrupt, or with another seed or arm, the same command runs only what is
    new. Writes study.md, study.csv, contrasts.csv and study.json into the folder.

    Example: dlkdd study --manifest data/manifest.csv --dark data/dark --out results/study
    --arm "light:" --arm "self: enhancer=none"
    """
    params = load_params(params_path)
    machine = machine_name(choose_device(device))
    design = read_design(arms_path, arms or [], params, with_bright=bright is not None)
    manifest = read_manifest(manifest_path)
    given = [dark] if bright is None else [dark, bright]
    if missing := [f"{path}: no such folder" for path in given if not path.is_dir()]:
        raise DataError("frame stores are missing", findings=missing, remedy="`dvc repro prepare` makes the dark one")
    planned = [
        (arm, Splits(seed, fold, folds or 1, params.prepare.val_share, arm.unlabelled_share))
        for seed in range(first_seed, first_seed + seeds)
        for fold in (range(folds) if folds else (None,))
        for arm in design.arms
    ]
    new_rows = rewritten(manifest, [splits for _, splits in planned])
    with out_lock(STAGE, out), interruptible() as stop:
        paths = {splits: out / "manifests" / f"{splits.name}.csv" for splits in new_rows}
        manifests = {paths[splits]: write_manifest(paths[splits], rows) for splits, rows in new_rows.items()}
        manifests[manifest_path] = manifest
        if bright is not None:
            adopt_bright(bright, dark, out / "bright")
        chain = Chain(out, Data(manifest_path, dark, bright and out / "bright"), test, threads, device)
        runs: list[Run] = []
        for arm, splits in planned:
            path = paths.get(splits, manifest_path)
            runs += chain.add_runs(arm, path, seed=splits.seed, fold=splits.fold)
        steps = list(chain.jobs.values())
        models = {run.training.name for run in runs}  # other steps take seconds: in steps, the time left would be wrong
        with progress(STAGE, len(models), "models") as advance, forking(threads) as start:

            def step_done(count: int, name: str, /, *, earlier: bool = False) -> None:
                if name in models:
                    advance(count, name, earlier=earlier)

            outcome = run_jobs(steps, start=start, at_once=jobs, machine=machine, say=say, stop=stop, advance=step_done)
        rows = read_rows(runs, outcome.seconds, manifests)
        found = differences(design.contrasts, rows, {row.video_id: row.group for row in manifest.rows})
        how = f"Minutes are of training ({threads} CPU thread(s) a step, {jobs} at a time, device {device})."
        how = f"{how} {on_machines(outcome.machines.values())}"
        summary = Summary(design, params, manifest, folds, how, rows, lines_of(rows), found)
        write_rows(out / "study.csv", rows)
        write_contrasts(out / "contrasts.csv", found)
        write_text_whole(out / "study.json", json.dumps(summary.values(), indent=1) + "\n")
        write_text_whole(out / "study.md", summary.markdown())
    if as_json:
        print_json(summary.values())
    else:
        print_table(*contrast_table(found))
        print_table(*table(summary.lines))
        for note in summary.notes():
            print_line(note)
    say(f"{STAGE}: {len(steps)} steps -> {out / 'study.md'}, study.csv, contrasts.csv, study.json")
    if outcome.error is not None:
        raise outcome.error
