"""Each recipe reads its data set: put in place by `recipe use` on a replica of the layout, `prepare` finds every video.

The replicas are small and written from docs/datasets.md; test_annotations.py reads the data sets' real lists.
"""

from __future__ import annotations

import numpy as np
import pytest
from paths import ROOT

from pipeline.core.params import load_params
from pipeline.data.manifest import read_manifest
from pipeline.videos.prepare import prepare
from pipeline.videos.reader import write_video

CLASSES = ("Drink", "Jump", "Wave")
GROUPS = range(1, 6)  # people or places; the last one is test


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "one.mp4"
    frames_THWC = np.random.default_rng(0).integers(0, 90, (10, 24, 32, 3), dtype=np.uint8)
    write_video(path, frames_THWC, fps=10)
    return path


class Replica:
    """A data set's folder; `put` gives a video a name in it, with a digest of its own."""

    def __init__(self, root, video):
        self.root, self.content, self.number = root, video.read_bytes(), 0

    def put(self, name):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.number += 1
        path.write_bytes(self.content + f"{self.number:08d}".encode())  # mp4 readers stop before it
        return name

    def write(self, name, lines):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


def of_arid(replica, folder, suffix, lists, names):
    """Lists of tab-separated id, label, path; the names of the lists differ."""
    split = {"train": [], "test": []}
    for label, class_name in enumerate(CLASSES):
        for group in GROUPS:
            listed = f"{class_name}/{class_name}_{group}_1{suffix}"
            replica.put(f"{folder}{listed}")
            lines = split["test" if group == max(GROUPS) else "train"]
            lines.append(f"{len(lines)}\t{label}\t{listed}")
    replica.write(f"{lists}/mapping_table.txt", [f"{label}\t{name}" for label, name in enumerate(CLASSES)])
    for name, lines in split.items():
        replica.write(names.format(name), lines)


def arid(replica):
    of_arid(replica, "", ".avi", "list_cvt", "list_cvt/ARID_split1_{}.txt")


def arid_v1_5(replica):
    of_arid(replica, "clips_v1.5/", ".mp4", "list_cvt", "list_cvt/split_0/split0_{}.txt")


def arid_ug2(replica):
    train, test = ["VideoID,Video,ClassID"], ["VideoID,Video,ClassID"]
    for label, class_name in enumerate(CLASSES, start=5):
        for group in GROUPS:
            name = f"{class_name}/{class_name}_{group}_1.mp4"
            replica.put(f"train_data/{name}")
            train.append(f"{len(train) - 1},{name},{label}")
        replica.put(f"test_data/{label}.mp4")
        test.append(f"{len(test) - 1},{label}.mp4,{label}")
    names = [f"{label}\t{name}" for label, name in enumerate(CLASSES, start=5)]
    replica.write("list_cvt/mapping_table_t1.txt", names)
    replica.write("list_cvt/ARID1.1_t1_train_pub.csv", train)
    replica.write("list_cvt/ARID1.1_t1_validation_gt_pub.csv", ["VideoID,Video", "0,0.mp4"])
    replica.write("list_cvt/ARID1.1_t1_test_gt.csv", test)


def dark48(replica):
    split = {"train": [], "test": []}
    for label, class_name in enumerate(CLASSES):
        for group in GROUPS:
            name = replica.put(f"{class_name}/{class_name}{group}-1.mp4")
            split["test" if group == max(GROUPS) else "train"].append(f"{name} {label}")
    replica.write("annotations/classInd.txt", [f"{label}  {name}" for label, name in enumerate(CLASSES)])
    for name, lines in split.items():
        replica.write(f"annotations/{name}_split1.txt", lines)


def folder(replica):
    for class_name in CLASSES:
        for group in GROUPS:
            replica.put(f"{class_name}/{group}.mp4")


def csv(replica):
    videos = [(class_name, group) for class_name in CLASSES for group in GROUPS]
    lines = [f"{replica.put(f'{name}_{group}.mp4')},{name},person {group}" for name, group in videos]
    replica.write("videos.csv", ["path,label,group", *lines])


@pytest.mark.parametrize("make", [arid, arid_v1_5, arid_ug2, dark48, folder, csv], ids=lambda make: make.__name__)
def test_a_recipe_reads_its_data_set(call, video, tmp_path, monkeypatch, make):
    replica = Replica(tmp_path / "data set", video)
    make(replica)
    params_path = tmp_path / "params.yaml"
    used = call("recipe", "use", make.__name__, "--data", replica.root, "--params", params_path)
    assert used[0] == 0, used
    params = load_params(params_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    prepare(
        params.prepare,
        seed=params.seed,
        manifest_path=tmp_path / "manifest.csv",
        quarantine_path=tmp_path / "quarantine.csv",
        dark_path=tmp_path / "dark",
        run=lambda function, tasks: [function(task) for task in tasks],
    )
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert manifest.class_names == CLASSES
    assert len(manifest.rows) == replica.number
    assert (tmp_path / "quarantine.csv").read_text().count("\n") == 1  # its header
    for split in ("train", "val", "test"):
        assert {row.class_name for row in manifest.rows_of(split)} == set(CLASSES), split


@pytest.mark.parametrize("name", ["two\nlines", "bytes\udcff"])
def test_a_folder_whose_name_no_parameter_file_can_hold_is_refused(call, tmp_path, name):
    (tmp_path / name).mkdir()
    code, out, err = call("recipe", "use", "csv", "--data", tmp_path / name, "--params", tmp_path / "params.yaml")
    assert (code, out) == (2, "")
    assert "names have no control characters and are UTF-8" in err
    assert not (tmp_path / "params.yaml").exists()


def test_every_recipe_for_a_data_set_is_tried_here():
    tried = {"arid", "arid_v1_5", "arid_ug2", "dark48", "folder", "csv"}
    assert {path.stem for path in (ROOT / "configs").glob("*.yaml")} == tried | {"demo", "smoke"}
