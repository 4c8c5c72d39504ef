"""docs/sharing.md, done as it is written."""

from __future__ import annotations

import re
import socket
import subprocess
import time

import pytest
from clones import clone, environment, run
from paths import ROOT

from pipeline.distill.store.store import SoftTargetStore
from pipeline.models.recognizer import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BLOCKS = re.findall(
    r"<!-- run in: ([\w.]+)(, stays)? -->\n```sh\n(.*?)```", (ROOT / "docs/sharing.md").read_text(), re.DOTALL
)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with the maker's and the colleague's clones after all commands of the page, and what they printed."""
    folder = tmp_path_factory.mktemp("sharing")
    (folder / "maker").mkdir()
    clone(folder / "maker")
    run(folder / "maker", "dvc", "repro")
    port, printed, serving = free_port(), [], []
    try:
        for place, stays, commands in BLOCKS:
            script = commands.replace("/path/to/storage", str(folder / "storage")).replace("8123", str(port))
            command = ("bash", "-euo", "pipefail", "-c", script)
            if stays:
                options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                serving.append(subprocess.Popen(command, cwd=folder / place, env=environment(), **options))
                wait_for(port)
                continue
            done = run(folder / place, *command)
            printed.append(done.stdout + done.stderr)
        yield folder, printed
    finally:
        for process in serving:
            process.kill()
            process.wait()


def wait_for(port):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError


def test_every_command_of_the_page_is_run():
    assert len(BLOCKS) == (ROOT / "docs/sharing.md").read_text().count("```sh")


def test_a_colleague_has_neither_teacher_nor_enhanced_frames_nor_videos(shared):
    folder, printed = shared
    (sweep,) = [text for text in printed if "temperature" in text or "Running stage 'train_student'" in text][:1]
    assert re.findall(r"Running stage '(\w+)'", sweep) == ["train_student", "score_student", "evaluate", "report"]
    colleague = folder / "colleague"
    pulled = {"dark", "light.csv", "manifest.csv", "quarantine.csv", "soft_targets.zarr"}
    assert {path.name for path in (colleague / "data").iterdir()} == pulled
    assert [path.name for path in (colleague / "models").iterdir()] == ["student.safetensors"]
    assert (colleague / "results/metrics.json").is_file()
    assert "the enhanced frames are not here" in (colleague / "results/report.html").read_text()


def test_a_student_from_a_url_names_the_same_store(shared):
    folder, _ = shared
    digest = SoftTargetStore(folder / "maker/first.zarr").digest
    for name in ("from_url.safetensors", "models/student.safetensors"):
        assert load_model(folder / "colleague" / name).trained_on["digests"]["soft_targets"] == digest
    assert digest in (folder / "maker/published/README.md").read_text()


def test_a_student_of_an_ensemble_names_both_teachers(shared):
    maker = shared[0] / "maker"
    stores = [SoftTargetStore(maker / f"{name}.zarr") for name in ("first", "second", "ensemble")]
    teachers = [[teacher["digest"] for teacher in store.attributes["teachers"]] for store in stores]
    assert teachers[2] == teachers[0] + teachers[1]
    named = load_model(maker / "from_ensemble.safetensors").trained_on["digests"]
    assert named == {**named, "soft_targets": stores[2].digest, "teacher": ",".join(teachers[2])}
