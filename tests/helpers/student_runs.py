"""The student's stage on the tiny data of target_stores, as a test calls it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml
from builders import CLIP, train_params, write_frames
from paths import ROOT
from target_stores import Made

from pipeline.models.recognizer import ModelFile, load_model
from stages.train_student import main


def dark_frames(folder, made):
    """The videos of a store in the dark."""
    frames = made.frames
    videos = {name: frames.read(name, range(frames.shape(name)[0])) // 4 for name in frames.video_ids}
    return write_frames(folder, videos)


@dataclass(frozen=True)
class StudentRun:
    """A folder with everything that the stage reads beside the store; DVC_ROOT must be a folder of the test's."""

    folder: Path
    made: Made

    def prepare(self):
        """Write the dark frames."""
        dark_frames(self.folder / "dark", self.made)
        return self

    def train(self, *, source="cache", teachers="mean", changes=None, name="student", **options) -> ModelFile:
        """Call the stage; `changes` are of the parameters, `options` the command's."""
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        values |= {
            "clip": CLIP.model_dump(),
            "soft_targets": {"source": source, "teachers": teachers, "min_agreement": 0.0},
            "train_student": train_params().model_dump(),
            **(changes or {}),
        }
        params = self.folder / "params.yaml"
        params.write_text(yaml.safe_dump(values))
        out = self.folder / f"{name}.safetensors"
        paths = {
            "manifest_path": self.folder / "manifest.csv",
            "frames_path": self.folder / "dark",
            "soft_targets": str(self.made.path),
            "curve_path": self.folder / f"{name}.csv",
            "params_path": params,
        }
        main(**{**paths, "device": "cpu", "out": out, **options})
        return load_model(out)
