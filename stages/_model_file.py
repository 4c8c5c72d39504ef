"""The option for a model file that may lie at a URL. No stage of dvc.yaml has it: DVC knows files by their paths."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.tools.urls import local_file

ModelFileOption = Annotated[
    Path, typer.Option("--model", metavar="FILE|URL", parser=local_file, help="The model file: a path or a URL.")
]
