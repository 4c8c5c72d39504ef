"""Fit the enhancer to the dark training videos; classical ones are their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.enhancement import fit_enhancer
from pipeline.frames import FrameStore
from pipeline.manifest import read_manifest
from pipeline.params import load_params
from stages._shell import PARAMS_PATH, ParamsOption, say


def main(
    *,
    dark_path: Annotated[Path, typer.Option("--dark", help="The dark frames.")],
    manifest_path: Annotated[Path, typer.Option("--manifest", help="The manifest that `prepare` wrote.")],
    out: Annotated[Path, typer.Option(help="The enhancer's model file to write.")],
    params_path: ParamsOption = PARAMS_PATH,
) -> None:
    """Fit the enhancer to the dark training videos; classical ones are their parameters."""
    params = load_params(params_path)
    FrameStore(dark_path)
    read_manifest(manifest_path)
    fit_enhancer(params.enhancer, params.fit_enhancer, out)
    say(f"fit_enhancer: {params.enhancer} -> {out}")
