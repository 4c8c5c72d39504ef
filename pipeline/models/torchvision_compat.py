"""The one door to torchvision, which also opens where its native library cannot load.

PyPI's torchvision is built for CUDA builds of torch. Beside a CPU build its native library fails to load, and
`import torchvision` then fails because the schemas of two detection operators are missing. Nothing here uses those
operators, so they are declared without an implementation, and only in that case.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch


def _native_library_loads() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # not installed: let the import below say so
    for library in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:
            return False
        return True
    return False


if not _native_library_loads():
    _schemas: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # kept alive here
    _schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision.models import get_model_weights  # noqa: E402
from torchvision.models import video as video_models  # noqa: E402
from torchvision.ops import StochasticDepth  # noqa: E402

__all__ = ["StochasticDepth", "get_model_weights", "video_models"]
