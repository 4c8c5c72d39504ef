"""Soft targets for people without zarr: a parquet table or an npz archive, written with a few shards in memory.

Axes: N videos, V views, M teachers, K classes.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import EnvironmentProblem, ParamsError
from pipeline.core.files import written_whole
from pipeline.core.progress import Progress, no_progress
from pipeline.data.views import View
from pipeline.distill.store.rows import Rows
from pipeline.distill.store.store import SoftTargetStore

if TYPE_CHECKING:
    import pyarrow

_ATTRIBUTES = "attributes"


def export(store: SoftTargetStore, path: Path, *, packed: bool = False, progress: Progress = no_progress) -> None:
    """Write a store to a file, by its suffix .parquet or .npz; logits are float32, or as the codec packed them.

    Raises ParamsError for another suffix, EnvironmentProblem where pyarrow is missing for parquet,
    StaleArtifactError for damaged rows.
    """
    writers: dict[str, Callable[..., None]] = {".parquet": _write_parquet, ".npz": _write_npz}
    if path.suffix not in writers:
        raise ParamsError(f"{path}: expected a name that ends with {' or '.join(writers)}")
    with written_whole(path) as partial:
        writers[path.suffix](store, partial, packed, progress)


def _read(store: SoftTargetStore, packed: bool, progress: Progress, what: str) -> Iterator[Rows]:
    """The rows shard by shard, with the codec's arrays or `logits` (N, V, M, K) float32 in their place."""
    codec_arrays = set(store.codec.arrays())
    with progress(what, store.num_rows, "rows") as advance:
        for shard in range(store.num_shards):
            rows = store.read_shard(shard)
            if not packed:
                others = {name: array for name, array in rows.arrays.items() if name not in codec_arrays}
                rows = Rows(rows.video_ids, {**others, "logits": rows.logits(store.codec)})
            yield rows
            advance(len(rows), "")


# parquet: a row for each view of each teacher


def import_parquet(otherwise: str) -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet; raises EnvironmentProblem where they are missing, with a way out."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise EnvironmentProblem(
            f"parquet needs pyarrow: {error}", remedy=f"pip install 'dlkdd[parquet]', or {otherwise}"
        ) from None
    return pyarrow, parquet


def _write_parquet(store: SoftTargetStore, path: Path, packed: bool, progress: Progress) -> None:
    _, parquet = import_parquet("export to .npz")
    tables = (_table(store, rows) for rows in _read(store, packed, progress, "parquet"))
    first = next(tables)
    with parquet.ParquetWriter(path, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _table(store: SoftTargetStore, rows: Rows) -> pyarrow.Table:
    import pyarrow as pa

    num_rows, num_views, num_teachers = len(rows), store.num_views, store.num_teachers
    shape = (num_rows, num_views, num_teachers)

    def of_teacher(field: str) -> pa.Array:
        """A field of the attributes for the teacher of each row."""
        values = [teacher[field] for teacher in store.attributes["teachers"]]
        return pa.array(np.tile(np.array(values, dtype=object), num_rows * num_views), pa.string())

    def column(array: NDArray[Any], axes: int) -> pa.Array:
        """An array whose first `axes` axes are the first of (N, V, M), as a value or a list for each row."""
        whole = np.broadcast_to(
            array.reshape(*array.shape[:axes], *(1,) * (3 - axes), *array.shape[axes:]), (*shape, *array.shape[axes:])
        )
        flat = pa.array(np.ascontiguousarray(whole).reshape(-1))
        return flat if array.ndim == axes else pa.FixedSizeListArray.from_arrays(flat, math.prod(array.shape[axes:]))

    columns = {
        "video_id": pa.array(np.repeat(np.array(rows.video_ids, dtype=object), num_views * num_teachers), pa.string()),
        "view": column(np.broadcast_to(np.arange(num_views, dtype=np.int32), (num_rows, num_views)), 2),
        "teacher": of_teacher("name"),
        "teacher_digest": of_teacher("digest"),
        **{field.name: column(rows.arrays["views"][..., i], 2) for i, field in enumerate(fields(View))},
    }
    arrays = {name: array for name, array in rows.arrays.items() if name != "views"}
    for name in ("frame_shape", "frames_digest", "fold"):  # (N, M, …)
        arrays[name] = np.repeat(arrays[name][:, None], num_views, axis=1)
    axes = {"dark_shape": 1, "partner": 2, "blends": 2}
    columns |= {name: column(array, axes.get(name, 3)) for name, array in arrays.items()}
    return pa.table(columns, metadata={_ATTRIBUTES: json.dumps(store.attributes, sort_keys=True)})


# npz: the arrays as they are


def _write_npz(store: SoftTargetStore, path: Path, packed: bool, progress: Progress) -> None:
    longest = 1
    layout: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for rows in _read(store, packed, progress, "npz: names"):
        longest = max(longest, *map(len, rows.video_ids))
        layout = {name: (array.shape[1:], array.dtype) for name, array in rows.arrays.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        attributes = np.array(json.dumps(store.attributes, sort_keys=True))
        _write_array(archive, _ATTRIBUTES, (), attributes.dtype, iter([attributes]))
        names = (
            np.array(rows.video_ids, dtype=f"<U{longest}") for rows in _read(store, packed, progress, "npz: video_id")
        )
        _write_array(archive, "video_id", (store.num_rows,), np.dtype(f"<U{longest}"), names)
        for name, (inner, dtype) in layout.items():
            parts = (rows.arrays[name] for rows in _read(store, packed, progress, f"npz: {name}"))
            _write_array(archive, name, (store.num_rows, *inner), dtype, parts)


def _write_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], parts: Iterator[NDArray[Any]]
) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy")  # without the time of day: the same store, the same bytes
    with archive.open(entry, "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        for part in parts:
            file.write(np.ascontiguousarray(part).tobytes())
