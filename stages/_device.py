"""The device that a stage computes on."""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from pipeline.core.errors import EnvironmentProblem, ParamsError

DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: cuda where there is one.")]


def choose_device(name: str) -> torch.device:
    """The device of that name; raises EnvironmentProblem where the machine has none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ParamsError(f"--device {name}: expected cpu, cuda, cuda:N or auto") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentProblem(
            f"--device {name}: PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices",
            remedy="leave --device away to use what there is, or install a CUDA build of torch",
        )
    return device
