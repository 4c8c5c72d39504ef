"""Model files: safetensors with our attributes beside the tensors, checked by digest when read.

The attributes are one JSON text under one metadata key, since the order of several keys is not deterministic. No code
is ever loaded from a file, nor from one of another program (`read_tensors`).
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.core.digest import digest_bytes, digest_file, digest_json
from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.files import written_whole

if TYPE_CHECKING:  # classical enhancers read weights and need no torch, which takes seconds to import
    from torch import Tensor

Tensors = Mapping[str, NDArray[Any]]

_KEY = "dlkdd"
# What safetensors and json raise for what they cannot read, numpy for types that it does not have
_READ_ERRORS = (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError, MemoryError)


def save_weights(path: Path, tensors: Tensors, attributes: Mapping[str, object]) -> None:
    """Write tensors and attributes (JSON values) whole; the same values give the same bytes."""
    whole = {
        "attributes": dict(attributes),
        "attributes_digest": digest_json(dict(attributes)),
        "tensors_digest": _tensors_digest(tensors),
    }
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
    content = save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}, metadata={_KEY: text})
    with written_whole(path) as partial:
        partial.write_bytes(content)


def read_attributes(path: Path) -> dict[str, Any]:
    """The attributes alone, without reading the tensors. Raises StaleArtifactError where the file is not ours."""
    attributes: dict[str, Any] = _read_header(path)["attributes"]
    return attributes


def is_model_file(path: Path) -> bool:
    """Whether a file says that it is one of ours; it may still be damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            return _KEY in (file.metadata() or {})
    except _READ_ERRORS:
        return False


def whole_digest(path: Path) -> str:
    """Digest of a model file's bytes, by which others name it. Raises StaleArtifactError like `load_weights`."""
    load_weights(path)
    return digest_file(path)


def load_weights(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Tensors and attributes. Raises StaleArtifactError when the file is damaged or its tensors are not those saved."""
    header = _read_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except _READ_ERRORS as error:
        raise _damaged(path, str(error)) from None
    if _tensors_digest(tensors) != header["tensors_digest"]:
        raise _damaged(path, "its tensors do not have the digest that was written with them")
    return tensors, header["attributes"]


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            whole = json.loads((file.metadata() or {})[_KEY])
        if not isinstance(whole, dict) or set(whole) != {"attributes", "attributes_digest", "tensors_digest"}:
            raise ValueError("its header has other fields than attributes and two digests")
        if not isinstance(whole["attributes"], dict) or digest_json(whole["attributes"]) != whole["attributes_digest"]:
            raise ValueError("its attributes do not have the digest that was written with them")
    except FileNotFoundError:
        raise StaleArtifactError(f"{path}: no such model file", remedy="`dvc repro` or `dvc pull` makes it") from None
    except _READ_ERRORS as error:
        raise _damaged(path, str(error)) from None
    return whole


def _tensors_digest(tensors: Tensors) -> str:
    parts: list[bytes] = []
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")  # not ascontiguousarray: it gives a number an axis
        parts += [f"{name}:{array.dtype.str}:{array.shape};".encode(), array.tobytes()]
    return digest_bytes(*parts)


def _damaged(path: Path, reason: str) -> StaleArtifactError:
    return StaleArtifactError(
        f"{path}: not a whole dlkdd model file: {reason}", remedy="make it again with `dvc repro`, or `dvc checkout` it"
    )


# keys under which checkpoints keep the weights, beside optimiser and epoch
_WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "params")


def read_tensors(path: Path, *, parameter: str) -> dict[str, Tensor]:
    """All tensors of a file by name, on the CPU; other values beside them are left out.

    parameter: the one that named the file, for messages. Raises ParamsError where there is no such file, and
    StaleArtifactError where it holds no tensors, or cannot be read without running code.
    """
    import torch
    from safetensors.torch import load_file

    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise ParamsError(f"{parameter}: {path}: no such file") from None
    except Exception as error:  # a damaged or hostile file makes the readers raise nearly anything
        reason = _reason(error)
        raise StaleArtifactError(
            f"{parameter}: {path}: cannot be read as tensors alone: {reason}",
            remedy="give a .safetensors file, or a .pth file that torch.save wrote of a state dict",
        ) from None
    content = _unwrapped(loaded)
    if not isinstance(content, Mapping):
        raise StaleArtifactError(f"{parameter}: {path} holds a {type(content).__name__}, not a state dict")
    tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, torch.Tensor)}
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


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to run the file's code
        return "it holds other objects, which could be code, or it is damaged"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
