"""Every network builds, takes clips and comes back from its file; what cannot work is refused before work starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from builders import CLIP, STATISTICS, noise_video, one_thread, tiny_recognizer  # noqa: F401 - a fixture
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.digest import digest_file
from pipeline.core.errors import DlkddError, ParamsError, StaleArtifactError
from pipeline.core.params import ClipParams
from pipeline.core.weights import load_weights, save_weights
from pipeline.models.inference import infer
from pipeline.models.networks import ClipNeeds
from pipeline.models.recognizer import (
    MODELS,
    Architecture,
    Recognizer,
    check_geometry,
    load_model,
    require_levels,
    save_model,
)

NAMES = ("drink", "jump", "wave")
BIG = ClipParams(num_frames=16, frame_stride=1, size=112)


def arch(name, clip=BIG, num_classes=11, width=16, dropout=0.1):
    return Architecture(name, num_classes, clip, width if name == "r2plus1d_slim" else None, dropout, 0.0)


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
def test_every_network_takes_clips_normalised_by_themselves(name):
    needs = MODELS[name].needs
    clip = ClipParams(num_frames=max(needs.min_frames, 16), frame_stride=1, size=max(needs.min_size, 64))
    with torch.device("meta"):
        clip_BTHWC = torch.empty(2, clip.num_frames, clip.size, clip.size, 3, dtype=torch.uint8)
        assert Recognizer(arch(name, clip))(clip_BTHWC).shape == (2, 11)


SMALL = ClipParams(num_frames=4, frame_stride=1, size=64)


@pytest.mark.parametrize("name", MODELS)
def test_every_network_takes_a_small_clip_or_says_what_it_needs(name):
    needs = MODELS[name].needs
    if needs.findings(SMALL):
        with pytest.raises(ParamsError, match=rf"{name} cannot take clips of 4×64×64(.|\n)*clip\.num_frames must be"):
            check_geometry(arch(name, SMALL))
    else:
        assert meta_logits(arch(name, SMALL)).shape == (2, 11)


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if kind.needs != ClipNeeds()])
def test_what_a_network_needs_is_enough(name):
    needs = MODELS[name].needs
    clip = ClipParams(num_frames=needs.min_frames, frame_stride=1, size=max(needs.min_size, 16))
    assert meta_logits(arch(name, clip), train=True).shape == (2, 11)


@pytest.mark.parametrize(("num_frames", "size"), [(12, 209), (13, 208)])
def test_s3d_cannot_do_with_less(num_frames, size):
    with pytest.raises((RuntimeError, ValueError)):
        meta_logits(arch("s3d", ClipParams(num_frames=num_frames, frame_stride=1, size=size)))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("num_frames", "size"), [(8, 64), (16, 112), (13, 182), (64, 112)])
def test_every_network_takes_the_usual_clips(name, num_frames, size):
    clip = ClipParams(num_frames=num_frames, frame_stride=1, size=size)
    if not MODELS[name].needs.findings(clip):
        check_geometry(arch(name, clip))
        assert meta_logits(arch(name, clip), train=True).shape == (2, 11)


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


def normalised_MP(clip_BTHWC):
    """What the network of a clip's own statistics is given, a row for each clip."""
    return tiny_recognizer(input_statistics="clip").normalised(clip_BTHWC).flatten(start_dim=1).double()


def test_a_clip_has_mean_0_and_deviation_1_of_its_own():
    """In numpy and float64, over all pixels, frames and colours; its neighbours are no matter."""
    dark, bright = clips(2) // 20, clips(2)
    clip_BTHWC = torch.cat([dark[:1], bright[1:]])
    pixels_MP = clip_BTHWC.permute(0, 4, 1, 2, 3).flatten(start_dim=1).double().numpy()
    expected_MP = (pixels_MP - pixels_MP.mean(axis=1, keepdims=True)) / pixels_MP.std(axis=1, keepdims=True)
    found_MP = normalised_MP(clip_BTHWC).numpy()
    assert np.abs(found_MP - expected_MP).max() < 1e-5
    assert np.array_equal(found_MP[:1], normalised_MP(clip_BTHWC[:1]).numpy())


@given(st.integers(1, 4), st.integers(0, 40))
def test_light_is_no_matter_to_a_network_of_a_clips_own_statistics(gain, shift):
    clip_BTHWC = clips(2) // 8  # up to 31
    assert torch.allclose(normalised_MP(clip_BTHWC * gain + shift), normalised_MP(clip_BTHWC), atol=1e-4)


@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_a_clip_of_one_colour_is_zeros(level):
    clip_BTHWC = torch.full((2, 64, 112, 112, 3), level, dtype=torch.uint8)
    assert normalised_MP(clip_BTHWC).abs().max() < 1e-3  # what float32 sums round


def test_a_nearly_black_clip_is_not_blown_up():
    """A pixel of one grey level stays a pixel of 1: divided by the deviation it would be one of 16."""
    clip_BTHWC = torch.zeros(1, *clips().shape[1:], dtype=torch.uint8)
    clip_BTHWC[0, 0, 0, 0] = 1
    assert 0.9 < float(normalised_MP(clip_BTHWC).max()) <= 1.0


def test_augmented_clips_are_normalised_like_others():
    """Blends of mixup are floats."""
    assert torch.equal(normalised_MP(clips().float()), normalised_MP(clips()))


@pytest.mark.parametrize("size", [16, 56])
def test_logits_of_a_clips_own_statistics_do_not_depend_on_its_place(size, one_thread):  # noqa: F811
    clip = CLIP.model_copy(update={"size": size})
    recognizer = tiny_recognizer(clip=clip, input_statistics="clip").eval()
    clip_BTHWC = clips(5, clip)
    logits_BK, turned_BK = (infer(recognizer, order, batch_size=4) for order in (clip_BTHWC, clip_BTHWC.flip(0)))
    assert torch.equal(logits_BK, turned_BK.flip(0))


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


def test_a_network_has_classes():
    with pytest.raises(ValueError, match="at least one class"):
        arch("r3d_18", num_classes=0)


FAMILIES = ["r2plus1d_slim", "r2plus1d_18", "r3d_18", "mc3_18", "r2plus1d_34_bert", "x3d_xs", "swin3d_t"]


@pytest.mark.parametrize("name", [*FAMILIES, "slow_r50", "r2plus1d_r50", "slowfast_r50"])
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


# frozen stages


def frozen_tiny(num_stages):
    recognizer = tiny_recognizer().train()
    recognizer.freeze(num_stages)
    return recognizer


def trained_a_step(recognizer):
    """Names of what one step of training changed, statistics included."""
    before = {name: value.clone() for name, value in recognizer.state_dict().items()}
    recognizer.train()
    optimizer = torch.optim.SGD(recognizer.parameters(), lr=1.0)
    recognizer(clips(4)).square().sum().backward()
    optimizer.step()
    return {name for name, value in recognizer.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("num_stages", range(5))
def test_what_is_frozen_does_not_change_and_all_else_does(num_stages):
    changed = trained_a_step(frozen_tiny(num_stages))
    names = ["network.stem", "network.blocks.0", "network.blocks.1", "network.blocks.2", "network.head"]
    assert [any(key.startswith(name) for key in changed) for name in names] == [
        number >= num_stages for number in range(5)
    ]


def test_frozen_statistics_survive_every_change_of_mode():
    recognizer = frozen_tiny(2)
    for mode in (False, True, True, False, True):
        recognizer.train(mode)
        assert recognizer.training == mode
        assert not any(module.training for module in recognizer.network.stem.modules())
        assert not any(module.training for module in recognizer.network.blocks[0].modules())
        assert all(module.training == mode for module in recognizer.network.blocks[1].modules())


def test_freezing_changes_neither_the_file_nor_the_logits(path, tmp_path):
    free, frozen = tiny_recognizer().eval(), tiny_recognizer().eval()
    frozen.freeze(3)
    with torch.inference_mode():
        assert torch.equal(free(clips()), frozen(clips()))
    assert saved(path, free).read_bytes() == saved(tmp_path / "frozen", frozen).read_bytes()


NUM_STAGES = {  # where they are not five
    "r2plus1d_slim": 4,
}


@pytest.mark.parametrize("name", MODELS)
def test_every_network_can_freeze_its_stages(name):
    needs = MODELS[name].needs
    clip = ClipParams(num_frames=max(needs.min_frames, 4), frame_stride=1, size=max(needs.min_size, 32))
    num_stages = NUM_STAGES.get(name, 5)
    check_geometry(arch(name, clip), frozen_stages=num_stages)
    with pytest.raises(ParamsError, match=rf"{name} has {num_stages} stages(.|\n)*cannot be {num_stages + 1}"):
        check_geometry(arch(name, clip), frozen_stages=num_stages + 1)
    with torch.device("meta"):
        recognizer = Recognizer(arch(name, clip), mean_C=[0.1] * 3, std_C=[0.1] * 3)
        recognizer.freeze(num_stages)
    free = {key for key, value in recognizer.network.named_parameters() if value.requires_grad}
    rest = ("norm.", "blocks.5.", "blocks.6.")  # of transformers the last norm, of pytorchvideo's the head
    assert all(MODELS[name].is_head(key) or key.startswith(rest) for key in free)
    assert any(key.startswith(MODELS[name].classifier) for key in free)


def test_a_frozen_network_trains_on_batches_of_one():
    """Batch normalisation has nothing to normalise in a batch of one, unless its statistics are frozen."""
    check_geometry(arch("r2plus1d_slim", CLIP), smallest_batch=1, frozen_stages=4)


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


@pytest.mark.parametrize("statistics", STATISTICS)
def test_a_network_comes_back_with_the_same_logits(path, statistics):
    recognizer = randomised(tiny_recognizer(input_statistics=statistics))
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


def test_a_file_says_that_a_clips_own_statistics_are_used_and_others_are_as_they_were(tmp_path):
    """What knows of no such files finds tensors missing, and does not take the statistics to be 0 and 1."""
    tensors, attributes = load_weights(saved(tmp_path / "clip", tiny_recognizer(input_statistics="clip")))
    assert attributes["input_statistics"] == "clip"
    assert not {"mean_C", "std_C"} & tensors.keys()
    tensors, attributes = load_weights(saved(tmp_path / "train", tiny_recognizer()))
    assert "input_statistics" not in attributes
    assert {"mean_C", "std_C"} <= tensors.keys()


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
    "another format": ({"format": "other-model"}, "not other-model 3"),
    "another version": ({"format_version": 4}, "not dlkdd-model 4"),
    "unknown statistics": ({"input_statistics": "video"}, "normalised by 'video', which is not known here"),
    "statistics of the clip beside others": ({"input_statistics": "clip"}, "do not fit r2plus1d_slim"),
    "unknown network": ({"architecture": {"name": "vit"}}, "unknown architecture 'vit'"),
}


@pytest.mark.parametrize(("attributes", "words"), REWRITES.values(), ids=REWRITES.keys())
def test_a_file_of_another_kind_is_refused(path, attributes, words):
    saved(path, tiny_recognizer())
    with pytest.raises(StaleArtifactError, match=words):
        load_model(rewritten(path, **attributes))


def test_files_of_the_first_format_are_still_read(path):
    """They have no stochastic depth."""
    recognizer = tiny_recognizer()
    attributes = load_weights(saved(path, recognizer))[1]
    del attributes["architecture"]["drop_path"], attributes["levels"]
    model = load_model(rewritten(path, **{**attributes, "format_version": 1}))
    assert model.recognizer.architecture == recognizer.architecture


def test_what_the_bytes_mean_comes_back_and_old_files_mean_values(path):
    attributes = load_weights(saved(path, tiny_recognizer(levels="companded")))[1]
    assert load_model(path).recognizer.levels == "companded"
    del attributes["levels"]
    tensors = load_weights(path)[0]
    save_weights(path, tensors, {**attributes, "format_version": 2})
    assert load_model(path).recognizer.levels == "linear"
    with pytest.raises(StaleArtifactError, match="its levels are 'cubic', not one of linear, companded"):
        load_model(rewritten(path, levels="cubic"))


def test_frames_of_other_levels_are_refused():
    require_levels(tiny_recognizer(), Path("dark"), "linear")
    with pytest.raises(StaleArtifactError, match="dark: its frames have companded levels, the model"):
        require_levels(tiny_recognizer(), Path("dark"), "companded")


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
