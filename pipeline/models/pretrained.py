"""Pretrained weights for a new network, torchvision's or any file's, and the pixel statistics that belong to them.

Files of torchvision, of pytorchvideo's hub, of IG-65M, safetensors of any program and our own model files name tensors
as the networks do, up to prefixes and the name of the last layer.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.core.digest import digest_file
from pipeline.core.errors import EnvironmentProblem, ParamsError, StaleArtifactError
from pipeline.core.params import ModelName
from pipeline.core.weights import is_model_file, load_weights, read_tensors
from pipeline.models.networks import MODELS, Architecture, shapes_of

PARAMETER = "weights"
TORCHVISION = "torchvision"
_PREFIXES = ("module.", "model.", "network.")  # of DataParallel, of Lightning, and of our own model files
_OURS = ("mean_C", "std_C")  # of our own model files; input_statistics decides about them
_COUNTER = ".num_batches_tracked"  # which torch has written since 2018, and nothing here reads

# mean and standard deviation of RGB / 255, as the weights of these families were published with
PUBLISHED_STATISTICS: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {
    "kinetics": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),  # torchvision's ResNets and s3d, IG-65M
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision's swin3d
    "pytorchvideo": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),  # pytorchvideo's hub, torchvision's mvit
}


@dataclass(frozen=True)
class Pretrained:
    """Weights as read: the file's name and digest, tensors by our names, and class names where the file states them."""

    name: str
    digest: str
    tensors: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None


@dataclass(frozen=True)
class Fit:
    """Which tensors of a file go into a network, by name.

    `replaced` are tensors of the head that have another shape in the file or belong to other classes; `skipped` are in
    the file alone, `missing` in the network alone. What is replaced or missing keeps its newly drawn weights.
    """

    pretrained: Pretrained
    num_classes: int
    loaded: tuple[str, ...]
    replaced: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]
    num_classes_of_file: int | None

    @property
    def summary(self) -> str:
        """One line for the user."""
        head = ""
        if self.replaced:
            classes = f" ({self.num_classes_of_file} classes -> {self.num_classes})" if self.num_classes_of_file else ""
            head = f"; head replaced{classes}: {_named(self.replaced)}"
        return (
            f"weights: {len(self.loaded)} tensors of {self.pretrained.name} loaded{head}"
            f"; skipped {_named(self.skipped)}; missing {_named(self.missing)}"
        )


def read_pretrained(weights: str, name: ModelName) -> Pretrained:
    """The weights that a parameter names: "torchvision", or a file.

    Raises ParamsError where they do not exist, EnvironmentProblem where they cannot be downloaded, StaleArtifactError
    where the file cannot be read.
    """
    path = _downloaded(name) if weights == TORCHVISION else Path(weights)
    class_names = None
    if is_model_file(path):
        arrays, attributes = load_weights(path)
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        class_names = tuple(attributes.get("class_names", ()))
    else:
        tensors = read_tensors(path, parameter=PARAMETER)
    ours = _our_names(tensors, MODELS[name].renamed)
    if len(ours) < len(tensors):
        raise StaleArtifactError(
            f"weights: {path} holds {len(tensors)} tensors of {len(ours)} names, prefixes apart",
            remedy="keep one network's tensors in it",
        )
    return Pretrained(path.name, digest_file(path), ours, class_names)


def fit(pretrained: Pretrained, architecture: Architecture, *, class_names: Sequence[str]) -> Fit:
    """Compare a file with a network, without building it in memory.

    Raises StaleArtifactError where anything but the head is missing or has another shape, with the first such tensors,
    or where values are not finite.
    """
    kind, tensors, wanted = MODELS[architecture.name], pretrained.tensors, shapes_of(architecture)
    other_classes = pretrained.class_names not in (None, tuple(class_names))
    findings, loaded, replaced, missing = [], [], [], []
    for name, shape in wanted.items():
        if name not in tensors:
            missing.append(name)
            if not kind.is_head(name) and not name.endswith(_COUNTER):
                findings.append(f"{name} is missing")
        elif tensors[name].shape != shape and not kind.is_head(name):
            findings.append(f"{name} has the shape {tuple(tensors[name].shape)}, not {tuple(shape)}")
        elif tensors[name].shape != shape or (other_classes and name.startswith(f"{kind.classifier}.")):
            replaced.append(name)
        else:
            loaded.append(name)
    if findings or not any(not kind.is_head(name) for name in loaded):
        raise StaleArtifactError(
            f"weights: {pretrained.name} does not fit {architecture.name}",
            findings=findings,
            remedy="name the model that they are of, or another file: docs/models.md says where those come from",
        )
    broken = [name for name in loaded if not torch.isfinite(tensors[name]).all()]
    if broken:
        raise StaleArtifactError(
            f"weights: {pretrained.name} has values that are not finite",
            findings=broken,
            remedy="get the file again",
        )
    skipped = tuple(name for name in tensors if name not in wanted and name not in _OURS)
    classifier = f"{kind.classifier}.weight"
    num_classes_of_file = next(iter(tensors[classifier].shape), None) if classifier in replaced else None
    return Fit(
        pretrained,
        architecture.num_classes,
        tuple(loaded),
        tuple(replaced),
        skipped,
        tuple(missing),
        num_classes_of_file,
    )


def load_into(network: nn.Module, found: Fit) -> None:
    """Copy the tensors that fit into a network, whatever type of number they are stored as."""
    network.load_state_dict({name: found.pretrained.tensors[name] for name in found.loaded}, strict=False)


def _our_names(tensors: Mapping[str, Tensor], renamed: Mapping[str, str]) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for name, value in tensors.items():
        while name.startswith(_PREFIXES):
            name = name.partition(".")[2]
        ours[renamed.get(name, name)] = value
    return ours


def _named(names: Sequence[str]) -> str:
    """The first few names of a list, and how many there are."""
    few = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    return f"{len(names)} ({few})" if names else "none"


# torchvision's own weights


def _downloaded(name: ModelName) -> Path:
    """The file of torchvision's default weights in torch's cache, downloaded if it does not exist yet."""
    if not MODELS[name].in_torchvision:
        having = ", ".join(other for other, kind in MODELS.items() if kind.in_torchvision)
        raise ParamsError(
            f"torchvision has no weights for {name}", remedy=f"name a file; those of torchvision are {having}"
        )
    url = torchvision_url(name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), _digest_start(path.name), progress=False)
        except Exception as error:  # urllib, http and ssl raise errors of many kinds
            raise EnvironmentProblem(
                f"weights: {url} cannot be downloaded: {error}",
                remedy=(
                    f"put {path.name} into {path.parent} (torch looks there; TORCH_HOME is "
                    f"{os.environ.get('TORCH_HOME', 'not set')}), or set weights to the path of a file"
                ),
            ) from None
    _check_name(path)
    return path


def torchvision_url(name: ModelName) -> str:
    """Where torchvision's default weights of a network are."""
    from pipeline.models.torchvision_compat import get_model_weights  # slow to import

    url: str = get_model_weights(name).DEFAULT.url
    return url


def _check_name(path: Path) -> None:
    """Compare a file with the digest in its name."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(_digest_start(path.name)):
        raise StaleArtifactError(
            f"weights: {path} is damaged: its SHA-256 starts with {found[:8]}, not as its name says",
            remedy="delete the file, and it is downloaded again",
        )


def _digest_start(name: str) -> str:
    """The start of the SHA-256 that torchvision puts into the name of a file: name-0123abcd.pth."""
    return re.sub(r".*-([0-9a-f]{8,})\.pth", r"\1", name)
