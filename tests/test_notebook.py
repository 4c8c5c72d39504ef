"""The notebook runs as it says, and shows what it showed when it was kept."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from clones import clone, environment, run
from command_line import install_program
from paths import ROOT

from docs.run_notebook import NOTEBOOK, run_cell


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def shown(cell):
    """What a cell shows, without its numbers, which depend on the machine."""
    texts = ["".join(output.get("text") or output["data"]["text/plain"]) for output in cell["outputs"]]
    kinds = [sorted(output.get("data", ())) for output in cell["outputs"]]
    return re.sub(r"[-+]?[\d.]+", "0", "".join(texts)), kinds


def test_a_cell_shows_what_it_prints_and_the_value_of_its_last_line():
    class Picture:
        def _repr_svg_(self):
            return "<svg/>"

        def __repr__(self):
            return "a picture"

    names = {"picture": Picture()}
    assert run_cell("x = 1\nprint(x)", names) == [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]
    (output,) = run_cell("x\npicture", names)
    assert output["data"] == {"text/plain": ["a picture"], "image/svg+xml": ["<svg/>"]}
    assert run_cell("y = x + 1", names) == []
    assert names["y"] == 2


def test_it_is_kept_with_what_it_shows_and_is_small():
    assert NOTEBOOK.stat().st_size < 100_000
    assert all(cell["outputs"] for cell in cells(NOTEBOOK, "code"))
    assert json.loads(NOTEBOOK.read_text())["nbformat"] == 4
    ids = [cell["id"] for kind in ("code", "markdown") for cell in cells(NOTEBOOK, kind)]
    assert len(set(ids)) == len(ids)


def test_its_links_lead_somewhere():
    text = "".join(line for cell in cells(NOTEBOOK, "markdown") for line in cell["source"])
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).is_file()] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_runs_as_it_says(tmp_path):
    folder, programs = tmp_path / "clone", install_program(tmp_path / "bin")
    clone(folder, "demo")
    first = "".join(cells(NOTEBOOK, "markdown")[0]["source"])
    script = f'export PATH="{programs}:$PATH"\n' + re.search(r"```sh\n(.*?)```", first, re.DOTALL)[1]
    command = ("bash", "-euo", "pipefail", "-c", script)
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run(folder, "bash", "-c", f'PYTHONPATH="$PWD" {sys.executable} docs/run_notebook.py')
    again = cells(folder / "docs/notebook.ipynb", "code")
    assert [shown(cell) for cell in again] == [shown(cell) for cell in cells(NOTEBOOK, "code")]
