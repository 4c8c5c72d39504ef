"""The attributes of a soft-target store: which it must have, of which types, and how they must agree.

docs/soft-target-store.md describes them. Attributes that are not named here are ignored: a later version may add some.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.digest import DIGEST_BYTES, digest_json
from pipeline.core.params import ClipParams, Count, NotNegative, Share
from pipeline.distill.store.codecs import codec_of

FORMAT = "dlkdd-soft-targets"
FORMAT_VERSION = 3

IMPORTED = "imported"  # the origin of a teacher whose logits another program gave: it cannot be run here
NOT_KNOWN = "0" * 2 * DIGEST_BYTES  # in place of a digest that an imported teacher does not have

_Digest = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * DIGEST_BYTES}}}$")]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Shard(_Part):
    first: str
    digest: _Digest


class _Teacher(_Part):
    name: str
    digest: _Digest
    top1_on_views: Share
    light: str | None  # the name of the enhancer
    enhancer: _Digest | None
    frames: _Digest
    clip: ClipParams
    weight: Share = 0  # of several teachers, chosen on val
    top1_on_val: Share = 0
    origin: Literal["imported"] | None = None
    folds: list[_Digest] = []  # of the models that give a video's logits in its place, each trained without its group


class _Digests(_Part):
    manifest: _Digest
    dark: _Digest | None
    class_names: _Digest
    view_policy: _Digest


class _ViewPolicy(_Part):
    num_views: Count
    min_scale: float
    max_aspect: float
    flip: bool
    seed: Annotated[int, Field(ge=0)]
    version: Count
    mix: Literal["none", "mixup", "cutmix"] = "none"


class _CodecError(_Part):
    top1_agreement: Share
    mean_kl: dict[str, NotNegative]
    max_kl: dict[str, NotNegative]


class _Attributes(_Part):
    codec: dict[str, Any]
    class_names: Annotated[list[str], Field(min_length=1)]
    clip: ClipParams
    view_policy: _ViewPolicy
    batch_size: Count
    teachers: Annotated[list[_Teacher], Field(min_length=1)]
    digests: _Digests
    codec_error: _CodecError
    num_unlabelled: Annotated[int, Field(ge=0)] = 0  # rows of videos that have no label
    merged_from: list[_Digest] = []
    num_rows: Count
    num_views: Count
    num_teachers: Count
    rows_per_shard: Count
    shards: Annotated[list[_Shard], Field(min_length=1)]


def has_blends(attributes: Mapping[str, Any]) -> bool:
    """Whether some views of the store are blends of two videos."""
    return bool(attributes["view_policy"].get("mix", "none") != "none")


def imported_alone(attributes: Mapping[str, Any]) -> bool:
    """Whether other programs gave the logits of all teachers of the store: none of them can be run here."""
    return all(is_imported(teacher) for teacher in attributes["teachers"])


def is_imported(teacher: Mapping[str, Any]) -> bool:
    """Whether another program gave the logits of this one of the teachers."""
    return teacher.get("origin") == IMPORTED


def attribute_findings(attributes: Mapping[str, Any]) -> list[str]:
    """What is missing from the attributes, of another type, or contradicts the rest of them."""
    try:
        found = _Attributes.model_validate(dict(attributes))
    except ValidationError as error:
        return [
            f"attribute {'.'.join(map(str, detail['loc']))}: {detail['msg']}, not {detail['input']!r:.80}"
            for detail in error.errors()
        ]
    try:
        codec_of(found.codec, len(found.class_names))
    except (KeyError, TypeError, ValueError) as error:
        return [f"attribute codec: {error}, not {found.codec}"]
    firsts = [shard.first for shard in found.shards]
    cost = found.codec_error
    pairs: dict[str, tuple[object, object]] = {
        "num_teachers and the number of teachers": (found.num_teachers, len(found.teachers)),
        "num_views and view_policy.num_views": (found.num_views, found.view_policy.num_views),
        "the number of shards and that of the rows": (len(firsts), -(-found.num_rows // found.rows_per_shard)),
        "digests.class_names and the names": (found.digests.class_names, digest_json(attributes["class_names"])),
        "digests.view_policy and the policy": (found.digests.view_policy, digest_json(attributes["view_policy"])),
        "the temperatures of codec_error.mean_kl and max_kl": (sorted(cost.mean_kl), sorted(cost.max_kl)),
    }
    findings = [f"attributes: {what} differ: {one}, {other}" for what, (one, other) in pairs.items() if one != other]
    if len(set(found.class_names)) < len(found.class_names):
        findings.append("attributes: class_names has a name twice")
    models = [digest for teacher in found.teachers for digest in (teacher.digest, *teacher.folds)]
    if len(set(models)) < len(models):
        findings.append("attributes: teachers has a teacher twice")
    weights = [teacher.weight for teacher in found.teachers if "weight" in teacher.model_fields_set]
    if weights and (len(weights) < found.num_teachers or abs(sum(weights) - 1) > 0.001 * len(weights)):
        findings.append(f"attributes: teachers have the weights {weights}: none of them, or all, with sum 1")
    if found.num_unlabelled > found.num_rows:
        findings.append(f"attributes: num_unlabelled {found.num_unlabelled} is above num_rows {found.num_rows}")
    if any(after <= before for before, after in pairwise(firsts)):
        findings.append("attributes: the first ids of the shards do not ascend")
    return findings
