"""A network with what its pixels are normalised by, uint8 clips in and logits out, and its model file.

Axes: B batch, C channels, T frames, H, W, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypedDict, cast, get_args

import torch
from torch import Tensor, nn

from pipeline.core.digest import digest_file
from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.params import ClipParams
from pipeline.core.weights import load_weights, save_weights
from pipeline.data.frames import Levels
from pipeline.models.networks import MODELS as MODELS
from pipeline.models.networks import Architecture as Architecture
from pipeline.models.networks import build_network

MODEL_FORMAT_VERSION = 3  # 1 had no stochastic depth, 2 did not state levels; both are still read
OF_THE_CLIP = "clip"  # the attribute input_statistics of a file without mean and deviation

# Grey levels, the least deviation that a clip is divided by: one is the least that two pixels can differ by. A clip of
# one colour becomes zeros, and one that is black but for a few pixels is not blown up into noise.
LEAST_DEVIATION = 1.0


class Statistics(TypedDict, total=False):
    """What a recogniser's pixels are normalised by: both, or neither where each clip is by itself."""

    mean_C: Sequence[float]
    std_C: Sequence[float]


_ANY: Statistics = {"mean_C": [0.0] * 3, "std_C": [1.0] * 3}  # where a file's own will be, or numbers do not matter


class Recognizer(nn.Module):
    """A network together with what its pixels are normalised by: uint8 clips in, logits out.

    `mean_C` and `std_C` are those of RGB / 255, in the training videos or in those of pretrained weights. Without them
    each clip is normalised by itself, to mean 0 and deviation 1 over all of its pixels and channels. levels: what the
    bytes of its clips mean; it sees them as they are.
    """

    mean_C: Tensor | None
    std_C: Tensor | None

    def __init__(
        self,
        architecture: Architecture,
        *,
        mean_C: Sequence[float] | None = None,
        std_C: Sequence[float] | None = None,
        levels: Levels = "linear",
    ) -> None:
        super().__init__()
        self.levels: Levels = levels
        self.architecture = architecture
        for name, values_C in (("mean_C", mean_C), ("std_C", std_C)):
            self.register_buffer(name, None if values_C is None else torch.tensor(values_C, dtype=torch.float32))
        self.network = build_network(architecture)
        self.frozen: list[nn.Module] = []
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def freeze(self, num_stages: int) -> None:
        """Freeze the stem (1) and the stages behind it (2, 3, …): their weights and batch statistics.

        Raises ParamsError when the network has fewer stages.
        """
        name, stages = self.architecture.name, self.stages
        if num_stages > len(stages):
            raise ParamsError(
                f"{name} has {len(stages)} stages, its stem included: frozen_stages cannot be {num_stages}",
                remedy=f"set frozen_stages to a number from 0 to {len(stages)} in the section of its training",
            )
        # a list, in which nn.Module does not look: they are part of the network already
        self.frozen = [module for stage in stages[:num_stages] for module in stage]
        for module in self.frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch between training and eval mode; frozen stages stay in eval mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, clip_BTHWC: Tensor) -> Tensor:
        """Logits (B, K) of uint8 clips (B, T, H, W, 3)."""
        logits_BK: Tensor = self.network(self.normalised(clip_BTHWC))
        return logits_BK

    def normalised(self, clip_BTHWC: Tensor) -> Tensor:
        """The network's float32 input, clip_BCTHW, of uint8 clips.

        Contiguous THWC, seen as CTHW, is channels_last_3d: the layout in which CPU convolutions are twice as fast.
        """
        clip_BTHWC = clip_BTHWC.float()
        if self.mean_C is None or self.std_C is None:
            clip_BTHWC = standardised(clip_BTHWC)
        else:
            clip_BTHWC = (clip_BTHWC / 255 - self.mean_C) / self.std_C
        return clip_BTHWC.permute(0, 4, 1, 2, 3)

    @property
    def stages(self) -> list[list[nn.Module]]:
        """The stem and the stages behind it, each as its modules, without the head."""
        return MODELS[self.architecture.name].stages(self.network)

    @property
    def num_parameters(self) -> int:
        """How many weights it has, frozen ones included."""
        return sum(parameter.numel() for parameter in self.parameters())


def standardised(clip_BTHWC: Tensor) -> Tensor:
    """Clips of grey levels, each set to mean 0 and deviation 1, which is at least LEAST_DEVIATION before."""
    axes = (1, 2, 3, 4)
    centred_BTHWC = clip_BTHWC - clip_BTHWC.mean(dim=axes, keepdim=True)
    deviation_B1111 = centred_BTHWC.square().mean(dim=axes, keepdim=True).sqrt()
    return centred_BTHWC / deviation_B1111.clamp(min=LEAST_DEVIATION)


def on_meta(architecture: Architecture, statistics: Statistics = _ANY) -> Recognizer:
    """A recogniser without memory, which has names and shapes alone."""
    with torch.device("meta"):
        return Recognizer(architecture, **statistics)


@dataclass(frozen=True)
class ModelFile:
    """A trained network as read from its file."""

    recognizer: Recognizer
    class_names: tuple[str, ...]
    trained_on: dict[str, Any]
    digest: str


def save_model(
    path: Path, recognizer: Recognizer, *, class_names: Sequence[str], trained_on: dict[str, object]
) -> None:
    """Write a network to one safetensors file; `trained_on` is stored with it."""
    arch = recognizer.architecture
    if len(class_names) != arch.num_classes:
        raise ValueError(f"{len(class_names)} class names for {arch.num_classes} classes")
    attributes = {
        "format": "dlkdd-model",
        "format_version": MODEL_FORMAT_VERSION,
        "architecture": {**asdict(arch), "clip": arch.clip.model_dump()},
        "class_names": list(class_names),
        "levels": recognizer.levels,
        "trained_on": trained_on,
    }
    tensors = {name: value.detach().cpu().contiguous().numpy() for name, value in recognizer.state_dict().items()}
    if recognizer.mean_C is None:
        attributes["input_statistics"] = OF_THE_CLIP
    save_weights(path, tensors, attributes)


def load_model(path: Path) -> ModelFile:
    """Read a network for inference, in eval mode on the CPU.

    Raises StaleArtifactError when the file is damaged, not a model, of another format, or holds NaN or infinity.
    """
    tensors, attributes = load_weights(path)
    version = attributes.get("format_version")
    if attributes.get("format") != "dlkdd-model" or version not in (1, 2, MODEL_FORMAT_VERSION):
        raise StaleArtifactError(
            f"{path}: expected a dlkdd-model of format 1 to {MODEL_FORMAT_VERSION}, "
            f"not {attributes.get('format')} {version}",
            remedy="train it again with `dvc repro`",
        )
    arch, class_names = architecture_of(path, attributes), class_names_of(path, attributes)
    statistics, levels = _statistics_of(path, attributes), levels_of(path, attributes)
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    try:
        expected = on_meta(arch, statistics).state_dict()  # takes no memory, whatever sizes the file states
        if {name: value.shape for name, value in state.items()} != {n: value.shape for n, value in expected.items()}:
            raise ValueError("names or shapes differ")
        recognizer = Recognizer(arch, **statistics, levels=levels)
        recognizer.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError) as error:
        raise StaleArtifactError(
            f"{path}: its tensors do not fit {arch.name}: {error}", remedy="train it again with `dvc repro`"
        ) from None
    broken = [name for name, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise StaleArtifactError(
            f"{path}: has values that are not finite in {len(broken)} tensors:",
            findings=broken,
            remedy="train it again with a lower learning_rate",
        )
    recognizer.eval()
    return ModelFile(recognizer, class_names, dict(attributes["trained_on"]), digest_file(path))


def class_names_of(path: Path, attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names that a model file states; StaleArtifactError where they are not one text for each class."""
    names, trained_on = attributes.get("class_names"), attributes.get("trained_on")
    num_classes = attributes["architecture"]["num_classes"]
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names) and len(names) == num_classes
    if not are_names or not isinstance(trained_on, dict):
        raise StaleArtifactError(
            f"{path}: does not state its classes, or what it was trained on",
            remedy="train it again with `dvc repro`",
        )
    return tuple(map(str, names or ()))


def _statistics_of(path: Path, attributes: Mapping[str, Any]) -> Statistics:
    """What a file's recogniser is built with; raises StaleArtifactError where a newer program normalised otherwise."""
    name = attributes.get("input_statistics")
    if name not in (None, OF_THE_CLIP):
        raise StaleArtifactError(
            f"{path}: its pixels are normalised by {name!r}, which is not known here",
            remedy="use the version of dlkdd that wrote it, or train it again with `dvc repro`",
        )
    return {} if name == OF_THE_CLIP else _ANY


def levels_of(path: Path, attributes: Mapping[str, Any]) -> Levels:
    """What the bytes of a model's clips mean; StaleArtifactError where its file states nothing that is known."""
    levels = attributes.get("levels", "linear")  # files of formats 1 and 2 do not state it
    if levels not in get_args(Levels):
        raise StaleArtifactError(
            f"{path}: its levels are {levels!r}, not one of {', '.join(get_args(Levels))}",
            remedy="use the program that wrote it, or train it again with `dvc repro`",
        )
    return cast(Levels, levels)


def require_levels(recognizer: Recognizer, frames_path: Path, levels: Levels) -> None:
    """Raise StaleArtifactError where frames are not of the levels that a network was trained on."""
    if recognizer.levels != levels:
        raise StaleArtifactError(
            f"{frames_path}: its frames have {levels} levels, the model was trained on {recognizer.levels} ones",
            remedy="set prepare.levels as in its training and run `dvc repro`, or train the model again",
        )


def architecture_of(path: Path, attributes: Mapping[str, Any]) -> Architecture:
    """The architecture that a model file states; raises StaleArtifactError where it is none of ours."""
    try:
        fields = {"drop_path": 0.0} | attributes["architecture"]  # files of format 1 do not state it
        if fields["name"] not in MODELS:
            raise StaleArtifactError(f"{path}: unknown architecture {fields['name']!r}; known are {', '.join(MODELS)}")
        return Architecture(**{**fields, "clip": ClipParams(**fields["clip"])})
    except (KeyError, TypeError, ValueError) as error:
        raise StaleArtifactError(
            f"{path}: states no architecture: {error!r}", remedy="train it again with `dvc repro`"
        ) from None


def check_geometry(architecture: Architecture, *, smallest_batch: int = 2, frozen_stages: int = 0) -> None:
    """Train the network on shapes alone, those of its smallest batch, before any work starts.

    Raises ParamsError where a clip is too short or too small for it, the batch too small for its batch normalisation,
    or more stages are frozen than it has.
    """
    clip, name = architecture.clip, architecture.name
    shape = f"{clip.num_frames}×{clip.size}×{clip.size}"
    findings = MODELS[name].needs.findings(clip)
    if findings:
        raise ParamsError(
            f"{name} cannot take clips of {shape}",
            findings=findings,
            remedy="change them, or choose another model: docs/models.md says what each needs",
        )
    recognizer = on_meta(architecture)
    with torch.device("meta"):
        recognizer.freeze(frozen_stages)
        recognizer.train()
        try:
            logits_BK = recognizer(torch.empty(smallest_batch, clip.num_frames, clip.size, clip.size, 3))
        except (RuntimeError, ValueError) as error:
            raise ParamsError(
                f"{name} does not train on batches of {smallest_batch} clips of {shape}: {error}",
                remedy="raise clip.num_frames, clip.size or batch_size, or choose another model",
            ) from None
    assert logits_BK.shape == (smallest_batch, architecture.num_classes)
