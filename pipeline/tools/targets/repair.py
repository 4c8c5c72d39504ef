"""Mend a soft-target store: ask its teachers again about the rows that are bad or missing, and about no others.

The ids of lost rows are those of the manifest's train videos, their views are drawn again by name, and the descriptions
follow from the attributes. On the kind of device that made the store, the mended one has the same bytes.

Axes: N videos.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.digest import digest_bytes, digest_uint64
from pipeline.core.errors import DataError, ParamsError, StaleArtifactError
from pipeline.core.files import PARTIAL_SUFFIX, publish
from pipeline.core.progress import Progress, no_progress
from pipeline.core.work_folder import work_folder
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import Manifest
from pipeline.data.views import VIEW_POLICY_VERSION
from pipeline.distill.store.store import FORMAT_VERSION, Rows, SoftTargetStore, concatenate, files_of, write_store
from pipeline.models.recognizer import ModelFile
from pipeline.tools.targets.ask_again import Asker, Comparison
from pipeline.tools.targets.verify import CARD_NAME, attribute_findings, file_findings, read_attributes, verify

NUM_CONTROL_ROWS = 32

_CPU = torch.device("cpu")
_MAKE_AGAIN = "`dvc repro precompute_soft_targets`, which takes over what its work folder still holds"

# What write_store sets itself
_WRITTEN = frozenset(
    {
        "format",
        "format_version",
        "codec",
        "num_rows",
        "num_views",
        "num_teachers",
        "rows_per_shard",
        "shards",
        "attributes_digest",
    }
)


@dataclass(frozen=True)
class Repair:
    """What was wrong with a store, and what became of it.

    `outcome` "other device": the rows that were asked again are right, but not bit for bit what they were, so the store
    has another digest, and its attribute `repaired_rows` counts them. `control` compares rows that were not lost; it is
    None where the recorded digest came out.
    """

    location: str
    outcome: Literal["nothing to repair", "identical", "other device"]
    findings: tuple[str, ...]
    num_rows: int
    num_rows_asked: int
    digest: str
    new_digest: str
    out: str | None = None
    control: Comparison | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        control = self.control and self.control.to_dict()
        return {**asdict(self), "findings": list(self.findings), "control": control}


def repair(
    location: Path | str,
    *,
    teachers: Sequence[ModelFile],
    frames: FrameStore,
    manifest: Manifest,
    out: Path | None = None,
    device: torch.device = _CPU,
    progress: Progress = no_progress,
) -> Repair:
    """Mend a local store, in place or onto `out`; nothing is written where nothing is wrong.

    Takes all of the store's teachers. Raises ParamsError for a URL, StaleArtifactError where the attributes are
    damaged, where teachers, frames or manifest are not those of the store (every difference is named), or where
    the teachers do not say again what good rows hold; DataError where they say what is not finite.
    """
    if "://" in str(location):
        raise ParamsError(
            f"{location}: only a store in a folder can be mended", remedy="fetch it first, or mend it where it lies"
        )
    folder = Path(location)
    attributes = read_attributes(folder)
    contradictions = attribute_findings(attributes)
    if contradictions:
        raise StaleArtifactError(
            f"{folder}: its attributes cannot be mended", findings=contradictions, remedy=_MAKE_AGAIN
        )
    digest = attributes["attributes_digest"]
    with work_folder(
        "repair_soft_targets", params={}, inputs={"soft_targets": digest}, format_version=FORMAT_VERSION
    ) as work:
        try:
            described = work.path / f"described{PARTIAL_SUFFIX}"
            _describe_anew(folder, attributes, described)
            found = verify(described, "checksums", progress=progress)
            # what is missing is among both
            findings = tuple(dict.fromkeys([*file_findings(folder, attributes), *found.findings]))
            result = Repair(str(folder), "nothing to repair", findings, attributes["num_rows"], 0, digest, digest)
            if findings:
                _require_origin(folder, attributes, teachers, frames, manifest)
                asker = Asker(SoftTargetStore(described), teachers, frames, device)
                result = _mend_onto(out or folder, work.path, asker, manifest, result, progress)
        finally:
            work.finish()
    return result


def _mend_onto(out: Path, work: Path, asker: Asker, manifest: Manifest, found: Repair, progress: Progress) -> Repair:
    """Build the mended store, check it, publish it; returns what became of it."""
    mended = _mend(asker, [row.video_id for row in manifest.rows_of("train")], progress)
    control = _control(found.location, mended, asker, progress)
    built = work / f"soft_targets.zarr{PARTIAL_SUFFIX}"
    new_digest = _write(mended, built, count=control is not None)
    card = Path(found.location) / CARD_NAME
    if card.is_file():
        shutil.copyfile(card, built / CARD_NAME)
    remaining = verify(built, "checksums", progress=progress)
    if not remaining.whole:
        raise StaleArtifactError(
            f"{found.location}: nothing was written: what is wrong was written so, and asking again does not mend it",
            findings=remaining.findings,
            remedy=_MAKE_AGAIN,
        )
    publish(built, out)
    return replace(
        found,
        outcome="other device" if control else "identical",
        num_rows_asked=mended.num_asked,
        new_digest=new_digest,
        out=str(out),
        control=control,
    )


def _require_origin(
    folder: Path,
    attributes: Mapping[str, Any],
    teachers: Sequence[ModelFile],
    frames: FrameStore,
    manifest: Manifest,
) -> None:
    """Raise StaleArtifactError with every difference from what the store was made from."""
    video_ids = [row.video_id for row in manifest.rows_of("train")]
    shards, per_shard = attributes["shards"], attributes["rows_per_shard"]
    wanted = {
        "digests.manifest": (attributes["digests"]["manifest"], manifest.digest),
        "class_names": (attributes["class_names"], list(manifest.class_names)),
        "number of train videos": (attributes["num_rows"], len(video_ids)),
        "first ids of the shards": ([shard["first"] for shard in shards], video_ids[::per_shard]),
        "digests.frames": (attributes["digests"]["frames"], frames.digest),
        "teachers": (
            sorted(teacher["digest"] for teacher in attributes["teachers"]),
            sorted(teacher.digest for teacher in teachers),
        ),
        "view_policy.version": (attributes["view_policy"]["version"], VIEW_POLICY_VERSION),
    }
    findings = [
        f"{name}: the store has {has!s:.200}, this run {given!s:.200}"
        for name, (has, given) in wanted.items()
        if has != given
    ]
    if findings:
        raise StaleArtifactError(
            f"{folder}: was not made from these teachers, frames and manifest",
            findings=findings,
            remedy=f"give those that `dlkdd targets inspect` names, or make the store again: {_MAKE_AGAIN}",
        )


def _describe_anew(folder: Path, attributes: Mapping[str, Any], described: Path) -> None:
    """A store of the same shards, by links, under the descriptions that belong to the attributes."""
    for name, value in files_of(attributes).items():
        path = described / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if value is not None:
            path.write_text(json.dumps(value), encoding="utf-8")
        elif (folder / name).is_file():
            path.symlink_to((folder / name).absolute())


@dataclass(frozen=True)
class _Mended:
    """A store whose bad rows were asked again: for each shard that has such, which they are, and what they hold."""

    store: SoftTargetStore
    asked: Mapping[int, tuple[NDArray[np.bool_], Rows]]

    @property
    def num_asked(self) -> int:
        return sum(len(rows) for _, rows in self.asked.values())

    def shard(self, shard: int) -> Rows:
        """The rows of a shard, each good or asked again."""
        found = self.store.examine_shard(shard).rows
        if shard not in self.asked:
            return found
        bad_N, rows = self.asked[shard]
        order = np.argsort(np.concatenate([np.flatnonzero(~bad_N), np.flatnonzero(bad_N)]))
        return concatenate([found.take(np.flatnonzero(~bad_N)), rows]).take(order)

    def other_shards(self) -> list[int]:
        """Those that did not become what the attributes name."""
        shards = self.store.attributes["shards"]
        return [
            shard
            for shard in self.asked
            if digest_bytes(self.shard(shard).digests().tobytes()) != shards[shard]["digest"]
        ]


def _mend(asker: Asker, video_ids: Sequence[str], progress: Progress) -> _Mended:
    store = asker.store
    bad = {}
    with progress("bad rows", store.num_rows, "rows") as advance:
        for shard in range(store.num_shards):
            examined = store.examine_shard(shard)
            expected = video_ids[examined.start : examined.start + len(examined.rows)]
            other_N = np.array([a != b for a, b in zip(examined.rows.video_ids, expected, strict=True)], dtype=bool)
            bad_N = examined.bad_N | other_N
            if bad_N.any():
                bad[shard] = bad_N, [expected[row] for row in np.flatnonzero(bad_N).tolist()]
            advance(len(bad_N), "")
    num_bad = sum(len(lost) for _, lost in bad.values())
    with progress("repair", num_bad * store.num_views, "clips") as advance:
        asked = {shard: (bad_N, asker.rows(lost, advance)) for shard, (bad_N, lost) in bad.items()}
    not_finite = [
        video_id
        for _, rows in asked.values()
        for video_id, logits_VMK in zip(rows.video_ids, rows.logits(store.codec), strict=True)
        if not np.isfinite(logits_VMK).all()
    ]
    if not_finite:
        raise DataError(
            "the teacher's logits are not finite, or too large for the codec, on these videos:",
            findings=not_finite,
            remedy="mend it on the kind of device that it was made on",
        )
    return _Mended(store, asked)


def _control(location: str, mended: _Mended, asker: Asker, progress: Progress) -> Comparison | None:
    """Where the recorded digests did not come out: ask about rows that were not lost, up to 32 of each such shard.

    None where they did. Raises StaleArtifactError where the teachers say other things than these rows.
    """
    others = mended.other_shards()
    if not others:
        return None
    rng = np.random.default_rng([digest_uint64(b"repair")])
    samples = [_good_sample(mended, shard, rng) for shard in others]
    if not any(map(len, samples)):
        samples = [_good_sample(mended, shard, rng) for shard in range(mended.store.num_shards)]
    sample = concatenate(samples)
    with progress("control", len(sample) * mended.store.num_views, "clips") as advance:
        control = asker.compare(sample, advance)
    if control.findings or not control.num_videos:
        raise StaleArtifactError(
            f"{location}: nothing was written: rows that were asked again do not have the recorded digest, and "
            f"{len(control.findings)} things differ in {len(sample)} rows that were not lost",
            findings=control.findings,
            remedy=f"mend it on the kind of device that it was made on, or make it again: {_MAKE_AGAIN}",
        )
    return control


def _good_sample(mended: _Mended, shard: int, rng: np.random.Generator) -> Rows:
    rows = mended.shard(shard)
    good = np.flatnonzero(~mended.asked[shard][0]) if shard in mended.asked else np.arange(len(rows))
    return rows.take(np.sort(rng.choice(good, size=min(NUM_CONTROL_ROWS, len(good)), replace=False)))


def _write(mended: _Mended, built: Path, *, count: bool) -> str:
    """Write the whole store; returns its digest. `count` adds the rows that were asked again to `repaired_rows`."""
    store = mended.store
    kept = {name: value for name, value in store.attributes.items() if name not in _WRITTEN}
    if count:
        kept["repaired_rows"] = kept.get("repaired_rows", 0) + mended.num_asked
    return write_store(
        built,
        (mended.shard(shard) for shard in range(store.num_shards)),
        codec=store.codec,
        num_rows=store.num_rows,
        num_views=store.num_views,
        num_teachers=store.num_teachers,
        attributes=kept,
    )
