"""A project of eight tiny videos whose whole chain runs in seconds; its stages are those of dvc.yaml."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml
from check_setups import BASE, write_videos
from paths import ROOT

WITH_WORKERS = ("prepare", "enhance", "precompute_soft_targets")  # they start processes of their own
SMALL = {
    "prepare.short_side": 18,
    "clip.size": 16,
    "clip.num_frames": 2,
    "train_teacher.width": 4,
    "train_teacher.batch_size": 2,
    "train_student.width": 4,
    "train_student.batch_size": 2,
    "precompute_soft_targets.batch_size": 2,
    "evaluate.num_bootstraps": 100,
    "fit_enhancer.steps": 3,
    "fit_enhancer.batch_size": 2,
    "fit_enhancer.size": 16,
}


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml: its command without `python -m stages`, in one process, and what it writes."""

    name: str
    arguments: list[str]
    outs: tuple[str, ...]


def stages() -> list[Stage]:
    """All stages, in the order of the chain."""
    found = []
    for name, entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        outs = [*entry.get("outs", ()), *entry.get("metrics", ())]
        plain = tuple(out if isinstance(out, str) else next(iter(out)) for out in outs)
        alone = ["--workers", "1"] if name in WITH_WORKERS else []
        found.append(Stage(name, [*shlex.split(entry["cmd"])[3:], *alone], plain))
    return found


def make_project(folder: Path, **changes: object) -> Path:
    """Write videos and params.yaml into a new folder; `changes` of parameters have `__` for the dots."""
    write_videos(folder / "data")
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    params = yaml.safe_load((ROOT / "configs/smoke.yaml").read_text())
    for name, value in {**BASE, **SMALL, **dotted}.items():
        *sections, key = name.split(".")
        place = params
        for section in sections:
            place = place[section]
        assert key in place, name
        place[key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return folder


def contents(project: Path, outs: tuple[str, ...]) -> dict[str, str]:
    """Digest of every file of the outs, by its path."""
    found = {}
    for out in outs:
        path = project / out
        for file in sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []:
            if file.is_file():
                found[str(file.relative_to(project))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found
