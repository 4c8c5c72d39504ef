"""The bank of views as a table for programs of others: what a teacher is asked about, one row for each view.

Axes: N videos, V views.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.digest import digest_bytes, with_digest
from pipeline.core.errors import ParamsError
from pipeline.core.files import write_text_whole, written_whole
from pipeline.core.params import ClipParams, ViewsParams
from pipeline.core.tables import write_table
from pipeline.data.dataset import BANK, DrawnViews, samples_of
from pipeline.data.footage import first_frame_of
from pipeline.data.frame_store import FrameStore
from pipeline.data.listing import TAUGHT
from pipeline.data.manifest import Manifest
from pipeline.data.manifest import video_id as id_of
from pipeline.data.views import VIEW_POLICY_VERSION, AnyView, BlendedView, View, draw_partners, frame_numbers
from pipeline.distill.store.rows import Rows, concatenate
from pipeline.distill.teacher.bank import view_arrays
from pipeline.tools.targets.export import import_parquet

FORMAT, FORMAT_VERSION = "dlkdd-views", 1
DESCRIPTION = "bank"  # of a parquet file's metadata

_VIEW = tuple(field.name for field in fields(View))
_OF_VIDEO = ("video_id", "split", "path", "offset", "num_frames", "frame_height", "frame_width")
_OF_VIEW = ("view", *_VIEW, "frames")
_OF_BLEND = (
    *("partner", *(f"partner_{name}" for name in _VIEW), "partner_frames", "weight"),
    *("blend_top", "blend_left", "blend_height", "blend_width"),
)
_VIDEOS_AT_ONCE = 512  # of a parquet file's row group


@dataclass(frozen=True)
class ViewBank:
    """The views that `precompute_soft_targets` asks a teacher about; `description["digest"]` names the bank.

    description: JSON values; rows: the arrays of a store that tell the views, for every video to learn from.
    """

    manifest: Manifest
    frames: FrameStore
    source: DrawnViews
    description: dict[str, Any]
    rows: Rows

    @property
    def mixed(self) -> bool:
        """Whether some views are blends of two videos."""
        return "blends" in self.rows.arrays

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table."""
        return (*_OF_VIDEO, *_OF_VIEW, *(_OF_BLEND if self.mixed else ()))

    def table(self, start: int = 0, stop: int | None = None) -> Iterator[list[Any]]:
        """A row for each view of some of the videos; numbers of frames are lists, what a view has not is None."""
        for video_id in self.rows.video_ids[start:stop]:
            row, shape_THW = self.manifest.by_id[video_id], self.frames.shape(video_id)
            offset = 0 if id_of(row.path) == video_id else first_frame_of(video_id)  # of a window of footage
            of_video = [video_id, row.split, row.path, offset, *shape_THW]
            for number in range(self.source.views.num_views):
                shown = self.source.lookup(video_id, number)[0]
                own = shown.own if isinstance(shown, BlendedView) else shown
                of_view = [number, *own.row(), self._frames(video_id, own)]
                yield [*of_video, *of_view, *(self._blend(shown) if self.mixed else ())]

    def _blend(self, shown: AnyView) -> list[Any]:
        if not isinstance(shown, BlendedView):
            return [None] * len(_OF_BLEND)
        blend = shown.blend
        box = [blend.weight, blend.top, blend.left, blend.height, blend.width]
        return [blend.partner, *blend.view.row(), self._frames(blend.partner, blend.view), *box]

    def _frames(self, video_id: str, view: View) -> list[int]:
        numbers: list[int] = frame_numbers(view, self.source.clip, self.frames.shape(video_id)[0]).tolist()
        return numbers


def draw_bank(manifest: Manifest, frames: FrameStore, *, clip: ClipParams, views: ViewsParams, seed: int) -> ViewBank:
    """The bank of a run; the frames are the dark ones, or others of the same videos and geometry.

    Raises StaleArtifactError where the frames are of other videos than the manifest's.
    """
    video_ids = [sample.video_id for sample in samples_of(manifest, frames, *TAUGHT)]
    splits = [[row.video_id for row in manifest.rows_of(split)] for split in TAUGHT]
    partners = draw_partners(splits, views, seed=seed, purpose=BANK)
    source = DrawnViews(frames, clip, views, seed, BANK, partners)

    def rows_of(video_id: str) -> Rows:
        shown_V = [source.lookup(video_id, number)[0] for number in range(views.num_views)]
        dark_shape = np.array([frames.shape(video_id)], dtype="<i4")
        return Rows((video_id,), {**view_arrays([shown_V], mixed=bool(partners)), "dark_shape": dark_shape})

    rows = concatenate([rows_of(video_id) for video_id in video_ids])
    description = with_digest(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "class_names": list(manifest.class_names),
            "clip": clip.model_dump(),
            "view_policy": {**views.policy(), "seed": seed, "version": VIEW_POLICY_VERSION},
            "levels": frames.levels,
            "num_videos": len(rows),
            "num_views": views.num_views,
            "digests": {
                "manifest": manifest.digest,
                "dark": frames.origin.get("dark", frames.digest),
                "views": digest_bytes(rows.digests().tobytes()),
            },
        }
    )
    return ViewBank(manifest, frames, source, description, rows)


def description_path(path: Path) -> Path:
    """Where the description of a table in CSV is; one in parquet has it among its metadata."""
    return path.with_suffix(".json")


def write_views(path: Path, bank: ViewBank) -> None:
    """Write the table, by its suffix .parquet, or .csv with the description in a JSON file beside it, which is last.

    Raises ParamsError for another suffix, EnvironmentProblem where pyarrow is missing for parquet.
    """
    writers: Mapping[str, Callable[[Path, ViewBank], None]] = {".parquet": _write_parquet, ".csv": _write_csv}
    if path.suffix not in writers:
        raise ParamsError(f"{path}: expected a name that ends with {' or '.join(writers)}")
    writers[path.suffix](path, bank)


def _write_csv(path: Path, bank: ViewBank) -> None:
    rows = ([" ".join(map(str, cell)) if isinstance(cell, list) else cell for cell in row] for row in bank.table())
    write_table(path, bank.columns, rows)
    write_text_whole(description_path(path), json.dumps(bank.description, indent=1) + "\n")


def _write_parquet(path: Path, bank: ViewBank) -> None:
    pa, parquet = import_parquet("write .csv")
    texts, lists = ("video_id", "split", "path", "partner"), ("frames", "partner_frames")
    types = dict.fromkeys(bank.columns, pa.int32())
    types |= {name: pa.string() for name in texts if name in types}
    types |= {name: pa.list_(pa.int32()) for name in lists if name in types}
    schema = pa.schema(list(types.items()), metadata={DESCRIPTION: json.dumps(bank.description)})
    with written_whole(path) as whole, parquet.ParquetWriter(whole, schema, compression="zstd") as writer:
        for start in range(0, len(bank.rows), _VIDEOS_AT_ONCE):
            columns = zip(*bank.table(start, start + _VIDEOS_AT_ONCE), strict=True)
            arrays = [pa.array(column, kind) for column, kind in zip(columns, types.values(), strict=True)]
            writer.write_table(pa.table(arrays, schema=schema))
