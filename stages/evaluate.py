"""Compare teacher, student and baseline on the test videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.evaluation import aligned, check_predictions, compare, write_confusion, write_metrics
from pipeline.manifest import read_manifest
from pipeline.params import load_params
from pipeline.predictions import read_predictions
from stages._shell import PARAMS_PATH, ParamsOption


def main(
    *,
    manifest_path: Annotated[Path, typer.Option("--manifest", help="The manifest that `prepare` wrote.")],
    teacher: Annotated[Path, typer.Option(help="The teacher's predictions.")],
    student: Annotated[Path, typer.Option(help="The student's predictions.")],
    baseline: Annotated[Path, typer.Option(help="The baseline's predictions.")],
    metrics_path: Annotated[Path, typer.Option("--metrics", help="The metrics to write, for `dvc metrics`.")],
    confusion: Annotated[Path, typer.Option(help="The folder of the confusion tables to write, for `dvc plots`.")],
    params_path: ParamsOption = PARAMS_PATH,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Compare teacher, student and baseline on the test videos, from their predictions: no model runs here."""
    params = load_params(params_path)
    manifest = read_manifest(manifest_path)
    predictions = {
        name: read_predictions(path)
        for name, path in {"teacher": teacher, "student": student, "baseline": baseline}.items()
    }
    check_predictions(predictions, manifest)
    video_ids = tuple(row.video_id for row in manifest.rows_of("test"))
    predictions = {name: aligned(found, video_ids) for name, found in predictions.items()}
    metrics = compare(predictions, num_bootstraps=params.evaluate.num_bootstraps, seed=params.seed)
    for name, found in predictions.items():
        write_confusion(confusion / f"{name}.csv", found)
    write_metrics(metrics_path, metrics)
    if as_json:
        typer.echo(json.dumps(metrics, indent=2))
    else:
        _print_table(metrics)


def _print_table(metrics: dict[str, Any]) -> None:
    table = Table(title=f"{metrics['num_test_videos']} test videos")
    table.add_column("")
    for name in ("top-1", "top-5", "mean per class", "agrees with teacher"):
        table.add_column(name, justify="right")
    for name, frames in (("teacher", "enhanced"), ("student", "dark"), ("baseline", "dark")):
        row = metrics[name]
        agreement = metrics["agreement_with_teacher"].get(name)
        table.add_row(
            f"{name} ({frames})",
            *(f"{row[key]:.1%}" for key in ("top1", "top5", "mean_class_top1")),
            "" if agreement is None else f"{agreement:.1%}",
        )
    console = Console()
    console.print(table)
    gain = metrics["student_minus_baseline"]
    console.print(
        f"student − baseline: {100 * gain['top1']:+.1f} points of top-1, "
        f"95 % interval {100 * gain['top1_low']:+.1f} to {100 * gain['top1_high']:+.1f} (over the videos, one seed)"
    )
