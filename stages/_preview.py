"""`dlkdd enhance --preview`: a picture of all enhancers. Apart from the stage, which must not depend on it."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.device import choose_device
from pipeline.core.errors import DataError, ParamsError, StaleArtifactError
from pipeline.core.params import load_params
from pipeline.core.progress import interruptible
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest
from pipeline.enhance.file import LEARNED
from pipeline.evaluate.light import spread_places, spread_videos, video_luma
from pipeline.tools.look.contact_sheet import save_sheet
from pipeline.tools.look.preview import columns, preview
from stages._shell import progress, say

NUM_SAMPLED = 500  # videos among which the shown ones are chosen


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
    """Write the picture; say which enhancers are omitted, and why."""
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ParamsError(f"--out {out}: the preview is a picture; expected the name of a .png file")
    params = load_params(params_path)
    dark = FrameStore(dark_path)
    candidates, among, train = _videos(dark, manifest_path)
    sampled = [candidates[place] for place in spread_places(len(candidates), NUM_SAMPLED)]
    luma = video_luma(dark, sampled, progress=progress)
    video_ids = spread_videos(luma, num_videos)
    chosen = choose_device(device)
    with interruptible() as stop:
        shown = columns(dark, params, file=enhancer_path, train=train, device=chosen, stop=stop, progress=progress)
    missing = [name for name in LEARNED if name not in {column.enhancer.name for column in shown}]
    if missing:
        say(
            f"preview: without {', '.join(missing)}: learned enhancers are fitted to the train split, whose manifest "
            "--manifest names; --enhancer names a fitted one"
        )
    sheet = preview(dark, video_ids, shown, among=among, progress=progress)
    save_sheet(sheet, out)
    height, width, _ = sheet.picture_HWC.shape
    say(f"preview: {len(video_ids)} videos, {len(shown)} enhancers, {width}x{height} pixels -> {out}")


def _videos(dark: FrameStore, manifest_path: Path | None) -> tuple[tuple[str, ...], str, tuple[str, ...] | None]:
    """Videos that may be shown, their description, and those of train, None without a manifest.

    Test videos are not shown: whoever chooses an enhancer by them has tuned on the test split.
    """
    train, candidates, among = None, dark.video_ids, f"{len(dark.video_ids):,} videos"
    if manifest_path is not None:
        manifest = read_manifest(manifest_path)
        train, val = (tuple(row.video_id for row in manifest.rows_of(split)) for split in ("train", "val"))
        candidates = tuple(sorted({*train, *val}))
        among = f"{len(candidates):,} videos of train and val"
    if not candidates:
        raise DataError(f"{dark.path}: there are no videos to show", remedy="`dvc repro prepare` makes them")
    missing = [name for name in candidates if name not in dark]
    if missing:
        raise StaleArtifactError(
            f"{dark.path}: lacks {len(missing)} videos of {manifest_path}",
            findings=missing,
            remedy="`dvc repro prepare` brings store and manifest together",
        )
    return candidates, among, train
