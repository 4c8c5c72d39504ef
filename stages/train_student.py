"""Train the student on the dark videos and the cached soft targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from pipeline.dataset import Batch, geometry_digest
from pipeline.losses import distillation_loss
from pipeline.params import load_params
from pipeline.soft_targets import SoftTargetStore
from stages._device import DeviceOption
from stages._shell import PARAMS_PATH, ParamsOption
from stages._train import (
    CHECKPOINT_SECONDS,
    CheckpointOption,
    CurveOption,
    FramesOption,
    Inputs,
    ManifestOption,
    OutOption,
    read_inputs,
    train_network,
)


def main(
    *,
    manifest_path: ManifestOption,
    frames_path: FramesOption,
    soft_targets_path: Annotated[Path, typer.Option("--soft-targets", help="The soft-target store.")],
    out: OutOption,
    curve_path: CurveOption,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
    checkpoint_seconds: CheckpointOption = CHECKPOINT_SECONDS,
) -> None:
    """Train the student on the dark videos and the cached soft targets.

    The teacher never runs here. Views come from the store, each with the teacher's logits for exactly that crop.
    """
    params = load_params(params_path)
    inputs = read_inputs(manifest_path, frames_path)
    soft_targets = SoftTargetStore(soft_targets_path)
    _require_fit(soft_targets, inputs, params.clip.model_dump())
    soft_loss, temperature, soft_weight = params.soft_loss, params.temperature, params.soft_weight
    smoothing = params.train_student.label_smoothing

    def loss(logits_BK: Tensor, batch: Batch) -> Tensor:
        assert batch.teacher_BK is not None
        return distillation_loss(
            logits_BK,
            batch.labels_B,
            batch.teacher_BK,
            soft_loss=soft_loss,
            temperature=temperature,
            soft_weight=soft_weight,
            label_smoothing=smoothing,
        )

    train_network(
        "train_student",
        inputs,
        name=params.student,
        clip=params.clip,
        options=params.train_student,
        seed=params.seed,
        source=soft_targets,
        loss=loss,
        learnt_from={"soft_targets": soft_targets.digest, "teacher": soft_targets.attributes["digests"]["teacher"]},
        values={"soft_loss": soft_loss, "temperature": temperature, "soft_weight": soft_weight},
        device_name=device,
        checkpoint_seconds=checkpoint_seconds,
        out=out,
        curve_path=curve_path,
    )


def _require_fit(soft_targets: SoftTargetStore, inputs: Inputs, clip: dict[str, int]) -> None:
    """Refuse a store of another class list, manifest, geometry or set of videos, before the first step."""
    video_ids = [sample.video_id for sample in inputs.train]
    soft_targets.require(
        {
            "class_names": list(inputs.manifest.class_names),
            "manifest": inputs.manifest.digest,
            "clip": clip,
            "geometry": geometry_digest(inputs.frames, video_ids),
        },
        remedy="`dvc repro precompute_soft_targets` makes a store for this run",
    )
    soft_targets.require_videos(video_ids)
