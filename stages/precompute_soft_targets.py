"""Run the teachers on all views of all videos once; keep the logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pipeline.core.device import Ranks, choose_device, process_group
from pipeline.core.errors import ParamsError
from pipeline.core.files import PARTIAL_SUFFIX, publish
from pipeline.core.params import load_params, stage_values
from pipeline.core.progress import StopCheck, interruptible
from pipeline.core.work_folder import work_folder
from pipeline.data.dataset import BANK, Sample, samples_of
from pipeline.data.listing import TAUGHT, UNLABELLED
from pipeline.data.manifest import Manifest, read_manifest
from pipeline.data.views import VIEW_POLICY_VERSION, Partners, draw_partners
from pipeline.distill.store.attributes import FORMAT_VERSION
from pipeline.distill.store.codecs import bytes_per_view
from pipeline.distill.teacher.precompute import (
    VAL,
    CachedTeacher,
    Packing,
    Part,
    chosen_codec,
    compute_part,
    keys_of,
    pack_store,
    refuse_not_finite,
)
from pipeline.distill.teacher.row_cache import RowCache
from pipeline.distill.teacher.teachers import (
    Teacher,
    common_samples,
    open_more_teachers,
    open_teacher,
    store_attributes,
)
from pipeline.models.folds import chosen_folds
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
    folds_path: Annotated[
        Path | None,
        typer.Option("--teacher-folds", help="The folder of the teacher's folds, where it has some."),
    ] = None,
    more_path: Annotated[
        Path | None,
        typer.Option(
            "--more-teachers",
            help="The folder of more_teachers; it has for each records/NAME.json, made/NAME/model.safetensors and "
            "made/NAME/frames.",
        ),
    ] = None,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Run the teachers on all views of all videos once; keep the logits.

    These are the training videos, and those without a label; of several teachers also the val videos, in one view, to
    choose how much each of them is worth (soft_targets.teachers weighted). With teacher_folds the logits for a group's
    videos are of a teacher that was trained without it. The store holds raw logits: temperature, weight and loss stay
    free for every student that learns from it. The logits stay in a work folder of each teacher, too: when videos or
    teachers come or go, with another codec, or for a damaged store, teachers run only on what is new to them. On the
    CPU each process has one thread; on a GPU there is one process, or one for each under `torchrun`.
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
        manifest = read_manifest(manifest_path)
        folds = chosen_folds(params.teacher_folds, folds_path)
        first = open_teacher("teacher", teacher_path, frames_path, folds)
        teachers = [first, *open_more_teachers(list(params.more_teachers), more_path)]
        clips = [params.teacher_clip, *(teacher.clip for teacher in params.more_teachers.values())]
        codec = chosen_codec(options, len(manifest.class_names))
        samples = common_samples(
            teachers,
            manifest,
            [clip or params.clip for clip in clips],
            say=lambda text: say(f"{STAGE}: {text}"),
        )
        val = samples_of(manifest, teachers[0].frames, VAL) if len(teachers) > 1 else []
        num_footage = len(manifest.rows_of(UNLABELLED))
        partners = draw_partners(
            [[row.video_id for row in manifest.rows_of(split)] for split in TAUGHT],
            params.views,
            seed=params.seed,
            purpose=BANK,
        )
        torch_device = choose_device(device)
        policy = {**params.views.policy(), "seed": params.seed, "version": VIEW_POLICY_VERSION}
        fingerprint = stage_values(
            params.clip, view_policy=policy, batch_size=options.batch_size, device=torch_device.type
        )
        how = {"clip": params.clip, "views": params.views, "seed": params.seed, "device": str(torch_device)}
        how |= {"batch_size": options.batch_size, "num_workers": options.num_workers}
        with ExitStack() as stack:
            cached = _open_caches(stack, teachers, samples, manifest, partners, fingerprint, out, stop)
            val_ids = [sample.video_id for sample in val]
            cached_val = [
                CachedTeacher(RowCache(each.cache.folder / VAL), keys_of(val_ids, teacher.frames))
                for teacher, each in zip(teachers, cached, strict=True)
            ]
            parts = [teacher.parts(each, partners, how) for teacher, each in zip(teachers, cached, strict=True)]
            val_parts = [teacher.val_parts(each, how) for teacher, each in zip(teachers, cached_val, strict=True)]
            every = [*chain(*parts), *chain(*val_parts)]
            if ranks.count > 1:
                refuse_not_finite(_on_ranks(ranks, every, stop))
            else:
                refuse_not_finite(_on_workers(every, stop, workers=workers, scheduler=scheduler))
            for each in (*cached, *cached_val):
                each.refresh()
            mixed_at = params.clip.size if partners else None
            packing = Packing(cached, [sample.label for sample in samples], codec, mixed_at)
            attributes = {
                "class_names": list(manifest.class_names),
                "clip": params.clip.model_dump(),
                "view_policy": policy,
                "batch_size": options.batch_size,
                "teachers": store_attributes(teachers, cached_val, val),
                "digests": {"manifest": manifest.digest, "dark": teachers[0].dark_digest},
                **({"num_unlabelled": num_footage} if num_footage else {}),
            }
            built = cached[0].cache.folder / f"soft_targets.zarr{PARTIAL_SUFFIX}"  # swept when a killed run left it
            digest = pack_store(built, packing, attributes, max_kl=options.max_kl)
            publish(built, out)
            for each in (*cached, *cached_val):
                each.remove_others()
    new = [
        (
            f"{teacher.name} in {len(teacher.folds.models)} folds" if teacher.folds.models else teacher.name,
            sum(len(part.video_ids) for part in of_teacher),
        )
        for teacher, of_teacher in zip(teachers, parts, strict=True)
    ]
    _say_packed(packing, params.views.num_views, new, num_footage)
    if val:
        say(f"{STAGE}: weights of the teachers by {len(val)} val videos: {_weights_text(teachers, attributes)}")
    say(f"{STAGE}: {options.codec} keeps {packing.error} -> {out}, digest {digest}")
    if packing.certainty.warning is not None:
        say(f"{STAGE}: {packing.certainty.warning}")


def _say_packed(packing: Packing, num_views: int, new: Sequence[tuple[str, int]], num_footage: int) -> None:
    """What the store holds, and of each teacher how right it is; `new` has its name and how many videos it computed."""
    codec, num_videos = packing.codec, len(packing.labels)
    without, labelled = (f" ({num_footage} without a label)", " that have a label") if num_footage else ("", "")
    say(
        f"{STAGE}: {num_videos} videos{without} × {num_views} views × {codec.num_classes} classes in "
        f"{bytes_per_view(codec)} bytes a view of a teacher; mean entropy "
        f"{packing.certainty.mean_entropy:.3f} of {math.log(codec.num_classes):.2f} nats"
    )
    for (name, num_new), top1 in zip(new, packing.top1_on_views, strict=True):
        say(
            f"{STAGE}: {name}: {num_new} videos computed, {num_videos - num_new} known before; "
            f"top-1 on these views{labelled} is {top1:.1%}"
        )


def _weights_text(teachers: Sequence[Teacher], attributes: Mapping[str, Any]) -> str:
    pairs = zip(teachers, attributes["teachers"], strict=True)
    return ", ".join(f"{teacher.name} {each['weight']:g} (top-1 {each['top1_on_val']:.1%})" for teacher, each in pairs)


def _open_caches(
    stack: ExitStack,
    teachers: Sequence[Teacher],
    samples: Sequence[Sample],
    manifest: Manifest,
    partners: Partners,
    fingerprint: Mapping[str, object],
    out: Path,
    stop: StopCheck,
) -> list[CachedTeacher]:
    """The rows that are known of each teacher; every model's are in a work folder, which the stack holds."""
    cached: list[CachedTeacher] = []
    for teacher in teachers:
        caches: list[RowCache] = []
        for digest in teacher.digests:
            inputs, version = {"teacher": digest}, FORMAT_VERSION
            # with the first one: a process can hold a path's lock once, and waits for none while it holds a folder
            outs, waits = ([], None) if cached or caches else ([out], stop)
            work = stack.enter_context(
                work_folder(STAGE, params=fingerprint, inputs=inputs, format_version=version, outs=outs, stop=waits)
            )
            caches.append(RowCache(work.path))
        keys = keys_of([sample.video_id for sample in samples], teacher.frames, partners)
        cached.append(CachedTeacher(caches[0], keys, caches[1:], teacher.fold_of(samples, manifest)))
    return cached


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
