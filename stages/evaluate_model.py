"""Evaluate one model file alone, wherever it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline.core.files import require_writable
from pipeline.core.params import load_params
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import Manifest, read_manifest
from pipeline.evaluate.compare import describe
from pipeline.evaluate.light import video_luma
from pipeline.evaluate.metrics_file import Protocol
from pipeline.evaluate.score.predictions import DIGITS, write_predictions
from pipeline.evaluate.score.scoring import load_model_for, score_split
from pipeline.evaluate.tables import make_tables, rounded
from pipeline.models.recognizer import ModelFile
from stages._model_file import ModelFileOption
from stages._shell import (
    PARAMS_PATH,
    DeviceOption,
    JsonOption,
    ManifestOption,
    ParamsOption,
    ScoreFramesOption,
    print_json,
    print_line,
    print_table,
    progress,
    say,
)


def main(
    *,
    model_path: ModelFileOption,
    frames_path: ScoreFramesOption,
    manifest_path: ManifestOption,
    split: Annotated[Literal["test", "val"], typer.Option(help="Whose videos: those that no model is trained on.")],
    out: Annotated[Path | None, typer.Option(help="A table to write: the probabilities of every video.")] = None,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Evaluate one model file alone, wherever it comes from: what `evaluate` prints of a single model.

    Views and resamplings are those of the parameters' sections score and evaluate; light is measured on these frames.

    Example: dlkdd evaluate-model --model FILE --frames data/dark --manifest data/manifest.csv --split test
    """
    if out is not None:
        require_writable(out)
    params = load_params(params_path)
    manifest, frames = read_manifest(manifest_path), FrameStore(frames_path)
    model = load_model_for(manifest, model_path)
    notes = _notes(model, manifest, frames, split)
    for note in notes:
        say(f"evaluate_model: {model_path}: {note}")
    found = score_split(
        model,
        manifest,
        frames,
        split=split,
        options=params.score,
        device_name=device,
        stage="evaluate_model",
        progress=progress,
    )
    found = replace(found, probs_NK=found.probs_NK.round(DIGITS))  # as a file keeps them: the numbers are evaluate's
    if out is not None:
        write_predictions(out, found)
    rows = manifest.rows_of(split)
    tables = make_tables({"model": found}, rows, video_luma(frames, found.video_ids, progress=progress))
    score = params.score
    protocol = Protocol(split=split, num_clips=score.num_clips, num_crops=score.num_crops, manifest=manifest.digest)
    result = {
        "model": {
            "digest": model.digest,
            "architecture": model.recognizer.architecture.name,
            "trained_on": model.trained_on,
        },
        "metrics": describe(found, num_bootstraps=params.evaluate.num_bootstraps, seed=params.seed).model_dump(),
        "num_videos": len(rows),
        "protocol": protocol.model_dump(),
        "notes": notes,
        "tables": {name: [rounded(row) for row in table] for name, table in tables.items()},
    }
    if as_json:
        print_json(result)
    else:
        _print(result)


def _notes(model: ModelFile, manifest: Manifest, frames: FrameStore, split: str) -> list[str]:
    """What a reader of the numbers must know about the model's origin."""
    notes, input_digests = [], model.trained_on.get("digests", {})
    unnamed = "which its file does not name"
    if input_digests.get("manifest") != manifest.digest:
        notes.append(
            f"trained on another manifest, {input_digests.get('manifest', unnamed)}: "
            f"it may have been trained on videos of {split}"
        )
    elif split == "val":
        notes.append("val chose the epoch of these weights: its numbers are optimistic")
    if input_digests.get("frames") != frames.digest:
        notes.append(f"trained on other frames, {input_digests.get('frames', unnamed)}, than these, {frames.digest}")
    return notes


def _print(result: dict[str, Any]) -> None:
    metrics, protocol, tables = result["metrics"], result["protocol"], result["tables"]
    print_line(
        f"{result['model']['architecture']}, {result['num_videos']} {protocol['split']} videos, "
        f"{protocol['num_clips']} × {protocol['num_crops']} views (clips × crops)"
    )
    print_line(
        f"top-1 {metrics['top1']:.1%} ({100 * metrics['top1_low']:.1f} to {metrics['top1_high']:.1%} over the videos), "
        f"top-5 {metrics['top5']:.1%}, mean per class {metrics['mean_class_top1']:.1%}, ECE {metrics['ece']:.3f}"
    )
    for title, named in (
        ("class", [(row["class_name"], row) for row in tables["per_class"]]),
        ("mean luma", [(_bounds(row, ".1f"), row) for row in tables["by_light"]]),
        ("frames", [(_bounds(row, "d"), row) for row in tables["by_length"]]),
    ):
        rows = [(name, str(row["num_videos"]), f"{row['model']:.1%}") for name, row in named]
        print_table((title, "videos", "recognised"), rows)


def _bounds(row: dict[str, Any], form: str) -> str:
    low, high = format(row["low"], form), format(row["high"], form)
    return low if low == high else f"{low} to {high}"
