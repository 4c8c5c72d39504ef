"""A finished run of three tiny models, as the stages leave it, for the report: all that it reads, and nothing else."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
from builders import manifest_row, noise_video, tiny_recognizer, write_frames
from paths import ROOT
from target_stores import store_attributes, teacher_attributes, write

from pipeline.core.digest import digest_file, digest_uint64
from pipeline.data.manifest import QuarantineRow, write_manifest, write_quarantine
from pipeline.distill.store.codecs import codec_of
from pipeline.distill.store.rows import Rows, row_layout
from pipeline.enhance.classical import Gamma
from pipeline.enhance.file import save_enhancer
from pipeline.evaluate.metrics_file import MODELS
from pipeline.models.recognizer import save_model
from pipeline.report.inputs import ReportPaths

SHAPE_THW = (8, 20, 24)
GAIN = {"top1": 0.25, "top1_low": 0.05, "top1_high": 0.45, "mcnemar_p": 0.03}


def paths_in(folder):
    """Where everything of a run in this folder is."""
    return ReportPaths(
        params=folder / "params.yaml",
        manifest=folder / "data/manifest.csv",
        quarantine=folder / "data/quarantine.csv",
        dark=folder / "data/dark",
        enhanced=folder / "data/enhanced",
        soft_targets=folder / "data/soft_targets.zarr",
        models={name: folder / f"models/{name}.safetensors" for name in ("enhancer", *MODELS)},
        curves={name: folder / f"results/curves/{name}.csv" for name in MODELS},
        evaluation=folder / "results/evaluation.json",
        tables=folder / "results/tables",
        studies=(folder / "results/study/study.json", folder / "demo/study.json"),
    )


def make_run(folder, *, class_names=("drink", "jump", "wave"), quarantined=(), names=None, more_teachers=()):
    """Write a run: four test videos and two of train of each class; `names` gives a video's id by class and number.

    `more_teachers` are what the store names of further teachers.
    """
    names = names or (lambda label, split, number: f"{label}/{split}_{number}")
    paths = paths_in(folder)
    for path in (paths.manifest, paths.models["student"], paths.curves["student"], paths.tables / "x"):
        path.parent.mkdir(parents=True, exist_ok=True)
    paths.params.write_text((ROOT / "params.yaml").read_text())
    rows = [
        replace(
            manifest_row(names(label, split, number), label, split, SHAPE_THW, class_name=class_name),
            group=f"{label}_{split}",
        )
        for label, class_name in enumerate(class_names)
        for split, count in (("train", 2), ("val", 1), ("test", 4))
        for number in range(count)
    ]
    manifest = write_manifest(paths.manifest, rows)
    write_quarantine(paths.quarantine, [QuarantineRow(f"q{n}", f"q{n}.mp4", "train", why) for n, why in quarantined])
    dark_THWC = {row.video_id: noise_video(row.video_id, SHAPE_THW, high=60) for row in rows}
    dark = write_frames(paths.dark, dark_THWC, origin={"videos": "0" * 32})
    save_enhancer(paths.models["enhancer"], Gamma(2.0), fitted_on={})
    origin = {"dark": dark.digest, "enhancer": digest_file(paths.models["enhancer"])}
    enhanced = write_frames(paths.enhanced, {name: 4 * video for name, video in dark_THWC.items()}, origin=origin)
    digests = {"manifest": manifest.digest, "frames": enhanced.digest}
    _write_model(paths, manifest, "teacher", digests)
    digests["soft_targets"] = _write_store(paths, manifest, digests, more_teachers)
    digests["frames"] = dark.digest
    _write_model(paths, manifest, "student", digests)
    _write_model(paths, manifest, "baseline", {name: digests[name] for name in ("manifest", "frames")})
    _write_results(paths, manifest)
    return paths


def _write_model(paths, manifest, name, digests):
    recognizer = tiny_recognizer(num_classes=len(manifest.class_names), seed=len(name))
    trained_on = {"digests": dict(digests), "best_epoch": 1}
    save_model(paths.models[name], recognizer, class_names=manifest.class_names, trained_on=trained_on)


def _write_store(paths, manifest, digests, more_teachers):
    codec = codec_of({"name": "float16"}, len(manifest.class_names))
    ids = tuple(row.video_id for row in manifest.rows_of("train"))
    layout = row_layout(codec, 1, 1 + len(more_teachers))
    rows = Rows(ids, {name: np.zeros((len(ids), *array.inner), array.dtype) for name, array in layout.items()})
    of_teacher = {"frames": digests["frames"], "top1_on_views": 0.75}
    teacher = teacher_attributes("r2plus1d_slim", digest_file(paths.models["teacher"]), **of_teacher)
    attributes = store_attributes(
        manifest.class_names,
        num_views=1,
        digests={"manifest": digests["manifest"]},
        teachers=[teacher, *more_teachers],
    )
    return write(paths.soft_targets, rows, codec, attributes)


def metrics_values(*, gain=GAIN, manifest="0" * 32, **changes):
    """evaluation.json as `evaluate` writes it, without a digest."""
    single = {"top1": 0.5, "top1_low": 0.25, "top1_high": 0.75, "top5": 1.0, "mean_class_top1": 0.5, "ece": 0.125}
    return {
        **dict.fromkeys(MODELS, single),
        "student_minus_baseline": gain,
        "agreement_with_teacher": {"student": 0.75, "baseline": 0.5},
        "kl_from_teacher": {"student": 0.2, "baseline": 0.4},
        "num_test_videos": 12,
        "protocol": {"split": "test", "num_clips": 3, "num_crops": 1, "manifest": manifest},
        **changes,
    }


def write_csv(path, rows):
    """A table of dicts."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_results(paths, manifest):
    paths.evaluation.write_text(json.dumps(metrics_values(manifest=manifest.digest)))
    for name, path in paths.curves.items():
        course = [(0, 0.1, 1.5, 0.25, 1.25, 0.5), (1, 0.1, 1.0, 0.5, "nan" if name == "teacher" else 1.0, 0.75)]
        columns = ("epoch", "learning_rate", "train_loss", "train_top1", "val_loss", "val_top1")
        write_csv(path, [dict(zip(columns, values, strict=True)) for values in course])
    shares = {"teacher": 0.75, "student": 0.5, "baseline": 0.25}
    tables = paths.tables
    write_csv(
        tables / "per_class.csv", [{"class_name": name, "num_videos": 4, **shares} for name in manifest.class_names]
    )
    bands = [{"low": 5 * n, "high": 5 * n + 4, "num_videos": 3, **shares} for n in range(4)]
    write_csv(tables / "by_light.csv", [{**band, "low": band["low"] + 0.5} for band in bands])
    write_csv(tables / "by_length.csv", bands)
    write_csv(
        tables / "reliability.csv",
        [
            {"model": name, "low": low, "high": low + 0.25, "num_videos": 6, "confidence": low + 0.125, "accuracy": low}
            for name in MODELS
            for low in (0.25, 0.5)
        ],
    )
    write_csv(tables / "videos.csv", [_video(row, manifest) for row in manifest.rows_of("test")])


def _video(row, manifest):
    rng = np.random.default_rng(digest_uint64(row.video_id.encode()))
    scored = {}
    for name in MODELS:
        scored[f"{name}_predicted"] = manifest.class_names[rng.integers(len(manifest.class_names))]
        scored[f"{name}_p_true"] = round(float(rng.random()), 6)
    luma = round(float(rng.uniform(1, 40)), 6)
    return {"video_id": row.video_id, "class_name": row.class_name, "mean_luma": luma, "num_frames": 8, **scored}
