"""Epochs for TensorBoard; the package is needed only where a folder is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import EnvironmentProblem
from pipeline.train.state import Epoch, EpochWriter


@contextmanager
def tensorboard_writer(folder: Path) -> Iterator[EpochWriter]:
    """Yields a function that writes an epoch's numbers and pace; raises EnvironmentProblem without the package.

    Epochs that are written again, after a kill, replace the earlier ones.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise EnvironmentProblem(
            "--tensorboard needs the package tensorboard", remedy="pip install 'dlkdd[tensorboard]'"
        ) from None
    writer: SummaryWriter | None = None

    def write(epoch: Epoch) -> None:
        nonlocal writer
        number = int(epoch.row["epoch"])
        if writer is None:
            writer = SummaryWriter(str(folder), purge_step=number)
        values = {**epoch.row, "clips_per_second": epoch.clips_per_second, "data_wait": epoch.data_wait}
        for name, value in values.items():
            if name != "epoch":
                writer.add_scalar(name, value, number)
        writer.flush()

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
