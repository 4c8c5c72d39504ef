"""Writes artifacts that every machine must write alike, and prints a digest of each file; torch may be missing.

    PYTHONPATH=. python3.13 tests/helpers/artifact_bytes.py FOLDER

tests/distill/test_artifact_bytes.py knows what they are; so other versions of Python and of zarr can be compared.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

if importlib.util.find_spec("torch") is None:  # nothing here computes with it
    for name in ("torch", "torch.nn", "torch.nn.functional"):
        sys.modules[name] = MagicMock()

from pipeline.core.digest import digest_bytes, digest_json
from pipeline.data.frame_shard import write_shard
from pipeline.data.frame_store import shard_path, write_index
from pipeline.data.manifest import ManifestRow, write_manifest
from pipeline.distill.store.codecs import codec_of
from pipeline.distill.store.rows import Rows
from pipeline.distill.store.store import SoftTargetStore, write_store

CLASS_NAMES = ["drink", "jump", "wave"]
POLICY = {
    "num_views": 2, "min_scale": 0.5, "max_aspect": 1.25, "flip": True, "mix": "none", "mix_share": 0.5,
    "mix_alpha": 1.0, "seed": 0, "version": 3,
}  # fmt: skip
CLIP = {"num_frames": 2, "frame_stride": 2, "size": 16}


def numbers(shape: tuple[int, ...], dtype: str, modulus: int) -> np.ndarray:
    return (np.arange(np.prod(shape)) * 7919 % modulus).reshape(shape).astype(dtype)


def write_targets(path: Path, codec: dict, num_teachers: int) -> None:
    rows, views = 5, POLICY["num_views"]
    logits_NVMK = (numbers((rows, views, num_teachers, 3), "<f4", 997) - 400) / 61
    arrays = {
        "views": numbers((rows, views, 7), "<i4", 50),
        "dark_shape": numbers((rows, 3), "<i4", 50) + 1,
        "pixel_digest": numbers((rows, views, num_teachers), "<u8", 2**31),
        "frame_shape": numbers((rows, num_teachers, 3), "<i4", 50) + 1,
        "frames_digest": numbers((rows, num_teachers, 16), "u1", 251),
        "fold": numbers((rows, num_teachers), "<i2", 3) - 1,
        **codec_of(codec, 3).pack(logits_NVMK),
    }
    teachers = [
        {"name": f"teacher {axis}", "digest": digest_bytes(bytes([axis])), "clip": CLIP, "light": None,
         "enhancer": None, "frames": digest_bytes(b"frames"), "top1_on_views": 0.5}
        for axis in range(num_teachers)
    ]  # fmt: skip
    attributes = {
        "class_names": CLASS_NAMES, "clip": CLIP, "view_policy": POLICY, "batch_size": 4, "teachers": teachers,
        "digests": {
            "manifest": digest_bytes(b"manifest"), "dark": None, "class_names": digest_json(CLASS_NAMES),
            "view_policy": digest_json(POLICY),
        },
        "codec_error": {"top1_agreement": 1.0, "mean_kl": {"1": 0.0}, "max_kl": {"1": 0.0}},
    }  # fmt: skip
    given = Rows(tuple(f"Drink/Drink_{number}_é" for number in range(rows)), arrays)
    sizes = {"num_rows": rows, "num_views": views, "num_teachers": num_teachers}
    write_store(path, [given], codec=codec_of(codec, 3), attributes=attributes, **sizes)
    (read,) = [SoftTargetStore(path).read_shard(0)]
    assert all(np.array_equal(read.arrays[name], array) for name, array in arrays.items())


def write_frames(folder: Path, codec: str) -> None:
    videos = [(f"jump/{number}", lambda: iter(numbers((4, 12, 16, 3), "u1", 61))) for number in range(3)]
    rows = write_shard(shard_path(folder, 0), videos, shard=0, codec=codec, jpeg_quality=90).rows
    write_index(folder, rows, codec=codec, jpeg_quality=90, origin={"made_by": "a test"})


def main(folder: Path) -> dict[str, str]:
    """A digest of each artifact: of the names and the bytes of its files."""
    write_targets(folder / "float16.zarr", {"name": "float16"}, 2)
    write_targets(folder / "topk.zarr", {"name": "topk", "k": 2}, 1)
    write_frames(folder / "frames", "raw")
    row = ManifestRow("jump/1", "jump/1.mp4", 1, "jump", "g1", "train", 4, 25.0, 16, 12, digest_bytes(b"video"))
    write_manifest(folder / "manifest.csv", [row])
    return {path.name: digest_of(path) for path in sorted(folder.iterdir())}


def digest_of(artifact: Path) -> str:
    files = sorted(path for path in (artifact, *artifact.rglob("*")) if path.is_file())
    return digest_json({path.relative_to(artifact).as_posix(): digest_bytes(path.read_bytes()) for path in files})


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1])), indent=1))
