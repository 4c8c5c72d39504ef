"""The chain's artifacts as the report lists them: what each is, its digest, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.frame_store import FrameStore
from pipeline.report.inputs import Artifacts, ReportPaths


@dataclass(frozen=True)
class Source:
    """What an artifact records that it was made from; `expected` is False for what is no artifact of the chain."""

    name: str
    digest: str
    expected: bool = True


@dataclass(frozen=True)
class Artifact:
    """One artifact; the digest is None where it is missing."""

    path: str
    what: str
    digest: str | None
    sources: tuple[Source, ...] = ()


def describe_chain(paths: ReportPaths, found: Artifacts) -> list[Artifact]:
    """The artifacts in the order in which they are made."""
    return [
        _manifest(paths, found),
        _frames(paths.dark, found.dark, ("videos",)),
        _enhancer(paths, found),
        _frames(paths.enhanced, found.enhanced, ("dark", "enhancer")),
        _model(paths, found, "teacher"),
        _soft_targets(paths, found),
        _model(paths, found, "student"),
        _model(paths, found, "baseline"),
    ]


def _manifest(paths: ReportPaths, found: Artifacts) -> Artifact:
    manifest = found.manifest
    what = f"{len(manifest.rows)} videos of {len(manifest.class_names)} classes; {len(found.quarantine)} in quarantine"
    return Artifact(str(paths.manifest), what, manifest.digest)


def _frames(path: Path, store: FrameStore | None, origins: tuple[str, ...]) -> Artifact:
    if store is None:
        return Artifact(str(path), "a frame store", None)
    num_frames = sum(row.frames for row in store.rows)
    codec = store.codec if store.jpeg_quality is None else f"{store.codec} of quality {store.jpeg_quality}"
    sources = [Source(name, store.origin[name], expected=name != "videos") for name in origins if name in store.origin]
    return Artifact(
        str(path), f"{num_frames:,} frames of {len(store.rows)} videos, {codec}", store.digest, tuple(sources)
    )


def _enhancer(paths: ReportPaths, found: Artifacts) -> Artifact:
    path, facts = str(paths.models["enhancer"]), found.models["enhancer"]
    if facts is None:
        return Artifact(path, "the enhancer", None)
    parameters = facts.attributes["parameters"]
    what = ", ".join([facts.attributes["enhancer"], *(f"{name} {value}" for name, value in sorted(parameters.items()))])
    return Artifact(path, what, facts.digest)


def _soft_targets(paths: ReportPaths, found: Artifacts) -> Artifact:
    store = found.soft_targets
    attributes = store.attributes
    right = ", ".join(f"{100 * teacher['top1_on_views']:.1f} %" for teacher in attributes["teachers"])
    views = f"{store.num_views} view{'s' * (store.num_views != 1)} of each of {store.num_rows} videos"
    what = f"logits for {views}, {attributes['codec']['name']}; the teacher is right about {right} of these views"
    named = _named(attributes["digests"], ("manifest", "frames"))
    teachers = tuple(Source("teacher", teacher["digest"]) for teacher in attributes["teachers"])
    return Artifact(str(paths.soft_targets), what, store.digest, (*named, *teachers))


def _model(paths: ReportPaths, found: Artifacts, name: str) -> Artifact:
    path, facts = str(paths.models[name]), found.models[name]
    if facts is None:
        return Artifact(path, f"the {name}", None)
    what = f"{facts.attributes['architecture']['name']}, {facts.num_parameters:,} parameters"
    names = ("manifest", "frames", "soft_targets")
    return Artifact(path, what, facts.digest, _named(facts.attributes["trained_on"]["digests"], names))


def _named(digests: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Source, ...]:
    return tuple(Source(name.replace("_", " "), digests[name]) for name in names if name in digests)
