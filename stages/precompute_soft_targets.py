"""Ask the teacher about every view of every training video, once, and keep its logits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pipeline.dataset import BANK, DrawnViews, Sample, geometry_digest, samples_of
from pipeline.errors import StaleArtifactError
from pipeline.frames import FrameStore
from pipeline.manifest import Manifest, read_manifest
from pipeline.models import ModelFile, load_model
from pipeline.params import ClipParams, load_params, stage_values
from pipeline.precompute import Bank, Quality, compute_parts, read_parts
from pipeline.soft_targets import FORMAT_VERSION, write_store
from pipeline.views import VIEW_POLICY_VERSION
from pipeline.work import PARTIAL_SUFFIX, interruptible, publish, work_folder
from stages._device import DeviceOption, choose_device
from stages._shell import PARAMS_PATH, ParamsOption, progress, say


def main(
    *,
    manifest_path: Annotated[Path, typer.Option("--manifest", help="The manifest that `prepare` wrote.")],
    frames_path: Annotated[Path, typer.Option("--frames", help="The enhanced frames, which the teacher knows.")],
    teacher_path: Annotated[Path, typer.Option("--teacher", help="The teacher's model file.")],
    out: Annotated[Path, typer.Option(help="The soft-target store to write.")],
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Data loader processes.")] = 0,
) -> None:
    """Ask the teacher about every view of every training video, once, and keep its logits.

    The store holds raw logits: temperature, weight and loss stay free for every student that learns from it.
    """
    params = load_params(params_path)
    manifest, frames, teacher = read_manifest(manifest_path), FrameStore(frames_path), load_model(teacher_path)
    _check_teacher(teacher_path, teacher, manifest, params.clip)
    samples = samples_of(manifest, frames, "train")
    bank = Bank(samples, DrawnViews(frames, params.clip, params.views, params.seed, purpose=BANK))
    compute_device = choose_device(device)
    digests = {"manifest": manifest.digest, "frames": frames.digest, "teacher": teacher.digest}
    values = {**stage_values(params.clip, params.views, seed=params.seed), "device": compute_device.type}
    with (
        work_folder("precompute_soft_targets", params=values, inputs=digests, format_version=FORMAT_VERSION) as work,
        interruptible() as stop,
    ):
        with progress("precompute_soft_targets", len(samples), "videos") as advance:
            parts = compute_parts(
                teacher.recognizer,
                bank,
                work.path,
                device=compute_device,
                num_workers=workers,
                stop=stop,
                advance=advance,
            )
        quality = _measure(parts, samples)
        attributes = {
            "class_names": list(manifest.class_names),
            "clip": params.clip.model_dump(),
            "view_policy": {**params.views.model_dump(), "seed": params.seed, "version": VIEW_POLICY_VERSION},
            "geometry": geometry_digest(frames, [sample.video_id for sample in samples]),
            "manifest": manifest.digest,
            "digests": {**digests, "enhancer": frames.origin.get("enhancer")},
            "teacher": teacher.recognizer.architecture.name,
            **quality.attributes(),
        }
        built = work.path / f"soft_targets.zarr{PARTIAL_SUFFIX}"  # swept when a killed run left it
        write_store(
            built,
            read_parts(parts),
            num_rows=len(samples),
            num_views=bank.num_views,
            num_classes=len(manifest.class_names),
            attributes=attributes,
        )
        publish(built, out)
        work.finish()
    say(
        f"precompute_soft_targets: {len(samples)} videos × {bank.num_views} views × {len(manifest.class_names)} "
        f"classes; the teacher's top-1 on these views is {attributes['teacher_top1_on_views']:.1%} -> {out}"
    )


def _check_teacher(path: Path, teacher: ModelFile, manifest: Manifest, clip: ClipParams) -> None:
    """Refuse a teacher of other classes or clips than this run's."""
    found = teacher.recognizer.architecture.clip
    findings = []
    if teacher.class_names != manifest.class_names:
        findings.append(
            f"class names: the teacher has {list(teacher.class_names)}, the manifest {list(manifest.class_names)}"
        )
    if found != clip:
        findings.append(f"clip: the teacher takes {found.model_dump()}, the parameters say {clip.model_dump()}")
    if findings:
        raise StaleArtifactError(
            f"{path}: does not fit this run", findings=findings, remedy="`dvc repro train_teacher` trains one that fits"
        )


def _measure(parts: list[Path], samples: list[Sample]) -> Quality:
    quality, start = Quality(), 0
    for rows in read_parts(parts):
        labels_N = np.array([sample.label for sample in samples[start : start + len(rows.video_ids)]], dtype=np.int64)
        quality.add(rows.logits_NVK.astype(np.float32), labels_N)
        start += len(labels_N)
    return quality
