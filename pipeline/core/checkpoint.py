"""Checkpoints: everything needed to go on, written whole, with a digest; the previous one is kept.

A torn or flipped checkpoint is noticed and the previous one used. Loaded with weights_only: no code comes from a file.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from pipeline.core.digest import DIGEST_BYTES, digest_bytes
from pipeline.core.errors import StaleArtifactError
from pipeline.core.files import written_whole


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, texts, lists and dicts; the previous one stays beside it.

    Nothing is moved before the new one is whole: the previous one may be the only one that is.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    with written_whole(_beside(path, "new")) as partial, partial.open("wb") as file:
        file.write(bytes.fromhex(digest_bytes(content)))
        file.write(content)
    if path.exists():
        path.replace(_beside(path, "previous"))
    _beside(path, "new").replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint, or None where there is none yet.

    Raises StaleArtifactError when there are checkpoints but all of them are damaged.
    """
    names = (path, _beside(path, "new"), _beside(path, "previous"))
    candidates = [candidate for candidate in names if candidate.exists()]
    for candidate in candidates:
        state = _read(candidate)
        if state is not None:
            return state
    if candidates:
        raise StaleArtifactError(
            f"{path}: the checkpoint and the previous one are damaged",
            remedy=f"remove the folder {path.parent} to train from the start, and check the disk",
        )
    return None


def _beside(path: Path, which: str) -> Path:
    return path.with_name(f"{path.stem}.{which}{path.suffix}")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        whole = path.read_bytes()
    except OSError:  # a folder in its place, a bad sector
        return None
    digest, content = whole[:DIGEST_BYTES].hex(), whole[DIGEST_BYTES:]
    if digest_bytes(content) != digest:
        return None
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # not ours, whatever its digest: torch raises nearly anything for what it will not run
        return None
    return state
