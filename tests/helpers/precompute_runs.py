"""A project of tiny videos and a teacher, and runs of precompute_soft_targets in it."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from builders import CLIP, VIEWS, tiny_data, write_frames
from paths import ROOT
from target_stores import BATCH_SIZE, SEED, contents, make_teacher

from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest
from pipeline.distill.teacher import precompute
from pipeline.models.recognizer import load_model
from stages import precompute_soft_targets as stage

NUM_TRAIN = 7
NUM_VAL = 1


def write_params(folder, **options):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"seed": SEED, "clip": CLIP.model_dump(), "views": VIEWS.model_dump()}
    values["precompute_soft_targets"] |= {"batch_size": BATCH_SIZE, **options}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def make_project(tmp_path, monkeypatch, *, num_footage=0, num_val=NUM_VAL):
    """A folder with data and a teacher, two videos a part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(precompute, "CLIPS_PER_PART", 2 * VIEWS.num_views)
    sizes = {"num_train": NUM_TRAIN, "num_val": num_val, "num_test": 1, "num_footage": num_footage}
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


def more_teachers(project, *names, light=0):
    """Teachers in a folder, each of a seed of its own, on frames brighter by its place; and the parameters' entries."""
    manifest, frames = read_manifest(Path("manifest.csv")), FrameStore(Path("frames"))
    videos = {row.video_id: frames.read(row.video_id, range(row.num_frames)) for row in manifest.rows}
    for place, name in enumerate(names, 1):
        made = project / "more/made" / name
        made.mkdir(parents=True, exist_ok=True)
        make_teacher(made / "model.safetensors", seed=place)
        bright = {video_id: video // 2 + 20 * place + light for video_id, video in videos.items()}
        write_frames(made / "frames", bright)
        write_record(name)
    entry = {"enhancer": "gamma", "network": "r2plus1d_slim", "seed": 0, "clip": None, "training": {}}
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["more_teachers"] = dict.fromkeys(names, entry)
    Path("params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return {"more_path": Path("more")}


def write_record(name, **changes):
    made = Path("more/made") / name
    digests = {"model": load_model(made / "model.safetensors").digest, "frames": FrameStore(made / "frames").digest}
    Path("more/records").mkdir(exist_ok=True)
    Path("more/records", f"{name}.json").write_text(json.dumps({**digests, **changes}))
