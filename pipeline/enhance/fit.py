"""A learned enhancer's fit as restartable work: what determines it, and its files in a work folder.

The stage publishes these files, the preview keeps them; both have the same bytes. PyTorch is imported only if there is
something to fit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.digest import digest_file, digest_json
from pipeline.core.errors import DataError
from pipeline.core.files import write_text_whole
from pipeline.core.params import FitEnhancerParams
from pipeline.core.progress import Progress, StopCheck
from pipeline.core.tables import write_curve
from pipeline.core.work_folder import WorkFolder, work_folder
from pipeline.data.frame_store import FrameStore
from pipeline.enhance.file import save_enhancer

if TYPE_CHECKING:
    import torch


FITTED_VERSION = 1  # raised when the same frames come to give other weights
CHECKPOINT_SECONDS = 20.0
MODEL, CURVE = "enhancer.safetensors", "curve.csv"  # in the work folder of a fit
_RECORD = "fitted.json"  # written last: the digests of both
# Parameters that do not affect a fit: whoever tries gammas in previews need not wait for the networks each time
_OF_OTHERS = {"gamma", "target_mean", "clahe_clip_limit", "clahe_grid", "statistics", "smoothing", "weights"}


@dataclass(frozen=True)
class Fit:
    """All that determines the weights of the network `name`; `train`: the only videos that it learns from."""

    name: str
    options: FitEnhancerParams
    seed: int
    frames: FrameStore
    train: tuple[str, ...]
    device: torch.device

    def __post_init__(self) -> None:
        if not self.train:
            raise DataError(
                f"{self.name} has nothing to learn from: the manifest has no train videos",
                remedy="`dvc repro prepare` makes a manifest; docs/datasets.md tells how the splits are made",
            )

    @property
    def inputs(self) -> dict[str, str]:
        """Digests of what it learns from."""
        return {"dark": self.frames.digest, "train": digest_json(list(self.train))}

    @property
    def values(self) -> dict[str, object]:
        """The parameters, for a fingerprint."""
        own = self.options.model_dump(exclude=_OF_OTHERS)
        return {"enhancer": self.name, "options": own, "seed": self.seed, "device": self.device.type}


@contextmanager
def fitted(
    stage: str,
    fit: Fit,
    *,
    stop: StopCheck,
    progress: Progress,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    outs: Sequence[Path] = (),
) -> Iterator[WorkFolder]:
    """Fit in the work folder of that stage, unless an earlier run has left its finished fit there.

    Yields the locked folder with the files MODEL and CURVE, which the caller publishes, keeps or finishes. Their bytes
    do not depend on the stage's name. Raises what `Fitter.run` raises, and EnvironmentProblem where the folder, or one
    of the `outs` that the caller will write, is in use or cannot be written.
    """
    version = FITTED_VERSION
    with work_folder(stage, params=fit.values, inputs=fit.inputs, format_version=version, outs=outs, stop=stop) as work:
        if not _is_fitted(work.path):
            _fit_into(work.path, stage, fit, stop, progress, checkpoint_seconds)
        yield work


def _is_fitted(folder: Path) -> bool:
    """Whether the fit is finished and both files are unchanged since."""
    try:
        return bool(json.loads((folder / _RECORD).read_bytes()) == _digests(folder))
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    return {name: digest_file(folder / name) for name in (MODEL, CURVE)}


def _fit_into(
    folder: Path, stage: str, fit: Fit, stop: StopCheck, progress: Progress, checkpoint_seconds: float
) -> None:
    from pipeline.enhance.fitting import Fitter

    fitter = Fitter(fit, checkpoint_path=folder / "checkpoint.pt", checkpoint_seconds=checkpoint_seconds)
    with progress(stage, fit.options.steps, "steps") as advance:
        enhancer, curve = fitter.run(stop=stop, advance=advance)
    write_curve(folder / CURVE, curve)
    save_enhancer(folder / MODEL, enhancer, fitted_on={**fit.inputs, "seed": fit.seed, "steps": fit.options.steps})
    write_text_whole(folder / _RECORD, json.dumps(_digests(folder)))
