"""Train a teacher for each fold of train's groups, on the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.device import choose_device, process_group
from pipeline.core.digest import digest_file
from pipeline.core.files import make_folder, publish
from pipeline.core.params import load_params, stage_values
from pipeline.core.progress import interruptible
from pipeline.core.weights import whole_digest
from pipeline.data.dataset import DrawnViews
from pipeline.models.folds import LEFT_OUT, assign_folds, fold_path, left_out_digest, write_folds
from pipeline.train.run import Run, Training, label_training, read_inputs, shared_work_folder, train_network
from stages._shell import (
    CHECKPOINT_SECONDS,
    PARAMS_PATH,
    CheckpointOption,
    DeviceOption,
    LiveOption,
    ManifestOption,
    ParamsOption,
    TensorboardOption,
    TrainFramesOption,
    progress,
    say,
)

STAGE = "train_teacher_folds"


def main(
    *,
    manifest_path: ManifestOption,
    frames_path: TrainFramesOption,
    out: Annotated[Path, typer.Option(help="The folder to write: a model and a curve for each fold, and folds.json.")],
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
    checkpoint_seconds: CheckpointOption = CHECKPOINT_SECONDS,
    tensorboard: TensorboardOption = None,
    live: LiveOption = None,
) -> None:
    """Train a teacher for each fold of train's groups, on the others.

    Their soft targets are those of videos that a teacher has not seen. Each has the teacher's network, parameters and
    number of steps, by further passes over its videos. Without `teacher_folds` nothing is trained.
    """
    params = load_params(params_path)
    options, policy, seed = params.train_teacher, params.views, params.seed
    clip, num_folds = params.teacher_clip or params.clip, params.teacher_folds or 0
    inputs = read_inputs(manifest_path, frames_path)
    videos = [(row.group, row.class_name) for row in inputs.manifest.rows_of("train")]
    groups = assign_folds(videos, num_folds, seed=seed) if num_folds else {}
    views = DrawnViews(inputs.frames, clip, policy, seed, purpose="teacher")
    run = Run(device, checkpoint_seconds, out, out, tensorboard, progress, say, live)
    teacher = label_training(STAGE, params.teacher, inputs, views, options, run)
    with process_group() as ranks, interruptible() as stop:
        values = stage_values(clip, policy, options, seed=seed, network=params.teacher, num_folds=num_folds)
        values |= {"device": choose_device(device).type, "weights": _digest_of(options.weights)}
        digests = {"manifest": inputs.manifest.digest, "frames": inputs.frames.digest}
        shared = shared_work_folder(STAGE, params=values, inputs=digests, outs=(out,), ranks=ranks, stop=stop)
        with shared as (folder, work):
            built = folder / "folds"  # until all are there
            if work is not None:
                make_folder(built)
            for fold in range(num_folds):
                stop()
                if not ranks.broadcast(fold_path(built, fold).exists(), stop=stop):  # else an earlier run trained it
                    train_network(_of_fold(teacher, views, fold, groups, built))
            if work is not None:
                write_folds(built, groups, [whole_digest(fold_path(built, fold)) for fold in range(num_folds)])
                publish(built, out)
                work.finish()
    say(f"{STAGE}: {f'{num_folds} folds of {len(groups)} groups' if groups else 'no folds'} -> {out}")


def _of_fold(teacher: Training, views: DrawnViews, fold: int, groups: Mapping[str, int], folder: Path) -> Training:
    """The training of a fold's teacher: on the videos of the other folds, for as many steps as the teacher's."""
    rows = teacher.inputs.manifest.by_id
    others = [sample for sample in teacher.samples if groups[rows[sample.video_id].group] != fold]
    say(f"{STAGE}: fold {fold}: trained on {len(others)} of {teacher.num_clips} videos, without the others' groups")
    inputs = replace(teacher.inputs, train=others)  # class weights and pixel statistics are of these, too
    views = replace(views, views=views.views.enough_for(teacher.num_clips, len(others)))
    path, tensorboard = fold_path(folder, fold), teacher.run.tensorboard
    run = replace(
        teacher.run,
        out=path,
        curve_path=path.with_suffix(".csv"),
        tensorboard=None if tensorboard is None else tensorboard / path.stem,
    )
    training = label_training(STAGE, teacher.network, inputs, views, teacher.options, run, num_clips=teacher.num_clips)
    return replace(training, input_digests={LEFT_OUT: left_out_digest(groups, fold)})


def _digest_of(weights: str | None) -> str | None:
    """What names the pretrained weights: a file by its content."""
    return digest_file(Path(weights)) if weights and Path(weights).is_file() else weights
