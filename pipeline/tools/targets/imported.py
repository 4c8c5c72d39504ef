"""A soft-target store from the logits that another program gave for the bank of views.

Axes: N videos, V views, R the rows of a table of logits, K classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.digest import DIGEST_BYTES
from pipeline.core.errors import DlkddError, ParamsError, StaleArtifactError, shortened
from pipeline.data.listing import NO_LABEL
from pipeline.data.views import named_views
from pipeline.distill.store.attributes import IMPORTED, NOT_KNOWN
from pipeline.distill.store.codecs import LogitCodec
from pipeline.distill.store.rows import NO_FOLD, Rows
from pipeline.distill.store.store import read_arrays
from pipeline.distill.teacher.precompute import Packing, pack_store
from pipeline.tools.targets.export import import_parquet
from pipeline.tools.targets.views import DESCRIPTION, ViewBank

_REMEDY = "docs/foreign-teacher.md says what a file of logits holds; `dlkdd targets views` writes what to ask about"
_ARRAYS = ("video_id", "view", "logits")
_CLASS_NAMES = "class_names"


@dataclass(frozen=True)
class ForeignTeacher:
    """What a store names of a teacher that is no file of ours; its digest is whatever names it for its owner."""

    name: str
    digest: str

    def __post_init__(self) -> None:
        if not re.fullmatch(rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}", self.digest) or not self.name:
            raise ParamsError(
                f"a teacher has a name and a digest of {2 * DIGEST_BYTES} hexadecimal digits, not {self.name!r}, "
                f"{self.digest!r}",
                remedy="`b2sum -l 128 WEIGHTS` prints one of a file; any other digits that name the teacher do",
            )


@dataclass(frozen=True)
class GivenLogits:
    """A table of logits as it was read, unchecked; what it lacks is None."""

    path: Path
    video_id: NDArray[Any] | None
    view: NDArray[Any] | None
    logits: NDArray[Any] | None
    class_names: Any
    bank: Any  # JSON values: the description of the bank


@dataclass(frozen=True)
class _ForeignRows:
    """The rows of an imported teacher; a `TeacherRows`."""

    bank: ViewBank
    logits_NVK: NDArray[np.float32]

    @property
    def video_ids(self) -> Sequence[str]:
        return self.bank.rows.video_ids

    def rows(self, start: int, stop: int) -> Rows:
        """With zeros for what only a teacher of ours tells: its pixels and its frames."""
        of_views = self.bank.rows.take(slice(start, stop))
        num_videos, num_views = of_views.arrays["views"].shape[:2]
        return Rows(
            of_views.video_ids,
            {
                **of_views.arrays,
                "pixel_digest": np.zeros((num_videos, num_views, 1), "<u8"),
                "frame_shape": np.zeros((num_videos, 1, 3), "<i4"),
                "frames_digest": np.zeros((num_videos, 1, DIGEST_BYTES), "u1"),
                "fold": np.full((num_videos, 1), NO_FOLD, "<i2"),
                "logits": self.logits_NVK[start:stop, :, None],
            },
        )


def read_logits(path: Path) -> GivenLogits:
    """Read a table of logits, by its suffix .npz, .parquet or .zarr: a row for each view, in any order.

    `video_id` (R), `view` (R), `logits` (R, K); `class_names` are K names, and `bank` is the description that the table
    of views has: both as JSON in the metadata of parquet and the attributes of zarr, or as they are. Raises ParamsError
    for another suffix, StaleArtifactError for a file that cannot be read.
    """
    readers: Mapping[str, Callable[[Path], Mapping[str, Any]]] = {
        ".npz": _read_npz,
        ".parquet": _read_parquet,
        ".zarr": _read_zarr,
    }
    if path.suffix not in readers:
        raise ParamsError(f"{path}: expected a name that ends with {', '.join(readers)}")
    try:
        found = readers[path.suffix](path)
        arrays = {name: None if found.get(name) is None else np.asarray(found[name]) for name in _ARRAYS}
        others = {name: _json_value(found.get(name)) for name in (_CLASS_NAMES, DESCRIPTION)}
    except (DlkddError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes numpy, zipfile and pyarrow raise nearly anything
        raise StaleArtifactError(f"{path}: its logits cannot be read: {error}", remedy=_REMEDY) from error
    return GivenLogits(path, **arrays, **others)


def _read_npz(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in (*_ARRAYS, _CLASS_NAMES, DESCRIPTION) if name in archive}


def _read_parquet(path: Path) -> Mapping[str, Any]:
    pa, parquet = import_parquet("give .npz")
    table = parquet.read_table(path)
    columns = {name: table[name].combine_chunks() for name in _ARRAYS if name in table.column_names}
    logits = columns.pop("logits", None)
    found = {name: column.to_numpy(zero_copy_only=False) for name, column in columns.items()}
    if logits is not None and not pa.types.is_nested(logits.type):
        found["logits"] = logits.to_numpy(zero_copy_only=False)
    elif logits is not None:
        lengths = np.unique(logits.value_lengths().to_numpy(zero_copy_only=False))
        if len(lengths) != 1 or logits.null_count:
            raise ValueError("its lists of logits have different lengths")
        found["logits"] = logits.flatten().to_numpy(zero_copy_only=False).reshape(len(logits), int(lengths[0]))
    metadata = {name.decode(): text.decode() for name, text in (table.schema.metadata or {}).items()}
    return {**found, **{name: metadata[name] for name in (_CLASS_NAMES, DESCRIPTION) if name in metadata}}


def _read_zarr(path: Path) -> Mapping[str, Any]:
    arrays, attributes = read_arrays(path, _ARRAYS)
    return {**attributes, **arrays}


def _json_value(value: Any) -> Any:
    """A value that may be an array, or JSON text."""
    plain = value.tolist() if isinstance(value, np.ndarray) else value
    return json.loads(plain) if isinstance(plain, str) else plain


def checked_logits(given: GivenLogits, bank: ViewBank) -> NDArray[np.float32]:
    """The logits_NVK for every view of the bank, in its order.

    Raises StaleArtifactError with all that is wrong: another bank, classes in another order, logits of another shape or
    type, or not finite; videos and views that are unknown, missing or there twice.
    """
    findings = [*_other_bank(given.bank, bank), *_other_classes(given.class_names, bank)]
    findings += [f"{name} is missing" for name in _ARRAYS if getattr(given, name) is None]
    if given.video_id is None or given.view is None or given.logits is None:
        raise _refused(given, findings)
    findings += _other_shapes(given.video_id, given.view, given.logits, bank)
    in_rows = given.video_id.shape == given.view.shape == given.logits.shape[:1] != (0,) and given.logits.ndim == 2
    if not in_rows or given.view.dtype.kind not in "iu" or given.logits.dtype.kind != "f":
        raise _refused(given, findings)  # nobody knows which numbers are of which view
    row_NV, misplaced = _row_of_each_view(given.video_id, given.view, bank)
    with np.errstate(over="ignore"):
        logits_RK = given.logits.astype(np.float32)
    finite_R = np.asarray(np.isfinite(logits_RK).all(axis=1))
    wrong_NV = (row_NV >= 0) & ~finite_R[row_NV]
    findings += [*misplaced, *(f"not finite: {video}" for video in named_views(bank.rows.video_ids, wrong_NV))]
    if findings:
        raise _refused(given, findings)
    return logits_RK[row_NV]


def _refused(given: GivenLogits, findings: Sequence[str]) -> StaleArtifactError:
    return StaleArtifactError(
        f"{given.path}: its logits are not those of this run's views", findings=findings, remedy=_REMEDY
    )


def _other_bank(found: Any, bank: ViewBank) -> list[str]:
    """What differs between the bank that was asked about and the run's."""
    if not isinstance(found, dict) or "digest" not in found:
        return [f"{DESCRIPTION} is missing: the description of the bank, as the table of views has it"]
    expected = bank.description
    if found == expected:
        return []
    return [
        f"{DESCRIPTION}: {name} is {_text(found.get(name))}, of this run {_text(expected.get(name))}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]


def _other_classes(found: Any, bank: ViewBank) -> list[str]:
    names = bank.description[_CLASS_NAMES]
    if found is None:
        return [f"{_CLASS_NAMES} is missing: the names in the order of the logits"]
    return [] if found == names else [f"{_CLASS_NAMES}: the logits have {_text(found)}, the manifest {_text(names)}"]


def _text(value: Any) -> str:
    return shortened(json.dumps(value, sort_keys=True, default=repr))


def _other_shapes(video_id: NDArray[Any], view: NDArray[Any], logits: NDArray[Any], bank: ViewBank) -> list[str]:
    num_rows, num_classes = len(bank.rows) * bank.description["num_views"], len(bank.description[_CLASS_NAMES])
    shapes = {
        "video_id": ((num_rows,), video_id),
        "view": ((num_rows,), view),
        "logits": ((num_rows, num_classes), logits),
    }
    findings = [
        f"{name} has the shape {array.shape}, expected {expected}: a row for each view"
        for name, (expected, array) in shapes.items()
        if array.shape != expected
    ]
    if view.dtype.kind not in "iu":
        findings.append(f"view is {view.dtype}, expected whole numbers")
    if logits.dtype.kind != "f":
        findings.append(f"logits are {logits.dtype}, expected float16, float32 or float64")
    return findings


def _row_of_each_view(
    video_id_R: NDArray[Any], view_R: NDArray[Any], bank: ViewBank
) -> tuple[NDArray[np.intp], list[str]]:
    """The row (N, V) of each view of the bank, −1 for none; and what is unknown, missing or there twice."""
    num_videos, num_views = len(bank.rows), bank.description["num_views"]
    place_of = {name: place for place, name in enumerate(bank.rows.video_ids)}
    names = list(map(str, video_id_R.tolist()))
    place_R = np.array([place_of.get(name, -1) for name in names], dtype=np.int64)
    inside_R = (view_R >= 0) & (view_R < num_views)
    known_R = (place_R >= 0) & inside_R
    view_of_bank_R = place_R[known_R] * num_views + view_R[known_R].astype(np.int64)
    count_NV = np.bincount(view_of_bank_R, minlength=num_videos * num_views).reshape(num_videos, num_views)
    row_M = np.full(num_videos * num_views, -1, dtype=np.intp)
    row_M[view_of_bank_R] = np.flatnonzero(known_R)
    findings = [f"no video of the bank: {name}" for name in sorted({name for name in names if name not in place_of})]
    findings += [f"no view of the bank: {names[row]}: view {view_R[row]}" for row in np.flatnonzero(~inside_R)]
    for what, wrong_NV in (("missing", count_NV == 0), ("there twice", count_NV > 1)):
        findings += [f"{what}: {video}" for video in named_views(bank.rows.video_ids, wrong_NV)]
    return row_M.reshape(num_videos, num_views), findings


def import_store(
    path: Path,
    bank: ViewBank,
    logits_NVK: NDArray[np.float32],
    teacher: ForeignTeacher,
    *,
    codec: LogitCodec,
    batch_size: int,
    max_kl: float,
) -> tuple[str, Packing]:
    """Write the store into a new folder; returns its digest, and what packing measured.

    What another program's teacher does not tell is zeros, and its `origin` says why. batch_size: of the run's own
    teachers, for the attribute of that name. Raises DataError as `pack_store` does.
    """
    manifest, description = bank.manifest, bank.description
    labels = [manifest.class_index(manifest.by_id[name]) for name in bank.rows.video_ids]
    num_footage = labels.count(NO_LABEL)
    packing = Packing(
        [_ForeignRows(bank, logits_NVK)], labels, codec, description["clip"]["size"] if bank.mixed else None
    )
    attributes = {
        **{name: description[name] for name in (_CLASS_NAMES, "clip", "view_policy")},
        "batch_size": batch_size,
        "teachers": [
            {
                "name": teacher.name,
                "digest": teacher.digest,
                "origin": IMPORTED,
                "light": None,
                "enhancer": None,
                "frames": NOT_KNOWN,
                "clip": description["clip"],
            }
        ],
        "digests": {name: description["digests"][name] for name in ("manifest", "dark")},
        **({"num_unlabelled": num_footage} if num_footage else {}),
    }
    return pack_store(path, packing, attributes, max_kl=max_kl), packing
