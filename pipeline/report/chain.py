"""The chain's artifacts as the report lists them: what each is, its digest, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.data.frame_store import FrameStore
from pipeline.data.listing import UNLABELLED
from pipeline.distill.store.attributes import is_imported
from pipeline.report.inputs import Artifacts, ReportPaths

# `path`, `what` it is, its `digest` (None where it is missing), and `sources`, what it records that it was made from:
# `name`, `digest`, and whether it is `expected` to be an artifact of the chain
Artifact = dict[str, Any]


def describe_chain(paths: ReportPaths, found: Artifacts) -> list[Artifact]:
    """The artifacts in the order in which they are made."""
    manifest = found.manifest
    unlabelled = len(manifest.rows_of(UNLABELLED))
    num_damaged = sum(bool(row.damage) for row in manifest.rows)
    what = "; ".join(
        [
            f"{len(manifest.rows)} videos of {len(manifest.class_names)} classes"
            + (f", {unlabelled} of them without a label" if unlabelled else ""),
            *([f"{num_damaged} damaged, taken up to there"] if num_damaged else []),
            f"{len(found.quarantine)} in quarantine",
        ]
    )
    chain: list[tuple[object, tuple[str, str | None, Sequence[Artifact]]]] = [
        (paths.manifest, (what, manifest.digest, ())),
        (paths.dark, _frames(found.dark, ("videos",))),
        (paths.models["enhancer"], _enhancer(found)),
        (paths.enhanced, _frames(found.enhanced, ("dark", "enhancer"))),
        (paths.models["teacher"], _model(found, "teacher")),
        (paths.soft_targets, _soft_targets(found)),
        (paths.models["student"], _model(found, "student")),
        (paths.models["baseline"], _model(found, "baseline")),
    ]
    return [
        {"path": str(path), "what": what, "digest": digest, "sources": sources}
        for path, (what, digest, sources) in chain
    ]


def _frames(store: FrameStore | None, names: Sequence[str]) -> tuple[str, str | None, Sequence[Artifact]]:
    if store is None:
        return "a frame store", None, ()
    num_frames = sum(row.frames for row in store.rows)
    codec = store.codec if store.jpeg_quality is None else f"{store.codec} of quality {store.jpeg_quality}"
    levels = "" if store.levels == "linear" else f", {store.levels} levels"
    return (
        f"{num_frames:,} frames of {len(store.rows)} videos, {codec}{levels}",
        store.digest,
        _sources(store.origin, names),
    )


def _enhancer(found: Artifacts) -> tuple[str, str | None, Sequence[Artifact]]:
    facts = found.models["enhancer"]
    if facts is None:
        return "the enhancer", None, ()
    parameters = facts.attributes["parameters"]
    what = ", ".join([facts.attributes["enhancer"], *(f"{name} {value}" for name, value in sorted(parameters.items()))])
    return what, facts.digest, ()


def _soft_targets(found: Artifacts) -> tuple[str, str | None, Sequence[Artifact]]:
    store = found.soft_targets
    attributes = store.attributes
    footage = f" ({store.num_unlabelled} without a label)" if store.num_unlabelled else ""
    views = f"{store.num_views} view{'s' * (store.num_views != 1)} of each of {store.num_rows} videos{footage}"
    right = "; ".join(
        f"{_teacher(teacher)} is right about {100 * teacher['top1_on_views']:.1f} % of these views" + _in_folds(teacher)
        for teacher in attributes["teachers"]
    )
    what = f"logits for {views}, {attributes['codec']['name']}; {right}"
    sources = _sources(attributes["digests"], ("manifest",))
    for number, teacher in enumerate(attributes["teachers"]):
        if is_imported(teacher):  # of another program: its digest names nothing of the chain
            continue
        # the chain's page has files of the first one alone
        found_here = _sources({"frames": teacher["frames"], "teacher": teacher["digest"]}, ("frames", "teacher"))
        sources += [{**source, "expected": number == 0} for source in found_here]
    return what, store.digest, sources


def _teacher(teacher: Mapping[str, Any]) -> str:
    if is_imported(teacher):
        return f"{teacher['name']}, of another program,"
    return f"{teacher['name']} in the light {teacher['light'] or 'not named'}"


def _in_folds(teacher: Mapping[str, Any]) -> str:
    folds = teacher.get("folds", ())
    return f", by {len(folds)} models of folds, each on videos of groups that it never saw" if folds else ""


def _model(found: Artifacts, name: str) -> tuple[str, str | None, Sequence[Artifact]]:
    facts = found.models[name]
    if facts is None:
        return f"the {name}", None, ()
    digests = facts.attributes["trained_on"]["digests"]
    sources = _sources(digests, ("manifest", "frames", "soft_targets"))
    return facts.attributes["architecture"]["name"], facts.digest, sources


def _sources(digests: Mapping[str, Any], names: Sequence[str]) -> list[Artifact]:
    return [
        {"name": name.replace("_", " "), "digest": digests[name], "expected": name != "videos"}
        for name in names
        if name in digests
    ]
