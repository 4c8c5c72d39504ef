"""`dlkdd enhance --preview`: a picture of all enhancers. Apart from the stage, which must not depend on it."""

from __future__ import annotations

from pathlib import Path

from pipeline.contact_sheet import save_sheet
from pipeline.enhancer_file import LEARNED
from pipeline.enhancer_preview import Origin, columns, preview, spread_videos
from pipeline.errors import DataError, ParamsError
from pipeline.frame_summary import sampled_luma
from pipeline.frames import FrameStore
from pipeline.manifest import read_manifest
from pipeline.params import load_params
from pipeline.work import interruptible
from stages._device import choose_device
from stages._shell import progress, say

NUM_SAMPLED = 2000  # videos among which the shown ones are chosen


def show(
    num_videos: int,
    *,
    dark_path: Path,
    manifest_path: Path | None,
    enhancer_path: Path | None,
    params_path: Path,
    out: Path,
    device: str,
) -> None:
    """Write the picture; what is left out of it is said, with the reason."""
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ParamsError(f"--out {out}: the preview is a picture; expected the name of a .png file")
    params = load_params(params_path)
    dark = FrameStore(dark_path)
    if not dark.video_ids:
        raise DataError(f"{dark_path}: holds no videos", remedy="`dvc repro prepare` makes it")
    train = None
    if manifest_path is not None:
        train = tuple(row.video_id for row in read_manifest(manifest_path).rows_of("train"))
    origin = Origin(params.enhancer, params.fit_enhancer, params.seed, enhancer_path, train, choose_device(device))
    with interruptible() as stop:
        shown = columns(dark, origin, stop=stop, progress=progress)
    missing = [name for name in LEARNED if name not in {column.enhancer.name for column in shown}]
    if missing:
        say(
            f"preview: without {', '.join(missing)}: learned enhancers are fitted to the train split, whose manifest "
            "--manifest names; --enhancer names a fitted one"
        )
    video_ids = spread_videos(sampled_luma(dark, num_sampled=NUM_SAMPLED, progress=progress), num_videos)
    sheet = preview(dark, video_ids, shown, progress=progress)
    save_sheet(sheet, out)
    height, width, _ = sheet.picture_HWC.shape
    say(f"preview: {len(video_ids)} videos, {len(shown)} enhancers, {width}x{height} pixels -> {out}")
