"""Soft-target stores of tiny teachers for tests, made by hand: a second way beside precompute."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import CLIP, VIEWS, tiny_data, tiny_recognizer

from pipeline.core.digest import digest_bytes, digest_json
from pipeline.data.dataset import BANK
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import Manifest
from pipeline.data.views import VIEW_POLICY_VERSION, draw_view, pixel_digest, read_view
from pipeline.distill.store import store as soft_targets
from pipeline.distill.store.codecs import CodecLoss, codec_of
from pipeline.distill.store.rows import Rows
from pipeline.distill.store.store import write_store
from pipeline.models.inference import infer
from pipeline.models.recognizer import ModelFile, load_model, save_model

SEED = 3
BATCH_SIZE = 4


@dataclass(frozen=True)
class Made:
    """A store with all that it was made from."""

    path: Path
    manifest: Manifest
    frames: FrameStore
    teachers: list[ModelFile]
    rows: Rows
    attributes: dict

    def at(self, path):
        """The same, for a store at another place."""
        return replace(self, path=path)


@contextmanager
def shards_of(shard_rows, *, chunk_rows):
    """Stores of small shards and chunks, so that a few rows take several."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(soft_targets, "CHUNK_ROWS", chunk_rows)
        patched.setattr(soft_targets, "SHARD_ROWS", shard_rows)
        yield


def make_teacher(path, *, seed=0, num_classes=3, class_names=("drink", "jump", "wave"), clip=CLIP, levels="linear"):
    """A model file whose logits are spread like those of a trained network."""
    recognizer = tiny_recognizer(num_classes=num_classes, seed=seed, clip=clip, levels=levels)
    with torch.no_grad():
        recognizer.network.head[-1].weight *= 20
    save_model(path, recognizer, class_names=class_names, trained_on={})
    return load_model(path)


def make_store(folder, *, codec="float16", num_train=7, num_teachers=1, num_views=VIEWS.num_views):
    """A store of a few rows in folder/soft_targets.zarr; call it where the module's constants are as they shall be."""
    manifest, frames = tiny_data(folder, num_train=num_train, num_val=1, num_test=1, num_classes=3)
    views = VIEWS.model_copy(update={"num_views": num_views})
    teachers = [make_teacher(folder / f"teacher_{axis}.safetensors", seed=axis) for axis in range(num_teachers)]
    codec = codec_of({"name": codec, "k": 2}, 3)
    video_ids = tuple(row.video_id for row in manifest.rows_of("train"))
    drawn = [
        [
            draw_view(frames.shape(name), CLIP, views, seed=SEED, purpose=BANK, video_id=name, number=number)
            for number in range(num_views)
        ]
        for name in video_ids
    ]
    clips = [
        torch.stack([read_view(frames, name, view, CLIP) for view in of_video])
        for name, of_video in zip(video_ids, drawn, strict=True)
    ]
    with torch.inference_mode():
        logits = [[infer(t.recognizer, clip_V, batch_size=BATCH_SIZE) for t in teachers] for clip_V in clips]
    logits_NVMK = np.stack([torch.stack(of_video, dim=1).numpy() for of_video in logits])
    digests = {row.video_id: bytes.fromhex(row.digest) for row in frames.rows}
    arrays = {
        "views": np.array([[view.row() for view in of_video] for of_video in drawn], dtype="<i4"),
        "dark_shape": np.array([frames.shape(name) for name in video_ids], dtype="<i4"),
        "pixel_digest": of_each(
            [[pixel_digest(c.numpy()) for c in clip_V] for clip_V in clips], "<u8", num_teachers, axis=2
        ),
        "frame_shape": of_each([frames.shape(name) for name in video_ids], "<i4", num_teachers, axis=1),
        "frames_digest": of_each([list(digests[name]) for name in video_ids], "u1", num_teachers, axis=1),
        "fold": np.full((len(video_ids), num_teachers), -1, dtype="<i2"),
        **codec.pack(logits_NVMK),
    }
    error = CodecLoss()
    error.add(logits_NVMK, codec.unpack({name: arrays[name] for name in codec.arrays()}))
    attributes = store_attributes(
        manifest.class_names,
        num_views=num_views,
        teachers=[
            teacher_attributes("r2plus1d_slim", t.digest, frames=frames.digest, enhancer=digest_bytes(b"gamma"))
            for t in teachers
        ],
        digests={"manifest": manifest.digest},
        codec_error=error.attributes(),
    )
    rows = Rows(video_ids, arrays)
    path = folder / "soft_targets.zarr"
    write(path, rows, codec, attributes)
    return Made(path, manifest, frames, teachers, rows, attributes)


def of_each(values, dtype, num_teachers, *, axis):
    """An array with an axis of teachers, the same for each."""
    return np.repeat(np.expand_dims(np.array(values, dtype=dtype), axis), num_teachers, axis=axis)


def teacher_attributes(name, digest, **changes):
    """What a store names of a teacher."""
    seen = {"light": "gamma", "enhancer": None, "frames": digest_bytes(b"frames"), "clip": CLIP.model_dump()}
    return {"name": name, "digest": digest, "top1_on_views": 0.5, **seen, **changes}


def store_attributes(class_names, *, num_views, num_teachers=1, digests=None, **changes):
    """All attributes that a writer of a store gives."""
    policy = {**VIEWS.policy(), "num_views": num_views, "seed": SEED, "version": VIEW_POLICY_VERSION}
    teachers = [teacher_attributes(f"teacher {axis}", digest_bytes(bytes([axis]))) for axis in range(num_teachers)]
    return {
        "class_names": list(class_names),
        "clip": CLIP.model_dump(),
        "view_policy": policy,
        "batch_size": BATCH_SIZE,
        "teachers": teachers,
        "digests": {
            "manifest": digest_bytes(b"manifest"),
            "dark": None,
            "class_names": digest_json(list(class_names)),
            "view_policy": digest_json(policy),
            **(digests or {}),
        },
        "codec_error": {"top1_agreement": 1.0, "mean_kl": {"1": 0.0}, "max_kl": {"1": 0.0}},
        **changes,
    }


def with_class_names(attributes, class_names):
    """The same attributes for other class names."""
    digests = {**attributes["digests"], "class_names": digest_json(list(class_names))}
    return {**attributes, "class_names": list(class_names), "digests": digests}


def write(path, rows, codec, attributes):
    """Write rows as a store of one codec."""
    _, num_views, num_teachers = next(rows.arrays[name] for name in codec.arrays()).shape[:3]
    sizes = {"num_rows": len(rows), "num_views": num_views, "num_teachers": num_teachers}
    return write_store(path, [rows], codec=codec, attributes=attributes, **sizes)


def rows_of_teacher(rows, axis):
    """The same rows with one of their teachers."""
    axes = {"views": None, "dark_shape": None, "frame_shape": 1, "frames_digest": 1, "fold": 1}
    arrays = {
        name: array if axes.get(name, 2) is None else np.take(array, [axis], axis=axes.get(name, 2))
        for name, array in rows.arrays.items()
    }
    return Rows(rows.video_ids, arrays)


def contents(folder):
    """Bytes of every file by name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
