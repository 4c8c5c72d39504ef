"""A soft-target store as a folder to publish: the store, and a card with what it is and how to use it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import StaleArtifactError
from pipeline.core.progress import Progress, no_progress
from pipeline.core.text import code_span, markdown_table
from pipeline.distill.store.attributes import imported_alone, is_imported
from pipeline.distill.store.codecs import bytes_per_view
from pipeline.distill.store.store import MAKE_REMEDY, SoftTargetStore
from pipeline.tools.targets.verify import CARD_NAME, verify

STORE_NAME = "soft_targets.zarr"


def publish_store(location: Path, out: Path, *, license_text: str | None, progress: Progress = no_progress) -> str:
    """Copy a store that is whole into the new folder `out`, with its card; returns its digest.

    Raises StaleArtifactError with all that is wrong with the store.
    """
    verdict = verify(location, "checksums", progress=progress)
    if not verdict.whole:
        raise StaleArtifactError(
            f"{location}: is not published: it is not whole", findings=verdict.findings, remedy=MAKE_REMEDY
        )
    store = SoftTargetStore(location)
    shutil.copytree(location, out / STORE_NAME, ignore=shutil.ignore_patterns(CARD_NAME))
    (out / CARD_NAME).write_text(card(store, license_text), encoding="utf-8")
    return store.digest


UNNAMED = ("none", "not known")


def seen_of(teacher: Mapping[str, Any]) -> tuple[str, str]:
    """The digests of a teacher's enhancer and frames, or why there is none."""
    if is_imported(teacher):
        return "not known", "not known"
    return teacher["enhancer"] or "none", teacher["frames"]


def card(store: SoftTargetStore, license_text: str | None) -> str:
    """The card in Markdown, from the attributes alone."""
    attributes = store.attributes
    clip, policy, error = attributes["clip"], attributes["view_policy"], attributes["codec_error"]
    teachers = markdown_table(
        (
            *("teacher", "light", "top-1 on these views", "weight by val"),
            *("digests of its file", "of its enhancer", "of its frames"),
        ),
        (
            (
                code_span(teacher["name"]) + (", imported" if is_imported(teacher) else ""),
                code_span(teacher["light"]) if teacher["light"] else "not named",
                f"{teacher['top1_on_views']:.1%}",
                f"{teacher['weight']:g}" if "weight" in teacher else "none",
                code_span(teacher["digest"]),
                *(digest if digest in UNNAMED else code_span(digest) for digest in seen_of(teacher)),
            )
            for teacher in attributes["teachers"]
        ),
    )
    errors = markdown_table(
        ("temperature", "mean", "largest"),
        ((key, f"{mean:.3g}", f"{error['max_kl'][key]:.3g}") for key, mean in error["mean_kl"].items()),
    )
    merged = {f"merged store {number}": digest for number, digest in enumerate(attributes.get("merged_from", ()), 1)}
    digests = markdown_table(
        ("", "digest"),
        (
            (name, code_span(str(digest)) if digest else "none")
            for name, digest in {**attributes["digests"], **merged}.items()
        ),
    )
    seen_by = "one teacher" if store.num_teachers == 1 else f"{store.num_teachers} teachers"
    mirrored = "mirrored half of the time" if policy["flip"] else "never mirrored"
    codec = " ".join(str(value) for value in attributes["codec"].values())
    folds = "".join(
        f"\nThe logits of {code_span(teacher['name'])} for a training video are of that one of {len(teacher['folds'])} "
        f"models which was trained without the video's group: {', '.join(map(code_span, teacher['folds']))}.\n"
        for teacher in attributes["teachers"]
        if teacher.get("folds")
    )
    mixed = ""
    if store.has_blends:
        mixed = (
            f"{policy['mix_share']:.0%} of them are blends ({policy['mix']}) of two videos, which teachers and student "
            "see alike.\n"
        )
    footage = ""
    if store.num_unlabelled:
        footage = (
            f"{store.num_unlabelled} of the videos have no label: of them a student learns by these logits alone.\n"
        )
    seen = "light-enhanced videos"
    if imported_alone(attributes):
        seen = "the same views of the videos in another program: what it saw of them is not known here"
    return f"""# Soft targets: {store.num_rows} videos × {store.num_views} views × {len(store.class_names)} classes

Raw logits, before any temperature, of {seen_by} that saw {seen}.
A student learns from them and from the dark copies of the same videos; it needs neither teacher nor enhanced videos.
{footage}Store of dlkdd, format version {store.format_version}, digest **`{store.digest}`**.

{teachers}
{folds}
Classes, in the order of the logits: {", ".join(map(code_span, store.class_names))}.

A clip is {clip["num_frames"]} frames, {clip["frame_stride"]} apart, at {clip["size"]}×{clip["size"]} pixels. The views
are kept in the store. They were drawn with seed {policy["seed"]}: crops of at least {policy["min_scale"]:.0%} of the
frame, at most {policy["max_aspect"]:g} times as wide as high or as high as wide, {mirrored}.
{mixed}
## Use

    dlkdd train-student --soft-targets URL/{STORE_NAME} \\
        --manifest data/manifest.csv --frames data/dark \\
        --out models/student.safetensors --curve results/curves/student.csv

The dark videos must be those of the manifest below, stored at the size that they had; what does not fit is
refused before the first step. Only the shards that hold a run's videos are fetched. To check what arrived:

    dlkdd targets verify URL/{STORE_NAME} --depth checksums

and compare the digest that it prints with the one above.

## What packing cost

Codec `{codec}`, {bytes_per_view(store.codec)} bytes for a view of a teacher. After packing
{error["top1_agreement"]:.2%} of the views have the same top class. KL(teacher ‖ unpacked) in nats:

{errors}

## What it was made from

{digests}

## Licence

{license_text or "None was given by whoever published this folder: ask before you use it."}
"""
