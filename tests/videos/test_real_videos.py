"""The whole chain on real videos: four actions of nine people, darkened by the camera model, split by person."""

import json
import shutil

import pytest
from clones import clone, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_weizmann_darkened_from_lists_to_metrics(shared_data, tmp_path):
    folder = tmp_path / "clone"
    folder.mkdir()
    clone(folder, recipe="csv")
    source = shared_data / "videos/weizmann4"
    dark = folder / "data/weizmann4"
    run(folder, "dlkdd", "darken", str(source), str(dark))
    assert (dark / "videos.csv").read_bytes() == (source / "videos.csv").read_bytes()
    params = (folder / "params.yaml").read_text()
    shorter = {"  epochs: 32": "  epochs: 3", "num_views: 32": "num_views: 3"}
    for old, new in {"root: data/videos": "root: data/weizmann4", **shorter}.items():
        assert old in params
        params = params.replace(old, new)
    (folder / "params.yaml").write_text(params)
    run(folder, "dvc", "repro")

    rows = [line.split(",") for line in (folder / "data/manifest.csv").read_text().splitlines()]
    columns = {name: rows[0].index(name) for name in rows[0]}
    people = {}
    for row in rows[1:]:
        people.setdefault(row[columns["split"]], set()).add(row[columns["group"]])
    assert len(rows) - 1 == 72
    assert set(people) == {"train", "val", "test"}
    assert sum(map(len, people.values())) == 9  # nobody is in two splits
    metrics = json.loads((folder / "results/evaluation.json").read_text())
    assert metrics["num_test_videos"] >= 8
    shutil.rmtree(folder)
