"""The trainings on hard labels alone: the teachers' on the enhanced videos, the baseline's on the dark ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.errors import ParamsError
from pipeline.core.files import write_text_whole
from pipeline.core.params import ClipParams, ViewsParams, load_params
from pipeline.core.weights import whole_digest
from pipeline.data.dataset import BANK, DrawnViews
from pipeline.data.views import draw_partners
from pipeline.train.run import Inputs, Run, label_training, read_inputs, train_network
from stages._shell import (
    CHECKPOINT_SECONDS,
    PARAMS_PATH,
    RANK,
    CheckpointOption,
    CurveOption,
    DeviceOption,
    LiveOption,
    ManifestOption,
    ModelOutOption,
    ParamsOption,
    TensorboardOption,
    TrainFramesOption,
    progress,
    say,
)


def train_teacher(
    *,
    manifest_path: ManifestOption,
    frames_path: TrainFramesOption,
    out: ModelOutOption,
    curve_path: CurveOption,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
    checkpoint_seconds: CheckpointOption = CHECKPOINT_SECONDS,
    tensorboard: TensorboardOption = None,
    live: LiveOption = None,
) -> None:
    """Train the teacher on the enhanced videos.

    Its views come from random streams of their own, so that the bank of views for its soft targets is new to it.
    """
    params = load_params(params_path)
    clip = params.teacher_clip or params.clip
    inputs = read_inputs(manifest_path, frames_path)
    views = _views(inputs, clip, params.views, params.seed, "teacher")
    run = Run(device, checkpoint_seconds, out, curve_path, tensorboard, progress, say, live)
    train_network(label_training("train_teacher", params.teacher, inputs, views, params.train_teacher, run))


def train_more_teacher(
    *,
    name: Annotated[str, typer.Option(help="Its name in more_teachers.")],
    manifest_path: ManifestOption,
    frames_path: TrainFramesOption,
    out: ModelOutOption,
    curve_path: CurveOption,
    record_path: Annotated[
        Path, typer.Option("--record", help="The file to write that names the model and its frames by their digests.")
    ],
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
    checkpoint_seconds: CheckpointOption = CHECKPOINT_SECONDS,
    tensorboard: TensorboardOption = None,
    live: LiveOption = None,
) -> None:
    """Train a further teacher, on the videos in a light of its own.

    It has the network and the seed that more_teachers names, and train_teacher's parameters but for its `training`.
    """
    params = load_params(params_path)
    if name not in params.more_teachers:
        raise ParamsError(
            f"--name {name}: more_teachers has no such teacher",
            findings=[f"{params_path}: it has {', '.join(params.more_teachers) or 'none'}"],
        )
    chosen = params.more_teachers[name]
    clip, options = chosen.clip or params.clip, chosen.training_params(params.train_teacher)
    inputs = read_inputs(manifest_path, frames_path)
    views = _views(inputs, clip, params.views, chosen.seed, "teacher")
    run = Run(device, checkpoint_seconds, out, curve_path, tensorboard, progress, say, live)
    train_network(label_training("train_more_teacher", chosen.network, inputs, views, options, run))
    if RANK == 0:
        record = {"model": whole_digest(out), "frames": inputs.frames.digest}
        write_text_whole(record_path, json.dumps(record, indent=1) + "\n")


def train_baseline(
    *,
    manifest_path: ManifestOption,
    frames_path: TrainFramesOption,
    out: ModelOutOption,
    curve_path: CurveOption,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
    checkpoint_seconds: CheckpointOption = CHECKPOINT_SECONDS,
    tensorboard: TensorboardOption = None,
    live: LiveOption = None,
) -> None:
    """Train the baseline: the student's network on the dark videos alone.

    It has the student's network, parameters and views, in the same order; only the soft targets are missing. Where the
    student also learns from footage, it makes as many steps: by further passes over its videos, each with views of its
    own.
    """
    params = load_params(params_path)
    inputs = read_inputs(manifest_path, frames_path)
    bank = params.views.enough_for(len(inputs.taught), len(inputs.train))
    views = _views(inputs, params.clip, bank, params.seed, BANK)
    run = Run(device, checkpoint_seconds, out, curve_path, tensorboard, progress, say, live)
    options, clips = params.train_student, len(inputs.taught)
    train_network(label_training("train_baseline", params.student, inputs, views, options, run, num_clips=clips))


def _views(inputs: Inputs, clip: ClipParams, views: ViewsParams, seed: int, purpose: str) -> DrawnViews:
    """Views of the videos that have a label; those that are blends show two of them."""
    partners = draw_partners([[sample.video_id for sample in inputs.train]], views, seed=seed, purpose=purpose)
    return DrawnViews(inputs.frames, clip, views, seed, purpose, partners)
