"""docs/foreign-teacher.md, done as it is written: a network of another library teaches a student of ours."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest
from clones import clone, environment, run
from command_line import install_program
from pages import FENCE, text_of
from paths import ROOT

from pipeline.distill.store.store import SoftTargetStore
from pipeline.models.recognizer import load_model

PAGE = text_of("docs/foreign-teacher.md")
BLOCKS = list(FENCE.finditer(PAGE))
(PROGRAM,) = (block["text"] for block in BLOCKS if block["mark"] == "file: foreign_teacher.py")
# beside a CPU build of torch PyPI's torchvision cannot be imported (pipeline/models/torchvision_compat.py)
OPENED = "import pipeline.models.torchvision_compat\n"


def test_the_program_has_nothing_of_this_project():
    modules = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(PROGRAM))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert modules == {"json", "itertools", "av", "numpy", "pyarrow", "torch", "torchvision"}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A clone in which all blocks of the page ran, and what each printed."""
    folder = tmp_path_factory.mktemp("foreign") / "clone"
    folder.mkdir()
    install_program(folder.parent / "bin")
    clone(folder)
    (folder.parent / "opened").mkdir()
    (folder.parent / "opened/sitecustomize.py").write_text(OPENED)
    printed = []
    for block in BLOCKS:
        if block["mark"].startswith("file: "):
            (folder / block["mark"].removeprefix("file: ")).write_text(block["text"])
            continue
        script = f'export PATH="{folder.parent / "bin"}:$PATH"\n{block["text"]}'
        of_others = {"PYTHONPATH": f"{folder.parent / 'opened'}:{ROOT}"} if "python " in block["text"] else {}
        command = ("bash", "-euo", "pipefail", "-c", script)
        ended = subprocess.run(
            command, cwd=folder, env=environment() | of_others, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{block['text']}\n{ended.stdout}\n{ended.stderr}"
        printed.append(ended.stdout + ended.stderr)
    return folder, printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_student_learns_from_it_by_the_chain(done):
    folder, printed = done
    store = SoftTargetStore(folder / "data/soft_targets.zarr")
    (teacher,) = store.attributes["teachers"]
    assert (teacher["name"], teacher["origin"]) == ("mc3_18", "imported")
    assert store.digest == SoftTargetStore(folder / "imported.zarr").digest
    trained_on = load_model(folder / "models/student.safetensors").trained_on["digests"]
    assert trained_on == {**trained_on, "soft_targets": store.digest, "teacher": teacher["digest"]}
    stages = [re.findall(r"Running stage '([\w/.:@]+)'", text) for text in printed]
    assert [names for names in stages if "train_student" in names] == [
        ["import_soft_targets", "train_student", "score_student"]
    ]
    assert "train_teacher" in stages[-1]
    assert "precompute_soft_targets" not in stages[-1]
    report = (folder / "results/report.html").read_text()
    assert "mc3_18, of another program, is right about" in report


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_logits_for_other_views_are_refused_until_the_teacher_is_asked_again(done):
    folder, _ = done
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("seed: 0", "seed: 7", 1))
    ended = run(folder, "dvc", "repro", "import_soft_targets", check=False)
    assert ended.returncode != 0
    said = ended.stdout + ended.stderr
    assert '"seed": 7' in said
    assert "its logits are not those of this run's views" in said
