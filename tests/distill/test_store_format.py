"""docs/soft-target-store.md is enough to read a store: its own reader does, with nothing of this project."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from builders import one_thread  # noqa: F401 - a fixture
from paths import ROOT
from target_stores import make_store, shards_of, write

from pipeline.core.digest import digest_json
from pipeline.distill.store.rows import Rows, row_layout
from pipeline.distill.store.store import SoftTargetStore

PAGE = (ROOT / "docs/soft-target-store.md").read_text()
READER, _ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

KINDS = [("float16", 1), ("float32", 1), ("topk", 1), ("float16", 2), ("topk", 3)]


@pytest.fixture(scope="module", params=KINDS, ids=str)
def made(request, tmp_path_factory):
    codec, num_teachers = request.param
    with shards_of(4, chunk_rows=2):
        yield make_store(tmp_path_factory.mktemp("made"), codec=codec, num_teachers=num_teachers)


def read_by_the_page(path):
    names = {}
    exec(compile(READER, "docs/soft-target-store.md", "exec"), names)
    return list(names["read_soft_targets"](path))


def test_the_reader_reads_what_was_written(made):
    found = read_by_the_page(made.path)
    store = SoftTargetStore(made.path)
    assert tuple(video_id for video_id, _, _ in found) == made.rows.video_ids
    assert np.array_equal([views for _, views, _ in found], made.rows.arrays["views"])
    logits_NVMK = np.array([logits for _, _, logits in found])
    assert logits_NVMK.dtype == np.float32
    assert np.array_equal(logits_NVMK, made.rows.logits(store.codec))


def test_the_reader_refuses_what_was_changed(made):
    shards = [path for path in sorted(made.path.glob("*/c/**/*")) if path.is_file()]
    assert len(shards) == 2 * (2 + len(SoftTargetStore(made.path).layout))
    for shard in shards:
        original = shard.read_bytes()
        content = bytearray(original)
        content[len(content) // 3] ^= 1
        shard.write_bytes(content)
        try:
            with pytest.raises(Exception):  # noqa: B017, PT011 - zarr's own errors for a broken chunk, else ValueError
                read_by_the_page(made.path)
        finally:
            shard.write_bytes(original)
    root = made.path / "zarr.json"
    original = root.read_text()
    try:
        root.write_text(original.replace('"batch_size": 4', '"batch_size": 5'))
        with pytest.raises(ValueError, match="digest"):
            read_by_the_page(made.path)
    finally:
        root.write_text(original)


def test_the_reader_needs_nothing_of_this_project(made, tmp_path):
    (tmp_path / "reader.py").write_text(READER)
    code = (
        "import sys\n"
        "sys.modules['pipeline'] = None\n"
        "from reader import read_soft_targets\n"
        f"print(sum(1 for _ in read_soft_targets({str(made.path)!r})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "7"


def table(first_cell):
    """First cells of the table of the page that begins with such a header."""
    lines = PAGE[PAGE.index(f"| {first_cell} |") :].splitlines()[2:]
    rows = lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    return [re.findall(r"`(\w+)`", row.split("|")[1]) for row in rows], rows


@pytest.mark.parametrize("mixed", [False, True])
def test_the_page_names_the_arrays(made, mixed):
    names, rows = table("array")
    store = SoftTargetStore(made.path)
    of_others = ["dense codecs only" if store.attributes["codec"]["name"] == "topk" else "codec `topk` only"]
    of_others += [] if mixed else ["mixed views only"]
    described = [
        name for (name,), row in zip(names, rows, strict=True) if not any(others in row for others in of_others)
    ]
    layout = row_layout(store.codec, store.num_views, store.num_teachers, mixed=mixed)
    assert described == ["video_id", "row_digest", *layout]
    types = {name: row.split("|")[2] for (name,), row in zip(names, rows, strict=True)}
    for name, array in layout.items():
        assert array.dtype.name in types[name]


def test_the_reader_reads_mixed_views(made, tmp_path):
    codec, rng = SoftTargetStore(made.path).codec, np.random.default_rng(0)
    layout = row_layout(codec, *made.rows.arrays["pixel_digest"].shape[1:], mixed=True)
    arrays = {
        name: made.rows.arrays.get(name, rng.integers(9, size=(len(made.rows), *array.inner)).astype(array.dtype))
        for name, array in layout.items()
    }
    policy = {**made.attributes["view_policy"], "mix": "mixup", "mix_share": 0.5, "mix_alpha": 1.0}
    digests = {**made.attributes["digests"], "view_policy": digest_json(policy)}
    attributes = {**made.attributes, "view_policy": policy, "digests": digests}
    write(tmp_path / "mixed.zarr", Rows(made.rows.video_ids, arrays), codec, attributes)
    found = read_by_the_page(tmp_path / "mixed.zarr")
    assert np.array_equal([views for _, views, _ in found], made.rows.arrays["views"])
    assert list(SoftTargetStore(tmp_path / "mixed.zarr").layout) == list(layout)


def test_the_page_names_the_attributes(made):
    names, rows = table("attribute")
    required = {name for cell, row in zip(names, rows, strict=True) if "optional" not in row for name in cell}
    assert required == {*SoftTargetStore(made.path).attributes, "attributes_digest"}
