"""Inspect and verify frame stores, and export their videos to files that any player opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.core.errors import StaleArtifactError
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest
from pipeline.tools.look.frame_export import plan_export, write_export
from pipeline.tools.look.frame_summary import FrameSummary, check_frames, summarise_frames
from stages._shell import printable, progress

app = typer.Typer(no_args_is_help=True, help=__doc__, add_completion=False, pretty_exceptions_enable=False)

StoreArgument = Annotated[Path, typer.Argument(help="A frame store, such as data/dark.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_MOST_SIZES = 10


@app.command()
def inspect(
    store: StoreArgument,
    sample: Annotated[int, typer.Option(min=1, help="Measure the light of up to N videos.")] = 200,
    as_json: JsonOption = False,
) -> None:
    """Print what a store holds: videos, frames, sizes, codec, bytes, how dark it is, and what it was made from.

    Example: dlkdd frames inspect data/dark
    """
    found = summarise_frames(FrameStore(store), num_sampled=sample, progress=progress)
    if as_json:
        _print_json(found.to_dict())
    else:
        _print_summary(found)


@app.command()
def verify(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Read every frame and compare it with its checksum; exit code 5 if anything is damaged. Writes nothing.

    Example: dlkdd frames verify data/enhanced
    """
    verdict = check_frames(store, progress=progress)
    if as_json:
        _print_json(verdict.to_dict())
    if verdict.digest is None:
        raise StaleArtifactError(verdict.findings[0], remedy="`dvc checkout` or `dvc pull` brings the store back")
    if verdict.findings:
        raise StaleArtifactError(
            f"{store}: is not whole: {len(verdict.findings)} of {verdict.num_videos} videos are damaged",
            findings=verdict.findings,
            remedy="`dvc checkout` or `dvc pull` brings the store back, `dvc repro` makes it again",
        )
    if not as_json:
        typer.echo(
            f"{store}: whole: {verdict.num_videos:,} videos, {verdict.num_frames:,} frames, digest {verdict.digest}"
        )


@app.command()
def export(
    store: StoreArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="The folder to write to.")],
    video_ids: Annotated[
        list[str] | None, typer.Argument(metavar="VIDEO_ID", help="Ids of videos; all if none is given.")
    ] = None,
    beside: Annotated[
        Path | None, typer.Option(help="A store of the same videos, whose frames are shown on the right.")
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames a second, where the manifest does not state them.")] = 25.0,
    manifest_path: Annotated[
        Path | None, typer.Option("--manifest", help="The manifest of these videos, for each one's frames a second.")
    ] = None,
    crf: Annotated[int, typer.Option(min=0, max=51, help="x264's quality; lower is better and larger.")] = 12,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N videos by id.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write videos of a store as H.264 files: OUT_DIR/VIDEO_ID.mp4.

    With --beside the two stores are shown side by side, such as dark and enhanced. H.264 needs even sizes: an odd last
    row or column is repeated.

    Example: dlkdd frames export data/dark look --beside data/enhanced --manifest data/manifest.csv --limit 10
    """
    plan = plan_export(
        FrameStore(store),
        out,
        video_ids=video_ids or (),
        beside=None if beside is None else FrameStore(beside),
        manifest=None if manifest_path is None else read_manifest(manifest_path),
        fps=fps,
        crf=crf,
        limit=limit,
        force=force,
    )
    done = write_export(plan, progress=progress)
    if as_json:
        files = [str(plan.path(name)) for name in plan.rates]
        values = {"num_videos": done.num_videos, "num_frames": done.num_frames, "bytes": done.num_bytes}
        _print_json({"out": str(out), **values, "files": files})
    else:
        typer.echo(f"{out}: {done.num_videos:,} videos, {done.num_frames:,} frames, {done.num_bytes:,} bytes")


def _print_json(values: dict[str, Any]) -> None:
    typer.echo(json.dumps(values, indent=1))


def _print_summary(found: FrameSummary) -> None:
    grid = Table.grid(padding=(0, 2))
    for name, value in _facts(found).items():
        if value:
            grid.add_row(name, printable(value))
    Console(highlight=False, markup=False, emoji=False).print(grid)


def _facts(found: FrameSummary) -> dict[str, str]:
    spread, luma = found.frames_per_video, found.luma
    sizes = [f"{size.width}×{size.height}: {size.num_videos:,} videos" for size in found.sizes[:_MOST_SIZES]]
    more = len(found.sizes) - len(sizes)
    return {
        "store": found.location,
        "digest": found.digest,
        "holds": f"{found.num_videos:,} videos, {found.num_frames:,} frames, in {found.num_shards} shards",
        "frames of a video": f"{spread.least} to {spread.most}, median {spread.median:g}" if spread else "",
        "width × height": ", ".join(sizes) + (f" and {more} more sizes" if more > 0 else ""),
        "codec": found.codec + (f", quality {found.jpeg_quality}" if found.jpeg_quality is not None else ""),
        "on disk": f"{found.bytes_on_disk:,} bytes, {found.bytes_on_disk / max(found.num_frames, 1):,.0f} a frame",
        "mean luma": "quartiles {:g}, {:g}, {:g} of 255".format(*luma.quartiles)
        + f", over the middle frames of {luma.num_videos:,} videos"
        if luma
        else "",
        **{f"digest of {name}": digest for name, digest in found.origin.items()},
    }
