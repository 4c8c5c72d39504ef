"""An exported program computes what the model computes, on a batch of any size, or it is not there."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch
from builders import CLASSES, CLIP, STATISTICS, one_thread, tiny_data, tiny_recognizer  # noqa: F401 - a fixture

from benchmarks.export_architectures import new_model, settled
from pipeline.core.errors import DataError, EnvironmentProblem, ParamsError, StaleArtifactError
from pipeline.data.views import read_view, uniform_view
from pipeline.models.bert_head import WIDTH, BertHead
from pipeline.models.networks import MODELS
from pipeline.models.recognizer import load_model, save_model
from pipeline.tools.export import export as export_module
from pipeline.tools.export import onnx_file
from pipeline.tools.export.export import EXTRA_FILE, SUFFIXES, TOLERANCE, card_paths, drawn_clips, export, stored_clips
from pipeline.tools.export.onnx_file import open_onnx

KINDS = [(kind, bare) for kind in SUFFIXES for bare in (False, True)]


def new_file(folder, statistics="train"):
    path = folder / "student.safetensors"
    trained_on = {"stage": "train_student", "digests": {"frames": "f" * 32, "soft_targets": "5" * 32}}
    network = settled(tiny_recognizer(input_statistics=statistics))
    save_model(path, network, class_names=CLASSES, trained_on=trained_on)
    return path


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return new_file(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(model_path):
    return load_model(model_path)


def write(model, path, *, kind="onnx", bare=False, clips=None, tolerance=TOLERANCE):
    """Returns the largest difference to the model."""
    clips = clips or drawn_clips(CLIP, 3)
    found = export(model, path, program_format=kind, bare=bare, clips=clips, tolerance=tolerance, metrics=None)
    return found["comparison"]["max_difference"]


def run(path, given):
    """A program's output, by its runtime alone."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: given})[0]
    with torch.inference_mode():
        return torch.export.load(path).module()(torch.from_numpy(given)).numpy()


def clips_of(num_clips, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (num_clips, CLIP.num_frames, CLIP.size, CLIP.size, 3), dtype=np.uint8)


# what it computes


@pytest.fixture(scope="module")
def written(model_path, tmp_path_factory):
    """Files that were exported, by format and whether they are bare."""
    folder = tmp_path_factory.mktemp("written")
    paths = {(kind, bare): folder / f"{bare}{SUFFIXES[kind]}" for kind, bare in KINDS}
    for (kind, bare), path in paths.items():
        write(load_model(model_path), path, kind=kind, bare=bare)
    return paths


@pytest.mark.parametrize(("kind", "bare"), KINDS)
def test_a_program_gives_what_the_model_gives_on_any_batch(model, written, kind, bare):
    for num_clips in (1, 2, 5):
        clip_BTHWC = clips_of(num_clips)
        with torch.inference_mode():
            logits_BK = model.recognizer(torch.from_numpy(clip_BTHWC))
        given, wanted = clip_BTHWC, logits_BK.softmax(dim=1)
        if bare:
            mean_C, std_C = (np.float32(values_C) for values_C in STATISTICS["train"].values())
            given, wanted = ((clip_BTHWC / np.float32(255) - mean_C) / std_C).transpose(0, 4, 1, 2, 3), logits_BK
        found = run(written[kind, bare], np.ascontiguousarray(given))
        assert found.shape == (num_clips, 3)
        assert found.dtype == np.float32
        assert np.abs(found - wanted.numpy()).max() < 1e-4  # of up to 20
        # clips that all look alike would prove nothing
        assert num_clips == 1 or np.ptp(wanted.numpy(), axis=0).max() > 1e-3


@pytest.mark.parametrize(("kind", "bare"), KINDS)
def test_a_program_normalises_each_clip_of_a_batch_by_itself(tmp_path, kind, bare):
    """A dark one, one of one colour and a bright one."""
    path, model = tmp_path / f"x{SUFFIXES[kind]}", load_model(new_file(tmp_path, "clip"))
    write(model, path, kind=kind, bare=bare)
    clip_BTHWC = clips_of(3)
    clip_BTHWC[0] //= 20
    clip_BTHWC[1] = 7
    with torch.inference_mode():
        logits_BK = model.recognizer(torch.from_numpy(clip_BTHWC))
    given, wanted_BK = clip_BTHWC, logits_BK if bare else logits_BK.softmax(dim=1)
    if bare:
        mean_B1111 = clip_BTHWC.mean(axis=(1, 2, 3, 4), keepdims=True)
        std_B1111 = np.maximum(clip_BTHWC.std(axis=(1, 2, 3, 4), keepdims=True), 1)
        given = ((clip_BTHWC - mean_B1111) / std_B1111).transpose(0, 4, 1, 2, 3).astype(np.float32)
    assert np.abs(run(path, np.ascontiguousarray(given)) - wanted_BK.numpy()).max() < 1e-4


def test_the_batch_of_a_bert_head_is_free():
    """len() of a tensor is a number when a network is traced: the head had the batch of the example."""
    head = BertHead(2, 3, dropout=0.1).eval()
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(head, (torch.zeros(2, WIDTH, 2, 1, 1),), dynamic_shapes=batch).module()
    features_BCTHW = torch.randn(5, WIDTH, 2, 1, 1)
    assert torch.allclose(program(features_BCTHW), head(features_BCTHW), atol=1e-6)


# of these another one with the same blocks is exported; benchmarks/export_architectures.py has all
SAME_BLOCKS = ("mvit_v1_b", "swin3d_s", "swin3d_b", "x3d_s", "x3d_m", "x3d_l")
# as ONNX these take minutes; an ONNX file is made from the program that the other format saves
MINUTES = ("mvit_v2_s", "swin3d_t")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in SAME_BLOCKS])
def test_every_network_exports(tmp_path, name):
    kind = "torch" if name in MINUTES else "onnx"
    model = new_model(name, tmp_path)
    clips = drawn_clips(model.recognizer.architecture.clip, 3)
    write(model, tmp_path / f"x{SUFFIXES[kind]}", kind=kind, bare=True, clips=clips)  # raises where it differs


# what is refused


@pytest.mark.parametrize(("kind", "bare"), [("onnx", False), ("torch", True)])
def test_another_program_is_refused_and_leaves_no_file(model, tmp_path, monkeypatch, kind, bare):
    path = tmp_path / f"student{SUFFIXES[kind]}"
    make = export_module._program

    def wrong(recognizer, description, *, bare):
        """One weight is another."""
        other = load_model(other_path).recognizer
        other.network.head[3].bias.data[0] += 0.01
        return make(other, description, bare=bare)

    other_path = tmp_path / "model.safetensors"
    save_model(other_path, model.recognizer, class_names=CLASSES, trained_on={})
    path.write_bytes(b"an older one")
    monkeypatch.setattr(export_module, "_program", wrong)
    with pytest.raises(StaleArtifactError, match=r"differs from the model by 0\.0.* on 3 drawn clips"):
        write(model, path, kind=kind, bare=bare)
    assert path.read_bytes() == b"an older one"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.safetensors", path.name]


def test_a_tolerance_is_what_it_says(model, tmp_path):
    found = write(model, tmp_path / "a.pt2", kind="torch", bare=True)
    assert 0 < found < 1e-5
    write(model, tmp_path / "b.pt2", kind="torch", bare=True, tolerance=found)
    with pytest.raises(StaleArtifactError):
        write(model, tmp_path / "c.pt2", kind="torch", bare=True, tolerance=found / 2)
    assert not list(tmp_path.glob("c*"))


def test_outputs_that_are_no_numbers_are_refused(model, tmp_path):
    model.recognizer.network.head[3].bias.data[0] = float("nan")
    with pytest.raises(StaleArtifactError, match="differs from the model by nan"):
        write(model, tmp_path / "x.pt2", kind="torch", tolerance=float("inf"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "kind"), [("x.pt2", "onnx"), ("x.onnx", "torch"), ("x", "onnx")])
def test_a_name_ends_as_its_format(model, tmp_path, name, kind):
    with pytest.raises(ParamsError, match=f"ends with {SUFFIXES[kind]}"):
        write(model, tmp_path / name, kind=kind)


def test_missing_packages_are_named_with_the_extra(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(EnvironmentProblem, match=r"ONNX needs onnxscript, not.*\n.*pip install 'dlkdd\[export\]'"):
        write(model, tmp_path / "x.onnx")
    write(model, tmp_path / "x.pt2", kind="torch")


# the file


@pytest.mark.parametrize("kind", SUFFIXES)
def test_the_same_model_gives_the_same_bytes_and_no_path(model, written, tmp_path, kind):
    path = tmp_path / f"x{SUFFIXES[kind]}"
    write(model, path, kind=kind)
    content = path.read_bytes()
    assert content == written[kind, False].read_bytes()
    for text in (b".py", str(tmp_path).encode()):
        assert text not in content


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_file_describes_its_model(model, written, kind):
    path = written[kind, False]
    if kind == "onnx":
        said = open_onnx(path, num_threads=1).description
    else:
        extra = {EXTRA_FILE: ""}
        torch.export.load(path, extra_files=extra)
        said = json.loads(extra[EXTRA_FILE])
    card = json.loads(card_paths(path)[1].read_text())
    assert said == {key: value for key, value in card.items() if key not in ("file", "comparison", "metrics")}
    assert said["class_names"] == list(CLASSES)
    assert said["digest"] == model.digest


@pytest.mark.parametrize("content", [None, b"", b"not a program"])
def test_what_is_no_program_of_ours_is_refused(tmp_path, content):
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StaleArtifactError, match=str(path)):
        open_onnx(path, num_threads=1)


# the clips of the comparison


def test_stored_clips_are_the_middles_of_videos_spread_over_the_store(tmp_path):
    _, frames = tiny_data(tmp_path)
    recognizer = tiny_recognizer()
    clips = stored_clips(frames, recognizer, 3)
    chosen = [frames.video_ids[number] for number in (0, 7, 15)]
    for clip_THWC, video_id in zip(clips[0], chosen, strict=True):
        view = uniform_view(frames.shape(video_id), CLIP, index=0, num_clips=1)
        assert torch.equal(clip_THWC, read_view(frames, video_id, view, CLIP))
    assert clips[1] == f"clips of 3 videos of the frame store {frames.digest}"
    with pytest.raises(DataError, match="holds 16 videos, 17 are wanted"):
        stored_clips(frames, recognizer, 17)
    with pytest.raises(StaleArtifactError, match="its frames have linear levels"):
        stored_clips(frames, tiny_recognizer(levels="companded"), 3)


def test_drawn_clips_are_dark_and_bright_and_always_the_same():
    clips = drawn_clips(CLIP, 4)
    assert torch.equal(clips[0], drawn_clips(CLIP, 4)[0])
    assert [int(clip.max()) for clip in clips[0]] == [7, 24, 79, 255]


# the command


def test_the_command_says_on_what_it_compared(call, model_path, tmp_path):
    _, frames = tiny_data(tmp_path)
    out = tmp_path / "student.onnx"
    code, printed, said = call("export", model_path, "--out", out, "--frames", frames.path)
    assert code == 0
    assert f"on clips of 4 videos of the frame store {frames.digest}, 100% with the same best class" in printed
    assert f"card -> {out}.md, {out}.json" in said
    code, printed, _ = call("export", model_path, "--out", tmp_path / "x.pt2", "--format", "torch", "--num-clips", 2)
    assert code == 0
    assert "on 2 drawn clips of noise" in printed


def test_the_commands_errors_have_their_codes(call, model_path, tmp_path):
    code, printed, said = call(
        "export", model_path, "--out", tmp_path / "x.pt2", "--format", "torch", "--bare", "--tolerance", 0
    )
    assert (code, printed) == (5, "")
    assert said.startswith(f"error: {tmp_path / 'x.pt2'}: not written: the program differs from the model by ")
    assert call("export", model_path, "--out", tmp_path / "x.pt2")[0] == 2
    assert call("export", tmp_path / "nothing", "--out", tmp_path / "x.onnx")[0] == 5
    assert not list(tmp_path.iterdir())
