"""Compare teacher, student and baseline on the test videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.params import load_params
from pipeline.data.manifest import read_manifest
from pipeline.evaluate.compare import aligned, check_predictions, compare, write_confusion
from pipeline.evaluate.metrics_file import Metrics, Protocol, write_evaluation, write_metrics
from pipeline.evaluate.score.predictions import read_predictions, views_text
from pipeline.evaluate.tables import digest_tables, make_tables, read_light, write_tables
from stages._shell import (
    PARAMS_PATH,
    CurvesOption,
    JsonOption,
    ManifestOption,
    ParamsOption,
    print_json,
    print_line,
    print_table,
    warn_of_weak_teacher,
)


def main(
    *,
    manifest_path: ManifestOption,
    light: Annotated[Path, typer.Option(help="The mean lumas that `measure_light` wrote.")],
    teacher: Annotated[Path, typer.Option(help="The teacher's predictions.")],
    student: Annotated[Path, typer.Option(help="The student's predictions.")],
    baseline: Annotated[Path, typer.Option(help="The baseline's predictions.")],
    evaluation: Annotated[Path, typer.Option(help="The file to write: all numbers of the three models.")],
    metrics_path: Annotated[
        Path, typer.Option("--metrics", help="The few of them to write that `dvc metrics` and `dvc exp show` show.")
    ],
    confusion: Annotated[Path, typer.Option(help="The folder of the confusion tables to write, for `dvc plots`.")],
    tables: Annotated[Path, typer.Option(help="The folder of the tables to write: by class, light, length, video …")],
    curves: CurvesOption = None,
    params_path: ParamsOption = PARAMS_PATH,
    as_json: JsonOption = False,
) -> None:
    """Compare teacher, student and baseline on the test videos, from their predictions: no model runs here.

    With --curves a last line says where the teacher was no better than the baseline on val.

    docs/evaluation.md says what each number is. One model file alone: `dlkdd evaluate-model`.
    """
    params = load_params(params_path)
    manifest = read_manifest(manifest_path)
    predictions = {
        name: read_predictions(path)
        for name, path in {"teacher": teacher, "student": student, "baseline": baseline}.items()
    }
    check_predictions(predictions, manifest, views=views_text(params.score.num_clips, params.score.num_crops))
    rows = manifest.rows_of("test")
    video_ids = tuple(row.video_id for row in rows)
    predictions = {name: aligned(found, video_ids) for name, found in predictions.items()}
    made = make_tables(predictions, rows, read_light(light))
    for name, found in predictions.items():
        write_confusion(confusion / f"{name}.csv", found)
    write_tables(tables, made)
    score = params.score
    metrics = compare(
        predictions,
        protocol=Protocol(split="test", num_clips=score.num_clips, num_crops=score.num_crops, manifest=manifest.digest),
        num_bootstraps=params.evaluate.num_bootstraps,
        seed=params.seed,
        tables=digest_tables(tables),
    )
    write_evaluation(evaluation, metrics)
    write_metrics(metrics_path, metrics)
    if as_json:
        print_json(metrics.model_dump())
    else:
        _print(metrics)
    warn_of_weak_teacher("evaluate", curves)


def _print(metrics: Metrics) -> None:
    rows = []
    for name, frames in (("teacher", "enhanced"), ("student", "dark"), ("baseline", "dark")):
        row = metrics.of(name)
        interval = f"{100 * row.top1_low:.1f} to {row.top1_high:.1%}"
        shares = [f"{share:.1%}" for share in (row.top5, row.mean_class_top1)]
        rows.append((f"{name} ({frames})", f"{row.top1:.1%}", interval, *shares, f"{row.ece:.3f}"))
    print_table(
        ("", "top-1", "95 % interval", "top-5", "per class", "ECE"),
        rows,
        title=f"{metrics.num_test_videos} test videos, "
        f"{metrics.protocol.num_clips} × {metrics.protocol.num_crops} views (clips × crops)",
    )
    gain, agreement, kl = metrics.student_minus_baseline, metrics.agreement_with_teacher, metrics.kl_from_teacher
    print_line(
        f"student − baseline: {100 * gain.top1:+.1f} points of top-1, "
        f"95 % interval {100 * gain.top1_low:+.1f} to {100 * gain.top1_high:+.1f}, "
        f"McNemar p = {gain.mcnemar_p:.2g} (over the videos, one seed)"
    )
    print_line(
        "agrees with the teacher (KL from it in nats): "
        f"student {agreement.student:.1%} ({kl.student:.3f}), baseline {agreement.baseline:.1%} ({kl.baseline:.3f})"
    )
