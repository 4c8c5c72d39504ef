"""What the three training stages share: everything but where views and loss come from."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from pipeline.dataset import Batch, Sample, ViewSource, pixel_statistics, samples_of
from pipeline.frames import FrameStore
from pipeline.losses import hard_loss
from pipeline.manifest import Manifest, read_manifest
from pipeline.models import MODEL_FORMAT_VERSION, Architecture, Recognizer, check_geometry, save_model
from pipeline.params import ClipParams, ModelName, TrainParams, stage_values
from pipeline.pretrained import PUBLISHED_STATISTICS, Fit, Pretrained, fit, load_into, read_pretrained
from pipeline.training import Curve, LossFunction, Trainer, TrainingData
from pipeline.work import interruptible, publish, work_folder, written_whole
from stages._device import choose_device
from stages._shell import progress, say

ManifestOption = Annotated[Path, typer.Option("--manifest", help="The manifest that `prepare` wrote.")]
FramesOption = Annotated[Path, typer.Option("--frames", help="The frame store to learn from.")]
OutOption = Annotated[Path, typer.Option("--out", help="The model file to write.")]
CheckpointOption = Annotated[
    float, typer.Option("--checkpoint-seconds", min=0, help="Time between two checkpoints; 0: after every step.")
]
CHECKPOINT_SECONDS = 20.0
CurveOption = Annotated[Path, typer.Option("--curve", help="The table of epochs to write, for `dvc plots`.")]


@dataclass(frozen=True)
class Inputs:
    """What every training reads, checked against each other."""

    manifest: Manifest
    frames: FrameStore
    train: list[Sample]
    val: list[Sample]


def read_inputs(manifest_path: Path, frames_path: Path) -> Inputs:
    """Read manifest and frames; raises StaleArtifactError where the store lacks videos of train or val."""
    manifest, frames = read_manifest(manifest_path), FrameStore(frames_path)
    return Inputs(manifest, frames, samples_of(manifest, frames, "train"), samples_of(manifest, frames, "val"))


def label_loss(label_smoothing: float) -> LossFunction:
    """The loss of a network that learns from hard labels alone: the teacher's and the baseline's."""

    def loss(logits_BK: Tensor, batch: Batch, epoch: float) -> Tensor:
        return hard_loss(logits_BK, batch.labels_B, label_smoothing=label_smoothing)

    return loss


def train_network(
    stage: str,
    inputs: Inputs,
    *,
    name: ModelName,
    clip: ClipParams,
    options: TrainParams,
    seed: int,
    source: Callable[[Path], ViewSource],
    loss: LossFunction,
    learnt_from: dict[str, str],
    values: dict[str, object],
    device_name: str,
    checkpoint_seconds: float,
    out: Path,
    curve_path: Path,
    teacher_frames: FrameStore | None = None,
) -> None:
    """Train in the stage's work folder and publish the model and its curve.

    `source` is given the work folder, for what it may have to keep there. `learnt_from` are digests of what this
    network saw beyond manifest and frames; `values` parameters that only this stage uses. Both are part of the
    fingerprint, and the model file keeps the digests. With `teacher_frames` the loss gets their clips as well.
    """
    device = choose_device(device_name)
    class_names, num_train = inputs.manifest.class_names, len(inputs.train)
    architecture = Architecture(name, len(class_names), clip, options.width, options.dropout, options.drop_path)
    smallest_batch = num_train // -(-num_train // options.batch_size)
    check_geometry(architecture, smallest_batch=smallest_batch, frozen_stages=options.frozen_stages)
    start = _read_start(architecture, options, class_names)
    digests = {"manifest": inputs.manifest.digest, "frames": inputs.frames.digest, **learnt_from, **start.digests}
    fingerprint = {**stage_values(clip, options, seed=seed, network=name), **values, "device": device.type}
    with (
        work_folder(stage, params=fingerprint, inputs=digests, format_version=MODEL_FORMAT_VERSION) as work,
        interruptible() as stop,
    ):
        data = TrainingData(inputs.frames, inputs.train, inputs.val, source(work.path), teacher_frames)
        recognizer = _new_recognizer(architecture, inputs, options, start, seed)
        trainer = Trainer(
            recognizer,
            data,
            options,
            loss,
            seed=seed,
            device=device,
            checkpoint_path=work.path / "checkpoint.pt",
            checkpoint_seconds=checkpoint_seconds,
        )
        with progress(stage, options.epochs * trainer.plan.steps_per_epoch, "steps") as advance:
            trained = trainer.run(stop=stop, advance=advance)
        built_model, built_curve = work.path / "model.safetensors", work.path / "curve.csv"
        trained_on = {"stage": stage, "seed": seed, "best_epoch": trained.best_epoch, "digests": digests}
        trained_on |= start.named
        save_model(built_model, trained.recognizer, class_names=class_names, trained_on=trained_on)
        _write_curve(built_curve, trained.curve)
        publish(built_curve, curve_path)
        publish(built_model, out)
        work.finish()
    best = trained.curve[trained.best_epoch]
    say(
        f"{stage}: {name}, {trained.recognizer.num_parameters:,} parameters; best epoch {trained.best_epoch} "
        f"with val top-1 {best['val_top1']:.1%}; waited for clips {trained.data_wait:.1%} of the time -> {out}"
    )


@dataclass(frozen=True)
class Start:
    """What a network starts from: pretrained weights with how they fit it, or nothing."""

    pretrained: Pretrained | None
    fit: Fit | None

    @property
    def digests(self) -> dict[str, str]:
        """By which the weights are named among what the network learnt from."""
        return {} if self.pretrained is None else {"weights": self.pretrained.digest}

    @property
    def named(self) -> dict[str, str]:
        """The name of the weights' file, for the model file."""
        return {} if self.pretrained is None else {"weights": self.pretrained.name}


def _read_start(architecture: Architecture, options: TrainParams, class_names: Sequence[str]) -> Start:
    """Read pretrained weights and compare them with the network, before any work starts; say what becomes of them."""
    if options.weights is None:
        return Start(None, None)
    pretrained = read_pretrained(options.weights, architecture.name)
    found = fit(pretrained, architecture, class_names=class_names)
    say(found.summary(pretrained, architecture.num_classes))
    return Start(pretrained, found)


def _new_recognizer(
    architecture: Architecture, inputs: Inputs, options: TrainParams, start: Start, seed: int
) -> Recognizer:
    """A network as its training begins; weights that are not pretrained depend on the seed alone."""
    statistics = PUBLISHED_STATISTICS.get(options.input_statistics)
    mean_C, std_C = statistics or pixel_statistics(inputs.frames, inputs.train, architecture.clip)
    torch.manual_seed(seed)
    recognizer = Recognizer(architecture, mean_C=mean_C, std_C=std_C)
    if start.pretrained is not None and start.fit is not None:
        load_into(recognizer.network, start.pretrained, start.fit)
    recognizer.freeze(options.frozen_stages)
    return recognizer


def _write_curve(path: Path, curve: Curve) -> None:
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(curve[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in curve)
