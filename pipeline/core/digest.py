"""Content names of artifacts: 128-bit BLAKE2b, written as 32 hexadecimal digits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

DIGEST_BYTES = 16


def digest_bytes(*parts: bytes | bytearray | memoryview) -> str:
    """Digest of the concatenated parts."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        state.update(part)
    return state.hexdigest()


def digest_file(path: Path) -> str:
    """Digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()


def digest_json(value: object) -> str:
    """Digest of a JSON value: keys sorted, no white space, floats as Python writes them; NaN is refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return digest_bytes(text.encode())


def with_digest(values: Mapping[str, object]) -> dict[str, object]:
    """The same JSON values with the digest of all of them, under `digest`."""
    return {**values, "digest": digest_json(dict(values))}


def has_valid_digest(values: object) -> bool:
    """Whether values, as read, are those that were with_digest."""
    try:
        return isinstance(values, dict) and values["digest"] == digest_json(
            {name: value for name, value in values.items() if name != "digest"}
        )
    except (KeyError, ValueError, RecursionError):  # no digest, a number that is none, half a character, a deep nest
        return False


def digest_uint64(*parts: bytes | bytearray | memoryview) -> int:
    """The first 64 bits of the digest as an integer: a key for random streams, shards and pixel digests."""
    return int(digest_bytes(*parts)[:16], 16)
