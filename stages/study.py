"""Does it help? Train teacher, baseline and variants of the student over several seeds, and compare them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.core.errors import DataError, ParamsError
from pipeline.core.files import write_text_whole
from pipeline.core.params import load_params, params_text
from pipeline.core.progress import interruptible
from pipeline.core.work_folder import out_lock
from pipeline.data.manifest import Manifest, read_manifest
from pipeline.tools.study.jobs import Job, run_chain
from pipeline.tools.study.results import Results, read_results, table, verdict, write_rows
from pipeline.tools.study.study import Step, Study, Variant, read_variants
from stages._shell import PARAMS_PATH, ParamsOption, printable, progress, say

STAGE = "study"


def main(
    *,
    manifest_path: Annotated[Path, typer.Option("--manifest", help="The manifest that `prepare` wrote.")],
    dark: Annotated[Path, typer.Option(help="The frames that students and baseline see.")],
    enhanced: Annotated[Path, typer.Option(help="The frames that the teacher sees.")],
    out: Annotated[Path, typer.Option(help="The folder of the study; an existing study is continued.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of the seeds; the others follow it.")] = 0,
    variants: Annotated[
        list[str] | None,
        typer.Option("--variant", help="`key=value …`, or `name: key=value …`, of the student; repeatable."),
    ] = None,
    variants_path: Annotated[
        Path | None, typer.Option("--variants", help="A file with a variant a line; # begins a comment.")
    ] = None,
    test: Annotated[bool, typer.Option(help="With --no-test no model sees a test video: to choose variants.")] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Steps at a time.")] = 1,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of a step; another number rounds sums differently.")
    ] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: cuda where there is one.")] = "auto",
    params_path: ParamsOption = PARAMS_PATH,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Does it help? Train teacher, baseline and variants of the student over several seeds, and compare them.

    Without a variant it is the student of the parameter file. After an interrupt, or with another seed or variant,
    the same command runs only what is new. Writes study.csv and study.md into the folder.

    Example: dlkdd study --manifest data/manifest.csv --dark data/dark --enhanced data/enhanced --out results/study
    --variant "" --variant "dkd: soft_loss=dkd temperature=4"
    """
    params = load_params(params_path)
    chosen = read_variants([*_lines(variants_path), *(variants or [])] or [""], params)
    manifest = read_manifest(manifest_path)
    if missing := [f"{path}: no such folder" for path in (dark, enhanced) if not path.is_dir()]:
        raise DataError("frame stores are missing", findings=missing, remedy="`dvc repro enhance` makes both")
    all_seeds = tuple(range(first_seed, first_seed + seeds))
    study = Study(manifest_path, dark, enhanced, out, all_seeds, chosen, params=params, with_test=test)
    with out_lock(STAGE, out), interruptible() as stop:
        steps = study.steps()
        with progress(STAGE, len(steps), "steps") as advance:
            chain = [_job(step, threads=threads, device=device) for step in steps]
            seconds = run_chain(chain, at_once=jobs, say=say, stop=stop, advance=advance)
        results = read_results(study, seconds, manifest)
        spent = [found for seed in all_seeds if (found := seconds[study.precompute_step(seed)]) is not None]
        how = f"CPU threads a step: {threads}; steps at a time: {jobs}; device: {device}"
        notes = _notes(study, manifest, spent, how)
        write_rows(out / "study.csv", results.rows)
        write_text_whole(out / "study.md", _markdown(study, results, notes))
    if as_json:
        typer.echo(json.dumps(asdict(results), indent=2))
    else:
        _print(results, notes)
    say(f"{STAGE}: {len(steps)} steps -> {out / 'study.md'}, {out / 'study.csv'}")


def _lines(path: Path | None) -> list[str]:
    """The variants of a file."""
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"--variants {path}: cannot be read as UTF-8 text: {error}") from None
    return [line for line in (line.partition("#")[0].strip() for line in lines) if line]


def _job(step: Step, *, threads: int, device: str) -> Job:
    """A step as a process of its own, with its parameter file in place.

    Its work folder lies in its seed's folder: so it shares no lock with `dvc repro` or another study.
    """
    write_text_whole(step.params_path, params_text(step.params))
    workers = ("--workers", "1") if step.stage == "precompute_soft_targets" else ()  # --jobs is the number of processes
    return Job(
        step.name,
        (sys.executable, "-m", "stages", *step.arguments, "--device", device, *workers),
        identity={"stage": step.stage, "params": step.values, "threads": threads, "device": device},
        inputs=step.inputs,
        outs=tuple(step.outs.values()),
        folder=step.folder / "steps" / step.name.partition("/")[2],
        environment={"OMP_NUM_THREADS": str(threads), "DVC_ROOT": str(step.folder)},
    )


def _notes(study: Study, manifest: Manifest, spent: Sequence[float], how: str) -> list[str]:
    """What a reader of the table must know."""
    seeds = f"seeds {study.seeds[0]} to {study.seeds[-1]}" if len(study.seeds) > 1 else f"seed {study.seeds[0]} alone"
    counts = ", ".join(f"{len(manifest.rows_of(split))} {split}" for split in ("train", "val", "test"))
    notes = [
        f"Top-1 in per cent over {seeds}; {counts} videos (manifest {manifest.digest}). ± is half of the 95 % interval "
        "of the mean over the seeds, by Student's t; − baseline and × compare with the baseline of the same seed. The "
        "videos are the same for all seeds: the interval says nothing about other videos.",
        f"Minutes are of training, with its start ({how}).",
    ]
    if spent:
        notes.append(f"Computing the soft targets took {fmean(spent) / 60:.1f} minutes a seed, once for all students.")
    if len(study.variants) > 1:
        notes.append("Variants are chosen by val; the best of many on test would be above by chance.")
    return notes


def _markdown(study: Study, results: Results, notes: Sequence[str]) -> str:
    headers, rows = table(results)
    lines = [_markdown_row(headers), _markdown_row(["---", *["---:"] * (len(headers) - 1)]), *map(_markdown_row, rows)]
    variants = [f"- {variant.name}: {_code(variant)}" for variant in study.variants]
    return (
        "\n\n".join(
            ["# Study", "\n".join(lines), f"**{verdict(results)}.**", *notes, "\n".join(["Variants:", "", *variants])]
        )
        + "\n"
    )


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(variant: Variant) -> str:
    return f"`{variant.overrides}`" if variant.overrides else "the parameter file"


def _print(results: Results, notes: Sequence[str]) -> None:
    headers, rows = table(results)
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column(headers[0], overflow="fold", min_width=8)
    for header in headers[1:]:
        shown.add_column(header.replace(" ", "\n", 1), justify="right")
    for row in rows:
        shown.add_row(*map(printable, row))
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(shown)
    for note in (*notes, verdict(results)):
        console.print(printable(note))
