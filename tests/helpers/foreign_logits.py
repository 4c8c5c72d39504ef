"""Logits as another program hands them over: its files, written by libraries of others alone."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import zarr
from pyarrow import parquet


def table_of(bank, logits_NVK):
    """A row for each view of a bank, in its order, with the names of its classes and its description."""
    video_ids, num_views = bank.rows.video_ids, logits_NVK.shape[1]
    return {
        "video_id": np.repeat(np.array(video_ids), num_views),
        "view": np.tile(np.arange(num_views), len(video_ids)),
        "logits": logits_NVK.reshape(-1, logits_NVK.shape[-1]),
        "class_names": np.array(bank.description["class_names"]),
        "bank": np.array(json.dumps(bank.description)),
    }


def write_logits(path, table):
    """A table in the format of the suffix."""
    names = json.dumps(table["class_names"].tolist())
    if path.suffix == ".npz":
        np.savez(path, **table)
    elif path.suffix == ".parquet":
        columns = {"video_id": table["video_id"], "view": table["view"], "logits": list(table["logits"])}
        parquet.write_table(pa.table(columns, metadata={"class_names": names, "bank": str(table["bank"])}), path)
    else:
        group = zarr.open_group(path, mode="w")
        for name in ("view", "logits"):
            group.create_array(name, data=table[name])
        group.create_array("video_id", shape=table["video_id"].shape, dtype=str)[:] = table["video_id"].astype(object)
        group.attrs.update({"class_names": json.loads(names), "bank": str(table["bank"])})
    return path
