"""Soft-target stores of format version 2, read as ones of today's: then all teachers had seen the same frames,
and had no folds.

Axes: N videos, V views, M teachers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.core.digest import DIGEST_BYTES
from pipeline.distill.store.codecs import ArrayLayout, LogitCodec
from pipeline.distill.store.rows import NO_FOLD, Rows, row_layout


def version_2_layout(codec: LogitCodec, num_views: int, num_teachers: int) -> dict[str, ArrayLayout]:
    """The arrays of a row of version 2, in the order in which its digest takes them."""
    layout = row_layout(codec, num_views, num_teachers)
    return {
        "views": layout["views"],
        "pixel_digest": ArrayLayout((num_views,), np.dtype("<u8"), 0),
        "frame_shape": ArrayLayout((3,), np.dtype("<i4"), 0),
        "frames_digest": ArrayLayout((DIGEST_BYTES,), np.dtype("u1"), 0),
        **{name: layout[name] for name in codec.arrays()},
    }


def current_rows(rows: Rows, num_teachers: int) -> Rows:
    """Rows of version 2 in today's layout; the dark videos had the shape of those that the teachers saw."""
    arrays = dict(rows.arrays)
    of_frames = {
        "dark_shape": arrays["frame_shape"],
        "pixel_digest": np.repeat(arrays.pop("pixel_digest")[:, :, None], num_teachers, axis=2),
        **{
            name: np.repeat(arrays.pop(name)[:, None], num_teachers, axis=1)
            for name in ("frame_shape", "frames_digest")
        },
        "fold": np.full((len(rows), num_teachers), NO_FOLD, dtype="<i2"),
    }
    return Rows(rows.video_ids, {"views": arrays.pop("views"), **of_frames, **arrays})


def current_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as today's version has them: each teacher names its frames, enhancer and clip.

    What is missing, or of a type that nobody writes, stays so: `attribute_findings` names it.
    """
    current = dict(attributes)
    digests, teachers = current.get("digests"), current.get("teachers")
    if current.get("format_version") != 2 or not isinstance(digests, dict) or not isinstance(teachers, list):
        return current
    current["format_version"] = 3
    current["digests"] = {"dark": None, **digests}
    seen = {name: current["digests"].pop(name) for name in ("enhancer", "frames") if name in digests}
    seen |= {"clip": current["clip"]} if "clip" in current else {}
    current["teachers"] = [
        {**teacher, "light": None, **seen} if isinstance(teacher, dict) else teacher for teacher in teachers
    ]
    return current
