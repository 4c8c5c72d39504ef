"""The wheel, installed away from the repository: what needs no dvc.yaml works, and the rest says what it needs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from builders import CLASSES, tiny_recognizer
from clones import clone, environment, run

from pipeline.models.recognizer import save_model
from pipeline.videos.reader import write_video

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package as `pip install` leaves it."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    clone(folder / "source")
    options = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip")
    run(folder, *pip, "wheel", *options, "--no-build-isolation", "--wheel-dir", "dist", "./source")
    (wheel,) = (folder / "dist").glob("*.whl")
    run(folder, *pip, "install", *options, "--target", "installed", str(wheel))
    return folder / "installed"


@pytest.fixture
def call(installed, tmp_path):
    """Run something in an empty folder, where nothing of the project can be imported but the installed package."""

    def call(*command):
        alone = {**environment(), "PYTHONPATH": str(installed)}
        return subprocess.run((sys.executable, *command), cwd=tmp_path, env=alone, capture_output=True, text=True)

    return call


def test_a_video_is_predicted_anywhere(installed, call, tmp_path):
    where = call("-c", "import pipeline, stages; print(*pipeline.__path__, *stages.__path__)").stdout.split()
    assert where == [str(installed / "pipeline"), str(installed / "stages")]
    model = tiny_recognizer()
    save_model(tmp_path / "model.safetensors", model, class_names=CLASSES, trained_on={"stage": "train_student"})
    frames_THWC = np.random.default_rng(0).integers(0, 90, (12, 36, 48, 3), dtype=np.uint8)
    write_video(tmp_path / "night.mp4", frames_THWC, fps=10)
    numbers = ("--short-side", "20", "--clips", "2", "--crops", "1", "--batch-size", "8")
    words = ("predict", "night.mp4", "--model", "model.safetensors", *numbers, "--json")
    found = [call(*program, *words) for program in (("-m", "stages"), (str(installed / "bin/dlkdd"),))]
    assert [done.returncode for done in found] == [0, 0], found[0].stderr + found[1].stderr
    assert found[0].stdout == found[1].stdout
    (video,) = json.loads(found[0].stdout)["videos"]
    assert {top["class"] for top in video["top"]} == set(CLASSES)


def test_it_knows_its_version_and_its_licence(installed, call):
    (metadata,) = installed.glob("dlkdd-*.dist-info")
    version = metadata.name.removeprefix("dlkdd-").removesuffix(".dist-info")
    assert call("-m", "stages", "--version").stdout == f"dlkdd {version}\n"
    assert "Apache License" in (metadata / "licenses/LICENSE").read_text()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("recipe", "list"), "work in a clone of the repository"),
        (("recipe", "use", "smoke"), "work in a clone of the repository"),
        (("demo-videos",), "name the file with --params"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_needs_the_repository_says_so(call, words, wanted):
    done = call("-m", "stages", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert wanted in done.stderr


def test_the_page_of_a_report_is_in_it(installed):
    assert {"report.css", "report.html.jinja"} <= {path.name for path in (installed / "pipeline/report").iterdir()}
