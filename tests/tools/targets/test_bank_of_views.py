"""The table of views is what precompute asks its teacher about, for somebody who has nothing of this program."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import CLIP, VIEWS, manifest_row, noise_video, one_thread, tiny_data, write_frames  # noqa: F401 - a fixture
from precompute_runs import compute, make_project
from pyarrow import parquet
from target_stores import SEED, make_store

from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest, write_manifest
from pipeline.data.views import View, blend_of_row, blended, read_view
from pipeline.distill.store.store import SoftTargetStore
from pipeline.tools.targets import views as tool
from pipeline.tools.targets.views import description_path, draw_bank, write_views

MIXED = VIEWS.model_copy(update={"mix": "cutmix", "mix_share": 0.6})


@pytest.fixture(params=[VIEWS, MIXED], ids=["plain", "mixed"])
def bank(request, tmp_path):
    manifest, frames = tiny_data(tmp_path, num_train=5, num_footage=3)
    return draw_bank(manifest, frames, clip=CLIP, views=request.param, seed=SEED)


def tables(bank, folder):
    """The rows of the same table in both formats, with values of one type, and both descriptions."""
    write_views(folder / "views.parquet", bank)
    write_views(folder / "views.csv", bank)
    table = parquet.read_table(folder / "views.parquet")
    with (folder / "views.csv").open(newline="") as file:
        texts = list(csv.DictReader(file))
    rows = [{name: as_text(value) for name, value in row.items()} for row in table.to_pylist()]
    described = json.loads(table.schema.metadata[b"bank"]), json.loads((folder / "views.json").read_text())
    return table.to_pylist(), (rows, texts), described


def as_text(value):
    return " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def test_both_formats_have_the_same_rows_and_description(bank, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "_VIDEOS_AT_ONCE", 3)
    rows, (parquet_texts, csv_texts), described = tables(bank, tmp_path)
    assert parquet_texts == csv_texts
    assert len(rows) == 8 * VIEWS.num_views
    assert described == (bank.description, bank.description)
    assert description_path(tmp_path / "views.csv") == tmp_path / "views.json"


def test_the_frames_and_boxes_of_a_row_are_the_pixels_of_its_view(bank, tmp_path):
    """A second reading of the format: by slices, and torch's own resizing."""
    rows, _, _ = tables(bank, tmp_path)

    def clip(video_id, numbers, top, left, height, width, flip):
        box_THWC = bank.frames.read(video_id, numbers)[:, top : top + height, left : left + width]
        clip_TCHW = torch.from_numpy(box_THWC[:, :, ::-1].copy() if flip else box_THWC).permute(0, 3, 1, 2)
        size = (CLIP.size, CLIP.size)
        return torch.nn.functional.interpolate(clip_TCHW, size=size, mode="bilinear", antialias=True).permute(
            0, 2, 3, 1
        )

    box = ("top", "left", "height", "width", "flip")
    num_blends = 0
    for row in rows:
        shown = bank.source.lookup(row["video_id"], row["view"])[0]
        found_THWC = clip(row["video_id"], row["frames"], *(row[name] for name in box))
        if row.get("partner"):
            num_blends += 1
            other_THWC = clip(row["partner"], row["partner_frames"], *(row[f"partner_{name}"] for name in box))
            numbers = [row[f"partner_{name}"] for name in View.__dataclass_fields__]
            numbers += [row[name] for name in ("weight", "blend_top", "blend_left", "blend_height", "blend_width")]
            found_THWC = blended(found_THWC, other_THWC, blend_of_row(row["partner"], numbers), CLIP.size)
        assert torch.equal(found_THWC, read_view(bank.frames, row["video_id"], shown, CLIP))
    assert (num_blends > 0) == bank.mixed


def test_they_are_the_views_that_precompute_asks_about(tmp_path, monkeypatch):
    make_project(tmp_path, monkeypatch, num_footage=2)
    compute()
    rows = SoftTargetStore("store.zarr").read_shard(0)
    bank = draw_bank(read_manifest(Path("manifest.csv")), FrameStore(Path("frames")), clip=CLIP, views=VIEWS, seed=SEED)
    assert bank.rows.video_ids == rows.video_ids
    for name, array in bank.rows.arrays.items():
        assert np.array_equal(array, rows.arrays[name]), name


def test_the_digest_names_all_that_a_view_depends_on(tmp_path):
    manifest, frames = tiny_data(tmp_path, num_train=5)
    fewer = write_manifest(tmp_path / "fewer.csv", manifest.rows[1:])
    how = {"clip": CLIP, "views": VIEWS, "seed": SEED}
    others = [
        {"clip": CLIP.model_copy(update={"frame_stride": 1})},
        {"views": VIEWS.model_copy(update={"min_scale": 0.9})},
        {"views": MIXED},
        {"seed": SEED + 1},
    ]
    banks = [draw_bank(manifest, frames, **{**how, **other}) for other in ({}, {}, *others)]
    digests = [each.description["digest"] for each in (*banks, draw_bank(fewer, frames, **how))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == len(digests) - 1


def test_windows_of_footage_tell_where_in_their_file_they_begin(tmp_path):
    shape_THW = (6, 18, 22)
    videos = {name: noise_video(name, shape_THW) for name in ("a", "b", "night@00000120", "odd@00000007")}
    rows = [manifest_row(name, label, "train", shape_THW) for label, name in enumerate("ab")]
    window, whole = (
        manifest_row(name, -1, "unlabelled", shape_THW, class_name="") for name in ("night@00000120", "odd@00000007")
    )
    manifest = write_manifest(tmp_path / "m.csv", [*rows, replace(window, path="night.mp4"), whole])
    bank = draw_bank(manifest, write_frames(tmp_path / "frames", videos), clip=CLIP, views=VIEWS, seed=0)
    offsets = {row[0]: row[bank.columns.index("offset")] for row in bank.table()}
    assert offsets == {"a": 0, "b": 0, "night@00000120": 120, "odd@00000007": 0}


def test_what_cannot_be_written_is_refused(bank, tmp_path):
    with pytest.raises(ParamsError, match=r"ends with \.parquet or \.csv"):
        write_views(tmp_path / "views.txt", bank)
    made = make_store(tmp_path / "other")
    with pytest.raises(StaleArtifactError, match="lacks"):
        draw_bank(bank.manifest, made.frames, clip=CLIP, views=VIEWS, seed=SEED)
