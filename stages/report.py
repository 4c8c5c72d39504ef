"""Write the report: one page about teacher, student and baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.files import require_writable, write_text_whole
from pipeline.evaluate.metrics_file import MODELS
from pipeline.report.inputs import ReportPaths
from pipeline.report.page import make_report
from stages._shell import PARAMS_PATH, ManifestOption, ParamsOption, progress, say

STUDY = Path("results/study/study.json")


def main(
    *,
    manifest: ManifestOption,
    quarantine: Annotated[Path, typer.Option(help="The videos that `prepare` left out.")],
    dark: Annotated[Path, typer.Option(help="The dark frames.")],
    enhanced: Annotated[Path, typer.Option(help="The enhanced frames; may be missing.")],
    soft_targets: Annotated[Path, typer.Option(help="The soft-target store.")],
    models: Annotated[Path, typer.Option(help="The folder of the model files; only the student's is required.")],
    curves: Annotated[Path, typer.Option(help="The folder of the training curves.")],
    evaluation: Annotated[Path, typer.Option(help="The evaluation that `evaluate` wrote.")],
    tables: Annotated[Path, typer.Option(help="The folder of the tables that `evaluate` wrote.")],
    out: Annotated[Path, typer.Option(help="The HTML page to write.")],
    study: Annotated[
        list[Path] | None,
        typer.Option(
            help="A study.json of `dlkdd study`; may be missing. Of several, the first of this run's videos "
            "and parameters is shown.",
            show_default=str(STUDY),
        ),
    ] = None,
    params_path: ParamsOption = PARAMS_PATH,
) -> None:
    """Write the report: one page about teacher, student and baseline, that opens offline and runs no script.

    docs/report.md says what it shows.
    """
    require_writable(out)
    paths = ReportPaths(
        params=params_path,
        manifest=manifest,
        quarantine=quarantine,
        dark=dark,
        enhanced=enhanced,
        soft_targets=soft_targets,
        models={name: models / f"{name}.safetensors" for name in ("enhancer", *MODELS)},
        curves={name: curves / f"{name}.csv" for name in MODELS},
        evaluation=evaluation,
        tables=tables,
        studies=tuple(study or [STUDY]),
    )
    page = make_report(paths, progress=progress)
    write_text_whole(out, page)
    say(f"report: {len(page.encode()) / 1e6:.1f} MB -> {out}")
