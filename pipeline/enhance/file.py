"""An enhancer's model file: its name, its parameters and, for a network, the tensors. Format version 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.core.errors import StaleArtifactError
from pipeline.core.params import FitEnhancerParams
from pipeline.core.weights import Tensors, load_weights, save_weights
from pipeline.enhance.classical import Clahe, Equalize, Gamma, GammaAuto, Unchanged

if TYPE_CHECKING:
    from pipeline.enhance.learned import LearnedEnhancer

FORMAT = "dlkdd enhancer"
FORMAT_VERSION = 2

Classical = Unchanged | Gamma | GammaAuto | Equalize | Clahe
CLASSICAL: dict[str, type[Classical]] = {kind.name: kind for kind in (Unchanged, Gamma, GammaAuto, Equalize, Clahe)}
LEARNED = ("zero_dce", "zero_dce_pp", "sci")
ENHANCERS = (*CLASSICAL, *LEARNED)


def make_enhancer(name: str, parameters: Mapping[str, Any]) -> Classical:
    """The classical enhancer of that name; ValueError for an unknown name or wrong parameters."""
    if name not in CLASSICAL:
        raise ValueError(f"{name!r} is none of {', '.join(CLASSICAL)}")
    try:
        return CLASSICAL[name](**parameters)
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError(f"{name}: {'; '.join(wrong)}") from None


def classical_from_params(name: str, params: FitEnhancerParams) -> Classical:
    """The classical enhancer of that name, with its own parameters only: those of others do not change its file."""
    # statistics of a whole video need no smoothing
    over = {"statistics": params.statistics, "smoothing": params.smoothing if params.statistics == "frame" else 1}
    parameters: dict[str, dict[str, Any]] = {
        "none": {},
        "gamma": {"gamma": params.gamma},
        "gamma_auto": {"target_mean": params.target_mean, **over},
        "equalize": over,
        "clahe": {"clip_limit": params.clahe_clip_limit, "grid": params.clahe_grid},
    }
    return make_enhancer(name, parameters[name])


def save_enhancer(path: Path, enhancer: Classical | LearnedEnhancer, *, fitted_on: Mapping[str, Any]) -> None:
    """Write a model file. `fitted_on`: JSON values naming what a learned one was fitted on; empty for the others."""
    tensors: Tensors = {}
    if isinstance(enhancer, Classical):
        parameters = asdict(enhancer)
    else:
        parameters, tensors = enhancer.parameters, enhancer.tensors()
    attributes = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "enhancer": enhancer.name,
        "parameters": parameters,
        "fitted_on": dict(fitted_on),
    }
    save_weights(path, tensors, attributes)


def load_enhancer(path: Path, *, device: str = "cpu") -> Classical | LearnedEnhancer:
    """Read a model file. Raises StaleArtifactError if it is damaged or of another format.

    device: where a network computes; classical enhancers compute on the CPU.
    """
    tensors, attributes = load_weights(path)
    found = attributes.get("format"), attributes.get("format_version")
    if found != (FORMAT, FORMAT_VERSION):
        raise StaleArtifactError(
            f"{path}: {found[0]} of version {found[1]} where a {FORMAT} of version {FORMAT_VERSION} is expected",
            remedy="make it again with `dvc repro`",
        )
    try:
        name, parameters = attributes["enhancer"], attributes["parameters"]
        if name not in LEARNED:
            return make_enhancer(name, parameters)
        # imported here: workers with a classical enhancer need not wait seconds for torch
        from pipeline.enhance.learned import make_learned

        return make_learned(name, parameters, tensors, device=device)
    except (KeyError, ValueError, TypeError) as error:
        raise StaleArtifactError(
            f"{path}: no usable enhancer: {error}", remedy="make it again with `dvc repro`"
        ) from None


def is_learned(path: Path) -> bool:
    """Whether a model file holds a network."""
    return load_weights(path)[1].get("enhancer") in LEARNED
