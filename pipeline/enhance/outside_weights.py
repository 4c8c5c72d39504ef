"""Weights of a learned enhancer from a file: our own, another safetensors file, or a PyTorch checkpoint.

The authors' checkpoints fit as they are. Only tensors are read from a file; code in it is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import ParamsError
from pipeline.core.weights import read_tensors
from pipeline.enhance.learned import NETWORKS, LearnedEnhancer, Precision, fit_of_tensors, make_learned

_PREFIXES = ("module.", "enhance.")  # of DataParallel, and of SCI's whole network
_IGNORED = ("calibrate.", "blocks.")  # SCI's helper in fitting, and its shared block by a second name


def enhancer_from_weights(path: Path, name: str, *, curve_reduction: int, precision: Precision) -> LearnedEnhancer:
    """The learned enhancer of that name with the weights of a file.

    Raises ParamsError if the file does not exist or holds other weights, with all that is missing or unknown, and
    StaleArtifactError if it cannot be read.
    """
    tensors = _plain_names(read_tensors(path, parameter="fit_enhancer.weights"))
    findings = fit_of_tensors(NETWORKS[name](), tensors)
    if findings:
        raise ParamsError(
            f"fit_enhancer.weights: {path} does not hold the weights of {name}",
            findings=findings,
            remedy="name a file of that network, or set fit_enhancer.weights to null to fit it on your own videos",
        )
    return make_learned(name, {"curve_reduction": curve_reduction, "precision": precision}, tensors)


def _plain_names(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    plain: dict[str, NDArray[Any]] = {}
    for name, value in tensors.items():
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if not name.startswith(_IGNORED):
            plain[name] = value.float().numpy()
    return plain
