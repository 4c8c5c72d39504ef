"""Train the teacher on the enhanced videos."""

from __future__ import annotations

from pipeline.core.params import load_params
from pipeline.data.dataset import DrawnViews
from stages._shell import PARAMS_PATH, DeviceOption, ParamsOption
from stages._train import (
    CHECKPOINT_SECONDS,
    CheckpointOption,
    CurveOption,
    FramesOption,
    ManifestOption,
    OutOption,
    TensorboardOption,
    label_loss,
    read_inputs,
    train_network,
)


def main(
    *,
    manifest_path: ManifestOption,
    frames_path: FramesOption,
    out: OutOption,
    curve_path: CurveOption,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
    checkpoint_seconds: CheckpointOption = CHECKPOINT_SECONDS,
    tensorboard: TensorboardOption = None,
) -> None:
    """Train the teacher on the enhanced videos.

    Its views are drawn from streams of its own, so that the bank of views it is later asked about is new to it.
    """
    params = load_params(params_path)
    inputs = read_inputs(manifest_path, frames_path)
    views = DrawnViews(inputs.frames, params.clip, params.views, params.seed, purpose="teacher")
    train_network(
        "train_teacher",
        inputs,
        name=params.teacher,
        clip=params.clip,
        options=params.train_teacher,
        seed=params.seed,
        source=lambda _work: views,
        loss=label_loss(inputs, params.train_teacher),
        input_digests={},
        values={"views": params.views.model_dump()},
        device_name=device,
        checkpoint_seconds=checkpoint_seconds,
        out=out,
        curve_path=curve_path,
        tensorboard=tensorboard,
    )
