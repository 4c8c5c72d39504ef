"""Tensors from files of other programs: safetensors, or what torch.save wrote. No code in a file is ever run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.core.errors import ParamsError, StaleArtifactError

# keys under which checkpoints keep the weights, beside optimiser and epoch
_WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "params")


def read_tensors(path: Path, *, parameter: str) -> dict[str, Tensor]:
    """All tensors of a file by name, on the CPU; other values beside them are left out.

    parameter: the one that named the file, for messages. Raises ParamsError where there is no such file, and
    StaleArtifactError where it holds no tensors, or cannot be read without running code.
    """
    try:
        content = _content(path)
    except FileNotFoundError:
        raise ParamsError(f"{parameter}: {path}: no such file") from None
    except Exception as error:  # a damaged or hostile file makes the readers raise nearly anything
        reason = _reason(error)
        raise StaleArtifactError(
            f"{parameter}: {path}: cannot be read as tensors alone: {reason}",
            remedy="give a .safetensors file, or a .pth file that torch.save wrote of a state dict",
        ) from None
    content = _unwrapped(content)
    if not isinstance(content, Mapping):
        raise StaleArtifactError(f"{parameter}: {path} holds a {type(content).__name__}, not a state dict")
    tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    strange = [name for name, value in tensors.items() if value.is_meta or value.layout != torch.strided]
    if strange:
        raise StaleArtifactError(f"{parameter}: {path}: not all tensors have plain values", findings=strange)
    return tensors


def _unwrapped(content: Any) -> Any:
    """The state dict within a checkpoint; wrappers may lie in each other."""
    for _ in _WRAPPERS:
        inner = [content[key] for key in _WRAPPERS if isinstance(content, Mapping) and key in content]
        content = next((value for value in inner if isinstance(value, Mapping)), content)
    return content


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to run the file's code
        return "it holds other objects, which could be code, or it is damaged"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
