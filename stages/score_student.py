"""Score the student on the dark test videos."""

from __future__ import annotations

from pipeline.core.params import load_params
from stages._score import FramesOption, ManifestOption, ModelOption, OutOption, score_model
from stages._shell import PARAMS_PATH, DeviceOption, ParamsOption


def main(
    *,
    manifest_path: ManifestOption,
    frames_path: FramesOption,
    model_path: ModelOption,
    out: OutOption,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
) -> None:
    """Score the student on the dark test videos: the mean probabilities of several views of each."""
    params = load_params(params_path)
    score_model(
        "score_student",
        manifest_path=manifest_path,
        frames_path=frames_path,
        model_path=model_path,
        out=out,
        options=params.score,
        device_name=device,
    )
