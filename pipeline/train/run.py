"""A training from its inputs to the published files: checks, initial weights, work folder, loop, model and curve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pipeline.core.device import Ranks, choose_device, process_group
from pipeline.core.errors import DataError
from pipeline.core.files import publish
from pipeline.core.params import ClipParams, ModelName, TrainParams, stage_values
from pipeline.core.progress import Progress, StopCheck, interruptible, no_progress
from pipeline.core.tables import write_curve
from pipeline.core.work_folder import WorkFolder, work_folder
from pipeline.data.dataset import Batch, DrawnViews, EpochPlan, Sample, ViewSource, pixel_statistics, samples_of
from pipeline.data.frame_store import FrameStore
from pipeline.data.listing import TAUGHT
from pipeline.data.manifest import Manifest, read_manifest
from pipeline.data.shards import link_kept_shards
from pipeline.models.pretrained import PUBLISHED_STATISTICS, Fit, fit, load_into, read_pretrained
from pipeline.models.recognizer import (
    MODEL_FORMAT_VERSION,
    OF_THE_CLIP,
    Architecture,
    Recognizer,
    Statistics,
    check_geometry,
    save_model,
)
from pipeline.train.execution import autocast_dtype, check_shares
from pipeline.train.live import live_metrics
from pipeline.train.losses import class_weights, hard_loss
from pipeline.train.state import Epoch, EpochWriter, Listener, Trained, TrainingData
from pipeline.train.tensorboard import tensorboard_writer
from pipeline.train.trainer import LossFunction, Trainer


@dataclass(frozen=True)
class Inputs:
    """What every training reads, checked against each other. `taught`: what soft targets are for, train and footage."""

    manifest: Manifest
    frames: FrameStore
    train: list[Sample]
    val: list[Sample]
    taught: list[Sample]

    @property
    def num_footage(self) -> int:
        """Videos without a label."""
        return len(self.taught) - len(self.train)

    def class_weights(self, options: TrainParams) -> Tensor | None:
        """Weights_K of the classes in the loss on hard labels; None where all weigh the same."""
        if options.class_weights == "none":
            return None
        return class_weights([sample.label for sample in self.train], len(self.manifest.class_names))


def read_inputs(manifest_path: Path, frames_path: Path) -> Inputs:
    """Read manifest and frames.

    Raises DataError where there is a single class, StaleArtifactError where the store lacks videos of train or val.
    """
    manifest, frames = read_manifest(manifest_path), FrameStore(frames_path)
    if len(manifest.class_names) == 1:
        raise DataError(
            f"{manifest_path}: all videos are of one class, {manifest.class_names[0]}: there is nothing to tell apart",
            remedy="list videos of two classes or more, then `dvc repro prepare`",
        )
    train, val = (samples_of(manifest, frames, split) for split in ("train", "val"))
    return Inputs(manifest, frames, train, val, samples_of(manifest, frames, *TAUGHT))


@dataclass(frozen=True)
class Run:
    """Where a training runs and writes, and whom it tells; of this only the kind of device can change the network.

    checkpoint_seconds: between two checkpoints. tensorboard: a folder for its events, None for none. live: a folder for
    a file of where it stands, likewise.
    """

    device: str
    checkpoint_seconds: float
    out: Path
    curve_path: Path
    tensorboard: Path | None
    progress: Progress
    say: Callable[[str], None]
    live: Path | None = None


@dataclass(frozen=True)
class Training:
    """What a training is: a network, what it learns from, by which loss and options, and how it runs.

    It learns from `samples`, in epochs of `num_clips`. `source` is given the work folder, where it may keep files, and
    gives the views. `values` are parameters that only this stage uses, `input_digests` the digests of inputs beyond
    manifest and frames: both are part of the fingerprint of the work folder, and the model file keeps the digests. With
    `teacher_frames` the loss gets their clips, too, of the geometry `teacher_clip`.
    """

    stage: str
    network: ModelName
    inputs: Inputs
    samples: Sequence[Sample]
    num_clips: int
    clip: ClipParams
    options: TrainParams
    seed: int
    source: Callable[[Path], ViewSource]
    loss: LossFunction
    values: dict[str, object]
    run: Run
    input_digests: dict[str, str] = field(default_factory=dict)
    teacher_frames: FrameStore | None = None
    teacher_clip: ClipParams | None = None

    @property
    def plan(self) -> EpochPlan:
        """Its epochs and batches."""
        return EpochPlan(self.num_clips, self.options.batch_size, self.seed, len(self.samples))

    @property
    def architecture(self) -> Architecture:
        """The network to build. Raises ParamsError where it does not have the options given."""
        options, num_classes = self.options, len(self.inputs.manifest.class_names)
        return Architecture(self.network, num_classes, self.clip, options.width, options.dropout, options.drop_path)


def label_training(
    stage: str,
    network: ModelName,
    inputs: Inputs,
    views: DrawnViews,
    options: TrainParams,
    run: Run,
    *,
    num_clips: int | None = None,
) -> Training:
    """A training on hard labels alone, a teacher's or the baseline's, on the videos that have a label.

    num_clips: of an epoch; None: one clip of each video.
    """
    weights_K = inputs.class_weights(options)

    def loss(logits_BK: Tensor, batch: Batch, epoch: float) -> Tensor:
        return hard_loss(
            logits_BK,
            batch.labels_B,
            label_smoothing=options.label_smoothing,
            weights_K=weights_K,
            second=batch.second,
        )

    return Training(
        stage,
        network,
        inputs,
        inputs.train,
        num_clips or len(inputs.train),
        views.clip,
        options,
        views.seed,
        source=lambda _work: views,
        loss=loss,
        values={"views": views.views.policy()},
        run=run,
    )


def train_network(training: Training) -> None:
    """Train in the stage's work folder, publish model and curve; under torchrun all ranks train one network."""
    inputs, options, run = training.inputs, training.options, training.run
    link_kept_shards(inputs.frames.path)
    with process_group() as ranks, interruptible() as stop:
        device = choose_device(run.device)
        _check_execution(training, ranks, device)
        start = _read_start(training)
        digests = {"manifest": inputs.manifest.digest, "frames": inputs.frames.digest, **training.input_digests}
        if start is not None:
            digests["weights"] = start.pretrained.digest
        with (
            shared_work_folder(
                training.stage,
                params=_fingerprint(training, device),
                inputs=digests,
                outs=(run.out, run.curve_path),
                ranks=ranks,
                stop=stop,
            ) as (folder, work),
            _epoch_writer(training, ranks) as write_epoch,
        ):
            views = _shared_views(training, folder, ranks, stop)
            trainer = Trainer(
                _new_recognizer(training, start),
                TrainingData(
                    inputs.frames,
                    training.samples,
                    inputs.val,
                    views,
                    training.teacher_frames,
                    training.teacher_clip,
                    training.num_clips,
                ),
                options,
                training.loss,
                seed=training.seed,
                device=device,
                checkpoint_path=folder / "checkpoint.pt",
                checkpoint_seconds=run.checkpoint_seconds,
                ranks=ranks,
                is_waited_for=work.is_waited_for if work is not None else lambda: False,
            )
            shown = run.progress if ranks.index == 0 else no_progress
            with shown(training.stage, options.epochs * training.num_clips, "clips") as advance:
                trained = trainer.run(stop=stop, listener=Listener(advance, write_epoch, run.say))
            if work is None:
                return
            _publish(work, training, trained, start, digests)
    run.say(_summary(training, trained))


def _check_execution(training: Training, ranks: Ranks, device: torch.device) -> None:
    """Raise ParamsError for what cannot be trained, before any work starts."""
    options = training.options
    plan, architecture = training.plan, training.architecture
    check_shares(plan, options, ranks)
    autocast_dtype(options.precision, device)
    smallest = plan.smallest_part(options.accumulate)  # batch statistics are those of all ranks
    check_geometry(architecture, smallest_batch=smallest, frozen_stages=options.frozen_stages)


def _read_start(training: Training) -> Fit | None:
    """The fit of pretrained weights to the network, before any work starts; None where it starts from none."""
    options, architecture = training.options, training.architecture
    if options.weights is None:
        return None
    pretrained = read_pretrained(options.weights, architecture.name)
    start = fit(pretrained, architecture, class_names=training.inputs.manifest.class_names)
    training.run.say(start.summary)
    return start


def _new_recognizer(training: Training, start: Fit | None) -> Recognizer:
    """A network as its training begins; weights that are not pretrained depend on the seed alone."""
    statistics = _statistics(training)
    torch.manual_seed(training.seed)
    recognizer = Recognizer(training.architecture, **statistics, levels=training.inputs.frames.levels)
    if start is not None:
        load_into(recognizer.network, start)
    recognizer.freeze(training.options.frozen_stages)
    return recognizer


def _statistics(training: Training) -> Statistics:
    """What the network's pixels are normalised by; empty where each clip is by itself."""
    inputs, name = training.inputs, training.options.input_statistics
    if name == OF_THE_CLIP:
        return {}
    mean_C, std_C = PUBLISHED_STATISTICS.get(name) or pixel_statistics(inputs.frames, inputs.train, training.clip)
    return {"mean_C": mean_C, "std_C": std_C}


def _fingerprint(training: Training, device: torch.device) -> dict[str, object]:
    values = stage_values(training.clip, training.options, seed=training.seed, network=training.network)
    return {**values, **training.values, "device": device.type}


@contextmanager
def shared_work_folder(
    stage: str,
    *,
    params: Mapping[str, object],
    inputs: Mapping[str, str],
    outs: Sequence[Path],
    ranks: Ranks,
    stop: StopCheck,
) -> Iterator[tuple[Path, WorkFolder | None]]:
    """The work folder of all ranks that train; rank 0 alone holds its lock and those of the outs, and can finish it."""
    if ranks.index > 0:
        yield ranks.broadcast(Path(), stop=stop), None
        return
    version = MODEL_FORMAT_VERSION
    with work_folder(stage, params=params, inputs=inputs, format_version=version, outs=outs, stop=stop) as work:
        yield ranks.broadcast(work.path, stop=stop), work


def _shared_views(training: Training, folder: Path, ranks: Ranks, stop: StopCheck) -> ViewSource:
    """The views, on rank 0 first: the others find the files that it keeps in the folder."""
    first = training.source(folder) if ranks.index == 0 else None
    ranks.broadcast(None, stop=stop)
    return first or training.source(folder)


@contextmanager
def _epoch_writer(training: Training, ranks: Ranks) -> Iterator[EpochWriter]:
    """Says the numbers of each epoch as it ends; writes them for TensorBoard and DVC where folders are given."""

    def tell(epoch: Epoch) -> None:
        row = epoch.row
        training.run.say(
            f"{training.stage}: epoch {row['epoch']:.0f}: loss {row['train_loss']:.3f}, top-1 {row['train_top1']:.1%}; "
            f"val loss {row['val_loss']:.3f}, top-1 {row['val_top1']:.1%}; "
            f"{epoch.clips_per_second:,.0f} clips/s, waited for clips {epoch.data_wait:.1%} of the time"
        )
        for write in writers:
            write(epoch)

    run, stage = training.run, training.stage
    with ExitStack() as stack:
        writers = []
        if run.tensorboard is not None and ranks.index == 0:
            writers.append(stack.enter_context(tensorboard_writer(run.tensorboard / stage)))
        if run.live is not None and ranks.index == 0:
            writers.append(stack.enter_context(live_metrics(run.live, stage.removeprefix("train_"))))
        yield tell


def _publish(
    work: WorkFolder, training: Training, trained: Trained, start: Fit | None, digests: dict[str, str]
) -> None:
    trained_on: dict[str, object] = {
        "stage": training.stage,
        "seed": training.seed,
        "best_epoch": trained.best_epoch,
        "digests": digests,
        "skipped_steps": trained.num_skipped,
    }
    if start is not None:
        trained_on["weights"] = start.pretrained.name
    built_model, built_curve = work.path / "model.safetensors", work.path / "curve.csv"
    class_names = training.inputs.manifest.class_names
    save_model(built_model, trained.recognizer, class_names=class_names, trained_on=trained_on)
    write_curve(built_curve, trained.curve)
    publish(built_curve, training.run.curve_path)
    publish(built_model, training.run.out)
    work.finish()


def _summary(training: Training, trained: Trained) -> str:
    best = trained.curve[trained.best_epoch]
    skipped = f", {trained.num_skipped} steps skipped" if trained.num_skipped else ""
    return (
        f"{training.stage}: {training.network}, {trained.recognizer.num_parameters:,} parameters; "
        f"best epoch {trained.best_epoch} of {len(trained.curve)} with val top-1 {best['val_top1']:.1%}{skipped}; "
        f"waited for clips {trained.data_wait:.1%} of the time -> {training.run.out}"
    )
