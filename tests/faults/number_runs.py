"""The chain's stages on tiny data of any splits, labels and pixels, as the tests of numbers call them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from builders import CLIP, VIEWS, manifest_row, noise_video, train_params, write_frames
from paths import ROOT

from pipeline.data.manifest import write_manifest
from stages import precompute_soft_targets, train_student
from stages.score import score_student
from stages.train import train_baseline, train_teacher

SHAPE_THW = (6, 18, 22)
SPLITS = {"train": (0, 1, 2, 0, 1), "val": (0, 1, 2), "test": (0, 1, 2)}  # labels of their videos
PATHS = {"manifest_path": Path("manifest.csv"), "params_path": Path("params.yaml"), "device": "cpu"}


def noise(video_id):
    return noise_video(video_id, SHAPE_THW)


def constant(level):
    return lambda _: np.full((*SHAPE_THW, 3), level, np.uint8)


def make_data(splits=SPLITS, *, pixels=noise, class_names=None):
    """A manifest and the same frames as dark and enhanced ones, in the current folder; returns the manifest."""
    rows = [
        manifest_row(f"{split}_{index}", label, split, SHAPE_THW, class_name=class_names and class_names[label])
        for split, labels in splits.items()
        for index, label in enumerate(labels)
    ]
    for folder in ("dark", "enhanced"):
        write_frames(Path(folder), {row.video_id: pixels(row.video_id) for row in rows})
    return write_manifest(Path("manifest.csv"), rows)


def write_params(*, options=None, views=VIEWS, clip=CLIP, **changes):
    """params.yaml of a training of a few steps; `options` are those of all trainings, `changes` at the top."""
    training = train_params(**{"epochs": 2, **(options or {})}).model_dump()
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"clip": clip.model_dump(), "views": views.model_dump(), "soft_loss": "kl"}
    values |= {name: {**training} for name in ("train_teacher", "train_student")}  # YAML writes one object as an anchor
    values["precompute_soft_targets"]["batch_size"] = 4
    Path("params.yaml").write_text(yaml.safe_dump({**values, **changes}))


def train(name, **options):
    """teacher.safetensors, student.safetensors or baseline.safetensors."""
    stage = {"teacher": train_teacher, "student": train_student.main, "baseline": train_baseline}[name]
    paths = {"frames_path": Path("enhanced" if name == "teacher" else "dark")}
    paths |= {"out": Path(f"{name}.safetensors"), "curve_path": Path(f"{name}_curve.csv")}
    if name == "student":
        paths["soft_targets"] = "store.zarr"
    stage(**{**PATHS, **paths, **options})


def precompute(teacher="teacher.safetensors"):
    """store.zarr, from the enhanced frames."""
    precompute_soft_targets.main(
        **PATHS, teacher_path=Path(teacher), frames_path=Path("enhanced"), workers=1, out=Path("store.zarr")
    )


def score(name, model=None):
    """teacher_predictions.csv, or the student's."""
    frames = Path("enhanced" if name == "teacher" else "dark")
    model = Path(model or f"{name}.safetensors")
    score_student(**PATHS, frames_path=frames, model_path=model, out=Path(f"{name}_predictions.csv"))


def curve(name):
    """Numbers of the curve's last epoch."""
    header, *rows = Path(f"{name}_curve.csv").read_text().splitlines()
    return dict(zip(header.split(","), map(float, rows[-1].split(",")), strict=True))
