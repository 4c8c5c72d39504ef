"""Inspect, verify, compare, merge, import, export, publish soft targets."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.device import choose_device
from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.files import PARTIAL_SUFFIX, publish
from pipeline.core.params import Params, load_params
from pipeline.core.work_folder import out_lock
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest
from pipeline.distill.store.store import MAKE_REMEDY, SoftTargetStore
from pipeline.distill.teacher.precompute import chosen_codec
from pipeline.models.folds import read_folds
from pipeline.models.recognizer import ModelFile, load_model
from pipeline.tools.targets.card import STORE_NAME, publish_store
from pipeline.tools.targets.conformance import checks
from pipeline.tools.targets.diff import diff as compare
from pipeline.tools.targets.export import export as export_store
from pipeline.tools.targets.imported import ForeignTeacher, checked_logits, import_store, read_logits
from pipeline.tools.targets.merge import merge_teachers, merge_videos, same_videos
from pipeline.tools.targets.summary import summarise
from pipeline.tools.targets.verify import CARD_NAME, Depth, Verdict
from pipeline.tools.targets.verify import verify as verify_store
from pipeline.tools.targets.views import ViewBank, description_path, draw_bank, write_views
from pipeline.tools.urls import local_file, put_folder, require_free
from stages._shell import (
    PARAMS_PATH,
    DeviceOption,
    JsonOption,
    ParamsOption,
    print_json,
    print_result,
    print_table,
    progress,
    say,
)
from stages._shell import ManifestOption as NeededManifestOption
from stages._target_tables import print_difference, print_summary, print_verdict

app = typer.Typer(no_args_is_help=True, help=__doc__, add_completion=False, pretty_exceptions_enable=False)

StoreArgument = Annotated[str, typer.Argument(help="A store: a path, or a URL that fsspec knows.")]
FolderArgument = Annotated[Path, typer.Argument(help="A store in a folder.")]
ManifestOption = Annotated[Path | None, typer.Option("--manifest", help="The manifest that the store was made for.")]
DarkOption = Annotated[Path, typer.Option("--frames", help="The dark frames, which the boxes of views are for.")]
TeachersOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--teacher",
        parser=local_file,
        help="A teacher's model file, a path or a URL, or the folder of its folds; repeatable.",
    ),
]
EnhancedOption = Annotated[
    list[Path] | None, typer.Option("--enhanced", help="The frames that a teacher saw; repeatable.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there, if it is of the same kind.")]


@app.command()
def inspect(
    store: StoreArgument,
    manifest_path: ManifestOption = None,
    temperature: Annotated[float, typer.Option(min=0.01, help="Shows the entropy at this one, too.")] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Print what a store is, how large, how sure its teachers are and how right; all of it is read and checked.

    Example: dlkdd targets inspect data/soft_targets.zarr --manifest data/manifest.csv
    """
    manifest = None if manifest_path is None else read_manifest(manifest_path)
    temperatures = tuple(dict.fromkeys((1.0, temperature)))
    found = summarise(SoftTargetStore(store), temperatures=temperatures, manifest=manifest, progress=progress)
    if as_json:
        print_json(found)
    else:
        print_summary(found)


@app.command()
def verify(
    store: StoreArgument,
    depth: Annotated[
        Depth, typer.Option(help="attributes; checksums: also every row; teacher: also its logits for a sample.")
    ] = "checksums",
    teachers: TeachersOption = None,
    enhanced: EnhancedOption = None,
    sample: Annotated[int, typer.Option(min=1, help="Videos for which teacher inference is repeated.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample.")] = 0,
    device: DeviceOption = "auto",
    conformance: Annotated[
        bool, typer.Option("--conformance", help="Each rule of the format as one check, whoever wrote the store.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a store; exit code 5 where anything is wrong. Writes nothing.

    Example: dlkdd targets verify data/soft_targets.zarr --depth teacher --teacher models/teacher.safetensors
    --enhanced data/enhanced
    """
    if conformance:
        if depth != "checksums":
            raise ParamsError(f"--conformance reads every row and runs no teacher: not with --depth {depth}")
        _print_conformance(verify_store(store, depth, progress=progress), as_json=as_json)
        return
    verdict = verify_store(
        store,
        depth,
        teachers=[model for path in teachers or () for model in _models(path)],
        frames=[FrameStore(path) for path in enhanced or ()],
        num_sampled=sample,
        seed=seed,
        device=choose_device(device),
        progress=progress,
    )
    if as_json:
        print_json(verdict.to_dict())
    else:
        print_verdict(verdict)
    if not verdict.whole:
        raise StaleArtifactError(
            f"{store}: is not whole, findings: {len(verdict.findings)}",
            findings=verdict.findings,
            remedy=MAKE_REMEDY,
        )


def _print_conformance(verdict: Verdict, *, as_json: bool) -> None:
    """A line for each check; raises StaleArtifactError where one fails."""
    found = checks(verdict)
    failed = [check for check in found if check.result == "fail"]
    if as_json:
        checked = [asdict(check) for check in found]
        print_json({"location": verdict.location, "digest": verdict.digest, "conforms": not failed, "checks": checked})
    else:
        print_table(("rule", "result"), [(f"{check.name}: {check.rule}", check.result) for check in found])
    if failed:
        raise StaleArtifactError(
            f"{verdict.location}: does not conform, rules that it breaks: {', '.join(check.name for check in failed)}",
            findings=[f"{check.name}: {finding}" for check in failed for finding in check.findings],
            remedy="docs/soft-target-store.md has the format, and a writer of 60 lines",
        )


@app.command()
def views(
    manifest_path: NeededManifestOption,
    frames_path: DarkOption,
    out: Annotated[Path, typer.Option(help="The table to write: .parquet, or .csv with a .json beside it.")],
    params_path: ParamsOption = PARAMS_PATH,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the bank of views as a table: what a teacher of another program is to be asked about.

    A row for each view has its video, the numbers of its frames, its box in the stored frames, and whether it is
    mirrored.

    Example: dlkdd targets views --manifest data/manifest.csv --frames data/dark --out views.parquet
    """
    for path in (out, description_path(out)) if out.suffix == ".csv" else (out,):
        _require_free(path, force, folder=False)
    bank = _bank(manifest_path, frames_path, load_params(params_path))
    write_views(out, bank)
    digest, num_videos, num_views = (bank.description[name] for name in ("digest", "num_videos", "num_views"))
    text = f"{out}: {num_videos:,} videos × {num_views} views, digest {digest}"
    values = {"out": str(out), "num_videos": num_videos, "num_views": num_views, "digest": digest}
    print_result(values, text, as_json=as_json)


@app.command("import")
def import_command(
    logits: Annotated[Path, typer.Argument(help="The logits for all views: .npz, .parquet or .zarr.")],
    manifest_path: NeededManifestOption,
    frames_path: DarkOption,
    teacher_name: Annotated[str, typer.Option(help="What the teacher is called.")],
    teacher_digest: Annotated[
        str, typer.Option(help="32 hexadecimal digits that name it, as `b2sum -l 128 WEIGHTS` prints them.")
    ],
    out: Annotated[Path, typer.Option(help="The store to write.")],
    params_path: ParamsOption = PARAMS_PATH,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a soft-target store from the logits that another program gave for the table of `targets views`.

    Codec and batch size are those of precompute_soft_targets in the parameters.

    Example: dlkdd targets import logits.npz --manifest data/manifest.csv --frames data/dark
    --teacher-name mc3_18 --teacher-digest 0123456789abcdef0123456789abcdef --out data/soft_targets.zarr
    """
    _require_free(out, force, folder=True)
    teacher, params = ForeignTeacher(teacher_name, teacher_digest), load_params(params_path)
    options, bank = params.precompute_soft_targets, _bank(manifest_path, frames_path, params)
    codec = chosen_codec(options, len(bank.description["class_names"]))
    logits_NVK = checked_logits(read_logits(logits), bank)
    with _built("targets import", out) as built:
        digest, packing = import_store(
            built, bank, logits_NVK, teacher, codec=codec, batch_size=options.batch_size, max_kl=options.max_kl
        )
    top1 = packing.top1_on_views[0]
    text = f"{out}: {len(bank.rows):,} videos of {teacher.name}; top-1 on these views is {top1:.1%}, digest {digest}"
    print_result({"out": str(out), "top1_on_views": top1, "digest": digest}, text, as_json=as_json)
    if packing.certainty.warning is not None:
        say(f"targets import: {packing.certainty.warning}")


def _bank(manifest_path: Path, frames_path: Path, params: Params) -> ViewBank:
    manifest, frames = read_manifest(manifest_path), FrameStore(frames_path)
    return draw_bank(manifest, frames, clip=params.clip, views=params.views, seed=params.seed)


@app.command()
def diff(a: StoreArgument, b: StoreArgument, as_json: JsonOption = False) -> None:
    """Print what differs between two stores: what they were made from, their rows, and their teachers' logits.

    Example: dlkdd targets diff data/soft_targets.zarr https://example.org/soft_targets.zarr
    """
    found = compare(SoftTargetStore(a), SoftTargetStore(b), progress=progress)
    if as_json:
        print_json(found)
    else:
        print_difference(a, b, found)


@app.command()
def merge(
    stores: Annotated[list[str], typer.Argument(help="Stores: paths or URLs.")],
    out: Annotated[Path, typer.Option(help="The store to write.")],
    manifest_path: Annotated[
        Path | None, typer.Option("--manifest", help="Of the merged store, where the stores have different videos.")
    ] = None,
    enhanced: Annotated[
        list[Path] | None,
        typer.Option(
            "--enhanced",
            help="Frames of all videos, where the stores saw different ones; once, or once for each teacher, in order.",
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make one store of several: of their teachers, where they have the same videos, else of their videos.

    Example: dlkdd targets merge first.zarr second.zarr --out ensemble.zarr
    """
    _require_free(out, force, folder=True)
    opened = [SoftTargetStore(store) for store in stores]
    of_teachers = same_videos(opened)
    if of_teachers and (manifest_path or enhanced):
        raise ParamsError(
            "these stores were made for one manifest, so it is their teachers that are merged: "
            "--manifest and --enhanced are for stores of different videos"
        )
    if not of_teachers and manifest_path is None:
        raise ParamsError(
            "these stores were made for different manifests: --manifest names that of all their videos",
            findings=[f"{store.location}: {store.attributes['digests']['manifest']}" for store in opened],
        )
    with _built("targets merge", out) as built:
        if manifest_path is None:
            digest = merge_teachers(opened, built, progress=progress)
        else:
            frames = [FrameStore(path) for path in enhanced or ()]
            manifest = read_manifest(manifest_path)
            digest = merge_videos(opened, built, manifest=manifest, frames=frames, progress=progress)
    kind = "teachers" if of_teachers else "videos"
    values = {"out": str(out), "merged": kind, "digest": digest, "merged_from": [store.digest for store in opened]}
    print_result(values, f"{out}: the {kind} of {len(opened)} stores, digest {digest}", as_json=as_json)


@app.command()
def export(
    store: StoreArgument,
    out: Annotated[Path, typer.Option(help="The file to write: .parquet or .npz.")],
    packed: Annotated[
        bool, typer.Option("--packed/--unpacked", help="The codec's own arrays, or all logits as float32.")
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the soft targets to one file, for people without zarr.

    Parquet has a row for each view of each teacher. npz has the arrays of the store. Both hold its attributes as JSON.

    Example: dlkdd targets export data/soft_targets.zarr --out soft_targets.parquet
    """
    _require_free(out, force, folder=False)
    opened = SoftTargetStore(store)
    export_store(opened, out, packed=packed, progress=progress)
    size = out.stat().st_size
    values = {"out": str(out), "bytes": size, "digest": opened.digest}
    print_result(values, f"{out}: {size:,} bytes", as_json=as_json)


@app.command("publish")
def publish_command(
    store: FolderArgument,
    out: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    to: Annotated[str | None, typer.Option(help="Or the URL to write to: s3://…, gs://…, hf://….")] = None,
    license_text: Annotated[str | None, typer.Option("--license", help="A sentence for the card.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a store with a card, README.md, into a folder for a web server, or straight to a URL.

    Example: dlkdd targets publish data/soft_targets.zarr --out published --license "CC BY 4.0"
    """
    if (out is None) == (to is None):
        raise ParamsError("publish takes either --out, a folder, or --to, a URL")
    if out is not None:
        _require_free(out, force, folder=True)
        with _built("targets publish", out) as built:
            digest = publish_store(store, built, license_text=license_text, progress=progress)
    else:
        assert to is not None
        require_free(to, (STORE_NAME, CARD_NAME), force=force)
        with tempfile.TemporaryDirectory() as folder:
            digest = publish_store(store, Path(folder), license_text=license_text, progress=progress)
            put_folder(Path(folder), to, marker=f"{STORE_NAME}/zarr.json", force=force)
    where = str(out or to).rstrip("/")
    values = {"out": where, "store": f"{where}/{STORE_NAME}", "digest": digest}
    print_result(values, f"{where}: {STORE_NAME} and its card README.md, digest {digest}", as_json=as_json)


def _models(path: Path) -> Sequence[ModelFile]:
    """The model in a file, or those of the folds in a folder."""
    return read_folds(path).models if path.is_dir() else [load_model(path)]


def _require_free(out: Path, force: bool, *, folder: bool) -> None:
    """Nothing is at `out`, or it may be replaced: a file by a file, a store, a published one or an empty folder by one.

    folder: whether what is to be written is one.
    """
    if not out.exists():
        return
    if not force:
        raise ParamsError(f"--out {out}: already exists", remedy="choose another name, or add --force to replace it")
    holds = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if not (holds <= {STORE_NAME, CARD_NAME} or "zarr.json" in holds):
        raise ParamsError(
            f"--out {out}: is a folder that holds other things than a store: {', '.join(sorted(holds)[:5])}",
            remedy="choose another name: --force does not remove them",
        )
    if out.is_dir() != folder:
        found, wanted = ("file", "folder") if folder else ("folder", "file")
        raise ParamsError(
            f"--out {out}: is a {found}, expected the name of a {wanted}",
            remedy="choose another name: --force replaces nothing of another kind",
        )


@contextmanager
def _built(command: str, out: Path) -> Iterator[Path]:
    """Where to build the folder that is published onto `out` at the end of the block; `out` is locked meanwhile."""
    built = out.with_name(out.name + PARTIAL_SUFFIX)
    with out_lock(command, out):
        _remove(built)
        try:
            yield built
            publish(built, out)
        finally:
            _remove(built)


def _remove(folder: Path) -> None:
    """Remove a half-made store; where one write failed, zarr's other threads may add to it for a moment."""
    deadline = time.monotonic() + 2
    while folder.is_dir():
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
