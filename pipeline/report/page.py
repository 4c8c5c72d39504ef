"""The report: one HTML page about one run, which opens offline and has no script. docs/report.md describes it.

The template is report.html.jinja, its style report.css. Everything that is printed is escaped and freed of control
characters, whatever a class or a file is called; the page's own policy forbids it to load or run anything. The same
inputs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.core.params import Params, Section, load_params
from pipeline.core.progress import Progress, no_progress
from pipeline.core.tables import Curve, weak_teacher
from pipeline.data.leakage import STEM_LAYOUTS, find_contradictions, find_leakage
from pipeline.data.listing import ALL_SPLITS, UNLABELLED
from pipeline.data.manifest import Manifest
from pipeline.evaluate.cost import cost_of
from pipeline.evaluate.light import spread_videos
from pipeline.evaluate.metrics_file import MODELS, Metrics
from pipeline.evaluate.tables import Row, Table
from pipeline.models.recognizer import architecture_of, on_meta
from pipeline.report import figures
from pipeline.report.chain import describe_chain
from pipeline.report.figures import MOST_CLASSES, kind_of, points
from pipeline.report.inputs import Artifacts, ReportPaths, Results, check_fit, read_artifacts, read_results
from pipeline.report.pictures import Picture, moving_pair, still_pair
from pipeline.report.study import differences, read_study, study_verdict
from pipeline.report.svg import printable

NUM_MOVING = 6
NUM_IN_GROUP = 6  # videos of each kind, one by one
NUM_CONFUSIONS = 8
MOST_QUARANTINED = 100

CURVES = (("Top-1 on val", "val_top1"), ("Loss on val", "val_loss"), ("Loss in training", "train_loss"))

SECTIONS = (
    ("study", "Over seeds"),
    ("numbers", "The three models"),
    ("cost", "Cost"),
    ("chain", "The chain"),
    ("frames", "What the models see"),
    ("training", "Training"),
    ("classes", "Class by class"),
    ("confusion", "What is taken for what"),
    ("light", "By light and by length"),
    ("reliability", "Can confidence be believed?"),
    ("videos", "Video by video"),
    ("data", "The data"),
    ("parameters", "Parameters"),
)


def make_report(paths: ReportPaths, *, progress: Progress = no_progress) -> str:
    """The page. Raises ParamsError, DataError or StaleArtifactError where inputs are missing or do not fit."""
    params = load_params(paths.params)
    results = read_results(paths)
    found = read_artifacts(paths)
    check_fit(paths, found, results)
    studies = [read_study(path) for path in paths.studies]
    of_here = next((study for study in studies if study and study.is_of(found.manifest.digest, params)), None)
    study = of_here or studies[0]  # only the first is missed where it is of something else
    of_run = verdict(results.metrics)
    chain = describe_chain(paths, found)
    p = results.metrics.student_minus_baseline.mcnemar_p
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        MODELS=MODELS,
        sections=[section for section in SECTIONS if study or section[0] != "study"],
        most_classes=MOST_CLASSES,
        named=figures.named,
        bar=figures.bar,
        percent=percent,
        verdict=(of_here and study_verdict(of_here)) or of_run,
        of_run=of_run,
        study=study,
        of_here=of_here,
        study_figure=of_here and differences(of_here.contrasts),
        weak_teacher=_sentence(weak_teacher(results.curves["teacher"], results.curves["baseline"])),
        paths=paths,
        params=params,
        params_text=paths.params.read_text(encoding="utf-8"),
        results=results,
        found=found,
        chain=chain,
        number_of={made["digest"]: number for number, made in enumerate(chain, start=1) if made["digest"]},
        leaks=[
            *find_contradictions(found.manifest.rows),
            *find_leakage(found.manifest.rows, stems=params.prepare.layout in STEM_LAYOUTS),
        ],
        p_value="below 0.0001" if p < 0.0001 else f"{p:.2g}",
        study_rows=[each.row() for each in of_here.contrasts] if of_here else [],
        **_figures(results, found.manifest),
        **_rows(paths, results, found, params),
        **_pictures(results, found, progress),
    )
    return page.strip() + "\n"


def _finalized(value: object) -> object:
    """Values without control characters. Markup is ours, and was cleaned where it was made."""
    return value if isinstance(value, Markup) else printable(str(value))


def percent(share: float) -> str:
    """A share of 1 as per cent, with a no-break space."""
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _sentence(text: str | None) -> str | None:
    return text and f"{text[0].upper()}{text[1:]}."


def verdict(metrics: Metrics) -> dict[str, str]:
    """What distillation brought, in a headline, a sentence and a caution; its kind is good, bad or unsure.

    It helped or harmed only where the interval of the difference excludes zero.
    """
    gain = metrics.student_minus_baseline
    difference = points(gain.top1)
    kind = kind_of(gain.top1_low, gain.top1_high)
    if kind == "good":
        headline = f"Distillation brought {difference} points of top-1"
        meaning = "The interval lies above zero: on videos like these the student is better."
    elif kind == "bad":
        headline = f"Distillation cost {difference.lstrip('−')} points of top-1"
        meaning = "The interval lies below zero: on videos like these the student is worse."
    else:
        headline = f"Distillation: {difference} points of top-1, which may be chance"
        if gain.top1 == 0:
            headline = "Distillation: no difference in top-1"
        meaning = "The interval holds zero: these videos do not tell whether distillation helped or harmed."
    sentence = (
        f"On {metrics.num_test_videos} dark test videos the student recognises {percent(metrics.student.top1)} and the "
        f"same network without a teacher {percent(metrics.baseline.top1)}: a difference of {difference} points "
        f"(95\N{NO-BREAK SPACE}% interval {points(gain.top1_low)} to {points(gain.top1_high)})."
    )
    caution = (
        f"{meaning} It is about the videos, for one training of each model; another seed can move the difference as "
        "much or more."
    )
    return {"kind": kind, "headline": headline, "sentence": sentence, "caution": caution}


def _figures(results: Results, manifest: Manifest) -> dict[str, Any]:
    """All figures, with the rows of the tables beside them."""
    curves = [
        (title, figures.training_curves(results.curves, column, title, percent=column == "val_top1"))
        for title, column in CURVES
    ]
    names, tables = manifest.class_names, results.tables
    confusions, reliabilities = [], []
    for model in MODELS:
        counts_KK = count_confusions(tables["videos"], names, model)
        confusions.append((model, figures.confusion(counts_KK, names, model), most_frequent(counts_KK, names)))
        bins = [row for row in tables["reliability"] if row["model"] == model]
        rows = [_shares(row, ("confidence", "accuracy"), digits=2) for row in bins]
        reliabilities.append((model, figures.reliability(bins, model, results.metrics.of(model).ece), rows))
    return {
        "figures": {
            "comparison": figures.comparison(results.metrics),
            "curves": curves,
            "classes": figures.class_gains(tables["per_class"]),
        },
        "confusions": confusions,
        "reliabilities": reliabilities,
        "bands": [
            _bands("By light", tables["by_light"], "mean luma", "mean luma, 0 to 255"),
            _bands("By length", tables["by_length"], "frames", "frames"),
        ],
    }


def _bands(title: str, found: Table, column: str, unit: str) -> tuple[str, Markup, str, list[str], list[Any]]:
    rows = [_shares(row, MODELS, digits=1) for row in found]
    caption = f"Recognised test videos by {unit}"
    return title, figures.bands(found, column, unit), caption, [column, "videos", *(f"{m}, %" for m in MODELS)], rows


def _shares(row: Row, columns: Sequence[str], *, digits: int) -> tuple[object, ...]:
    """From where to where a row is, its videos, and shares in hundredths; `digits` are those of its limits."""
    limits = (f"{row[name]:.{digits}f}" for name in ("low", "high"))
    return " to ".join(limits), row["num_videos"], *(_hundredth(row[name]) for name in columns)


def _hundredth(share: float) -> str:
    return f"{100 * share:.1f}"


def count_confusions(videos: Table, names: Sequence[str], model: str) -> NDArray[np.int64]:
    """Videos by true class, in rows, and predicted class."""
    place = {name: index for index, name in enumerate(names)}
    counts_KK = np.zeros((len(names), len(names)), np.int64)
    for video in videos:
        counts_KK[place[video["class_name"]], place[video[f"{model}_predicted"]]] += 1
    return counts_KK


def most_frequent(counts_KK: NDArray[np.int64], names: Sequence[str]) -> list[tuple[str, str, str]]:
    """The most frequent confusions: class, what it was taken for, and how many of how many."""
    wrong_KK = counts_KK - np.diag(np.diag(counts_KK))
    places = sorted(np.argwhere(wrong_KK).tolist(), key=lambda place: (-wrong_KK[place[0], place[1]], place))
    return [
        (names[row], names[column], f"{wrong_KK[row, column]} of {counts_KK[row].sum()}")
        for row, column in places[:NUM_CONFUSIONS]
    ]


def _rows(paths: ReportPaths, results: Results, found: Artifacts, params: Params) -> dict[str, Any]:
    """Rows of the tables that have no figure."""
    metrics = results.metrics
    return {
        "metric_rows": [_metric_row(metrics, name) for name in MODELS],
        "cost_rows": [_cost_row(metrics, found, name, paths.models[name]) for name in MODELS],
        "curve_rows": [_curve_row(results.curves[name], name) for name in MODELS],
        "class_rows": [
            (
                row["class_name"],
                row["num_videos"],
                *(_hundredth(row[name]) for name in MODELS),
                points(row["student"] - row["baseline"]),
            )
            for row in results.tables["per_class"]
        ],
        "split_rows": [
            _split_row(found.manifest, split)
            for split in ALL_SPLITS
            if split != UNLABELLED or found.manifest.rows_of(split)
        ],
        "quarantine": [(row.path, row.split, row.reason) for row in found.quarantine[:MOST_QUARANTINED]],
        "dials": [
            (name, str(getattr(params, name)))
            for name in Params.model_fields
            if not isinstance(getattr(params, name), Section | list)
        ],
    }


def _metric_row(metrics: Metrics, name: str) -> tuple[object, ...]:
    found = metrics.of(name)
    beside: tuple[str, str] = ("", "")
    if name != "teacher":
        agreement, kl = getattr(metrics.agreement_with_teacher, name), getattr(metrics.kl_from_teacher, name)
        beside = (percent(agreement), f"{kl:.3f}")
    return (
        figures.named(name),
        percent(found.top1),
        f"{_hundredth(found.top1_low)} to {_hundredth(found.top1_high)}",
        *map(percent, (found.top5, found.mean_class_top1, found.ece)),
        *beside,
    )


def _cost_row(metrics: Metrics, found: Artifacts, name: str, path: Path) -> tuple[object, ...]:
    facts = found.models[name]
    top1 = percent(metrics.of(name).top1)
    if facts is None:
        return figures.named(name), "not here", "", "", "", top1
    architecture = architecture_of(path, facts.attributes)
    clip, cost = architecture.clip, cost_of(on_meta(architecture))
    return (
        figures.named(name),
        architecture.name,
        f"{clip.num_frames} × {clip.size}²",
        f"{cost.parameters:,}",
        f"{cost.gmac:.3g}",
        top1,
    )


def _curve_row(curve: Curve, name: str) -> tuple[object, ...]:
    best, last = max(curve, key=lambda row: row["val_top1"]), curve[-1]
    shown = percent(best["val_top1"]), best["epoch"] + 1, percent(last["val_top1"]), percent(last["train_top1"])
    return figures.named(name), len(curve), *shown


def _split_row(manifest: Manifest, split: str) -> tuple[object, ...]:
    rows = manifest.rows_of(split)
    counts = (len({row.class_name for row in rows} - {""}), len({row.group for row in rows}))
    return split, len(rows), *counts, f"{sum(row.num_frames for row in rows):,}"


def _pictures(results: Results, found: Artifacts, progress: Progress) -> dict[str, Any]:
    """Videos with their pictures: a few that move, and groups of single ones with a still each."""
    by_id = {video["video_id"]: video for video in results.tables["videos"]}
    names = spread_videos({name: video["mean_luma"] for name, video in by_id.items()}, NUM_MOVING)
    groups = group_videos(results.tables["videos"])
    with progress("report", len(names) + sum(len(videos) for _, videos in groups), "pictures") as advance:

        def still(video: Row) -> tuple[Row, Picture]:
            advance(1, video["video_id"])
            return video, still_pair(found.dark, found.enhanced, video["video_id"])

        def moving(name: str) -> tuple[Row, Picture]:
            advance(1, name)
            return by_id[name], moving_pair(found.dark, found.enhanced, name, found.manifest.by_id[name].fps)

        return {
            "halves": "Dark and enhanced frames side by side" if found.enhanced else "Dark frames",
            "moving": [moving(name) for name in names],
            "groups": [(title, [still(video) for video in videos]) for title, videos in groups],
        }


def _gain(video: Row) -> float:
    gain: float = video["student_p_true"] - video["baseline_p_true"]
    return gain


def _is_wrong(video: Row) -> bool:
    return bool(video["student_predicted"] != video["class_name"])


# Videos shown one by one: a title, which they are, and what the first ones have least of
GROUPS: tuple[tuple[str, Callable[[Row], bool], Callable[[Row], float]], ...] = (
    ("Most won by distillation", lambda video: _gain(video) > 0, lambda video: -_gain(video)),
    ("Most lost by distillation", lambda video: _gain(video) < 0, _gain),
    ("The student's worst", _is_wrong, lambda video: video["student_p_true"]),
)


def group_videos(videos: Table) -> list[tuple[str, Table]]:
    """The first NUM_IN_GROUP videos of each of GROUPS, with its title."""
    return [
        (title, sorted(filter(belongs, videos), key=lambda v: (value(v), v["video_id"]))[:NUM_IN_GROUP])
        for title, belongs, value in GROUPS
    ]
