"""Does it help? Train teacher, baseline and variants of the student over several seeds, and compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from pipeline.core.errors import DataError, ParamsError
from pipeline.core.files import write_text_whole
from pipeline.core.params import load_params
from pipeline.core.progress import interruptible
from pipeline.core.text import markdown_table
from pipeline.core.work_folder import out_lock
from pipeline.data.listing import ALL_SPLITS, SPLITS
from pipeline.data.manifest import Manifest, read_manifest
from pipeline.tools.study.jobs import run_chain
from pipeline.tools.study.results import Results, read_results, table, verdict, write_rows
from pipeline.tools.study.study import Study, job_name, read_variants
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
    device: DeviceOption = "auto",
    params_path: ParamsOption = PARAMS_PATH,
    as_json: JsonOption = False,
) -> None:
    """Does it help? Train teacher, baseline and variants of the student over several seeds, and compare them.

    Without a variant it is the student of the parameter file. After an interrupt, or with another seed or variant,
    the same command runs only what is new. Writes study.csv and study.md into the folder.

    Example: dlkdd study --manifest data/manifest.csv --dark data/dark --enhanced data/enhanced --out results/study
    --variant "" --variant "dkd: soft_loss=dkd temperature=4"
    """
    params = load_params(params_path)
    if params.more_teachers:
        raise ParamsError(
            f"{params_path}: a study trains one teacher for each seed, and more_teachers has "
            f"{', '.join(params.more_teachers)}",
            remedy="give a copy of the file with more_teachers: {} by --params",
        )
    chosen = read_variants([*_lines(variants_path), *(variants or [])] or [""], params)
    manifest = read_manifest(manifest_path)
    if missing := [f"{path}: no such folder" for path in (dark, enhanced) if not path.is_dir()]:
        raise DataError("frame stores are missing", findings=missing, remedy="`dvc repro enhance` makes both")
    all_seeds = tuple(range(first_seed, first_seed + seeds))
    study = Study(
        manifest_path,
        dark,
        enhanced,
        out,
        all_seeds,
        chosen,
        params=params,
        with_test=test,
        threads=threads,
        device=device,
    )
    with out_lock(STAGE, out), interruptible() as stop:
        chain = list(study.jobs())
        with progress(STAGE, len(chain), "steps") as advance:
            seconds = run_chain(chain, at_once=jobs, say=say, stop=stop, advance=advance)
        results = read_results(study, seconds, manifest)
        notes = _notes(study, manifest, seconds, jobs)
        write_rows(out / "study.csv", results.rows)
        write_text_whole(out / "study.md", _markdown(study, results, notes))
    if as_json:
        print_json(asdict(results))
    else:
        print_table(*table(results))
        for note in (*notes, verdict(results)):
            print_line(note)
    say(f"{STAGE}: {len(chain)} steps -> {out / 'study.md'}, {out / 'study.csv'}")


def _lines(path: Path | None) -> list[str]:
    """The variants of a file."""
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"--variants {path}: cannot be read as UTF-8 text: {error}") from None
    return [line for line in (line.partition("#")[0].strip() for line in lines) if line]


def _notes(study: Study, manifest: Manifest, seconds: Mapping[str, float | None], at_once: int) -> list[str]:
    """What a reader of the table must know."""
    seeds = f"seeds {study.seeds[0]} to {study.seeds[-1]}" if len(study.seeds) > 1 else f"seed {study.seeds[0]} alone"
    sizes = {split: len(manifest.rows_of(split)) for split in ALL_SPLITS}
    counts = ", ".join(f"{sizes[split]} {split}" for split in ALL_SPLITS if split in SPLITS or sizes[split])
    notes = [
        f"Top-1 in per cent over {seeds}; {counts} videos (manifest {manifest.digest}). ± is half of the 95 % interval "
        "of the mean over the seeds, by Student's t; − baseline and × compare with the baseline of the same seed. The "
        "videos are the same for all seeds: the interval says nothing about other videos.",
        f"Minutes are of training, with its start (CPU threads a step: {study.threads}; steps at a time: {at_once}; "
        f"device: {study.device}).",
    ]
    names = [job_name(seed, "precompute_soft_targets") for seed in study.seeds]
    spent = [found for name in names if (found := seconds[name]) is not None]
    if spent:
        notes.append(f"Computing the soft targets took {fmean(spent) / 60:.1f} minutes a seed, once for all students.")
    if len(study.variants) > 1:
        notes.append("Variants are chosen by val; the best of many on test would be above by chance.")
    return notes


def _markdown(study: Study, results: Results, notes: Sequence[str]) -> str:
    headers, rows = table(results)
    shown = markdown_table(headers, ([cell.replace("|", "\\|") for cell in row] for row in rows))
    overrides = {
        each.name: f"`{each.overrides}`" if each.overrides else "the parameter file" for each in study.variants
    }
    variants = "\n".join(f"- {name}: {text}" for name, text in overrides.items())
    return "\n\n".join(["# Study", shown, f"**{verdict(results)}.**", *notes, "Variants:", variants]) + "\n"
