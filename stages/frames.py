"""Inspect and verify frame stores, and export their videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.core.errors import StaleArtifactError
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest
from pipeline.tools.look.frame_export import export_videos
from pipeline.tools.look.frame_summary import check_frames, summarise_frames
from stages._shell import JsonOption, print_facts, print_json, print_result, progress, short_digest

app = typer.Typer(no_args_is_help=True, help=__doc__, add_completion=False, pretty_exceptions_enable=False)

StoreArgument = Annotated[Path, typer.Argument(help="A frame store, such as data/dark.")]

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
        print_json(found)
    else:
        print_facts(_facts(found))


@app.command()
def verify(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Read every frame and compare it with its checksum; exit code 5 if anything is damaged. Writes nothing.

    Example: dlkdd frames verify data/enhanced
    """
    found = check_frames(store, progress=progress)
    if as_json:
        print_json(found)
    if found["digest"] is None:
        raise StaleArtifactError(found["findings"][0], remedy="`dvc repro` makes it again, `dvc pull` fetches it")
    if found["findings"]:
        raise StaleArtifactError(
            f"{store}: is not whole: {len(found['findings'])} of {found['num_videos']} videos are damaged",
            findings=found["findings"],
            remedy="`dvc repro` makes it again, of the damaged shards alone; `dvc pull` fetches what was pushed",
        )
    if not as_json:
        counts = f"{found['num_videos']:,} videos, {found['num_frames']:,} frames"
        typer.echo(f"{store}: whole: {counts}, digest {short_digest(found['digest'])}")


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
    files, num_frames = export_videos(
        FrameStore(store),
        out,
        video_ids=video_ids or (),
        beside=None if beside is None else FrameStore(beside),
        manifest=None if manifest_path is None else read_manifest(manifest_path),
        fps=fps,
        crf=crf,
        limit=limit,
        force=force,
        progress=progress,
    )
    counts = {"num_videos": len(files), "num_frames": num_frames, "bytes": sum(path.stat().st_size for path in files)}
    text = "{num_videos:,} videos, {num_frames:,} frames, {bytes:,} bytes".format(**counts)
    print_result({"out": str(out), **counts, "files": list(map(str, files))}, f"{out}: {text}", as_json=as_json)


def _facts(found: dict[str, Any]) -> dict[str, str]:
    spread, luma, quality, num_bytes = (
        found[name] for name in ("frames_per_video", "luma", "jpeg_quality", "bytes_on_disk")
    )
    sizes = ["{width}×{height}: {num_videos:,} videos".format(**size) for size in found["sizes"][:_MOST_SIZES]]
    more = len(found["sizes"]) - len(sizes)
    return {
        "store": found["location"],
        "digest": found["digest"],
        "holds": "{num_videos:,} videos, {num_frames:,} frames, in {num_shards} shards".format(**found),
        "frames of a video": "{least} to {most}, median {median:g}".format(**spread) if spread else "",
        "width × height": ", ".join(sizes) + (f" and {more} more sizes" if more > 0 else ""),
        "codec": found["codec"] + (f", quality {quality}" if quality is not None else ""),
        "levels": found["levels"],
        "on disk": f"{num_bytes:,} bytes, {num_bytes / max(found['num_frames'], 1):,.0f} a frame",
        "mean luma": "quartiles {:g}, {:g}, {:g} of 255".format(*luma["quartiles"])
        + f", over {luma['num_videos']:,} videos"
        if luma
        else "",
        **{name if name == "light" else f"digest of {name}": value for name, value in found["origin"].items()},
    }
