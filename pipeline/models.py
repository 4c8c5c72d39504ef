"""The networks, by name, and the files they are kept in.

Axes: B batch, C channels, T frames, H, W, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pipeline.digest import digest_file
from pipeline.errors import ParamsError, StaleArtifactError
from pipeline.params import ClipParams, ModelName
from pipeline.weights import load_weights, save_weights

MODEL_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Architecture:
    """What is needed to build a network again: its name, classes, options and the geometry of its clips."""

    name: ModelName
    num_classes: int
    clip: ClipParams
    width: int | None
    dropout: float

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"a network needs at least one class, not {self.num_classes}")
        if (self.name == "r2plus1d_slim") != (self.width is not None):
            wanted = "a number" if self.width is None else "null"
            raise ParamsError(f"{self.name}: width must be {wanted}", remedy="set width in the section of its training")


class Conv2Plus1D(nn.Sequential):
    """A 3×3×3 convolution as a spatial and a temporal one with as many weights.

    Tran et al., "A closer look at spatiotemporal convolutions for action recognition", CVPR 2018.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        middle = (in_channels * out_channels * 27) // (in_channels * 9 + 3 * out_channels)
        super().__init__(
            nn.Conv3d(in_channels, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, out_channels, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
        )


class SlimBlock(nn.Module):
    """A residual block of two (2+1)D convolutions."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            Conv2Plus1D(in_channels, out_channels, stride=stride),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
            Conv2Plus1D(out_channels, out_channels, stride=1),
            nn.BatchNorm3d(out_channels),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm3d(out_channels)
            )
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = torch.relu(self.residual(x_BCTHW) + self.shortcut(x_BCTHW))
        return out


class SlimR2Plus1D(nn.Module):
    """R(2+1)D for small clips: three blocks with channels of width × (2, 4, 8), each halving T, H and W.

    0.89 M parameters at width 16; 0.11 GMAC for a clip of 8×64×64.
    """

    def __init__(self, num_classes: int, *, width: int, dropout: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, width, (1, 5, 5), (1, 2, 2), (0, 2, 2), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
            nn.Conv3d(width, width, (3, 1, 1), 1, (1, 0, 0), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
        channels = [width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.Sequential(*(SlimBlock(channels[i], channels[i + 1], stride=2) for i in range(3)))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels[-1], num_classes)
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:  # noqa: D102
        logits_BK: Tensor = self.head(self.blocks(self.stem(x_BCTHW)))
        return logits_BK


def _slim(arch: Architecture) -> nn.Module:
    assert arch.width is not None
    return SlimR2Plus1D(arch.num_classes, width=arch.width, dropout=arch.dropout)


def _torchvision(name: str) -> Callable[[Architecture], nn.Module]:
    def build(arch: Architecture) -> nn.Module:
        from pipeline.torchvision_compat import video_models  # slow to import, and the slim network needs none of it

        network: nn.Module = getattr(video_models, name)(weights=None, num_classes=arch.num_classes)
        network.fc = nn.Sequential(nn.Dropout(arch.dropout), nn.Linear(512, arch.num_classes))
        return network

    return build


def _x3d(depth_factor: float) -> Callable[[Architecture], nn.Module]:
    """X3D with the expansion of pytorchvideo's hub builders, for clips of any length and size (no softmax in the head).

    Feichtenhofer, "X3D: Expanding architectures for efficient video recognition", CVPR 2020.
    """

    def build(arch: Architecture) -> nn.Module:
        import pipeline.torchvision_compat  # noqa: F401 - before pytorchvideo, which imports torchvision

        # isort: split
        from pytorchvideo.models.x3d import create_x3d

        if arch.clip.size < 32:
            raise ParamsError(f"{arch.name}: clip.size must be at least 32 (the network halves it five times)")
        network: nn.Module = create_x3d(
            input_clip_length=arch.clip.num_frames,
            input_crop_size=arch.clip.size,
            model_num_class=arch.num_classes,
            dropout_rate=arch.dropout,
            width_factor=2.0,
            depth_factor=depth_factor,
            head_activation=None,
        )
        return network

    return build


MODELS: dict[str, Callable[[Architecture], nn.Module]] = {
    "r2plus1d_slim": _slim,
    "r2plus1d_18": _torchvision("r2plus1d_18"),
    "r3d_18": _torchvision("r3d_18"),
    "mc3_18": _torchvision("mc3_18"),
    "x3d_xs": _x3d(2.2),
    "x3d_s": _x3d(2.2),
    "x3d_m": _x3d(2.2),
    "x3d_l": _x3d(5.0),
}
assert set(MODELS) == set(get_args(ModelName))


class Recognizer(nn.Module):
    """A network together with the pixel statistics of its training videos: uint8 clips in, logits out.

    `mean_C` and `std_C` are those of RGB / 255.
    """

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, architecture: Architecture, *, mean_C: Sequence[float], std_C: Sequence[float]) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("mean_C", torch.tensor(mean_C, dtype=torch.float32))
        self.register_buffer("std_C", torch.tensor(std_C, dtype=torch.float32))
        self.network = MODELS[architecture.name](architecture)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, clip_BTHWC: Tensor) -> Tensor:
        """Logits (B, K) of uint8 clips (B, T, H, W, 3)."""
        normalised_BTHWC = (clip_BTHWC.float() / 255 - self.mean_C) / self.std_C
        # contiguous THWC, seen as CTHW, is channels_last_3d: the layout in which CPU convolutions are twice as fast
        logits_BK: Tensor = self.network(normalised_BTHWC.permute(0, 4, 1, 2, 3))
        return logits_BK

    @property
    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.parameters())


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
    """Write a network to one safetensors file; `trained_on` names the digests of what it was trained on."""
    arch = recognizer.architecture
    if len(class_names) != arch.num_classes:
        raise ValueError(f"{len(class_names)} class names for {arch.num_classes} classes")
    attributes = {
        "format": "dlkdd-model",
        "format_version": MODEL_FORMAT_VERSION,
        "architecture": {**asdict(arch), "clip": arch.clip.model_dump()},
        "class_names": list(class_names),
        "trained_on": trained_on,
    }
    tensors = {name: value.detach().cpu().contiguous().numpy() for name, value in recognizer.state_dict().items()}
    save_weights(path, tensors, attributes)


def load_model(path: Path) -> ModelFile:
    """Read a network for inference, in eval mode on the CPU.

    Raises StaleArtifactError when the file is damaged, not a model, or of another format.
    """
    tensors, attributes = load_weights(path)
    if (attributes.get("format"), attributes.get("format_version")) != ("dlkdd-model", MODEL_FORMAT_VERSION):
        raise StaleArtifactError(
            f"{path}: expected a dlkdd-model of format {MODEL_FORMAT_VERSION}, "
            f"not {attributes.get('format')} {attributes.get('format_version')}",
            remedy="train it again with `dvc repro`",
        )
    fields = attributes["architecture"]
    if fields["name"] not in MODELS:
        raise StaleArtifactError(f"{path}: unknown architecture {fields['name']!r}; known are {', '.join(MODELS)}")
    arch = Architecture(**{**fields, "clip": ClipParams(**fields["clip"])})
    recognizer = Recognizer(arch, mean_C=[0.0] * 3, std_C=[1.0] * 3)
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    try:
        recognizer.load_state_dict(state)
    except RuntimeError as error:
        raise StaleArtifactError(f"{path}: its tensors do not fit {arch.name}: {error}") from None
    recognizer.eval()
    return ModelFile(recognizer, tuple(attributes["class_names"]), attributes["trained_on"], digest_file(path))


def check_geometry(architecture: Architecture, *, smallest_batch: int = 2) -> None:
    """Build the network without memory and train it on the shape of its smallest batch, before any work starts.

    Raises ParamsError when a clip is too short or too small for it, or the batch for its batch normalisation.
    """
    clip = architecture.clip
    with torch.device("meta"):
        network = MODELS[architecture.name](architecture).train()
        try:
            logits_BK = network(torch.empty(smallest_batch, 3, clip.num_frames, clip.size, clip.size))
        except (RuntimeError, ValueError) as error:
            shape = f"{clip.num_frames}×{clip.size}×{clip.size}"
            raise ParamsError(
                f"{architecture.name} does not train on batches of {smallest_batch} clips of {shape}: {error}",
                remedy="raise clip.num_frames, clip.size or batch_size, or choose another model",
            ) from None
    assert logits_BK.shape == (smallest_batch, architecture.num_classes)
