"""The whole chain of a tiny project with footage: who sees it, and what the report says."""

import csv
import os
import subprocess
import sys

import pytest
from check_setups import frames
from paths import ROOT
from tiny_project import make_project, stages

from pipeline.core.weights import load_weights
from pipeline.videos.reader import write_video

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_footage_is_for_the_student_alone(tmp_path):
    project = make_project(tmp_path, prepare__unlabelled="night", prepare__footage_window=10)
    (project / "data/night").mkdir()
    write_video(project / "data/night/cam.mp4", frames(77, 25), fps=10)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for stage in stages():
        command = [sys.executable, "-m", "stages", *stage.arguments]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if stage.name == "precompute_soft_targets":
            assert "6 videos (2 without a label) ×" in done.stderr
    manifest = list(csv.DictReader((project / "data/manifest.csv").read_text().splitlines()))
    assert [row["video_id"] for row in manifest if row["split"] == "unlabelled"] == [
        "night/cam@00000000",
        "night/cam@00000015",
    ]
    for name in ("teacher", "student", "baseline"):
        scored = (project / f"results/predictions/{name}.csv").read_text()
        assert "night" not in scored
        assert len(load_weights(project / f"models/{name}.safetensors")[1]["class_names"]) == 2
    page = (project / "results/report.html").read_text()
    assert "10 videos of 2 classes, 2 of them without a label" in page
    assert "6 videos (2 without a label)" in page
    assert "unlabelled" in page
    assert "Soft targets are there for 2 videos without a label, too, which the baseline does not see" in page
