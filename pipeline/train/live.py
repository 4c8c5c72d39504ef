"""Where a training stands, in a small file that `dvc exp show` and editors read while it runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.files import write_text_whole
from pipeline.train.state import Epoch, EpochWriter

DIGITS = 3


@contextmanager
def live_metrics(folder: Path, name: str) -> Iterator[EpochWriter]:
    """Yields a function that writes an epoch's numbers to `<folder>/<name>.json`, whole; at the end the file goes.

    It is no out of a stage: nothing depends on it, git ignores it, and what a killed training left goes with the next.
    """
    path = folder / f"{name}.json"

    def write(epoch: Epoch) -> None:
        found = {key: epoch.row[key] for key in ("train_loss", "val_top1")}
        numbers = {key: round(value, DIGITS) for key, value in found.items() if math.isfinite(value)}
        write_text_whole(path, json.dumps({name: {"epoch": int(epoch.row["epoch"]), **numbers}}, indent=1) + "\n")

    path.unlink(missing_ok=True)
    try:
        yield write
    finally:
        path.unlink(missing_ok=True)
