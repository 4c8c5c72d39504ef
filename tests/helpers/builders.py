"""Tiny data and networks for tests: noise that tells its class by brightness, as a frame store and a manifest."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from pipeline.core.digest import digest_bytes, digest_uint64
from pipeline.core.params import ClipParams, DistillationParams, TrainParams, ViewsParams
from pipeline.data.frame_shard import write_shard
from pipeline.data.frame_store import FrameStore, shard_of, shard_path, write_index
from pipeline.data.manifest import ManifestRow, write_manifest
from pipeline.models.recognizer import Architecture, Recognizer

# where the tests of trainings and of scores compute: pytest --device cuda
DEVICE = torch.device(os.environ.get("DLKDD_TEST_DEVICE", "cpu"))

CLIP = ClipParams(num_frames=2, frame_stride=2, size=16)
VIEWS = ViewsParams(num_views=3, min_scale=0.5, max_aspect=1.25, flip=True, mix="none", mix_share=0.5, mix_alpha=1.0)
CLASSES = ("drink", "jump", "wave")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For test files that import it: other numbers of threads round sums differently, and are slower on tiny ones."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def distillation_params(**changes):
    """A soft loss without extras at a constant weight; `changes` replace single values."""
    values = {
        "standardize": False,
        "extra_temperatures": None,
        "dkd_alpha": 1.0,
        "dkd_beta": 8.0,
        "dist_inter": 1.0,
        "dist_intra": 1.0,
        "schedule": "constant",
        "schedule_epochs": 2.0,
    }
    return DistillationParams(**{**values, **changes})


def train_params(**changes):
    """A training of a few steps; `changes` replace single values."""
    values = {
        "epochs": 3,
        "batch_size": 4,
        "learning_rate": 0.01,
        "weight_decay": 0.05,
        "warmup_epochs": 1.0,
        "label_smoothing": 0.0,
        "clip_grad_norm": 5.0,
        "width": 4,
        "dropout": 0.3,
        "drop_path": 0.0,
        "weights": None,
        "input_statistics": "train",
        "frozen_stages": 0,
        "patience": None,
        "accumulate": 1,
        "optimizer": "adamw",
        "momentum": 0.9,
        "layer_decay": 1.0,
        "max_skipped": 0,
        "ema": 0.0,
        "class_weights": "none",
        "mixup": 0.0,
        "cutmix": 0.0,
        "gain": 0.0,
        "noise": 0.0,
        "darken": 0.0,
        "precision": "float32",
        "compile": False,
        "checkpoint_activations": False,
        "num_workers": 0,
    }
    return TrainParams(**{**values, **changes})


STATISTICS = {"train": {"mean_C": [0.4, 0.5, 0.6], "std_C": [0.2, 0.25, 0.3]}, "clip": {}}


def tiny_recognizer(
    *, clip=CLIP, num_classes=3, width=4, dropout=0.3, seed=0, input_statistics="train", levels="linear"
):
    """A network of width 4 with weights that depend on the seed."""
    torch.manual_seed(seed)
    arch = Architecture("r2plus1d_slim", num_classes, clip, width, dropout, 0.0)
    return Recognizer(arch, **STATISTICS[input_statistics], levels=levels)


def noise_video(name, shape_THW, *, low=0, high=256):
    """Random uint8 frames (T, H, W, 3) that depend on the name alone."""
    rng = np.random.default_rng(digest_uint64(name.encode()))
    return rng.integers(low, high, (*shape_THW, 3), dtype=np.uint8)


def write_frames(folder, videos, *, num_shards=2, origin=None, levels="linear"):
    """A raw frame store of videos_THWC by id."""
    rows = []
    for shard in range(num_shards):
        mine = [(name, video) for name, video in videos.items() if shard_of(name, num_shards) == shard]
        openers = [(name, lambda video=video: iter(video)) for name, video in mine]
        path = shard_path(folder, shard)
        options = {"shard": shard, "codec": "raw", "jpeg_quality": 95}
        rows += write_shard(path, openers, **options).rows
    write_index(folder, rows, codec="raw", jpeg_quality=95, levels=levels, origin=origin or {})
    return FrameStore(folder)


def manifest_row(video_id, label, split, shape_THW, *, class_name=None):
    """A row of a video with as many frames of that size."""
    class_name = CLASSES[label] if class_name is None else class_name
    num_frames, height, width = shape_THW
    digest = digest_bytes(video_id.encode())
    path = f"{video_id}.mp4"
    return ManifestRow(video_id, path, label, class_name, "1", split, num_frames, 25.0, width, height, digest)


def tiny_data(folder, *, num_train=8, num_val=4, num_test=4, num_classes=2, shape_THW=(6, 18, 22), num_footage=0):
    """A manifest and a frame store whose classes differ in brightness: easy to learn. Footage is like train."""
    rows, videos = [], {}
    sizes = {"train": num_train, "val": num_val, "test": num_test, "unlabelled": num_footage}
    for split, number in sizes.items():
        for index in range(number):
            label = index % num_classes
            name = f"{CLASSES[label]}/{split}_{index}"
            low = 200 * label // num_classes
            videos[name] = noise_video(name, shape_THW, low=low, high=low + 60)
            listed = (-1, split, shape_THW) if split == "unlabelled" else (label, split, shape_THW)
            rows.append(manifest_row(name, *listed, class_name="" if split == "unlabelled" else None))
    return write_manifest(folder / "manifest.csv", rows), write_frames(folder / "frames", videos)
