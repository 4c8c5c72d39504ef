"""The manifest: the table of all usable videos, and the quarantine: the table of those that cannot be used.

CSV files in UTF-8 with \\n line ends, sorted by video id, so that the same data set gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pipeline.core.digest import DIGEST_BYTES, digest_file, digest_json
from pipeline.core.errors import DataError, StaleArtifactError
from pipeline.core.tables import Reader, TableError, number, read_table, whole_number, write_table
from pipeline.data.footage import source_id
from pipeline.data.listing import ALL_SPLITS, NO_LABEL, UNLABELLED, Findings
from pipeline.data.names import path_problem, same_form, text_problem, without_suffix

PREPARE_AGAIN = "run the prepare stage: `dvc repro prepare`"


def video_id(path: str) -> str:
    """Name of a video: its path relative to the root without the suffix and in one normal form, so that it outlives a
    re-encoding and a copy to another system."""
    return same_form(without_suffix(path))


@dataclass(frozen=True)
class ManifestRow:
    """One usable video, or a window of one that has no label: its id then says so (pipeline/data/footage.py).

    label: the data set's own number of the class; NO_LABEL, with an empty class_name, where split is unlabelled. fps:
    frames a second, 0.0 where none is stated. width, height: pixels as displayed. digest: of the file's bytes. damage:
    why the file is not whole, where its frames before that were taken; a column of the file only where a video has one.
    """

    video_id: str
    path: str
    label: int
    class_name: str
    group: str
    split: str
    num_frames: int
    fps: float
    width: int
    height: int
    digest: str
    damage: str = ""


@dataclass(frozen=True)
class QuarantineRow:
    """One video that cannot be used, and why."""

    video_id: str
    path: str
    split: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The rows, sorted by id, and the digest of the file."""

    rows: tuple[ManifestRow, ...]
    digest: str

    @cached_property
    def labels(self) -> tuple[int, ...]:
        """The data set's label numbers in order: the label of class index k is labels[k]."""
        return tuple(sorted({row.label for row in self.rows} - {NO_LABEL}))

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in order of their labels."""
        names = {row.label: row.class_name for row in self.rows}
        return tuple(names[label] for label in self.labels)

    @cached_property
    def videos_digest(self) -> str:
        """Digest of the videos' ids and digests: the frames of the same videos name it, whatever their splits."""
        return digest_json(sorted((row.video_id, row.digest) for row in self.rows))

    @cached_property
    def by_id(self) -> dict[str, ManifestRow]:
        """The rows by video id."""
        return {row.video_id: row for row in self.rows}

    @cached_property
    def _index_of_label(self) -> dict[int, int]:
        return {label: index for index, label in enumerate(self.labels)}

    def class_index(self, row: ManifestRow) -> int:
        """Position of a row's class among the class names, 0 to K-1, whatever numbers the data set uses.

        NO_LABEL for footage.
        """
        return NO_LABEL if row.split == UNLABELLED else self._index_of_label[row.label]

    def rows_of(self, *splits: str) -> tuple[ManifestRow, ...]:
        """Rows of train, val, test or unlabelled, or of several, sorted by id; empty where the manifest has none."""
        assert {*splits} <= {*ALL_SPLITS}, splits
        return tuple(row for row in self.rows if row.split in splits)


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> Manifest:
    """Write the rows whole, sorted by id. Raises DataError on rows that contradict themselves or each other."""
    ordered = tuple(sorted(rows, key=lambda row: row.video_id))
    _check(ordered, [row.path for row in ordered], path)
    _write(path, ManifestRow, ordered)
    return Manifest(ordered, digest_file(path))


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises StaleArtifactError where the columns are another version's, DataError where the file is missing or a value is
    wrong, with every finding and its line.
    """
    rows = _read(path, ManifestRow)
    _check(rows, [f"{path}:{index + 2}" for index in range(len(rows))], path)  # a line break in a field is refused
    if [row.video_id for row in rows] != sorted(row.video_id for row in rows):
        raise DataError(f"{path}: the rows are not sorted by video_id", remedy=PREPARE_AGAIN)
    return Manifest(rows, digest_file(path))


def write_quarantine(path: Path, rows: Iterable[QuarantineRow]) -> None:
    """Write the quarantine whole, sorted by id; it may be empty."""
    _write(path, QuarantineRow, sorted(rows, key=lambda row: row.video_id))


def read_quarantine(path: Path) -> tuple[QuarantineRow, ...]:
    """Read a quarantine. Raises StaleArtifactError or DataError like `read_manifest`."""
    return _read(path, QuarantineRow)


Row = TypeVar("Row", ManifestRow, QuarantineRow)

# Annotations are texts here, as of `from __future__ import annotations`
_READERS: dict[str, Reader] = {"str": str, "int": whole_number, "float": number}
OPTIONAL = ("damage",)  # columns that are left out where they would be empty


def _write(path: Path, row_type: type[Row], rows: Sequence[Row]) -> None:
    table = [asdict(row) for row in rows]
    names = [field.name for field in fields(row_type)]
    names = [name for name in names if name not in OPTIONAL or any(row[name] for row in table)]
    write_table(path, names, ([row[name] for name in names] for row in table))


def _read(path: Path, row_type: type[Row]) -> tuple[Row, ...]:
    findings = Findings()
    try:
        columns = {field.name: _READERS[str(field.type)] for field in fields(row_type)}
        if "label" in columns:
            columns["label"] = _label
        rows = read_table(path, columns, optional=OPTIONAL)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", remedy=PREPARE_AGAIN) from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text", remedy=PREPARE_AGAIN) from None
    except TableError as error:
        if error.findings[0][0] == 1:
            raise StaleArtifactError(f"{path}: {error}", remedy=PREPARE_AGAIN) from None
        for line, reason in error.findings:
            findings.add(f"{path}:{line}", reason)
        findings.raise_any(f"{path} is damaged", remedy=PREPARE_AGAIN)
        raise
    except ValueError as error:
        raise DataError(f"{path}: {error}", remedy=PREPARE_AGAIN) from None
    return tuple(row_type(**row) for row in rows)


def _label(text: str) -> int:
    return NO_LABEL if text == str(NO_LABEL) else whole_number(text)


def _check(rows: Sequence[ManifestRow], places: Sequence[str], path: Path) -> None:
    """Raise DataError with all that is wrong with the rows, each at its place."""
    findings = Findings()
    if not rows:
        findings.add(str(path), "no videos")
    ids: dict[str, str] = {}
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for row, place in zip(rows, places, strict=True):
        for problem in _row_problems(row):
            findings.add(place, problem)
        before = ids.setdefault(row.video_id, row.path)
        if before is not row.path:
            findings.add(place, f"{row.path} and {before} have the same video_id {row.video_id!r}; keep one of them")
        if row.split == UNLABELLED:
            continue
        if names.setdefault(row.label, row.class_name) != row.class_name:
            findings.add(place, f"class {row.label} is {row.class_name!r} here, but {names[row.label]!r} above")
        elif labels.setdefault(row.class_name, row.label) != row.label:
            findings.add(place, f"class {row.class_name!r} is {row.label} here, but {labels[row.class_name]} above")
    findings.raise_any(f"{path} cannot be a manifest", remedy=PREPARE_AGAIN)


def _row_problems(row: ManifestRow) -> Iterable[str]:
    problem = path_problem(row.path)
    if problem:
        yield problem
    elif video_id(row.path) not in {row.video_id, source_id(row.video_id) if row.split == UNLABELLED else row.video_id}:
        yield f"video_id of {row.path} is {video_id(row.path)!r}, not {row.video_id!r}"
    yield from filter(None, map(text_problem, (row.class_name, row.group, row.damage)))
    if row.split == UNLABELLED:
        if (row.label, row.class_name) != (NO_LABEL, ""):
            yield f"unlabelled, but with the label {row.label} and the class_name {row.class_name!r}"
    elif row.label < 0:
        yield f"label is 0 or more, not {row.label}"
    if not row.group or (row.split != UNLABELLED and not row.class_name):
        yield "class_name or group is empty"
    if row.split not in ALL_SPLITS:
        yield f"split is {', '.join(ALL_SPLITS)}, not {row.split!r}"
    if not (math.isfinite(row.fps) and row.fps >= 0):
        yield f"fps is a number of 0 or more, not {row.fps}"
    for name in ("num_frames", "width", "height"):
        if getattr(row, name) < 1:
            yield f"{name} is 1 or more, not {getattr(row, name)}"
    if len(row.digest) != 2 * DIGEST_BYTES or set(row.digest) - set("0123456789abcdef"):
        yield f"digest is {2 * DIGEST_BYTES} hexadecimal digits, not {row.digest!r}"
