"""A whole chain of tiny artifacts, made by the stages' own commands, and the stages again on damaged copies of it."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from dataclasses import dataclass, replace

import pytest
import yaml
from builders import CLASSES, CLIP, VIEWS, manifest_row, noise_video, train_params, write_frames
from paths import ROOT

from pipeline.core.digest import digest_bytes
from pipeline.data.manifest import QuarantineRow, write_manifest, write_quarantine
from stages.__main__ import main

SHAPE_THW = (6, 18, 22)
SPLITS = (("train", 8), ("val", 3), ("test", 6))

_TRAINING = "--manifest data/manifest.csv --frames {frames} --out models/{name}.safetensors --device cpu"
_TRAINED = _TRAINING + " --curve results/curves/{name}.csv"
_SCORED = "--manifest data/manifest.csv --frames {frames} --model models/{name}.safetensors --device cpu"
COMMANDS = {
    "fit_enhancer": "--manifest data/manifest.csv --dark data/dark --out models/enhancer.safetensors "
    "--curve results/curves/enhancer.csv --device cpu",
    "enhance": "--dark data/dark --enhancer models/enhancer.safetensors --out data/enhanced --workers 1 --device cpu",
    "train_teacher": _TRAINED.format(name="teacher", frames="data/enhanced"),
    "precompute_soft_targets": "--manifest data/manifest.csv --frames data/enhanced "
    "--teacher models/teacher.safetensors --out data/soft_targets.zarr --workers 1 --device cpu",
    "train_student": _TRAINED.format(name="student", frames="data/dark")
    + " --soft-targets data/soft_targets.zarr --teacher models/teacher.safetensors",
    "train_baseline": _TRAINED.format(name="baseline", frames="data/dark"),
    "measure_light": "--dark data/dark --out data/light.csv",
    **{
        f"score_{name}": _SCORED.format(name=name, frames=frames) + f" --out results/predictions/{name}.csv"
        for name, frames in (("teacher", "data/enhanced"), ("student", "data/dark"), ("baseline", "data/dark"))
    },
    "evaluate": "--manifest data/manifest.csv --light data/light.csv --teacher results/predictions/teacher.csv "
    "--student results/predictions/student.csv --baseline results/predictions/baseline.csv "
    "--evaluation results/evaluation.json --metrics results/metrics.json "
    "--confusion results/confusion --tables results/tables",
    "report": "--manifest data/manifest.csv --quarantine data/quarantine.csv --dark data/dark --enhanced data/enhanced "
    "--soft-targets data/soft_targets.zarr --models models --curves results/curves "
    "--evaluation results/evaluation.json --tables results/tables --out results/report.html",
}
# Which stages read an artifact, of those whose files a reader can meet damaged
READERS = {
    "data/manifest.csv": (
        *("fit_enhancer", "train_teacher", "precompute_soft_targets", "train_student", "train_baseline"),
        *("score_student", "evaluate", "report"),
    ),
    "data/quarantine.csv": ("report",),
    "data/light.csv": ("evaluate",),
    "models/enhancer.safetensors": ("enhance", "report"),
    "models/teacher.safetensors": ("precompute_soft_targets", "train_student", "score_teacher", "report"),
    "models/student.safetensors": ("score_student", "report"),
    "models/baseline.safetensors": ("score_baseline", "report"),
    **{f"results/predictions/{name}.csv": ("evaluate",) for name in ("teacher", "student", "baseline")},
    **{f"results/curves/{name}.csv": ("report",) for name in ("teacher", "student", "baseline")},
    "results/evaluation.json": ("report",),
    **{
        f"results/tables/{name}.csv": ("report",)
        for name in ("per_class", "by_light", "by_length", "reliability", "videos")
    },
    "data/dark/store.json": ("fit_enhancer", "enhance", "train_student", "measure_light", "score_baseline", "report"),
    "data/dark/index.csv": ("fit_enhancer", "enhance", "train_baseline", "measure_light", "score_student", "report"),
    "data/dark/shard-000.h5": ("enhance", "train_student", "measure_light", "score_student", "report"),
    "data/enhanced/store.json": ("train_teacher", "precompute_soft_targets", "score_teacher", "report"),
    "data/enhanced/index.csv": ("train_teacher", "precompute_soft_targets", "score_teacher", "report"),
    "data/enhanced/shard-000.h5": ("train_teacher", "precompute_soft_targets", "score_teacher", "report"),
    "data/soft_targets.zarr/zarr.json": ("train_student", "report"),
    "data/soft_targets.zarr/logits/zarr.json": ("train_student", "report"),
    "data/soft_targets.zarr/logits/c/0/0/0/0": ("train_student", "report"),
    "data/soft_targets.zarr/video_id/c/0": ("train_student",),
    "data/soft_targets.zarr/row_digest/c/0/0": ("train_student",),
}


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str


def run(stage, *more):
    """A stage in the current folder, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["dlkdd", stage, *COMMANDS[stage].split(), *more])
        with pytest.raises(SystemExit) as ended:
            main()
    return Said(ended.value.code, out.getvalue(), err.getvalue())


def write_data(folder, *, class_names=CLASSES, light=0, salt=""):
    """Manifest, quarantine and dark frames; `light` is added to all of them, `salt` goes into the videos' digests."""
    rows, videos = [], {}
    for split, number in SPLITS:
        for index in range(number):
            label = index % len(class_names)
            name = f"class_{label}/{split}_{index}"
            low = light + 60 * label // len(class_names)
            videos[name] = noise_video(name, SHAPE_THW, low=low, high=low + 30)
            row = manifest_row(name, label, split, SHAPE_THW, class_name=class_names[label])
            rows.append(replace(row, digest=digest_bytes(f"{name}{salt}".encode())))
    manifest = write_manifest(folder / "data/manifest.csv", rows)
    write_quarantine(folder / "data/quarantine.csv", [QuarantineRow("broken", "broken.mp4", "train", "no frames")])
    write_frames(folder / "data/dark", videos, num_shards=1, origin={"videos": manifest.videos_digest})
    return manifest


def write_params(folder, **changes):
    """Parameters of a chain of seconds; `changes` replace single values."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    training = train_params(epochs=2, batch_size=8).model_dump()
    values |= {"enhancer": "gamma", "clip": CLIP.model_dump(), "views": VIEWS.model_dump()}
    values |= {"train_teacher": training, "train_student": {**training}, "evaluate": {"num_bootstraps": 100}}
    values["score"] = {"num_clips": 1, "num_crops": 1, "batch_size": 8}
    values["precompute_soft_targets"] |= {"max_kl": 1.0}
    (folder / "params.yaml").write_text(yaml.safe_dump(values | changes))


def make_chain(folder, *, class_names=CLASSES, light=0, salt="", **changes):
    """All artifacts of a run, in this folder."""
    write_data(folder, class_names=class_names, light=light, salt=salt)
    write_params(folder, **changes)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.delenv("DVC_ROOT", raising=False)
        for stage in COMMANDS:
            said = run(stage)
            assert said.code == 0, said.err
    shutil.rmtree(folder / ".work")
    return folder


def content(path):
    """Bytes of a file, or of all files of a folder by name."""
    if path.is_file():
        return path.read_bytes()
    return {inner.relative_to(path).as_posix(): inner.read_bytes() for inner in path.rglob("*") if inner.is_file()}


OUTS = {
    "fit_enhancer": ("models/enhancer.safetensors", "results/curves/enhancer.csv"),
    "enhance": ("data/enhanced",),
    "precompute_soft_targets": ("data/soft_targets.zarr",),
    **{
        f"train_{name}": (f"models/{name}.safetensors", f"results/curves/{name}.csv")
        for name in ("teacher", "student", "baseline")
    },
    **{f"score_{name}": (f"results/predictions/{name}.csv",) for name in ("teacher", "student", "baseline")},
    "measure_light": ("data/light.csv",),
    "evaluate": ("results/evaluation.json", "results/metrics.json", "results/tables", "results/confusion"),
    "report": ("results/report.html",),
}
