"""A project of tiny videos and a teacher, and runs of precompute_soft_targets in it."""

from __future__ import annotations

from pathlib import Path

import yaml
from builders import CLIP, VIEWS, tiny_data
from paths import ROOT
from target_stores import BATCH_SIZE, SEED, contents, make_teacher

from pipeline.distill.teacher import precompute
from stages import precompute_soft_targets as stage

NUM_TRAIN = 7


def write_params(folder, **options):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"seed": SEED, "clip": CLIP.model_dump(), "views": VIEWS.model_dump()}
    values["precompute_soft_targets"] |= {"batch_size": BATCH_SIZE, **options}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def make_project(tmp_path, monkeypatch, *, num_footage=0):
    """A folder with data and a teacher, two videos a part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(precompute, "CLIPS_PER_PART", 2 * VIEWS.num_views)
    sizes = {"num_train": NUM_TRAIN, "num_val": 1, "num_test": 1, "num_footage": num_footage}
    tiny_data(tmp_path, num_classes=3, **sizes)
    make_teacher(tmp_path / "teacher.safetensors")
    write_params(tmp_path)
    return tmp_path


def compute(out="store.zarr", **options):
    paths = {"manifest_path": Path("manifest.csv"), "frames_path": Path("frames"), "params_path": Path("params.yaml")}
    stage.main(
        **{**paths, "teacher_path": Path("teacher.safetensors"), "device": "cpu", "workers": 1, "out": Path(out)}
        | options
    )
    return contents(Path(out))
