"""Small set-ups for `dlkdd check` and its parts: eight videos, parameters that fit them, and what is found."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import yaml
from paths import ROOT

from pipeline.core.params import load_params, overridden
from pipeline.core.progress import no_progress
from pipeline.tools.check.data import check_data
from pipeline.tools.check.findings import Group
from pipeline.videos.prepare import prepare
from pipeline.videos.reader import write_video
from stages._cluster import map_tasks

SMOKE = ROOT / "configs/smoke.yaml"
SPLITS = ("train", "train", "val", "test")
NUM_FRAMES = 10
CLASSES = ("jump", "wave")
BASE = {
    "render": [],
    "prepare.root": "data",
    "prepare.layout": "csv",
    "prepare.lists": None,
    "prepare.min_frames": 8,
    "prepare.max_quarantined": 0.2,
    "clip.frame_stride": 2,
}


def params(**changes):
    """The smoke recipe on the videos of this file; `changes` have `__` for the dots."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return overridden(load_params(SMOKE), {**BASE, **dotted}, name="test")


def write_params(**changes):
    """The same in the current folder's params.yaml; returns them."""
    chosen = params(**changes)
    Path("params.yaml").write_text(yaml.safe_dump(chosen.model_dump()))
    return chosen


def prepare_here(chosen):
    """`prepare` in this process, into the current folder: manifest.csv, quarantine.csv, dark."""
    outs = {"manifest_path": Path("manifest.csv"), "quarantine_path": Path("quarantine.csv"), "dark_path": Path("dark")}
    return prepare(chosen.prepare, seed=0, run=lambda make, tasks: [make(task) for task in tasks], **outs)


def frames(number, count=NUM_FRAMES):
    return np.random.default_rng(number).integers(0, 90, (count, 36, 48, 3), dtype=np.uint8)


def write_videos(root):
    """Two classes of four videos, and their table."""
    lines = ["path,label,group,split"]
    for number, label in enumerate(CLASSES):
        for index, split in enumerate(SPLITS):
            path = f"{label}/{label}{index}.mp4"
            write_video(root / path, frames(10 * number + index), fps=10)
            lines.append(f"{path},{label},{label}{index},{split}")
    (root / "videos.csv").write_text("\n".join(lines) + "\n")


def messages(group, level):
    return [finding.message for finding in group.findings if finding.level == level]


def the_finding(group):
    (finding,) = group.findings
    assert finding.remedy
    return finding


def look_at(chosen, *, every_frame=False, num_processes=1):
    group = Group("data")
    data = check_data(
        group,
        chosen.prepare,
        chosen.clip,
        rendered=["data/demo"],
        seed=0,
        every_frame=every_frame,
        run=partial(map_tasks, num_workers=num_processes),
        progress=no_progress,
    )
    return group, data
