"""Run the teacher on every view of every training video, once, and keep its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated

import torch
import typer

from pipeline.core.device import Ranks, choose_device, process_group
from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.files import PARTIAL_SUFFIX, publish
from pipeline.core.params import ClipParams, PrecomputeSoftTargetsParams, load_params, stage_values
from pipeline.core.progress import StopCheck, interruptible
from pipeline.core.work_folder import work_folder
from pipeline.data.dataset import samples_of
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import Manifest, read_manifest
from pipeline.data.views import VIEW_POLICY_VERSION
from pipeline.distill.store.attributes import FORMAT_VERSION
from pipeline.distill.store.codecs import LogitCodec, bytes_per_view, codec_of
from pipeline.distill.teacher.precompute import (
    Packing,
    Part,
    TeacherInference,
    compute_part,
    keys_of,
    pack_store,
    parts_of,
    refuse_not_finite,
)
from pipeline.distill.teacher.row_cache import RowCache
from pipeline.models.recognizer import ModelFile, load_model
from stages._cluster import SchedulerOption, WorkersOption, map_tasks
from stages._shell import PARAMS_PATH, DeviceOption, ParamsOption, progress, say

STAGE = "precompute_soft_targets"


def main(
    *,
    manifest_path: Annotated[Path, typer.Option("--manifest", help="The manifest that `prepare` wrote.")],
    frames_path: Annotated[
        Path, typer.Option("--frames", help="The enhanced frames, on which the teacher was trained.")
    ],
    teacher_path: Annotated[Path, typer.Option("--teacher", help="The teacher's model file.")],
    out: Annotated[Path, typer.Option(help="The soft-target store to write.")],
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Run the teacher on every view of every training video, once, and keep its logits.

    The store holds raw logits: temperature, weight and loss stay free for every student that learns from it. The logits
    stay in the work folder, too: when videos come or go, with another codec, or for a damaged store, the same teacher
    runs only on what is new. On the CPU each process has one thread; on a GPU there is one process, or one for each
    under `torchrun`.
    """
    with process_group() as ranks, interruptible() as stop:
        if ranks.index > 0:
            _on_ranks(ranks, None, stop)
            return
        if ranks.count > 1 and (workers is not None or scheduler is not None):
            raise ParamsError(
                "--workers and --scheduler share work among dask's processes, torchrun among its own",
                remedy="omit these options and unset DASK_SCHEDULER_ADDRESS, or run without torchrun",
            )
        params = load_params(params_path)
        options = params.precompute_soft_targets
        manifest, frames, teacher = read_manifest(manifest_path), FrameStore(frames_path), load_model(teacher_path)
        codec = _codec(options, len(manifest.class_names))
        _check_teacher(teacher_path, teacher, manifest, frames, params.clip)
        samples = samples_of(manifest, frames, "train")
        torch_device = choose_device(device)
        policy = {**params.views.model_dump(), "seed": params.seed, "version": VIEW_POLICY_VERSION}
        fingerprint = stage_values(
            params.clip, view_policy=policy, batch_size=options.batch_size, device=torch_device.type
        )
        inputs = {"teacher": teacher.digest}
        version = FORMAT_VERSION
        with work_folder(STAGE, params=fingerprint, inputs=inputs, format_version=version, outs=[out]) as work:
            cache, keys = RowCache(work.path), keys_of(samples, frames)
            new = [key[0] for key in keys if key not in cache]
            how = TeacherInference(
                teacher=(teacher_path.absolute(), teacher.digest),
                frames=(frames_path.absolute(), frames.digest),
                folder=work.path.absolute(),
                clip=params.clip,
                views=params.views,
                seed=params.seed,
                batch_size=options.batch_size,
                device=str(torch_device),
                num_workers=options.num_workers,
            )
            parts = parts_of(new, how)
            if ranks.count > 1:
                refuse_not_finite(_on_ranks(ranks, parts, stop))
            else:
                refuse_not_finite(_on_workers(parts, stop, workers=workers, scheduler=scheduler))
            cache.refresh()
            packing = Packing(cache, keys, [sample.label for sample in samples], codec)
            origin = {"manifest": manifest.digest, "frames": frames.digest, "enhancer": frames.origin.get("enhancer")}
            attributes = {
                "class_names": list(manifest.class_names),
                "clip": params.clip.model_dump(),
                "view_policy": policy,
                "batch_size": options.batch_size,
                "digests": origin,
            }
            built = work.path / f"soft_targets.zarr{PARTIAL_SUFFIX}"  # swept when a killed run left it
            digest = pack_store(built, packing, teacher, attributes, max_kl=options.max_kl)
            publish(built, out)
            cache.remove_others(keys)
    say(
        f"{STAGE}: {len(keys)} videos × {params.views.num_views} views × {codec.num_classes} classes in "
        f"{bytes_per_view(codec)} bytes a view; {len(new)} videos computed, {len(keys) - len(new)} known before; "
        f"the teacher's top-1 on these views is {packing.top1_on_views:.1%}"
    )
    say(f"{STAGE}: {options.codec} keeps {packing.error} -> {out}, digest {digest}")


def _codec(options: PrecomputeSoftTargetsParams, num_classes: int) -> LogitCodec:
    try:
        return codec_of({"name": options.codec, "k": options.top_k}, num_classes)
    except ValueError as error:
        raise ParamsError(
            f"precompute_soft_targets: {error}", remedy="choose the codec float16, or a smaller top_k"
        ) from None


def _check_teacher(path: Path, teacher: ModelFile, manifest: Manifest, frames: FrameStore, clip: ClipParams) -> None:
    """Refuse a teacher of other classes or clips than this run's; tell if it was trained on other frames."""
    found = teacher.recognizer.architecture.clip
    findings = []
    if teacher.class_names != manifest.class_names:
        findings.append(
            f"class names: the teacher has {list(teacher.class_names)}, the manifest {list(manifest.class_names)}"
        )
    if found != clip:
        findings.append(f"clip: the teacher takes {found.model_dump()}, the parameters say {clip.model_dump()}")
    if teacher.recognizer.levels != frames.levels:
        findings.append(f"levels: the teacher takes {teacher.recognizer.levels} frames, these are {frames.levels}")
    if findings:
        raise StaleArtifactError(
            f"{path}: does not fit this run", findings=findings, remedy="`dvc repro train_teacher` trains one that fits"
        )
    trained_on = teacher.trained_on.get("digests", {}).get("frames")
    if trained_on not in (None, frames.digest):
        say(
            f"{STAGE}: {path} was trained on frames {trained_on}, these are {frames.digest}: expected only if "
            "videos were added or removed since"
        )


def _on_workers(parts: Sequence[Part], stop: StopCheck, *, workers: int | None, scheduler: str | None) -> list[str]:
    """Compute in this process, on processes of this machine, or on those of a dask scheduler."""
    if workers is None and parts and torch.device(parts[0].how.device).type != "cpu":
        workers = 1  # processes would share the GPU
    if scheduler is not None or workers != 1:
        # dask's processes may have no child processes
        parts = [replace(part, how=replace(part.how, num_workers=0)) for part in parts]
    with _part_progress(STAGE, parts) as done:
        not_finite = map_tasks(
            compute_part,
            parts,
            name=str,
            done=lambda part, _: done(part),
            stop=stop,
            num_workers=workers,
            scheduler=scheduler,
        )
    return list(chain(*not_finite))


def _on_ranks(ranks: Ranks, parts: Sequence[Part] | None, stop: StopCheck) -> list[str]:
    """Compute this rank's share of the parts, which rank 0 gives, and wait for the others."""
    own = (ranks.broadcast(parts, stop=stop) or ())[ranks.index :: ranks.count]
    with _part_progress(f"{STAGE}, rank {ranks.index} of {ranks.count}", own) as done:
        return sorted(chain(*ranks.run(compute_part, own, done=done, stop=stop)))


@contextmanager
def _part_progress(description: str, parts: Sequence[Part]) -> Iterator[Callable[[Part], None]]:
    with progress(description, sum(len(part.video_ids) for part in parts), "videos") as advance:
        yield lambda part: advance(len(part.video_ids), "")
