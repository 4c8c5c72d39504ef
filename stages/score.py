"""Score teacher, student and baseline on the test videos.

Each command writes the mean of the probabilities over several views of each video.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.core.files import require_writable
from pipeline.core.params import load_params
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest
from pipeline.evaluate.score.predictions import write_predictions
from pipeline.evaluate.score.scoring import load_model_for, score_split
from stages._shell import (
    PARAMS_PATH,
    DeviceOption,
    ManifestOption,
    ModelOption,
    ParamsOption,
    PredictionsOutOption,
    ScoreFramesOption,
    progress,
    say,
)


def score_teacher(
    *,
    manifest_path: ManifestOption,
    frames_path: ScoreFramesOption,
    model_path: ModelOption,
    out: PredictionsOutOption,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
) -> None:
    """Score the teacher on the enhanced test videos.

    Writes the mean of the probabilities over several views of each video.
    """
    _score(manifest_path, frames_path, model_path, out, params_path, device)


def score_student(
    *,
    manifest_path: ManifestOption,
    frames_path: ScoreFramesOption,
    model_path: ModelOption,
    out: PredictionsOutOption,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
) -> None:
    """Score the student on the dark test videos.

    Writes the mean of the probabilities over several views of each video.
    """
    _score(manifest_path, frames_path, model_path, out, params_path, device)


def score_baseline(
    *,
    manifest_path: ManifestOption,
    frames_path: ScoreFramesOption,
    model_path: ModelOption,
    out: PredictionsOutOption,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
) -> None:
    """Score the baseline on the dark test videos.

    Writes the mean of the probabilities over several views of each video.
    """
    _score(manifest_path, frames_path, model_path, out, params_path, device)


def _score(manifest_path: Path, frames_path: Path, model_path: Path, out: Path, params_path: Path, device: str) -> None:
    require_writable(out)
    params = load_params(params_path)
    manifest, frames = read_manifest(manifest_path), FrameStore(frames_path)
    options, model = params.score, load_model_for(manifest, model_path)
    found = score_split(
        model, manifest, frames, split="test", options=options, device_name=device, stage="score", progress=progress
    )
    write_predictions(out, found)
    views = f"{options.num_clips} × {options.num_crops} views (clips × crops)"
    say(f"score: {len(found.video_ids)} test videos, {views} each -> {out}")
