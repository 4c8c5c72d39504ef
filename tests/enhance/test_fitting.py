"""Fitting: it learns, it is the same after any interruption, and it refuses to end in numbers that are none."""

from __future__ import annotations

import csv
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import manifest_row, one_thread, write_frames  # noqa: F401 - one_thread applies to the file
from paths import ROOT
from safetensors.numpy import save_file

from benchmarks.in_memory import enhance_frames
from pipeline.core.errors import DataError, Interrupted, ParamsError, StaleArtifactError
from pipeline.core.params import load_params
from pipeline.core.progress import no_progress
from pipeline.core.weights import load_weights
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import write_manifest
from pipeline.enhance.file import CLASSICAL, LEARNED, load_enhancer
from pipeline.enhance.fit import MODEL, Fit, fitted
from pipeline.enhance.fitting import Fitter
from pipeline.enhance.learned import NETWORKS, CalibrationNetwork
from stages import fit_enhancer

each_name = pytest.mark.parametrize("name", LEARNED)
VIDEOS = ("a", "b", "c")


def params(**changes):
    values = {"steps": 12, "batch_size": 2, "size": 32, "learning_rate": 1e-3, "curve_reduction": 2, **changes}
    return load_params(ROOT / "params.yaml").fit_enhancer.model_copy(update=values)


def dark_video(name, shape):
    rng = np.random.default_rng(VIDEOS.index(name) if name in VIDEOS else 9)
    scene = rng.gamma(1.5, 12, (1, *shape[1:], 3))
    return (scene + rng.normal(0, 2, (*shape, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def store(tmp_path):
    return write_frames(tmp_path / "dark", {name: dark_video(name, (4, 40, 48)) for name in VIDEOS})


def fitter(store, name, tmp_path, *, seed=0, checkpoint_seconds=1000.0, **changes):
    fit = Fit(name, params(**changes), seed, store, VIDEOS, torch.device("cpu"))
    return Fitter(fit, checkpoint_path=tmp_path / "checkpoint.pt", checkpoint_seconds=checkpoint_seconds)


def never():
    return None


def ignore(count, note):
    return None


def same(first, second):
    a, b = first.tensors(), second.tensors()
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


@each_name
def test_the_loss_falls_and_the_curve_says_so(name, store, tmp_path):
    _, curve = fitter(store, name, tmp_path, steps=60).run(stop=never, advance=ignore)
    assert [row["step"] for row in curve] == list(range(1, 61))
    assert np.mean([row["loss"] for row in curve[-10:]]) < np.mean([row["loss"] for row in curve[:10]])
    for row in curve:
        terms = {key: value for key, value in row.items() if key not in ("step", "loss")}
        assert row["loss"] == pytest.approx(sum(terms.values()))


def test_zero_dce_lifts_towards_the_exposure(store, tmp_path):
    dark = store.read("a", range(4))
    means = []
    for exposure in (0.2, 0.6):
        enhancer, _ = fitter(store, "zero_dce_pp", tmp_path, steps=150, exposure=exposure).run(
            stop=never, advance=ignore
        )
        means.append(enhance_frames(enhancer, dark).mean() / 255)
        (tmp_path / "checkpoint.pt").unlink(missing_ok=True)
    assert dark.mean() / 255 < means[0] < means[1]


def test_the_curve_of_a_long_fit_has_a_hundred_points(store, tmp_path):
    _, curve = fitter(store, "zero_dce_pp", tmp_path, steps=205, batch_size=1, size=16).run(stop=never, advance=ignore)
    assert [row["step"] for row in curve] == [*range(2, 205, 2), 205]


@each_name
@pytest.mark.parametrize("done", [1, 7])
def test_an_interrupted_fit_goes_on_to_the_same_bytes(name, done, store, tmp_path):
    whole, whole_curve = fitter(store, name, tmp_path / "whole").run(stop=never, advance=ignore)
    steps = []

    def stop():
        if len(steps) == done:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        fitter(store, name, tmp_path).run(stop=stop, advance=lambda count, note: steps.append(count))
    again = []

    def advance(count, note, *, earlier=False):
        again.append((count, earlier))

    enhancer, curve = fitter(store, name, tmp_path).run(stop=never, advance=advance)
    assert again == [(done, True), *[(1, False)] * (12 - done)]
    assert same(enhancer, whole)
    assert curve == whole_curve


def test_the_seed_draws_other_frames_and_weights(store, tmp_path):
    first, _ = fitter(store, "zero_dce_pp", tmp_path / "0").run(stop=never, advance=ignore)
    again, _ = fitter(store, "zero_dce_pp", tmp_path / "1").run(stop=never, advance=ignore)
    other, _ = fitter(store, "zero_dce_pp", tmp_path / "2", seed=1).run(stop=never, advance=ignore)
    assert same(first, again)
    assert not same(first, other)


@each_name
def test_black_and_grey_videos_can_be_fitted(name, tmp_path):
    videos = {"a": np.zeros((2, 16, 20, 3), np.uint8), "b": np.full((1, 16, 16, 3), 40, np.uint8)}
    store = write_frames(tmp_path / "dark", {**videos, "c": np.full((2, 16, 16, 3), 255, np.uint8)})
    _, curve = fitter(store, name, tmp_path).run(stop=never, advance=ignore)
    assert all(np.isfinite(list(row.values())).all() for row in curve)


def test_a_loss_that_is_not_finite_stops_with_the_videos(store, tmp_path):
    broken = fitter(store, "zero_dce", tmp_path)
    with torch.no_grad():
        broken.network.e_conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ParamsError, match=r"zero_dce: step 0: the loss is nan") as error:
        broken.run(stop=never, advance=ignore)
    assert set(error.value.findings) <= set(VIDEOS)
    assert error.value.findings
    assert "learning_rate" in error.value.remedy


# the stage


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    splits = {"a": "train", "b": "train", "c": "val"}
    write_frames(Path("dark"), {name: dark_video(name, (4, 40, 48)) for name in splits})
    rows = [manifest_row(name, 0, split, (4, 40, 48)) for name, split in splits.items()]
    write_manifest(Path("manifest.csv"), rows)
    return tmp_path


def write_params(**changes):
    whole = yaml.safe_load((ROOT / "params.yaml").read_text())
    whole["enhancer"] = changes.pop("enhancer")
    whole["fit_enhancer"] |= {"steps": 6, "batch_size": 2, "size": 32, **changes}
    Path("params.yaml").write_text(yaml.safe_dump(whole))


def run_stage():
    fit_enhancer.main(
        dark_path=Path("dark"),
        manifest_path=Path("manifest.csv"),
        out=Path("m.safetensors"),
        curve_path=Path("c.csv"),
        params_path=Path("params.yaml"),
        device="cpu",
    )


def read_curve():
    with Path("c.csv").open() as file:
        return list(csv.DictReader(file))


@each_name
def test_the_stage_writes_model_and_curve(name, project):
    write_params(enhancer=name)
    run_stage()
    first = Path("m.safetensors").read_bytes()
    assert load_enhancer(Path("m.safetensors")).name == name
    assert load_weights(Path("m.safetensors"))[1]["fitted_on"]["dark"] == FrameStore(Path("dark")).digest
    assert [row["step"] for row in read_curve()] == [str(step) for step in range(1, 7)]
    assert not list(Path(".work").glob("*/*"))
    run_stage()
    assert Path("m.safetensors").read_bytes() == first


def test_a_fit_that_is_kept_is_found_again_whatever_the_classical_parameters(project, store):
    def fit_of(**changes):
        return Fit("sci", params(steps=3, **changes), 0, store, VIDEOS, torch.device("cpu"))

    models, fits = [], []

    def progress(description, total, unit):
        fits.append(total)
        return no_progress(description, total, unit)

    for changes in ({}, {"gamma": 3.0, "statistics": "frame"}, {"learning_rate": 0.01}):
        with fitted("preview", fit_of(**changes), stop=never, progress=progress) as found:
            models.append((found.path / MODEL).read_bytes())
            found.keep()
    assert models[0] == models[1] != models[2]
    assert fits == [3, 3]


def test_no_train_videos_are_an_error(project, store):
    with pytest.raises(DataError, match="nothing to learn from"):
        Fit("sci", params(), 0, store, (), torch.device("cpu"))


def test_only_train_videos_are_learnt_from(project):
    """Another val video makes another store, but no other weights."""
    write_params(enhancer="zero_dce_pp")
    run_stage()
    first = load_weights(Path("m.safetensors"))[0]
    videos = {name: dark_video(name, (4, 40, 48)) for name in "ab"} | {"c": np.zeros((4, 40, 48, 3), np.uint8)}
    shutil.rmtree("dark")
    write_frames(Path("dark"), videos)
    run_stage()
    second = load_weights(Path("m.safetensors"))[0]
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", CLASSICAL)
def test_classical_enhancers_are_their_parameters(name, project):
    write_params(enhancer=name)
    run_stage()
    first = Path("m.safetensors").read_bytes()
    assert load_weights(Path("m.safetensors"))[0] == {}
    assert Path("c.csv").read_text() == "step,loss\n"
    # sweeping another enhancer's parameters leaves the file, and all that follows from it, as it was
    write_params(enhancer=name, exposure=0.3, **{"clahe_grid": 9} if name != "clahe" else {"gamma": 3.0})
    run_stage()
    assert Path("m.safetensors").read_bytes() == first


def test_smoothing_is_no_matter_over_a_whole_video(project):
    files = []
    for changes in ({}, {"smoothing": 9}, {"statistics": "frame", "smoothing": 9}):
        write_params(enhancer="equalize", **changes)
        run_stage()
        files.append(Path("m.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.slow
@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_killed_stage_goes_on_to_the_same_bytes(signal_number, code, project):
    write_params(enhancer="zero_dce", steps=60)
    run_stage()
    whole, whole_curve = Path("m.safetensors").read_bytes(), Path("c.csv").read_bytes()
    Path("m.safetensors").unlink()
    command = [sys.executable, "-m", "stages", "fit_enhancer", "--dark", "dark", "--manifest", "manifest.csv"]
    command += ["--out", "m.safetensors", "--curve", "c.csv", "--device", "cpu", "--checkpoint-seconds", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        before = {path: path.stat().st_mtime_ns for path in Path(".work").glob("*/checkpoint.pt")}
        while process.poll() is None and before == {
            path: path.stat().st_mtime_ns for path in Path(".work").glob("*/checkpoint.pt")
        }:
            time.sleep(0.01)
        process.send_signal(signal_number)
        process.communicate(timeout=60)
        assert process.returncode == code
    subprocess.run(command, env=environment, check=True)
    assert Path("m.safetensors").read_bytes() == whole
    assert Path("c.csv").read_bytes() == whole_curve


# weights from files


def state_of(name, seed=5):
    torch.manual_seed(seed)
    return NETWORKS[name]().state_dict()


def authors_state(name):
    """The names that the authors' checkpoints have, as far as they differ from ours."""
    state = state_of(name)
    if name != "sci":
        return {f"module.{key}": value for key, value in state.items()}
    whole = {f"enhance.{key}": value for key, value in state.items()}
    whole |= {f"enhance.blocks.0.{key.removeprefix('conv.')}": value for key, value in state.items() if "conv.0" in key}
    return whole | {f"calibrate.{key}": value for key, value in CalibrationNetwork().state_dict().items()}


def save_plain(state, path):
    save_file({key: value.numpy() for key, value in state.items()}, path)


WRITERS = {
    "weights.pth": torch.save,
    "wrapped.pt": lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
    "weights.safetensors": save_plain,
}


@each_name
@pytest.mark.parametrize("file", WRITERS)
def test_weights_from_a_file_are_taken_as_they_are(name, file, project):
    WRITERS[file](authors_state(name), Path(file))
    write_params(enhancer=name, weights=file, curve_reduction=3)
    run_stage()
    enhancer = load_enhancer(Path("m.safetensors"))
    assert enhancer.curve_reduction == 3
    expected = state_of(name)
    for key, value in enhancer.network.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)
    assert read_curve() == []


@each_name
def test_our_own_model_file_gives_its_weights(name, project):
    write_params(enhancer=name)
    run_stage()
    first = load_weights(Path("m.safetensors"))[0]
    Path("m.safetensors").rename("mine.safetensors")
    write_params(enhancer=name, weights="mine.safetensors")
    run_stage()
    second = load_weights(Path("m.safetensors"))[0]
    assert all(np.array_equal(first[key], second[key]) for key in first)


UNREADABLE = "cannot be read as tensors alone"


class Canary:
    def __reduce__(self):
        return (Path("canary").touch, ())


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda path: None, ParamsError, "no such file"),
        (lambda path: path.write_bytes(b"no weights"), StaleArtifactError, UNREADABLE),
        (lambda path: torch.save(state_of("zero_dce_pp"), path), ParamsError, "does not hold the weights of zero_dce"),
        (lambda path: torch.save([1, 2], path), StaleArtifactError, "holds a list, not a state dict"),
        (lambda path: path.write_bytes(pickle.dumps({"a": Canary()}, protocol=2)), StaleArtifactError, UNREADABLE),
        (lambda path: torch.save({"a": Canary()}, path), StaleArtifactError, UNREADABLE),
    ],
)
def test_other_files_are_refused_and_run_no_code(write, error, message, project):
    write(Path("weights.pth"))
    write_params(enhancer="zero_dce", weights="weights.pth")
    with pytest.raises(error, match=message):
        run_stage()
    assert not Path("m.safetensors").exists()
    assert not Path("canary").exists()
