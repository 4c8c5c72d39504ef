"""ONNX files: written from an exported program with the description of its model, and run by ONNX Runtime.

Torch is imported only to write, so that a process which only runs a file needs none.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import EnvironmentProblem, StaleArtifactError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_DESCRIBED = {"architecture", "clip", "digest", "parameters", "gmac_per_clip", "input", "output"}
DESCRIPTION = "dlkdd"  # the key of the model's description in a program's file, of ONNX or of torch


def check_onnx_installed(names: Sequence[str] = ("onnx", "onnxscript", "onnxruntime")) -> None:
    """Raise EnvironmentProblem where a package that writes or runs ONNX is missing."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise EnvironmentProblem(
            f"ONNX needs {', '.join(missing)}, not installed here", remedy="pip install 'dlkdd[export]'"
        )


def write_onnx(program: ExportedProgram, path: Path, description: Mapping[str, Any]) -> None:
    """Write a program whose first axis is the batch to one ONNX file, with the description of its model inside.

    The same program gives the same bytes: torch's notes of source files and their folders are removed.
    """
    import torch

    name, out = description["input"]["name"], description["output"]["name"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated", FutureWarning)
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[name],
            output_names=[out],
            dynamic_shapes={name: {0: "batch"}},
        )
    assert made is not None  # as it is with dynamo
    model: Any = made.model
    for part in (model.graph, *model.graph.all_nodes(), *model.functions.values()):
        part.metadata_props.clear()
    model.metadata_props[DESCRIPTION] = json.dumps(description, sort_keys=True)
    made.save(path, external_data=False)


@dataclass(frozen=True)
class OnnxFile:
    """A file of `dlkdd export`, in an ONNX Runtime session on the CPU."""

    session: Any
    description: dict[str, Any]

    def run(self, input_B: NDArray[Any]) -> NDArray[np.float32]:
        """The output of a batch; the description states names and shapes."""
        (output_BK,) = self.session.run(
            [self.description["output"]["name"]], {self.description["input"]["name"]: input_B}
        )
        values_BK: NDArray[np.float32] = output_BK
        return values_BK


def open_onnx(path: Path, *, num_threads: int) -> OnnxFile:
    """Load a file. Raises StaleArtifactError where it is missing, damaged or was not exported by dlkdd."""
    check_onnx_installed(["onnxruntime"])
    import onnxruntime

    remedy = "make it again with `dlkdd export`"
    if not path.is_file():
        raise StaleArtifactError(f"{path}: no such file", remedy=remedy)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes share no base
        raise StaleArtifactError(f"{path}: ONNX Runtime cannot load it: {error}", remedy=remedy) from None
    text = session.get_modelmeta().custom_metadata_map.get(DESCRIPTION)
    if text is None:
        raise StaleArtifactError(f"{path}: was not exported by dlkdd: it does not describe its model", remedy=remedy)
    try:
        description = json.loads(text)
        if not description.keys() >= _DESCRIBED:
            raise ValueError("fields are missing")
    except (ValueError, AttributeError, RecursionError) as error:
        raise StaleArtifactError(f"{path}: its description cannot be used: {error}", remedy=remedy) from None
    return OnnxFile(session, description)
