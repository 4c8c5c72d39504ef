"""Export a model as an ONNX or torch.export program, with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.data.frame_store import FrameStore
from pipeline.models.recognizer import load_model
from pipeline.tools.export.card import metrics_of
from pipeline.tools.export.export import TOLERANCE, Format, card_paths, check_out, drawn_clips, export, stored_clips
from pipeline.tools.urls import local_file
from stages._shell import say


def main(
    model_path: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", parser=local_file, help="The model file, models/student.safetensors, or its URL."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="The program to write: .onnx, or .pt2 for torch.")],
    program_format: Annotated[
        Format, typer.Option("--format", help="What runs it: ONNX Runtime and others, or torch.")
    ] = "onnx",
    bare: Annotated[
        bool,
        typer.Option("--bare", help="Normalised float clips in, logits out; else uint8 frames in, probabilities out."),
    ] = False,
    frames_path: Annotated[
        Path | None, typer.Option("--frames", help="A frame store to compare on; else clips are drawn.")
    ] = None,
    num_clips: Annotated[int, typer.Option(min=2, help="Clips that program and model are compared on.")] = 4,
    tolerance: Annotated[
        float, typer.Option(min=0, help="The largest difference of an output that is accepted.")
    ] = TOLERANCE,
    evaluation: Annotated[
        Path | None, typer.Option(help="The evaluation.json of `dlkdd evaluate`, whose numbers go into the card.")
    ] = None,
) -> None:
    """Export a model as an ONNX or torch.export program, with its card.

    Program and model are compared.

    The program takes frames as they are and gives probabilities: nothing of dlkdd is needed to run it. Its card lies
    beside it in Markdown and JSON, and says how to call it.

    Example: dlkdd export models/student.safetensors --out student.onnx --frames data/dark
    """
    check_out(out, program_format)
    model = load_model(model_path)
    clip = model.recognizer.architecture.clip
    frames = None if frames_path is None else FrameStore(frames_path)
    found = export(
        model,
        out,
        program_format=program_format,
        bare=bare,
        clips=drawn_clips(clip, num_clips) if frames is None else stored_clips(frames, model.recognizer, num_clips),
        tolerance=tolerance,
        metrics=None if evaluation is None else metrics_of(evaluation, model),
    )["comparison"]
    typer.echo(
        f"{out}: {out.stat().st_size:,} bytes; largest difference to {model_path} is {found['max_difference']:.2g} "
        f"on {found['clips']}, {found['top1_agreement']:.0%} with the same best class"
    )
    say(f"export: card -> {', '.join(map(str, card_paths(out)))}")
