"""The networks by name: how each is built, what clips it needs, and the names of its parts.

All give logits for clips (B, C, T, H, W); none has a softmax in its head. docs/models.md has their sizes and sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pipeline.core.errors import ParamsError
from pipeline.core.params import ClipParams, ModelName
from pipeline.models.bert_head import WIDTH, BertHead, BertResNet
from pipeline.models.slim import SlimR2Plus1D

SLOWFAST_ALPHA = 4  # frames of the fast pathway for each of the slow one


@dataclass(frozen=True)
class Architecture:
    """All that it takes to build a network: its name, number of classes, options and the geometry of its clips."""

    name: ModelName
    num_classes: int
    clip: ClipParams
    width: int | None
    dropout: float
    drop_path: float

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"a network needs at least one class, not {self.num_classes}")
        kind = MODELS[self.name]
        if kind.has_width != (self.width is not None):
            wanted = "a number" if self.width is None else "null"
            raise ParamsError(f"{self.name}: width must be {wanted}", remedy="set width in the section of its training")
        if self.drop_path and not kind.has_drop_path:
            having = ", ".join(name for name, other in MODELS.items() if other.has_drop_path)
            raise ParamsError(
                f"{self.name} has no stochastic depth: drop_path must be 0, not {self.drop_path:g}",
                remedy=f"set drop_path to 0 in the section of its training; those that have it are {having}",
            )


@dataclass(frozen=True)
class ClipNeeds:
    """The clips that a network takes: a least number of frames and pixels a side, or an exact one."""

    min_frames: int = 1
    min_size: int = 1
    exact: bool = False

    def findings(self, clip: ClipParams) -> list[str]:
        """What is wrong with a clip, by parameter."""
        values = (("clip.num_frames", clip.num_frames, self.min_frames), ("clip.size", clip.size, self.min_size))
        if self.exact:
            return [f"{name} must be {wanted}, not {found}" for name, found, wanted in values if found != wanted]
        return [f"{name} must be at least {least}, not {found}" for name, found, least in values if found < least]


Stages = list[list[nn.Module]]


@dataclass(frozen=True)
class NetworkKind:
    """How networks of one kind are built and read.

    `stages` gives the stem and the stages behind it, as frozen_stages counts them. `classifier` is the layer whose
    shape depends on the classes, `head` the prefix of all that a file of weights may lack. `renamed` maps names of
    published files to ours.
    """

    build: Callable[[Architecture], nn.Module]
    stages: Callable[[Any], Stages]
    classifier: str
    head: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    needs: ClipNeeds = ClipNeeds()
    has_width: bool = False
    has_drop_path: bool = False
    in_torchvision: bool = False

    def is_head(self, tensor_name: str) -> bool:
        """Whether a tensor belongs to the part that differs from data set to data set."""
        return tensor_name.startswith(self.head or f"{self.classifier}.")


# builders; torchvision and pytorchvideo are slow to import, and the slim network needs neither


def _slim(arch: Architecture) -> nn.Module:
    assert arch.width is not None
    return SlimR2Plus1D(arch.num_classes, width=arch.width, dropout=arch.dropout)


def _torchvision(arch: Architecture, **options: Any) -> Any:
    """A network of torchvision by its own name, with new weights."""
    from pipeline.models.torchvision_compat import video_models

    return getattr(video_models, arch.name)(num_classes=arch.num_classes, **options)


def _video_resnet(arch: Architecture) -> nn.Module:
    return _with_classifier(_torchvision(arch), arch)


def _with_classifier(network: nn.Module, arch: Architecture) -> nn.Module:
    network.fc = nn.Sequential(nn.Dropout(arch.dropout), nn.Linear(WIDTH, arch.num_classes))
    return network


def _ig65m_trunk() -> nn.Module:
    """torchvision's residual network with the 34 layers of the IG-65M weights, which are Caffe2's in two respects.

    Ghadiyaram et al., "Large-scale weakly-supervised pre-training for video action recognition", CVPR 2019. The second
    convolution of layers 2 to 4 has mid-planes as wide as its own channels ask for, and epsilon is 1e-3. The published
    momentum of 0.9 would weight the newest batch by 90 %: it is torch's 0.1 here.
    """
    from pipeline.models.torchvision_compat import video_models

    parts = video_models.resnet
    conv = parts.Conv2Plus1D
    trunk: nn.Module = parts.VideoResNet(parts.BasicBlock, [conv] * 4, [3, 4, 6, 3], parts.R2Plus1dStem)
    stages: list[Any] = [trunk.layer2, trunk.layer3, trunk.layer4]
    for stage, channels in zip(stages, (128, 256, 512), strict=True):
        stage[0].conv2[0] = conv(channels, channels, channels * 9 // 4)
        for layer in stage[0].conv2[0]:
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return trunk


def _r2plus1d_34(arch: Architecture) -> nn.Module:
    return _with_classifier(_ig65m_trunk(), arch)


def _r2plus1d_34_bert(arch: Architecture) -> nn.Module:
    num_tokens = -(-arch.clip.num_frames // 8)  # three layers halve the frames
    return BertResNet(_ig65m_trunk(), BertHead(num_tokens, arch.num_classes, dropout=arch.dropout))


def _s3d(arch: Architecture) -> nn.Module:
    """Its momentum of 0.001 needs thousands of steps to follow dark videos: it is torch's 0.1 here."""
    network: nn.Module = _torchvision(arch, dropout=arch.dropout, norm_layer=partial(nn.BatchNorm3d, eps=1e-3))
    return network


def _mvit(arch: Architecture) -> nn.Module:
    return _with_drop_path(_torchvision(arch, dropout=arch.dropout), arch.drop_path)


def _swin(arch: Architecture) -> nn.Module:
    network = _torchvision(arch)
    network.head = nn.Sequential(nn.Dropout(arch.dropout), network.head)
    return _with_drop_path(network, arch.drop_path)


def _with_drop_path(network: nn.Module, rate: float) -> nn.Module:
    """Stochastic depth of that rate in the last block, and less before it, in the network's own proportions.

    Huang et al., "Deep networks with stochastic depth", ECCV 2016.
    """
    from pipeline.models.torchvision_compat import StochasticDepth

    layers = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    greatest = max(layer.p for layer in layers)
    for layer in layers:
        layer.p *= rate / greatest
    return network


def _pytorchvideo(arch: Architecture, module: str, builder: str, **fixed: Any) -> nn.Module:
    """A network of pytorchvideo with the values of its hub, but no softmax in its head."""
    import pipeline.models.torchvision_compat  # noqa: F401 - before pytorchvideo, which imports torchvision

    create = getattr(import_module(f"pytorchvideo.models.{module}"), builder)
    network: nn.Module = create(
        model_num_class=arch.num_classes, dropout_rate=arch.dropout, head_activation=None, **fixed
    )
    return network


_any_clip = partial(_pytorchvideo, head_pool=nn.AdaptiveAvgPool3d)  # averages over clips of any length and size


def _x3d(arch: Architecture) -> nn.Module:
    """X3D for clips of any length and size.

    Feichtenhofer, "X3D: Expanding architectures for efficient video recognition", CVPR 2020.
    """
    size = {"input_clip_length": arch.clip.num_frames, "input_crop_size": arch.clip.size}
    depth_factor = 5.0 if arch.name == "x3d_l" else 2.2
    return _pytorchvideo(arch, "x3d", "create_x3d", width_factor=2.0, depth_factor=depth_factor, **size)


def _slowfast(arch: Architecture) -> nn.Module:
    return TwoPathways(_any_clip(arch, "slowfast", "create_slowfast"))


class TwoPathways(nn.Module):
    """SlowFast from one clip: the fast pathway sees all frames, the slow one every fourth.

    Feichtenhofer et al., "SlowFast networks for video recognition", ICCV 2019.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.blocks: nn.ModuleList = network.blocks  # under the names that pytorchvideo's files have

    def forward(self, x_BCTHW: Tensor) -> Tensor:  # noqa: D102
        pathways: Any = [x_BCTHW[:, :, ::SLOWFAST_ALPHA], x_BCTHW]
        for block in self.blocks:
            pathways = block(pathways)
        logits_BK: Tensor = pathways
        return logits_BK


# stages, for frozen_stages


def _slim_stages(network: Any) -> Stages:
    return [[network.stem], *([block] for block in network.blocks)]


def _resnet_stages(network: Any) -> Stages:
    return [[network.stem], [network.layer1], [network.layer2], [network.layer3], [network.layer4]]


def _pooled_stages(first_layers: Sequence[int]) -> Callable[[Any], Stages]:
    """The stages of one long `features`, each from a pooling or merging layer to the next."""

    def stages(network: Any) -> Stages:
        ends = (*first_layers[1:], len(network.features))
        return [list(network.features[start:end]) for start, end in zip(first_layers, ends, strict=True)]

    return stages


def _swin_stages(network: Any) -> Stages:
    return [[network.patch_embed], *_pooled_stages((0, 1, 3, 5))(network)]


def _mvit_stages(network: Any) -> Stages:
    stages: Stages = [[network.conv_proj, network.pos_encoding], []]
    for block in network.blocks:
        if block.pool_skip is not None:
            stages.append([])
        stages[-1].append(block)
    return stages


def _block_stages(network: Any) -> Stages:
    return [[block] for block in network.blocks[:5]]


_RENAMED_FC = {"fc.weight": "fc.1.weight", "fc.bias": "fc.1.bias"}  # our last layer has dropout before it
_RESNET = NetworkKind(_video_resnet, _resnet_stages, "fc.1", renamed=_RENAMED_FC, in_torchvision=True)
_MVIT = NetworkKind(
    _mvit,
    _mvit_stages,
    "head.1",
    needs=ClipNeeds(16, 224, exact=True),  # its tables of positions have that size
    has_drop_path=True,
    in_torchvision=True,
)
_SWIN = NetworkKind(
    _swin,
    _swin_stages,
    "head.1",
    renamed={"head.weight": "head.1.weight", "head.bias": "head.1.bias"},
    has_drop_path=True,
    in_torchvision=True,
)
_X3D = NetworkKind(_x3d, _block_stages, "blocks.5.proj", needs=ClipNeeds(min_size=32))  # halved five times


def _of_pytorchvideo(module: str, builder: str, **fixed: Any) -> NetworkKind:
    build = partial(_any_clip, module=module, builder=builder, **fixed)
    return NetworkKind(build, _block_stages, "blocks.5.proj")


MODELS: dict[str, NetworkKind] = {
    "r2plus1d_slim": NetworkKind(_slim, _slim_stages, "head.3", has_width=True),
    **dict.fromkeys(("r2plus1d_18", "r3d_18", "mc3_18"), _RESNET),
    "r2plus1d_34": NetworkKind(_r2plus1d_34, _resnet_stages, "fc.1", renamed=_RENAMED_FC),
    "r2plus1d_34_bert": NetworkKind(_r2plus1d_34_bert, _resnet_stages, "head.classifier", head="head."),
    # the last average covers 2×7×7 of what is left of the clip
    "s3d": NetworkKind(
        _s3d, _pooled_stages((0, 2, 5, 8, 14)), "classifier.1", needs=ClipNeeds(13, 209), in_torchvision=True
    ),
    **dict.fromkeys(("mvit_v1_b", "mvit_v2_s"), _MVIT),
    **dict.fromkeys(("swin3d_t", "swin3d_s", "swin3d_b"), _SWIN),
    **dict.fromkeys(("x3d_xs", "x3d_s", "x3d_m", "x3d_l"), _X3D),
    "slow_r50": _of_pytorchvideo("resnet", "create_resnet", stem_conv_kernel_size=(1, 7, 7)),
    # Tran et al., "Video classification with channel-separated convolutional networks", ICCV 2019
    "csn_r101": _of_pytorchvideo("csn", "create_csn", model_depth=101, stem_pool=nn.MaxPool3d),
    "r2plus1d_r50": _of_pytorchvideo("r2plus1d", "create_r2plus1d"),
    "slowfast_r50": NetworkKind(_slowfast, _block_stages, "blocks.6.proj"),
}
assert set(MODELS) == set(get_args(ModelName))


def build_network(architecture: Architecture) -> nn.Module:
    """A network with new weights, drawn from torch's global generator; on the device that torch's context names."""
    return MODELS[architecture.name].build(architecture)


def shapes_of(architecture: Architecture) -> dict[str, torch.Size]:
    """The names and shapes of a network's tensors, without memory."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_network(architecture).state_dict().items()}
