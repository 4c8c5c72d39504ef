"""Measure a model: latency, clips a second, memory, size and GMAC."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from pipeline.core.device import choose_device
from pipeline.core.errors import ParamsError
from pipeline.evaluate.cost import cost_of
from pipeline.models.recognizer import load_model
from pipeline.tools.export.card import describe
from pipeline.tools.export.export import TOLERANCE, drawn_clips, export
from pipeline.tools.export.latency import Latency, Run, Way, measure
from pipeline.tools.export.onnx_file import check_onnx_installed, open_onnx
from pipeline.tools.urls import local_file
from stages._shell import DeviceOption, JsonOption, print_json, print_line, print_table, say

MIB = 2**20


def main(
    model_path: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            parser=local_file,
            help="A model file, or an .onnx file of `dlkdd export`: a path or a URL.",
        ),
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
    as_json: JsonOption = False,
) -> None:
    """Measure a model: latency, clips a second, memory, size and GMAC.

    It is measured eager, and where asked compiled and as ONNX.

    Each way runs in a process of its own, on clips of noise.

    Example: dlkdd bench models/student.safetensors --onnx --threads 1
    """
    threads = torch.get_num_threads() if num_threads is None else num_threads
    ways = _ways(model_path, compiled=compiled, onnx=onnx)
    chosen = choose_device("cpu" if device == "auto" and "onnx" in ways else device)
    if "onnx" in ways and chosen.type != "cpu":
        raise ParamsError(f"--device {device}: ONNX is measured on the CPU", remedy="omit --device")
    if model_path.suffix == ".onnx":
        model, found = None, open_onnx(model_path, num_threads=threads).description
    else:
        model = load_model(model_path)
        found = describe(model, cost_of(model.recognizer), bare=False)
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for way in ways:
            path = model_path
            if way == "onnx" and model is not None:
                path, clips = Path(folder) / "model.onnx", drawn_clips(model.recognizer.architecture.clip, 2)
                export(model, path, program_format=way, bare=False, clips=clips, tolerance=TOLERANCE, metrics=None)
            say(f"bench: {way}, {num_runs} batches of {batch_size}")
            measured.append(measure(Run(path, way, str(chosen), batch_size, num_warmup, num_runs, threads)))
    facts = {
        "file": str(model_path),
        "architecture": found["architecture"]["name"],
        "model_digest": found["digest"],
        **{name: found[name] for name in ("clip", "parameters", "gmac_per_clip")},
        "device": str(chosen),
        "threads": threads,
        "batch_size": batch_size,
    }
    if as_json:
        print_json({**facts, "measured": [asdict(one) for one in measured]})
    else:
        _print(facts, measured)


def _ways(path: Path, *, compiled: bool, onnx: bool) -> list[Way]:
    if path.suffix == ".onnx":
        if compiled or onnx:
            raise ParamsError(
                f"{path}: an ONNX file is measured in ONNX Runtime alone",
                remedy="give the model file for --compile and --onnx",
            )
        return ["onnx"]
    if onnx:
        check_onnx_installed()
    chosen: dict[Way, bool] = {"eager": True, "compiled": compiled, "onnx": onnx}
    return [way for way, is_chosen in chosen.items() if is_chosen]


def _print(facts: dict[str, Any], measured: list[Latency]) -> None:
    clip = facts["clip"]
    print_line(
        f"{facts['architecture']}: {facts['parameters']:,} parameters, {facts['gmac_per_clip']:.3g} GMAC for a clip of "
        f"{clip['num_frames']}×{clip['size']}×{clip['size']}; on {facts['device']}, threads: {facts['threads']}, "
        f"batch size: {facts['batch_size']}"
    )
    print_table(
        ("", "p50, ms", "p95, ms", "clips/s", "first call, ms", "peak memory, MiB"),
        (
            (
                one.way,
                *(f"{1000 * seconds:.2f}" for seconds in (one.p50_seconds, one.p95_seconds)),
                f"{one.clips_per_second:.1f}",
                f"{1000 * one.first_seconds:.0f}",
                f"{one.peak_bytes / MIB:.0f}",
            )
            for one in measured
        ),
    )
