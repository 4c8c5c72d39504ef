"""What the three training stages share: everything but where views and loss come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from pipeline.core.device import Ranks, choose_device, process_group
from pipeline.core.errors import DataError
from pipeline.core.files import publish
from pipeline.core.params import ClipParams, ModelName, TrainParams, stage_values
from pipeline.core.progress import StopCheck, interruptible, no_progress
from pipeline.core.tables import write_curve
from pipeline.core.work_folder import WorkFolder, work_folder
from pipeline.data.dataset import Batch, EpochPlan, Sample, ViewSource, pixel_statistics, samples_of
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import Manifest, read_manifest
from pipeline.models.pretrained import PUBLISHED_STATISTICS, Fit, Pretrained, fit, load_into, read_pretrained
from pipeline.models.recognizer import MODEL_FORMAT_VERSION, Architecture, Recognizer, check_geometry, save_model
from pipeline.train.execution import autocast_dtype, check_shares
from pipeline.train.losses import hard_loss
from pipeline.train.optimization import class_weights
from pipeline.train.trainer import Epoch, Listener, LossFunction, Trained, Trainer, TrainingData
from stages._shell import progress, say
from stages._tensorboard import EpochWriter, tensorboard_writer

ManifestOption = Annotated[Path, typer.Option("--manifest", help="The manifest that `prepare` wrote.")]
FramesOption = Annotated[Path, typer.Option("--frames", help="The frame store to learn from.")]
OutOption = Annotated[Path, typer.Option("--out", help="The model file to write.")]
CheckpointOption = Annotated[
    float, typer.Option("--checkpoint-seconds", min=0, help="Time between two checkpoints; 0: after every step.")
]
CHECKPOINT_SECONDS = 20.0
CurveOption = Annotated[Path, typer.Option("--curve", help="The table of epochs to write, for `dvc plots`.")]
TensorboardOption = Annotated[
    Path | None, typer.Option("--tensorboard", help="A folder for TensorBoard: every epoch is written as it ends.")
]


@dataclass(frozen=True)
class Inputs:
    """What every training reads, checked against each other."""

    manifest: Manifest
    frames: FrameStore
    train: list[Sample]
    val: list[Sample]


def read_inputs(manifest_path: Path, frames_path: Path) -> Inputs:
    """Read manifest and frames.

    Raises DataError where there is but one class, StaleArtifactError where the store lacks videos of train or val.
    """
    manifest, frames = read_manifest(manifest_path), FrameStore(frames_path)
    if len(manifest.class_names) == 1:
        raise DataError(
            f"{manifest_path}: all videos are of one class, {manifest.class_names[0]}: there is nothing to tell apart",
            remedy="list videos of two classes or more, then `dvc repro prepare`",
        )
    return Inputs(manifest, frames, samples_of(manifest, frames, "train"), samples_of(manifest, frames, "val"))


def label_loss(inputs: Inputs, options: TrainParams) -> LossFunction:
    """The loss of a network that learns from hard labels alone: the teacher's and the baseline's."""
    weights_K = weights_of(inputs, options)

    def loss(logits_BK: Tensor, batch: Batch, epoch: float) -> Tensor:
        return hard_loss(logits_BK, batch.labels_B, label_smoothing=options.label_smoothing, weights_K=weights_K)

    return loss


def weights_of(inputs: Inputs, options: TrainParams) -> Tensor | None:
    """Weights_K of the classes in the loss on hard labels, or None where all weigh the same."""
    if options.class_weights == "none":
        return None
    return class_weights([sample.label for sample in inputs.train], len(inputs.manifest.class_names))


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
    input_digests: dict[str, str],
    values: dict[str, object],
    device_name: str,
    checkpoint_seconds: float,
    out: Path,
    curve_path: Path,
    tensorboard: Path | None,
    teacher_frames: FrameStore | None = None,
) -> None:
    """Train in the stage's work folder and publish the model and its curve; under torchrun all ranks train one network.

    `source` is given the work folder, for what it may have to keep there. `input_digests` are digests of what this
    network saw beyond manifest and frames; `values` parameters that only this stage uses. Both are part of the
    fingerprint, and the model file keeps the digests. With `teacher_frames` the loss gets their clips as well.
    """
    with process_group() as ranks, interruptible() as stop:
        device = choose_device(device_name)
        class_names = inputs.manifest.class_names
        architecture = Architecture(name, len(class_names), clip, options.width, options.dropout, options.drop_path)
        _check_execution(architecture, options, len(inputs.train), ranks, device)
        start = _read_start(architecture, options, class_names)
        digests = {"manifest": inputs.manifest.digest, "frames": inputs.frames.digest, **input_digests, **start.digests}
        fingerprint = {**stage_values(clip, options, seed=seed, network=name), **values, "device": device.type}
        with (
            _folder_of_all(ranks, stop, stage, fingerprint, digests, (out, curve_path)) as (folder, work),
            _epoch_writer(ranks, tensorboard, stage) as write_epoch,
        ):
            views = _views_of_all(source, folder, ranks, stop)
            data = TrainingData(inputs.frames, inputs.train, inputs.val, views, teacher_frames)
            trainer = Trainer(
                _new_recognizer(architecture, inputs, options, start, seed),
                data,
                options,
                loss,
                seed=seed,
                device=device,
                checkpoint_path=folder / "checkpoint.pt",
                checkpoint_seconds=checkpoint_seconds,
                ranks=ranks,
            )
            shown = progress if ranks.index == 0 else no_progress
            with shown(stage, options.epochs * len(inputs.train), "clips") as advance:
                trained = trainer.run(stop=stop, listener=Listener(advance, write_epoch, say))
            if work is None:
                return
            trained_on = {"stage": stage, "seed": seed, "best_epoch": trained.best_epoch, "digests": digests}
            trained_on |= {"skipped_steps": trained.num_skipped, **start.named}
            _publish(work, trained, class_names, trained_on, out, curve_path)
    say(f"{stage}: {name}, {trained.recognizer.num_parameters:,} parameters; {_summary(trained)} -> {out}")


def _check_execution(
    architecture: Architecture, options: TrainParams, num_train: int, ranks: Ranks, device: torch.device
) -> None:
    """Raise ParamsError for what cannot be trained, before any work starts."""
    plan = EpochPlan(num_train, options.batch_size, seed=0)
    check_shares(plan, options, ranks)
    autocast_dtype(options.precision, device)
    smallest = plan.smallest_part(options.accumulate)  # batch statistics are those of all ranks
    check_geometry(architecture, smallest_batch=smallest, frozen_stages=options.frozen_stages)


@contextmanager
def _folder_of_all(
    ranks: Ranks,
    stop: StopCheck,
    stage: str,
    fingerprint: dict[str, object],
    digests: dict[str, str],
    outs: Sequence[Path],
) -> Iterator[tuple[Path, WorkFolder | None]]:
    """The work folder of all ranks; rank 0 holds its lock and that of the out, and has it to finish."""
    if ranks.index > 0:
        yield ranks.broadcast(Path(), stop=stop), None
        return
    version = MODEL_FORMAT_VERSION
    with work_folder(stage, params=fingerprint, inputs=digests, format_version=version, outs=outs) as work:
        yield ranks.broadcast(work.path, stop=stop), work


def _views_of_all(source: Callable[[Path], ViewSource], folder: Path, ranks: Ranks, stop: StopCheck) -> ViewSource:
    """Rank 0 first: what it keeps in the folder is there for the others."""
    first = source(folder) if ranks.index == 0 else None
    ranks.broadcast(None, stop=stop)
    return first or source(folder)


@contextmanager
def _epoch_writer(ranks: Ranks, folder: Path | None, stage: str) -> Iterator[EpochWriter]:
    """What is told of every epoch's end: it says so, and writes it for TensorBoard where that is asked for."""

    def tell(epoch: Epoch) -> None:
        row = epoch.row
        say(
            f"{stage}: epoch {row['epoch']:.0f}: loss {row['train_loss']:.3f}, top-1 {row['train_top1']:.1%}; "
            f"val loss {row['val_loss']:.3f}, top-1 {row['val_top1']:.1%}; "
            f"{epoch.clips_per_second:,.0f} clips/s, waited for clips {epoch.data_wait:.1%} of the time"
        )
        write(epoch)

    with tensorboard_writer(folder / stage) if folder and ranks.index == 0 else nullcontext(lambda _: None) as write:
        yield tell


def _publish(
    work: WorkFolder,
    trained: Trained,
    class_names: Sequence[str],
    trained_on: dict[str, object],
    out: Path,
    curve_path: Path,
) -> None:
    built_model, built_curve = work.path / "model.safetensors", work.path / "curve.csv"
    save_model(built_model, trained.recognizer, class_names=class_names, trained_on=trained_on)
    write_curve(built_curve, trained.curve)
    publish(built_curve, curve_path)
    publish(built_model, out)
    work.finish()


def _summary(trained: Trained) -> str:
    best = trained.curve[trained.best_epoch]
    skipped = f", {trained.num_skipped} steps left out" if trained.num_skipped else ""
    return (
        f"best epoch {trained.best_epoch} of {len(trained.curve)} with val top-1 {best['val_top1']:.1%}{skipped}; "
        f"waited for clips {trained.data_wait:.1%} of the time"
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
