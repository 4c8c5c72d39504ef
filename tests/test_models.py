"""Every network builds, takes clips and comes back from its file; what cannot work is refused before work starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import CLIP, noise_video, one_thread, tiny_recognizer  # noqa: F401 - a fixture

from pipeline.digest import digest_file
from pipeline.errors import DlkddError, ParamsError, StaleArtifactError
from pipeline.models import MODELS, Architecture, Recognizer, check_geometry, load_model, save_model
from pipeline.params import ClipParams
from pipeline.weights import load_weights, save_weights

# pytorchvideo compiles a function with it when it is imported
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

NAMES = ("drink", "jump", "wave")
BIG = ClipParams(num_frames=16, frame_stride=1, size=112)


def arch(name, clip=BIG, num_classes=11, width=16, dropout=0.1):
    return Architecture(name, num_classes, clip, width if name == "r2plus1d_slim" else None, dropout)


def clips(num_clips=2, clip=CLIP):
    return torch.from_numpy(noise_video("clips", (num_clips * clip.num_frames, clip.size, clip.size))).reshape(
        num_clips, clip.num_frames, clip.size, clip.size, 3
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# building


def meta_logits(architecture, *, train=False):
    """The logits of two clips, without memory or arithmetic; a network as the stages use it."""
    clip = architecture.clip
    with torch.device("meta"):
        recognizer = Recognizer(architecture, mean_C=[0.1] * 3, std_C=[0.1] * 3).train(train)
        return recognizer(torch.empty(2, clip.num_frames, clip.size, clip.size, 3, dtype=torch.uint8))


@pytest.mark.parametrize("name", MODELS)
def test_every_network_takes_a_small_clip(name):
    clip = ClipParams(num_frames=4, frame_stride=1, size=64)
    assert meta_logits(arch(name, clip)).shape == (2, 11)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("num_frames", "size"), [(8, 64), (16, 112), (13, 182), (64, 112)])
def test_every_network_takes_the_usual_clips(name, num_frames, size):
    architecture = arch(name, ClipParams(num_frames=num_frames, frame_stride=1, size=size))
    check_geometry(architecture)
    assert meta_logits(architecture, train=True).shape == (2, 11)


@pytest.mark.parametrize("name", ["r2plus1d_slim", "x3d_xs"])
def test_logits_are_finite_and_are_no_probabilities(name):
    clip = ClipParams(num_frames=4, frame_stride=1, size=32)
    torch.manual_seed(0)
    recognizer = Recognizer(arch(name, clip, width=4), mean_C=[0.5] * 3, std_C=[0.3] * 3).eval()
    with torch.inference_mode():
        logits_BK = recognizer(clips(2, clip))
    assert torch.isfinite(logits_BK).all()
    assert (logits_BK < 0).any()
    assert not torch.allclose(logits_BK.sum(dim=1), torch.ones(2))


# Numbers of torchvision's documentation of its Kinetics-400 weights, less the difference of the heads.
KINETICS = {"r3d_18": 33_371_472, "mc3_18": 11_695_440, "r2plus1d_18": 31_505_325}


@pytest.mark.parametrize("name", KINETICS)
def test_networks_of_torchvision_have_the_documented_size(name):
    with torch.device("meta"):
        recognizer = Recognizer(arch(name), mean_C=[0.0] * 3, std_C=[1.0] * 3)
    assert recognizer.num_parameters == KINETICS[name] - (400 - 11) * (512 + 1)


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
    with torch.device("meta"):
        recognizer = Recognizer(
            arch("r2plus1d_slim", num_classes=num_classes, width=width), mean_C=[0.0] * 3, std_C=[1.0] * 3
        )
    assert recognizer.num_parameters == slim_parameters(width, num_classes) == (expected or recognizer.num_parameters)


def test_a_factorised_convolution_has_no_more_weights_than_a_full_one():
    for channels_in, channels_out in [(16, 32), (32, 32), (64, 128)]:
        middle = channels_in * channels_out * 27 // (channels_in * 9 + 3 * channels_out)
        weights = 9 * channels_in * middle + 3 * middle * channels_out
        assert 0.95 * 27 * channels_in * channels_out < weights <= 27 * channels_in * channels_out


# arithmetic


def test_pixels_are_normalised_by_the_statistics_of_the_training_videos():
    """Brighter pixels with brighter statistics are the same to the network."""
    video = clips() // 2
    logits = []
    for shift, mean in ((0, 0.2), (51, 0.4)):
        torch.manual_seed(0)
        recognizer = Recognizer(arch("r2plus1d_slim", CLIP, width=4), mean_C=[mean] * 3, std_C=[0.25] * 3).eval()
        with torch.inference_mode():
            logits.append(recognizer(video + shift))
    assert torch.allclose(*logits, atol=1e-4)


def test_the_layout_in_memory_changes_nothing():
    recognizer = tiny_recognizer().eval()
    normalised_BCTHW = ((clips().float() / 255 - recognizer.mean_C) / recognizer.std_C).permute(0, 4, 1, 2, 3)
    assert normalised_BCTHW.is_contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        expected = recognizer.network(normalised_BCTHW)
        contiguous = recognizer.network.to(memory_format=torch.contiguous_format)(normalised_BCTHW.contiguous())
    assert torch.allclose(expected, contiguous, atol=1e-5)


def test_clips_do_not_mix_in_eval_mode():
    recognizer = tiny_recognizer().eval()
    with torch.inference_mode():
        together, alone = recognizer(clips(3)), torch.cat([recognizer(clip[None]) for clip in clips(3)])
    assert torch.allclose(together, alone, atol=1e-5)


# refused


def test_width_belongs_to_slim_networks_alone():
    with pytest.raises(ParamsError, match="r3d_18: width must be null"):
        Architecture("r3d_18", 3, CLIP, 16, 0.0)
    with pytest.raises(ParamsError, match="r2plus1d_slim: width must be a number"):
        Architecture("r2plus1d_slim", 3, CLIP, None, 0.0)


def test_a_network_has_classes():
    with pytest.raises(ValueError, match="at least one class"):
        arch("r3d_18", num_classes=0)


@pytest.mark.parametrize("name", ["r2plus1d_slim", "r2plus1d_18", "r3d_18", "mc3_18", "x3d_xs"])
@pytest.mark.parametrize(("num_frames", "size"), [(1, 16), (2, 31), (1, 32), (3, 33)])
def test_a_clip_is_refused_before_work_starts_or_can_be_trained_on(name, num_frames, size):
    architecture = arch(name, ClipParams(num_frames=num_frames, frame_stride=1, size=size))
    try:
        check_geometry(architecture)
    except ParamsError as error:
        assert name in str(error)  # noqa: PT017 - either this, or what follows
        return
    assert meta_logits(architecture, train=True).shape == (2, 11)


def test_batches_that_cannot_be_normalised_are_refused_before_work_starts():
    """The last layer is one pixel here: a batch of one leaves batch normalisation nothing to normalise."""
    check_geometry(arch("r2plus1d_slim", CLIP))
    with pytest.raises(ParamsError, match="does not train on batches of 1"):
        check_geometry(arch("r2plus1d_slim", CLIP), smallest_batch=1)


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("x3d")])
def test_x3d_refuses_clips_below_32_pixels(name):
    with pytest.raises(ParamsError, match=r"clip\.size must be at least 32"):
        check_geometry(arch(name, ClipParams(num_frames=8, frame_stride=1, size=31)))


# files


def saved(path, recognizer, **attributes):
    save_model(path, recognizer, class_names=NAMES, trained_on={"stage": "train_student", **attributes})
    return path


def randomised(recognizer):
    """With running statistics as after a training."""
    recognizer.train()
    for _ in range(3):
        recognizer(clips())
    return recognizer


def test_a_network_comes_back_with_the_same_logits(path):
    recognizer = randomised(tiny_recognizer())
    model = load_model(saved(path, recognizer, digests={"frames": "ab"}))
    with torch.inference_mode():
        assert torch.equal(model.recognizer(clips()), recognizer.eval()(clips()))
    state, found = recognizer.state_dict(), model.recognizer.state_dict()
    assert all(found[name].dtype == value.dtype and torch.equal(found[name], value) for name, value in state.items())
    assert found.keys() == state.keys()
    assert model.recognizer.architecture == recognizer.architecture
    assert not model.recognizer.training
    assert model.class_names == NAMES
    assert model.trained_on == {"stage": "train_student", "digests": {"frames": "ab"}}
    assert model.digest == digest_file(path)


def test_the_same_network_is_the_same_bytes(tmp_path):
    one, other = (saved(tmp_path / name, tiny_recognizer()) for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_class_names_must_be_as_many_as_classes(path):
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        save_model(path, tiny_recognizer(), class_names=NAMES[:2], trained_on={})


def rewritten(path, tensors=None, **attributes):
    old_tensors, old_attributes = load_weights(path)
    save_weights(path, old_tensors if tensors is None else tensors, {**old_attributes, **attributes})
    return path


REWRITES = {
    "another format": ({"format": "other-model"}, "not other-model 1"),
    "another version": ({"format_version": 2}, "not dlkdd-model 2"),
    "unknown network": ({"architecture": {"name": "vit"}}, "unknown architecture 'vit'"),
}


@pytest.mark.parametrize(("attributes", "words"), REWRITES.values(), ids=REWRITES.keys())
def test_a_file_of_another_kind_is_refused(path, attributes, words):
    saved(path, tiny_recognizer())
    with pytest.raises(StaleArtifactError, match=words):
        load_model(rewritten(path, **attributes))


@pytest.mark.parametrize("change", ["missing", "more", "another shape"])
def test_tensors_that_do_not_fit_the_network_are_refused(path, change):
    tensors = load_weights(saved(path, tiny_recognizer()))[0]
    name = "network.stem.0.weight"
    if change == "missing":
        del tensors[name]
    elif change == "more":
        tensors["network.extra"] = np.zeros(3, np.float32)
    else:
        tensors[name] = tensors[name][:1]
    with pytest.raises(StaleArtifactError, match="do not fit r2plus1d_slim"):
        load_model(rewritten(path, tensors))


def test_a_model_file_is_checked_whole(path):
    content = bytearray(saved(path, tiny_recognizer()).read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DlkddError, match="not a whole dlkdd model file"):
        load_model(path)
