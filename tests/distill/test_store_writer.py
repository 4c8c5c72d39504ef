"""docs/soft-target-store.md is enough to write a store: its own writer does, with nothing of this project."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from builders import one_thread  # noqa: F401 - a fixture
from paths import ROOT
from target_stores import contents, make_store, write

from pipeline.distill.store.store import SoftTargetStore
from pipeline.tools.targets.conformance import checks
from pipeline.tools.targets.verify import verify

PAGE = (ROOT / "docs/soft-target-store.md").read_text()
READER, WRITER = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def write_by_the_page(path, made):
    """The rows of a store of one teacher, written again, by a program that has nothing of this project."""
    arrays, video_ids = made.rows.arrays, made.rows.video_ids
    logits_NVK = made.rows.logits(SoftTargetStore(made.path).codec)[:, :, 0]
    given = {
        "views": dict(zip(video_ids, arrays["views"].tolist(), strict=True)),
        "dark_shapes": dict(zip(video_ids, arrays["dark_shape"].tolist(), strict=True)),
        "logits": dict(zip(video_ids, logits_NVK.tolist(), strict=True)),
        "attributes": {
            **{name: made.attributes[name] for name in ("class_names", "clip", "view_policy", "batch_size")},
            "teachers": [
                {**made.attributes["teachers"][0], "origin": "imported", "frames": "0" * 32, "enhancer": None}
            ],
            "digests": {name: made.attributes["digests"][name] for name in ("manifest", "dark")},
        },
    }
    program = (
        "import sys, json\n"
        "sys.modules['pipeline'] = None\n"
        f"{WRITER}\n"
        f"write_soft_targets({str(path)!r}, **json.load(sys.stdin))\n"
    )
    subprocess.run([sys.executable, "-c", program], input=json.dumps(given), text=True, check=True)
    return logits_NVK


def test_the_writer_has_sixty_lines_at_most():
    assert len(WRITER.splitlines()) <= 60


@pytest.mark.parametrize("num_train", [7, 515])  # of one chunk, and of two
def test_what_the_writer_writes_is_a_store(tmp_path, num_train):
    made = make_store(tmp_path, num_train=num_train, num_views=1)
    path = tmp_path / "written.zarr"
    logits_NVK = write_by_the_page(path, made)
    names = {}
    exec(compile(READER, "docs/soft-target-store.md", "exec"), names)
    found = list(names["read_soft_targets"](path))
    assert tuple(video_id for video_id, _, _ in found) == made.rows.video_ids
    assert np.array_equal([logits for _, _, logits in found], logits_NVK[:, :, None])
    assert {check.result for check in checks(verify(path, "checksums"))} == {"pass"}
    # and as ours would be: the same rows, by our writer, are the same files
    store = SoftTargetStore(path)
    rewritten = {name: store.attributes[name] for name in made.attributes}
    write(tmp_path / "ours.zarr", store.read_shard(0), store.codec, rewritten)
    one, other = contents(path), contents(tmp_path / "ours.zarr")
    assert one.keys() == other.keys()
    for name, content in one.items():
        same = json.loads(content) == json.loads(other[name]) if name.endswith(".json") else content == other[name]
        assert same, name
