"""Networks are those of their papers: as big, as costly, with logits at the end, and with the options they claim."""

from __future__ import annotations

import pytest
import torch
from builders import CLIP, one_thread  # noqa: F401 - a fixture
from paths import ROOT
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.core.errors import ParamsError
from pipeline.core.params import ClipParams
from pipeline.models.bert_head import BertHead, TransformerLayer
from pipeline.models.networks import MODELS, Architecture, TwoPathways, build_network
from pipeline.models.torchvision_compat import StochasticDepth, get_model_weights

DOCS = ROOT / "docs/models.md"
FRAMES_AND_SIZES = {
    "x3d_xs": (4, 160),
    "x3d_s": (13, 160),
    "x3d_l": (16, 312),
    "slow_r50": (8, 224),
    "csn_r101": (32, 224),
    "slowfast_r50": (32, 224),
    "r2plus1d_34": (32, 112),
    "r2plus1d_34_bert": (32, 112),
    "r3d_18": (16, 112),
    "mc3_18": (16, 112),
    "r2plus1d_18": (16, 112),
}


def clip_of(num_frames, size):
    return ClipParams(num_frames=num_frames, frame_stride=1, size=size)


def arch(name, *, clip=None, num_classes=400, width=16, dropout=0.0, drop_path=0.0):
    clip = clip or clip_of(*FRAMES_AND_SIZES.get(name, (16, 224)))
    return Architecture(name, num_classes, clip, width if MODELS[name].has_width else None, dropout, drop_path)


def on_meta(name, **options):
    with torch.device("meta"):
        return build_network(arch(name, **options)).eval()


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def gmac(network, num_frames, size):
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, num_frames, size, size))
    return counter.get_total_flops() / 2e9


# sizes

# of torchvision's documentation, with 400 classes
TORCHVISION = {
    "r3d_18": 33_371_472,
    "mc3_18": 11_695_440,
    "r2plus1d_18": 31_505_325,
    "s3d": 8_320_048,
    "mvit_v1_b": 36_610_672,
    "mvit_v2_s": 34_537_744,
    "swin3d_t": 28_158_070,
    "swin3d_s": 49_816_678,
    "swin3d_b": 88_048_984,
}
# millions, of pytorchvideo's model zoo, with 400 classes
PYTORCHVIDEO = {
    "x3d_xs": 3.79,
    "x3d_s": 3.79,
    "x3d_m": 3.79,
    "x3d_l": 6.15,
    "slow_r50": 32.45,
    "csn_r101": 22.21,
    "r2plus1d_r50": 28.11,
    "slowfast_r50": 34.57,
}


def test_torchvisions_networks_are_all_that_have_weights_there():
    assert {name for name, kind in MODELS.items() if kind.in_torchvision} == set(TORCHVISION)


@pytest.mark.parametrize("name", TORCHVISION)
def test_networks_of_torchvision_have_the_documented_size(name):
    network = on_meta(name)
    assert num_parameters(network) == TORCHVISION[name]
    assert get_model_weights(name).DEFAULT.meta["num_params"] == TORCHVISION[name]


@pytest.mark.parametrize("name", TORCHVISION)
def test_networks_of_torchvision_cost_what_is_documented(name):
    """torchvision counts the default clip: 16 frames, and 224 or 112 pixels."""
    expected = get_model_weights(name).DEFAULT.meta["_ops"]
    assert gmac(on_meta(name), 16, 112 if name.endswith("_18") else 224) == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize("name", PYTORCHVIDEO)
def test_networks_of_pytorchvideo_have_the_published_size(name):
    assert round(num_parameters(on_meta(name)) / 1e6, 2) == PYTORCHVIDEO[name]


def slim_parameters(width, num_classes):
    """Counted by hand: kernels, two numbers a channel of a batch normalisation, and the head."""

    def conv_2_plus_1(channels_in, channels_out):
        middle = channels_in * channels_out * 27 // (channels_in * 9 + 3 * channels_out)
        return 9 * channels_in * middle + 2 * middle + 3 * middle * channels_out

    def block(channels_in, channels_out):
        residual = conv_2_plus_1(channels_in, channels_out) + conv_2_plus_1(channels_out, channels_out)
        return residual + channels_in * channels_out + 3 * 2 * channels_out

    stem = 3 * 25 * width + 2 * width + width * 3 * width + 2 * width
    blocks = sum(block(width * 2**i, width * 2 ** (i + 1)) for i in range(3))
    return stem + blocks + (8 * width + 1) * num_classes


@pytest.mark.parametrize(("width", "num_classes", "expected"), [(16, 11, 887_647), (4, 3, None), (24, 48, None)])
def test_the_slim_network_has_the_size_of_its_formula(width, num_classes, expected):
    found = num_parameters(on_meta("r2plus1d_slim", num_classes=num_classes, width=width))
    assert found == slim_parameters(width, num_classes) == (expected or found)


def test_a_factorised_convolution_has_no_more_weights_than_a_full_one():
    for channels_in, channels_out in [(16, 32), (32, 32), (64, 128)]:
        middle = channels_in * channels_out * 27 // (channels_in * 9 + 3 * channels_out)
        weights = 9 * channels_in * middle + 3 * middle * channels_out
        assert 0.95 * 27 * channels_in * channels_out < weights <= 27 * channels_in * channels_out


ROWS = [line.split(" | ") for line in DOCS.read_text().splitlines() if line.startswith("| `")]


def test_the_table_of_models_is_complete():
    assert sorted(row[0].strip("| `") for row in ROWS) == sorted(MODELS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip("| `") for row in ROWS])
def test_the_table_of_models_is_true(row):
    name, _, millions, cost, clip, needs, depth, source, _ = (cell.strip("| `") for cell in row)
    num_frames, size = map(int, clip.rstrip("²").split("×"))
    network = on_meta(name, clip=clip_of(num_frames, size))
    assert f"{num_parameters(network) / 1e6:.2f}" == millions
    assert f"{gmac(network, num_frames, size):.2f}" == cost
    kind = MODELS[name]
    assert (depth == "yes", source == "torchvision") == (kind.has_drop_path, kind.in_torchvision)
    wanted = [str(number) for number in (kind.needs.min_frames, kind.needs.min_size) if number > 1]
    assert [word for word in needs.split() if word.isdigit()] == wanted
    assert ("or more" in needs) == (bool(wanted) and not kind.needs.exact)


# R(2+1)D-34 and its BERT head


@pytest.mark.parametrize(("name", "millions"), [("r2plus1d_34", 63.50), ("r2plus1d_34_bert", 66.65)])
def test_the_34_layers_have_the_published_size(name, millions):
    assert round(num_parameters(on_meta(name, num_classes=11)) / 1e6, 2) == millions


def test_what_the_bert_head_adds_can_be_counted_by_hand():
    added = num_parameters(on_meta("r2plus1d_34_bert")) - num_parameters(on_meta("r2plus1d_34"))
    attention = 4 * (512 * 512 + 512)
    perceptron = 512 * 2048 + 2048 + 2048 * 512 + 512
    norms, token, positions = 2 * 2 * 512, 512, (1 + 32 // 8) * 512
    assert added == attention + perceptron + norms + token + positions


@pytest.mark.parametrize(("num_frames", "expected"), [(32, 152.4), (64, 304.7)])
def test_the_34_layers_cost_what_is_published(num_frames, expected):
    clip = clip_of(num_frames, 112)
    assert round(gmac(on_meta("r2plus1d_34", num_classes=11, clip=clip), num_frames, 112), 1) == expected
    with_bert = gmac(on_meta("r2plus1d_34_bert", num_classes=11, clip=clip), num_frames, 112)
    assert expected - 0.05 < with_bert < expected + 0.1  # one layer over a few tokens costs nothing


def test_the_34_layers_are_those_of_the_ig65m_weights():
    """Mid-planes as the checkpoint's authors give them; epsilon of Caffe2; not its momentum."""
    network = on_meta("r2plus1d_34")
    blocks = [network.layer1, network.layer2, network.layer3, network.layer4]
    assert [len(stage) for stage in blocks] == [3, 4, 6, 3]
    assert [stage[0].conv2[0][0].out_channels for stage in blocks] == [144, 288, 576, 1152]
    assert [stage[0].conv1[0][0].out_channels for stage in blocks] == [144, 230, 460, 921]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm3d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}


@pytest.mark.parametrize(("num_frames", "num_tokens"), [(1, 1), (8, 1), (9, 2), (13, 2), (32, 4), (64, 8)])
def test_the_head_has_a_position_for_every_frame_that_is_left(num_frames, num_tokens):
    network = on_meta("r2plus1d_34_bert", clip=clip_of(num_frames, 32))
    assert network.head.positions_SD.shape == (1 + num_tokens, 512)
    with torch.device("meta"):
        assert network(torch.empty(2, 3, num_frames, 32, 32)).shape == (2, 400)


def bert_head(**options):
    torch.manual_seed(0)
    return BertHead(4, 7, **{"dropout": 0.0, **options})


def features(num_clips=3):
    return torch.randn(num_clips, 512, 4, 2, 2, generator=torch.Generator().manual_seed(1))


def test_the_head_minds_the_order_of_frames_through_its_positions_alone():
    head, features_BCTHW = bert_head().eval(), features()
    with torch.inference_mode():
        assert not torch.allclose(head(features_BCTHW), head(features_BCTHW.flip(2)), atol=1e-4)
        head.positions_SD.zero_()
        assert torch.allclose(head(features_BCTHW), head(features_BCTHW.flip(2)), atol=1e-5)


def test_the_head_minds_no_order_in_space():
    head, features_BCTHW = bert_head().eval(), features()
    with torch.inference_mode():
        assert torch.allclose(head(features_BCTHW), head(features_BCTHW.flip(3, 4)), atol=1e-5)


def test_the_layer_is_torchs_own_with_the_same_weights():
    """A second, independent source: nn.TransformerEncoderLayer, normalised first, without dropout."""
    ours = TransformerLayer().eval()
    theirs = nn.TransformerEncoderLayer(
        512, 8, 2048, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    names = {
        "self_attn.in_proj_": "attention.query_key_value.",
        "self_attn.out_proj.": "attention.out.",
        "linear1.": "perceptron.0.",
        "linear2.": "perceptron.3.",
        "norm1.": "attention_norm.",
        "norm2.": "perceptron_norm.",
    }
    state = ours.state_dict()
    theirs.load_state_dict(
        {their + end: state[our + end] for their, our in names.items() for end in ("weight", "bias")}
    )
    tokens_BSD = torch.randn(2, 5, 512, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens_BSD), theirs(tokens_BSD), rtol=1e-4, atol=1e-5)


def test_every_weight_of_the_head_learns():
    head = bert_head(dropout=0.5).train()
    head(features()).square().sum().backward()
    assert [name for name, value in head.named_parameters() if not value.grad.abs().sum() > 0] == []


# heads and options

REAL = {  # networks that are light enough to compute with here, with a clip for each
    "r2plus1d_slim": (4, 32),
    "mc3_18": (2, 32),
    "r2plus1d_34_bert": (8, 16),
    "swin3d_t": (2, 32),
    "x3d_xs": (4, 32),
    "slow_r50": (2, 32),
    "r2plus1d_r50": (2, 32),
    "slowfast_r50": (8, 32),
    "csn_r101": (2, 32),
}
SLOW_REAL = {"s3d": (13, 209), "mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224)}


@pytest.mark.parametrize("name", [*REAL, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_REAL)])
def test_heads_give_logits_in_training_and_in_eval(name):
    """pytorchvideo's heads have a softmax by default: then sums would be one in eval mode, and nothing negative."""
    num_frames, size = (REAL | SLOW_REAL)[name]
    torch.manual_seed(0)
    network = build_network(arch(name, clip=clip_of(num_frames, size), num_classes=5, width=4))
    assert not any(isinstance(module, nn.Softmax) for module in network.modules())
    clip_BCTHW = torch.randn(2, 3, num_frames, size, size)
    for train in (True, False):
        logits_BK = network.train(train)(clip_BCTHW)
        assert logits_BK.shape == (2, 5)
        assert torch.isfinite(logits_BK).all()
        assert (logits_BK < 0).any() or not torch.allclose(logits_BK.sum(dim=1), torch.ones(2), atol=1e-3)
    classifier = network.get_submodule(MODELS[name].classifier)
    with torch.no_grad():
        classifier.bias += 5
        shifted_BK = network(clip_BCTHW)
    torch.testing.assert_close(shifted_BK, logits_BK + 5, rtol=1e-4, atol=1e-4)  # linear: nothing comes after it


@pytest.mark.parametrize("name", MODELS)
def test_dropout_stands_before_every_classifier(name):
    needs = MODELS[name].needs
    options = {"clip": clip_of(max(needs.min_frames, 4), max(needs.min_size, 32)), "num_classes": 5}
    rates = {
        rate: [
            module.p for module in on_meta(name, dropout=rate, **options).modules() if isinstance(module, nn.Dropout)
        ]
        for rate in (0.0, 0.37)
    }
    assert 0.37 in rates[0.37]
    assert 0.37 not in rates[0.0]


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if kind.has_drop_path])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3])
def test_stochastic_depth_grows_linearly_to_its_rate(name, rate):
    network = on_meta(name, drop_path=rate)
    found = [module.p for module in network.modules() if isinstance(module, StochasticDepth)]
    assert found == pytest.approx([rate * block / (len(found) - 1) for block in range(len(found))])


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if not kind.has_drop_path])
def test_where_there_is_no_stochastic_depth_it_is_refused(name):
    with pytest.raises(ParamsError, match=rf"{name} has no stochastic depth(.|\n)*mvit_v1_b, mvit_v2_s, swin3d_t"):
        arch(name, drop_path=0.1)
    assert not any(isinstance(module, StochasticDepth) for module in on_meta(name, clip=clip_of(13, 209)).modules())


class Recording(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity()])


@pytest.mark.parametrize("num_frames", [1, 4, 7, 32])
def test_the_slow_pathway_sees_every_fourth_frame_of_the_same_clip(num_frames):
    clip_BCTHW = torch.arange(num_frames, dtype=torch.float32).reshape(1, 1, -1, 1, 1)
    slow, fast = TwoPathways(Recording())(clip_BCTHW)
    assert torch.equal(fast, clip_BCTHW)
    assert slow.flatten().tolist() == list(range(0, num_frames, 4))


def test_two_pathways_leave_the_clip_alone():
    """pytorchvideo's blocks write into the list that they are given."""
    network = build_network(arch("slowfast_r50", clip=clip_of(8, 32), num_classes=3)).eval()
    clip_BCTHW = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    before = clip_BCTHW.clone()
    with torch.inference_mode():
        assert torch.equal(network(clip_BCTHW), network(clip_BCTHW))
    assert torch.equal(clip_BCTHW, before)


@pytest.mark.parametrize("name", ["mvit_v2_s", "swin3d_t", "s3d"])
def test_stages_of_transformers_begin_where_the_grid_gets_coarser(name):
    network = on_meta(name)
    stages = MODELS[name].stages(network)
    parameters = [parameter for stage in stages for module in stage for parameter in module.parameters()]
    assert len(stages) == 5
    assert all(any(True for module in stage for _ in module.parameters()) for stage in stages)
    assert len({id(parameter) for parameter in parameters}) == len(parameters)


def test_architectures_say_what_they_refuse():
    with pytest.raises(ParamsError, match="r3d_18: width must be null"):
        Architecture("r3d_18", 3, CLIP, 16, 0.0, 0.0)
    with pytest.raises(ParamsError, match="r2plus1d_slim: width must be a number"):
        Architecture("r2plus1d_slim", 3, CLIP, None, 0.0, 0.0)
