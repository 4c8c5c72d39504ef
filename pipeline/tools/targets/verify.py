"""Is a soft-target store what it says it is? At three depths, each including those before it.

- attributes: they are complete and agree with each other; of a local store also: every file that must be there is, no
  other is, and every description is as the writer writes it.
- checksums: every chunk and every row; ids ascend; views lie inside their videos; kept classes are different ones.
- teacher: asked again about a sample of the videos, it sees the same pixels and says the same.

Axes: N videos, V views, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.digest import DIGEST_BYTES, digest_json, digest_uint64
from pipeline.core.errors import DlkddError, ParamsError, StaleArtifactError
from pipeline.core.params import ClipParams, Count, NotNegative, Share
from pipeline.core.progress import Advance, Progress, no_progress
from pipeline.data.frame_store import FrameStore
from pipeline.distill.store import store as soft_targets
from pipeline.distill.store.codecs import TopK, codec_of
from pipeline.distill.store.store import Examined, Rows, SoftTargetStore, concatenate, files_of
from pipeline.models.recognizer import ModelFile
from pipeline.tools.targets.ask_again import Asker, Comparison

Depth = Literal["attributes", "checksums", "teacher"]

CARD_NAME = "README.md"  # the one file of a store's folder that is no part of it

_DESCRIPTION = "zarr.json"
_REMEDY = (
    "the attributes cannot be worked out from the rows: `dvc checkout` or `dvc pull` brings the store back, "
    "`dvc repro precompute_soft_targets` makes it again, with what its work folder still holds"
)
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Verdict:
    """What a verification found: nothing wrong, or all that is.

    `digest` is None where the attributes cannot be trusted; `notes` say what was not checked, and why.
    """

    location: str
    depth: Depth
    digest: str | None
    findings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    num_rows: int = 0
    num_rows_checked: int = 0
    num_rows_bad: int = 0
    num_chunks_checked: int = 0
    asked: Comparison | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        values = {**asdict(self), "whole": self.whole, "asked": self.asked and self.asked.to_dict()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def verify(
    location: Path | str,
    depth: Depth,
    *,
    teachers: Sequence[ModelFile] = (),
    frames: FrameStore | None = None,
    num_sampled: int = 32,
    seed: int = 0,
    device: torch.device = _CPU,
    progress: Progress = no_progress,
) -> Verdict:
    """Check a store at a path or an fsspec URL. All that is wrong is in the verdict; nothing is mended.

    The depth "teacher" asks the given teachers, one or more of the store's, about `num_sampled` of its videos, drawn
    by `seed`; the same kind of device gives the same bits, and `target_asking.compare_logits` says what others may
    differ by. Raises EnvironmentProblem where a URL cannot be reached, ParamsError where that depth lacks teachers or
    frames, StaleArtifactError where the frames are damaged.
    """
    if depth == "teacher" and not (teachers and frames):
        raise ParamsError("to ask a teacher again takes its model file and the frames that it saw")
    store, findings = _open(location)
    if store is None:
        return Verdict(str(location), depth, None, tuple(findings), ("no row was read: the store cannot be opened",))
    verdict = Verdict(store.location, depth, store.digest, tuple(findings), num_rows=store.num_rows)
    if depth == "attributes":
        return verdict
    if attribute_findings(store.attributes):
        return replace(verdict, notes=("no row was read: the attributes contradict each other",))
    rng = np.random.default_rng([seed, digest_uint64(b"verify")])
    sample = np.sort(rng.choice(store.num_rows, size=min(num_sampled, store.num_rows), replace=False))
    with progress("checksums", store.num_rows, "rows") as advance:
        verdict, sampled = _check_rows(store, verdict, sample, advance)
    if depth == "checksums":
        return verdict
    assert frames is not None
    return _ask_again(store, verdict, sampled, teachers, frames, device, progress)


# Attributes and files


def _open(location: Path | str) -> tuple[SoftTargetStore | None, list[str]]:
    """The store, if it can be opened, and what is wrong with its attributes and, where it is local, its files."""
    findings: list[str] = []
    store, attributes = None, None
    is_local = "://" not in str(location)
    try:
        store = SoftTargetStore(location)
        attributes = store.attributes
    except StaleArtifactError as error:
        findings += error.findings or [_headline(error)]
    if is_local:
        try:
            attributes = read_attributes(Path(location))
        except StaleArtifactError as error:
            findings.append(_headline(error))
    if attributes is not None:
        contradictions = attribute_findings(attributes)
        findings += contradictions
        if is_local and not contradictions:
            findings += file_findings(Path(location), attributes)
    return store, findings


def read_attributes(folder: Path) -> dict[str, Any]:
    """The attributes of a local store, whatever became of its other files; raises StaleArtifactError if damaged."""
    try:
        attributes: dict[str, Any] = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))["attributes"]
        rest = {name: value for name, value in attributes.items() if name != "attributes_digest"}
        whole = attributes["attributes_digest"] == digest_json(rest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StaleArtifactError(f"{folder}/{_DESCRIPTION}: cannot be read: {error!r:.200}", remedy=_REMEDY) from None
    if not whole:
        raise StaleArtifactError(f"{folder}/{_DESCRIPTION}: the attributes do not have their digest", remedy=_REMEDY)
    return attributes


def file_findings(folder: Path, attributes: Mapping[str, Any]) -> list[str]:
    """Files of a local store that are missing or do not belong to it, and descriptions that are not the writer's."""
    expected = files_of(attributes)
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    findings = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    findings += [f"{name} is no part of the store" for name in sorted(found.keys() - expected.keys() - {CARD_NAME})]
    for name in sorted(expected.keys() & found.keys()):
        if found[name].stat().st_size == 0:
            findings.append(f"{name} is empty")
        elif expected[name] is not None and not _holds(found[name], expected[name]):
            findings.append(f"{name} is not the description that the writer writes")
    return findings


def _holds(path: Path, value: object) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return json.dumps(found, sort_keys=True) == json.dumps(value, sort_keys=True)


_Digest = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * DIGEST_BYTES}}}$")]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)  # what a later version adds is no fault


class _Shard(_Part):
    first: str
    digest: _Digest


class _Teacher(_Part):
    name: str
    digest: _Digest
    top1_on_views: Share


class _Digests(_Part):
    manifest: _Digest
    frames: _Digest
    enhancer: _Digest | None
    class_names: _Digest
    view_policy: _Digest


class _ViewPolicy(_Part):
    num_views: Count
    seed: Annotated[int, Field(ge=0)]
    version: Count


class _CodecError(_Part):
    top1_agreement: Share
    mean_kl: dict[str, NotNegative]
    max_kl: dict[str, NotNegative]


class _Attributes(_Part):
    format: Literal["dlkdd-soft-targets"]
    format_version: Literal[2]
    codec: dict[str, Any]
    class_names: Annotated[list[str], Field(min_length=1)]
    clip: ClipParams
    view_policy: _ViewPolicy
    batch_size: Count
    teachers: Annotated[list[_Teacher], Field(min_length=1)]
    digests: _Digests
    codec_error: _CodecError
    num_rows: Count
    num_views: Count
    num_teachers: Count
    rows_per_shard: Count
    shards: Annotated[list[_Shard], Field(min_length=1)]


def attribute_findings(attributes: Mapping[str, Any]) -> list[str]:
    """What is missing from the attributes, of another type, or contradicts the rest of them."""
    try:
        said = _Attributes.model_validate(dict(attributes))
    except ValidationError as error:
        return [
            f"attribute {'.'.join(map(str, detail['loc']))}: {detail['msg']}, not {detail['input']!r:.80}"
            for detail in error.errors()
        ]
    try:
        codec_of(said.codec, len(said.class_names))
    except (KeyError, TypeError, ValueError) as error:
        return [f"attribute codec: {error}, not {said.codec}"]
    firsts = [shard.first for shard in said.shards]
    pairs = {
        "num_teachers and the number of teachers": (said.num_teachers, len(said.teachers)),
        "num_views and view_policy.num_views": (said.num_views, said.view_policy.num_views),
        "the number of shards and that of the rows": (len(firsts), -(-said.num_rows // said.rows_per_shard)),
        "digests.class_names and the names": (said.digests.class_names, digest_json(attributes["class_names"])),
        "digests.view_policy and the policy": (said.digests.view_policy, digest_json(attributes["view_policy"])),
    }
    findings = [f"attributes: {what} differ: {one}, {other}" for what, (one, other) in pairs.items() if one != other]
    if len(set(said.class_names)) < len(said.class_names):
        findings.append("attributes: class_names has a name twice")
    if len({teacher.digest for teacher in said.teachers}) < len(said.teachers):
        findings.append("attributes: teachers has a teacher twice")
    if any(after <= before for before, after in pairwise(firsts)):
        findings.append("attributes: the first ids of the shards do not ascend")
    return findings


# Rows


def _check_rows(
    store: SoftTargetStore, verdict: Verdict, sample: NDArray[np.intp], advance: Advance
) -> tuple[Verdict, Rows]:
    """Read every shard; also returns the rows at the places in `sample`, those that are whole."""
    findings = list(verdict.findings)
    num_bad = num_chunks = 0
    sampled = []
    for shard in range(store.num_shards):
        examined = store.examine_shard(shard)
        findings += examined.findings
        bad_N = examined.bad_N | _check_values(examined, store, findings)
        places = sample[(sample >= examined.start) & (sample < examined.start + len(bad_N))] - examined.start
        sampled.append(examined.rows.take(places[~bad_N[places]]))
        num_bad += int(bad_N.sum())
        num_chunks += -(-len(bad_N) // soft_targets.CHUNK_ROWS) * (len(store.layout) + 2)  # and ids, row digests
        advance(len(bad_N), "")
    checked = replace(
        verdict,
        findings=tuple(findings),
        num_rows_checked=store.num_rows,
        num_rows_bad=num_bad,
        num_chunks_checked=num_chunks,
    )
    return checked, concatenate(sampled)


def _check_values(examined: Examined, store: SoftTargetStore, findings: list[str]) -> NDArray[np.bool_]:
    """Which rows, whole as they are, hold what no store can hold."""
    arrays, video_ids = examined.rows.arrays, examined.rows.video_ids
    outside_NV = outside(arrays["views"], arrays["frame_shape"], int(store.attributes["clip"]["num_frames"]))
    wrong_N = outside_NV.any(axis=1) & ~examined.bad_N
    for row in np.flatnonzero(wrong_N):
        number = int(outside_NV[row].argmax())
        view, shape = tuple(arrays["views"][row, number].tolist()), tuple(arrays["frame_shape"][row].tolist())
        findings.append(f"{video_ids[row]}: view {number} {view} is no view of a video of {shape}")
    if isinstance(store.codec, TopK):
        classes_NVMk = np.sort(arrays["topk_classes"], axis=-1)
        twice = (classes_NVMk[..., 1:] == classes_NVMk[..., :-1]).any(axis=(1, 2, 3))
        unknown = (classes_NVMk >= store.codec.num_classes).any(axis=(1, 2, 3))
        for row in np.flatnonzero((twice | unknown) & ~examined.bad_N):
            findings.append(f"{video_ids[row]}: topk_classes are not different ones of {store.codec.num_classes}")
            wrong_N[row] = True
    return wrong_N


def outside(views_NV7: NDArray[np.int32], frame_shape_N3: NDArray[np.int32], num_frames: int) -> NDArray[np.bool_]:
    """Which seven numbers (N, V) are no `View`, or one that leaves its video in space or time.

    A clip of `num_frames` that is longer than the video starts over.
    """
    first, stride, top, left, height, width, flip = np.moveaxis(views_NV7.astype(np.int64), -1, 0)
    video_frames, video_height, video_width = np.moveaxis(frame_shape_N3.astype(np.int64), -1, 0)[:, :, None]
    span = (num_frames - 1) * stride
    inside = (
        (np.minimum.reduce([first, top, left]) >= 0)
        & (np.minimum.reduce([stride, height, width]) >= 1)
        & ((flip == 0) | (flip == 1))
        & (top + height <= video_height)
        & (left + width <= video_width)
        & (first < video_frames)
        & ((first + span < video_frames) | (span >= video_frames))
    )
    return np.asarray(~inside)


# Teacher


def _ask_again(
    store: SoftTargetStore,
    verdict: Verdict,
    sampled: Rows,
    teachers: Sequence[ModelFile],
    frames: FrameStore,
    device: torch.device,
    progress: Progress,
) -> Verdict:
    recorded = {teacher["digest"] for teacher in store.attributes["teachers"]}
    findings = [
        f"teacher {given.digest} is none of the store's: {', '.join(sorted(recorded))}"
        for given in teachers
        if given.digest not in recorded
    ]
    if frames.digest != store.attributes["digests"]["frames"]:
        findings.append(
            f"digests.frames: the store has {store.attributes['digests']['frames']}, {frames.path} {frames.digest}"
        )
    asker = Asker(store, [given for given in teachers if given.digest in recorded], frames, device)
    notes = []
    if asker.drawn_views is None:
        notes.append("views were not drawn again: the store's policy is of another version")
    asked = None
    if asker.teachers:
        with progress("teacher", len(sampled) * store.num_views, "clips") as advance:
            asked = asker.compare(sampled, advance)
        findings += asked.findings
    return replace(verdict, findings=(*verdict.findings, *findings), notes=tuple(notes), asked=asked)


def _headline(error: DlkddError) -> str:
    return str(error).partition("\n")[0]
