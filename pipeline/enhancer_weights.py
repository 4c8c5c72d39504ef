"""Weights of a learned enhancer from a file: our own, another safetensors file, or a PyTorch checkpoint.

The authors' checkpoints fit as they are. No code is loaded from a file: PyTorch reads tensors alone.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pipeline.errors import ParamsError
from pipeline.learned_enhancers import NETWORKS, LearnedEnhancer, Precision, fit_of_tensors, make_learned

_WRAPPERS = ("state_dict", "model", "model_state", "params")  # keys under which checkpoints keep the weights
_PREFIXES = ("module.", "enhance.")  # of DataParallel, and of SCI's whole network
_IGNORED = ("calibrate.", "blocks.")  # SCI's helper in fitting, and its shared block by a second name


def enhancer_from_weights(path: Path, name: str, *, curve_reduction: int, precision: Precision) -> LearnedEnhancer:
    """The learned enhancer of that name with the weights of a file.

    Raises ParamsError where the file cannot be read or holds other weights, with all that is missing or strange.
    """
    tensors = _plain_names(_read(path))
    findings = fit_of_tensors(NETWORKS[name](), tensors)
    if findings:
        raise ParamsError(
            f"fit_enhancer.weights: {path} does not hold the weights of {name}",
            findings=findings[:20],
            remedy="name a file of that network, or set fit_enhancer.weights to null to fit it on your own videos",
        )
    return make_learned(name, {"curve_reduction": curve_reduction, "precision": precision}, tensors)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ParamsError(f"fit_enhancer.weights: {path}: no such file") from None
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ParamsError(
            f"fit_enhancer.weights: {path}: cannot be read as tensors alone: {reason}",
            remedy="give a .safetensors file, or a .pth file that torch.save wrote of a state dict",
        ) from None
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ParamsError(f"fit_enhancer.weights: {path} holds a {type(content).__name__}, not a state dict")
    return {str(name): value.numpy() for name, value in content.items() if isinstance(value, torch.Tensor)}


def _plain_names(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    plain: dict[str, NDArray[Any]] = {}
    for name, value in tensors.items():
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if not name.startswith(_IGNORED):
            plain[name] = np.asarray(value)
    return plain
