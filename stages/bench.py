"""Measure a model: latency, clips a second, memory, parameters and GMAC; eager, compiled and as ONNX."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from pipeline.core.device import choose_device
from pipeline.core.errors import ParamsError
from pipeline.core.params import load_params
from pipeline.evaluate.cost import cost_of
from pipeline.models.recognizer import ModelFile, load_model
from pipeline.tools.export.alternatives import Alternative, alternatives
from pipeline.tools.export.export import TOLERANCE, drawn_clips, export
from pipeline.tools.export.latency import Latency, Run, Way, measure
from pipeline.tools.export.onnx_file import check_onnx_installed, open_onnx
from stages._shell import PARAMS_PATH, DeviceOption, ParamsOption, printable, say

MIB = 2**20


def main(
    model_path: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model file, or an .onnx file of `dlkdd export`.")
    ],
    *,
    device: DeviceOption = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Measure it compiled by torch, too.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Measure it exported to ONNX, too.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips at once.")] = 1,
    num_warmup: Annotated[int, typer.Option("--warmup", min=0, help="Batches before those that are timed.")] = 5,
    num_runs: Annotated[int, typer.Option("--runs", min=1, help="Batches that are timed.")] = 50,
    num_threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads on the CPU; as many as torch takes by itself.")
    ] = None,
    with_alternatives: Annotated[
        bool, typer.Option("--alternatives", help="Add what two streams, or enhancing at inference, would cost.")
    ] = False,
    frame_size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Frames that alternatives enhance; as large as the clip.")
    ] = None,
    params_path: ParamsOption = PARAMS_PATH,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure a model: latency, clips a second, memory, parameters and GMAC; eager, compiled and as ONNX.

    Each way runs in a process of its own, on clips of noise. --alternatives reads the enhancers' options in --params.

    Example: dlkdd bench models/student.safetensors --onnx --threads 1
    """
    threads = torch.get_num_threads() if num_threads is None else num_threads
    ways = _ways(model_path, compiled=compiled, onnx=onnx, with_alternatives=with_alternatives)
    chosen = choose_device("cpu" if device == "auto" and "onnx" in ways else device)
    if "onnx" in ways and chosen.type != "cpu":
        raise ParamsError(f"--device {device}: ONNX is measured on the CPU", remedy="leave --device away")
    size = _frame_size(frame_size)
    subject = _read(model_path, threads)
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            path = _exported(subject.model, Path(folder)) if way == "onnx" and subject.model else model_path
            say(f"bench: {way}, {num_runs} batches of {batch_size}")
            measured.append(measure(Run(path, way, str(chosen), batch_size, num_warmup, num_runs, threads)))
    others: list[Alternative] = []
    if with_alternatives and subject.model is not None:
        others = _alternatives(subject.model, params_path, size, threads, num_runs)
    how = {"device": str(chosen), "threads": threads, "batch_size": batch_size}
    if as_json:
        lists = {"measured": [asdict(one) for one in measured], "alternatives": [asdict(one) for one in others]}
        typer.echo(json.dumps({**subject.facts, **how, **lists}, indent=1))
    else:
        _print(subject.facts, how, measured, others)


def _ways(path: Path, *, compiled: bool, onnx: bool, with_alternatives: bool) -> list[Way]:
    if path.suffix == ".onnx":
        if compiled or onnx or with_alternatives:
            raise ParamsError(
                f"{path}: an ONNX file is measured in ONNX Runtime alone",
                remedy="give the model file for --compile, --onnx and --alternatives",
            )
        return ["onnx"]
    if onnx:
        check_onnx_installed()
    chosen: dict[Way, bool] = {"eager": True, "compiled": compiled, "onnx": onnx}
    return [way for way, is_chosen in chosen.items() if is_chosen]


def _frame_size(text: str | None) -> tuple[int, int] | None:
    """(H, W) of WIDTHxHEIGHT."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise ParamsError(f"--frame-size {text}: expected WIDTHxHEIGHT in pixels, such as 320x240")
    return int(found[2]), int(found[1])


@dataclass(frozen=True)
class Subject:
    """What is measured: facts for the report, and the model, or None for an ONNX file."""

    facts: dict[str, Any]
    model: ModelFile | None


def _read(path: Path, num_threads: int) -> Subject:
    if path.suffix == ".onnx":
        said, model = open_onnx(path, num_threads=num_threads).description, None
        name, clip, digest = said["architecture"]["name"], said["clip"], said["digest"]
        parameters, gmac = said["parameters"], said["gmac_per_clip"]
    else:
        model = load_model(path)
        arch, cost = model.recognizer.architecture, cost_of(model.recognizer)
        name, clip, digest = arch.name, arch.clip.model_dump(), model.digest
        parameters, gmac = cost.parameters, cost.gmac
    facts = {"file": str(path), "architecture": name, "model_digest": digest, "clip": clip}
    return Subject({**facts, "parameters": parameters, "gmac_per_clip": gmac}, model)


def _exported(model: ModelFile, folder: Path) -> Path:
    path, clips = folder / "model.onnx", drawn_clips(model.recognizer.architecture.clip, 2)
    export(model, path, program_format="onnx", bare=False, clips=clips, tolerance=TOLERANCE, metrics=None)
    return path


def _alternatives(
    model: ModelFile, params_path: Path, frame_size: tuple[int, int] | None, num_threads: int, num_runs: int
) -> list[Alternative]:
    params = load_params(params_path)
    side = model.recognizer.architecture.clip.size
    height, width = frame_size or (side, side)
    torch.set_num_threads(num_threads)
    say(f"bench: alternatives, frames enhanced at {width}×{height} pixels on the CPU")
    return alternatives(model.recognizer, params.fit_enhancer, frame_size=(height, width), num_runs=num_runs)


def _print(
    facts: dict[str, Any], how: dict[str, Any], measured: Sequence[Latency], others: Sequence[Alternative]
) -> None:
    console, clip = Console(highlight=False, markup=False, emoji=False), facts["clip"]
    console.print(
        f"{printable(str(facts['architecture']))}: {facts['parameters']:,} parameters, "
        f"{facts['gmac_per_clip']:.3g} GMAC for a clip of "
        f"{clip['num_frames']}×{clip['size']}×{clip['size']}; on {how['device']}, threads: {how['threads']}, "
        f"batch size: {how['batch_size']}",
        soft_wrap=True,
    )
    table = _table("", "p50, ms", "p95, ms", "clips/s", "first call, ms", "peak memory, MiB")
    for one in measured:
        milliseconds = (f"{1000 * seconds:.2f}" for seconds in (one.p50_seconds, one.p95_seconds))
        first, peak = f"{1000 * one.first_seconds:.0f}", f"{one.peak_bytes / MIB:.0f}"
        table.add_row(one.way, *milliseconds, f"{one.clips_per_second:.1f}", first, peak)
    console.print(table)
    if not others:
        return
    table, alone = _table("one clip", "M parameters", "GMAC", "× student", "CPU ms", "× student"), others[0]
    for other in others:
        time = ("–", "–")
        if other.cpu_seconds is not None and alone.cpu_seconds is not None:
            time = (f"{1000 * other.cpu_seconds:.2f}", f"{other.cpu_seconds / alone.cpu_seconds:.2f}")
        table.add_row(
            other.name, f"{other.parameters / 1e6:.2f}", f"{other.gmac:.3g}", f"{other.gmac / alone.gmac:.2f}", *time
        )
    console.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
