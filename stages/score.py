"""Score a model on the test videos: the teacher on the enhanced ones, student and baseline on the dark ones."""

from __future__ import annotations

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


def main(
    *,
    manifest_path: ManifestOption,
    frames_path: ScoreFramesOption,
    model_path: ModelOption,
    out: PredictionsOutOption,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
) -> None:
    """Score a model on the test videos: the teacher on the enhanced ones, student and baseline on the dark ones.

    Writes the mean of the probabilities over several views of each video.
    """
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
