"""Pretrained weights arrive where they belong, whoever wrote the file; what does not fit is refused by name."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path

import pytest
import torch
from builders import CLASSES, CLIP, one_thread, tiny_recognizer  # noqa: F401 - a fixture
from safetensors.torch import save_file

from pipeline.core.digest import digest_file
from pipeline.core.errors import EnvironmentProblem, ParamsError, StaleArtifactError
from pipeline.core.params import ClipParams
from pipeline.models import pretrained
from pipeline.models.networks import MODELS, Architecture, build_network, shapes_of
from pipeline.models.pretrained import PUBLISHED_STATISTICS, fit, load_into, read_pretrained
from pipeline.models.recognizer import Recognizer, save_model
from pipeline.models.torchvision_compat import get_model_weights, video_models

OTHERS = ("eat", "sleep", "walk")


def arch(name, *, num_classes=3, num_frames=8, size=32, width=4):
    clip = ClipParams(num_frames=num_frames, frame_stride=1, size=size)
    return Architecture(name, num_classes, clip, width if MODELS[name].has_width else None, 0.1, 0.0)


def thin(shapes):
    """Tensors of such shapes that need no memory: every number of one is the same, and another in each."""
    return {name: torch.tensor(1.0 + index).expand(shape) for index, (name, shape) in enumerate(shapes.items())}


def thin_network(build):
    """The names and shapes of a network as another program builds it."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in build().state_dict().items()}
    return thin(shapes)


def fitted(path, architecture, class_names=CLASSES):
    return fit(read_pretrained(str(path), architecture.name), architecture, class_names=class_names)


def body(name, names):
    return {key for key in names if not MODELS[name].is_head(key)}


# the formats


def ig65m(num_classes):
    """As the authors of the PyTorch checkpoints build it: a second source for the layout."""
    parts = video_models.resnet
    network = parts.VideoResNet(parts.BasicBlock, [parts.Conv2Plus1D] * 4, [3, 4, 6, 3], parts.R2Plus1dStem)
    network.fc = torch.nn.Linear(512, num_classes)
    network.layer2[0].conv2[0] = parts.Conv2Plus1D(128, 128, 288)
    network.layer3[0].conv2[0] = parts.Conv2Plus1D(256, 256, 576)
    network.layer4[0].conv2[0] = parts.Conv2Plus1D(512, 512, 1152)
    return network


def hub_x3d():
    from pytorchvideo.models.hub import x3d_xs

    return x3d_xs()


def hub_slowfast():
    from pytorchvideo.models.hub import slowfast_r50

    return slowfast_r50()


def write_plain(state, path):
    torch.save(state, path)


def write_hub(state, path):
    torch.save({"model_state": state}, path)


def write_parallel(state, path):
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 7}, path)


def write_safetensors(state, path):
    save_file({name: value.contiguous() for name, value in state.items()}, path.with_suffix(".safetensors"))
    path.with_suffix(".safetensors").rename(path)


FORMATS = {
    "torchvision": ("mc3_18", video_models.mc3_18, write_plain, "mc3_18-a90a0ba3.pth", 400),
    "torchvision's transformer": ("swin3d_t", video_models.swin3d_t, write_plain, "swin3d_t-7615ae03.pth", 400),
    "pytorchvideo's hub": ("x3d_xs", hub_x3d, write_hub, "X3D_XS.pyth", 400),
    "two pathways of the hub": ("slowfast_r50", hub_slowfast, write_hub, "SLOWFAST_8x8_R50.pyth", 400),
    "IG-65M": ("r2plus1d_34", lambda: ig65m(487), write_plain, "r2plus1d_34_clip32_ig65m.pth", 487),
    "IG-65M in a checkpoint": ("r2plus1d_34", lambda: ig65m(359), write_parallel, "checkpoint.pth", 359),
    "safetensors": ("x3d_xs", hub_x3d, write_safetensors, "x3d.safetensors", 400),
}


@pytest.mark.parametrize(("name", "build", "write", "file", "num_classes"), FORMATS.values(), ids=FORMATS.keys())
def test_files_of_all_programs_fit_but_for_their_head(name, build, write, file, num_classes, tmp_path):
    state = thin_network(build)
    write(state, tmp_path / file)
    architecture = arch(name)
    found = fitted(tmp_path / file, architecture)
    wanted = shapes_of(architecture)
    assert set(found.loaded) == body(name, wanted)
    assert set(found.replaced) == {key for key in wanted if MODELS[name].is_head(key)}
    assert (found.skipped, found.missing) == ((), ())
    assert found.num_classes_of_file == num_classes
    assert all(torch.equal(found.pretrained.tensors[key], state[key]) for key in found.loaded)
    assert (found.pretrained.name, found.pretrained.digest) == (file, digest_file(tmp_path / file))
    summary = found.summary
    assert summary.startswith(f"weights: {len(found.loaded)} tensors of {file} loaded; head replaced")
    assert f"({num_classes} classes -> 3)" in summary
    assert summary.endswith("; skipped none; missing none")


@pytest.mark.parametrize(("name", "build", "write", "file", "num_classes"), FORMATS.values(), ids=FORMATS.keys())
def test_with_as_many_classes_the_head_is_taken_as_well(name, build, write, file, num_classes, tmp_path):
    write(thin_network(build), tmp_path / file)
    found = fitted(tmp_path / file, arch(name, num_classes=num_classes), class_names=())
    assert set(found.loaded) == set(shapes_of(arch(name, num_classes=num_classes)))
    assert found.replaced == ()


def test_what_is_loaded_is_what_was_written_and_nothing_else_changes(tmp_path):
    torch.manual_seed(1)
    state = hub_x3d().state_dict()
    write_hub(state, tmp_path / "X3D_XS.pyth")
    architecture = arch("x3d_xs")
    found = fitted(tmp_path / "X3D_XS.pyth", architecture)
    torch.manual_seed(2)
    fresh = {key: value.clone() for key, value in build_network(architecture).state_dict().items()}
    torch.manual_seed(2)
    network = build_network(architecture)
    load_into(network, found)
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key] if key in found.loaded else fresh[key]), key


@pytest.mark.slow
def test_a_pretrained_network_computes_what_the_hubs_does(tmp_path):
    torch.manual_seed(1)
    theirs = hub_slowfast().eval()
    write_hub(theirs.state_dict(), tmp_path / "slowfast.pyth")
    architecture = arch("slowfast_r50", num_classes=400, num_frames=32, size=224)
    found = fitted(tmp_path / "slowfast.pyth", architecture, class_names=())
    ours = build_network(architecture).eval()
    load_into(ours, found)
    clip_BCTHW = torch.randn(1, 3, 32, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits_BK = theirs([clip_BCTHW[:, :, ::4].clone(), clip_BCTHW.clone()])
        torch.testing.assert_close(ours(clip_BCTHW), logits_BK, rtol=1e-4, atol=1e-5)


def test_half_precision_is_widened(tmp_path):
    recognizer = tiny_recognizer()
    state = {name: value.half().contiguous() for name, value in recognizer.network.state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    found = fitted(tmp_path / "half.safetensors", recognizer.architecture)
    network = tiny_recognizer(seed=1).network
    load_into(network, found)
    assert network.stem[0].weight.dtype == torch.float32
    assert torch.equal(network.stem[0].weight, recognizer.network.stem[0].weight.half().float())


def test_files_from_before_torch_counted_batches_fit(tmp_path):
    state = thin_network(lambda: ig65m(400))
    torch.save({name: value for name, value in state.items() if "num_batches" not in name}, tmp_path / "old.pth")
    found = fitted(tmp_path / "old.pth", arch("r2plus1d_34"))
    assert found.missing
    assert all(name.endswith("num_batches_tracked") for name in found.missing)


# our own files


def own(path, recognizer, class_names=CLASSES):
    save_model(path, recognizer, class_names=class_names, trained_on={})
    return path


def test_our_own_model_file_is_taken_whole_for_the_same_classes(tmp_path):
    recognizer = tiny_recognizer()
    found = fitted(own(tmp_path / "m.safetensors", recognizer), recognizer.architecture)
    assert set(found.loaded) == set(recognizer.network.state_dict())
    assert (found.replaced, found.skipped, found.missing) == ((), (), ())
    other = tiny_recognizer(seed=1)
    load_into(other.network, found)
    assert all(
        torch.equal(value, other.state_dict()[name])
        for name, value in recognizer.state_dict().items()
        if name not in ("mean_C", "std_C")
    )


def test_a_head_of_other_classes_is_replaced_even_if_they_are_as_many(tmp_path):
    recognizer = tiny_recognizer()
    found = fitted(own(tmp_path / "m.safetensors", recognizer, OTHERS), recognizer.architecture)
    assert set(found.replaced) == {"head.3.weight", "head.3.bias"}


def test_a_damaged_model_file_of_ours_is_refused(tmp_path):
    path = own(tmp_path / "m.safetensors", tiny_recognizer())
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(StaleArtifactError, match="not a whole dlkdd model file"):
        read_pretrained(str(path), "r2plus1d_slim")


# the BERT head


def test_the_bert_network_takes_the_layers_of_ig65m(tmp_path):
    torch.save(thin_network(lambda: ig65m(487)), tmp_path / "ig65m.pth")
    architecture = arch("r2plus1d_34_bert")
    found = fitted(tmp_path / "ig65m.pth", architecture)
    wanted = shapes_of(architecture)
    assert set(found.loaded) == body("r2plus1d_34_bert", wanted)
    assert set(found.missing) == set(wanted) - set(found.loaded)
    assert found.skipped == ("fc.weight", "fc.bias")


def test_a_bert_head_for_other_clips_and_classes_keeps_its_layer(tmp_path):
    torch.save(thin(shapes_of(arch("r2plus1d_34_bert", num_frames=64, num_classes=11))), tmp_path / "bert.pth")
    found = fitted(tmp_path / "bert.pth", arch("r2plus1d_34_bert", num_frames=32))
    assert set(found.replaced) == {"head.positions_SD", "head.classifier.weight", "head.classifier.bias"}
    assert "head.layer.attention.out.weight" in found.loaded


# refused


def changed(path, **changes):
    state = {**thin_network(hub_x3d), **changes}
    torch.save({name: value for name, value in state.items() if value is not None}, path)
    return path


KERNEL = "blocks.1.res_blocks.0.branch2.conv_a.weight"
MISFITS = {
    "another shape": ({KERNEL: torch.zeros(3, 2)}, rf"{KERNEL} has the shape \(3, 2\), not"),
    "missing": ({KERNEL: None}, f"{KERNEL} is missing"),
    "not finite": ({KERNEL: torch.full((54, 24, 1, 1, 1), torch.nan)}, rf"are not finite(.|\n)*{KERNEL}"),
}


@pytest.mark.parametrize(("changes", "words"), MISFITS.values(), ids=MISFITS.keys())
def test_what_does_not_fit_beyond_the_head_is_refused_by_name(changes, words, tmp_path):
    with pytest.raises(StaleArtifactError, match=words) as caught:
        fitted(changed(tmp_path / "x.pth", **changes), arch("x3d_xs"))
    assert len(caught.value.findings) == 1
    assert caught.value.exit_code == 5


def test_all_misfits_are_counted_and_the_first_are_listed(tmp_path):
    torch.save(thin_network(lambda: video_models.r3d_18()), tmp_path / "r3d.pth")
    with pytest.raises(StaleArtifactError, match="does not fit r2plus1d_18") as caught:
        fitted(tmp_path / "r3d.pth", arch("r2plus1d_18"))
    assert len(caught.value.findings) == 106
    assert "and 86 more" in str(caught.value)


def test_a_head_alone_fits_nothing(tmp_path):
    torch.save({"fc.weight": torch.zeros(3, 512), "fc.bias": torch.zeros(3)}, tmp_path / "head.pth")
    with pytest.raises(StaleArtifactError, match="does not fit r3d_18"):
        fitted(tmp_path / "head.pth", arch("r3d_18"))


def test_two_networks_in_one_file_are_refused(tmp_path):
    state = tiny_recognizer().network.state_dict()
    torch.save({**state, **{f"module.{name}": value for name, value in state.items()}}, tmp_path / "two.pth")
    with pytest.raises(StaleArtifactError, match="prefixes apart"):
        read_pretrained(str(tmp_path / "two.pth"), "r2plus1d_slim")


def test_a_head_of_any_shape_is_replaced(tmp_path):
    state = {**tiny_recognizer().network.state_dict(), "head.3.weight": torch.tensor(1.0)}
    torch.save(state, tmp_path / "odd.pth")
    found = fitted(tmp_path / "odd.pth", tiny_recognizer().architecture)
    assert found.replaced == ("head.3.weight",)
    assert "head replaced: 1 (head.3.weight)" in found.summary


def test_a_missing_file_is_a_wrong_parameter():
    with pytest.raises(ParamsError, match=r"weights: nowhere\.pth: no such file"):
        read_pretrained("nowhere.pth", "r3d_18")


# torchvision's own


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A place to download from, by a URL; torch's cache is a folder of the test's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "server"
    folder.mkdir()
    content = folder / "content"
    torch.save(thin_network(video_models.mc3_18), content)
    start = hashlib.sha256(content.read_bytes()).hexdigest()[:8]
    path = content.rename(folder / f"mc3_18-{start}.pth")
    monkeypatch.setattr(pretrained, "torchvision_url", lambda _name: path.as_uri())
    return path


def cached(server, tmp_path):
    return tmp_path / "home" / "hub" / "checkpoints" / server.name


def test_torchvisions_weights_are_downloaded_once(server, tmp_path):
    found = fitted("torchvision", arch("mc3_18"))
    assert (found.pretrained.name, found.num_classes_of_file) == (server.name, 400)
    assert cached(server, tmp_path).read_bytes() == server.read_bytes()
    server.unlink()
    assert fitted("torchvision", arch("mc3_18")).pretrained.digest == found.pretrained.digest


def test_a_damaged_download_is_noticed(server, tmp_path):
    read_pretrained("torchvision", "mc3_18")
    with cached(server, tmp_path).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(StaleArtifactError, match=r"is damaged(.|\n)*delete the file"):
        read_pretrained("torchvision", "mc3_18")


def test_what_is_not_the_file_is_not_kept(server, tmp_path):
    """As a login page that answers in its place."""
    server.write_text("please log in")
    with pytest.raises(EnvironmentProblem, match="cannot be downloaded: invalid hash value"):
        read_pretrained("torchvision", "mc3_18")
    assert not cached(server, tmp_path).exists()


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route to host"), TimeoutError("timed out"), RuntimeError("invalid hash value")]
)
def test_without_a_network_the_error_says_what_to_do(server, tmp_path, monkeypatch, error):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(EnvironmentProblem) as caught:
        read_pretrained("torchvision", "mc3_18")
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert server.as_uri() in message
    assert f"put {server.name} into {tmp_path / 'home' / 'hub' / 'checkpoints'}" in message
    assert f"TORCH_HOME is {tmp_path / 'home'}" in message
    assert "the path of a file" in message


def test_networks_that_torchvision_lacks_say_which_it_has():
    with pytest.raises(ParamsError, match=r"torchvision has no weights for x3d_xs(.|\n)*r2plus1d_18, r3d_18, mc3_18"):
        read_pretrained("torchvision", "x3d_xs")


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if kind.in_torchvision])
def test_torchvisions_names_hold_the_start_of_a_digest(name):
    url = pretrained.torchvision_url(name)
    assert url.startswith("https://download.pytorch.org/models/")
    assert len(Path(url).stem.rpartition("-")[2]) == 8


# pixel statistics


STATISTICS_OF = {"r2plus1d_18": "kinetics", "s3d": "kinetics", "swin3d_t": "imagenet", "mvit_v1_b": "pytorchvideo"}


@pytest.mark.parametrize(("name", "statistics"), STATISTICS_OF.items())
def test_published_statistics_are_those_of_torchvisions_weights(name, statistics):
    transforms = get_model_weights(name).DEFAULT.transforms()
    mean_C, std_C = PUBLISHED_STATISTICS[statistics]
    assert (transforms.mean, transforms.std) == (pytest.approx(mean_C, abs=1e-4), pytest.approx(std_C, abs=1e-4))


def test_statistics_are_those_of_red_green_and_blue():
    for mean_C, std_C in PUBLISHED_STATISTICS.values():
        recognizer = Recognizer(tiny_recognizer().architecture, mean_C=mean_C, std_C=std_C)
        assert recognizer.mean_C.shape == recognizer.std_C.shape == (3,)
        assert recognizer(torch.zeros(2, CLIP.num_frames, CLIP.size, CLIP.size, 3, dtype=torch.uint8)).isfinite().all()
