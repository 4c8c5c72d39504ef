"""`dlkdd bench` as a user calls it; each way to run a model is measured in a process of its own."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from builders import CLASSES, CLIP, one_thread, tiny_recognizer  # noqa: F401 - a fixture

from pipeline.core.errors import EnvironmentProblem
from pipeline.evaluate.cost import cost_of
from pipeline.models.recognizer import load_model, save_model
from pipeline.tools.export.export import drawn_clips, export
from pipeline.tools.export.latency import Run, measure

FEW = ("--runs", 4, "--warmup", 0, "--threads", 1)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "student.safetensors"
    save_model(path, tiny_recognizer(), class_names=CLASSES, trained_on={})
    return path


@pytest.fixture(scope="module")
def onnx_path(model_path):
    path = model_path.with_suffix(".onnx")
    clips = drawn_clips(CLIP, 2)
    export(load_model(model_path), path, program_format="onnx", bare=True, clips=clips, tolerance=1e-3, metrics=None)
    return path


def run_of(path, way, **changes):
    options = {"device": "cpu", "batch_size": 2, "num_warmup": 0, "num_runs": 5, "num_threads": 1}
    return Run(path, way, **{**options, **changes})


def test_a_process_of_its_own_holds_its_own_memory_alone(model_path, onnx_path):
    ballast = np.ones(1 << 27)  # a gigabyte in this process
    eager, onnx = measure(run_of(model_path, "eager")), measure(run_of(onnx_path, "onnx"))
    # ONNX Runtime needs no torch, which alone is more than 128 MiB
    assert onnx.peak_bytes < 2**27 < eager.peak_bytes < ballast.nbytes
    for found in (eager, onnx):
        assert 0 < found.p50_seconds <= found.p95_seconds
        assert found.first_seconds > 0


def test_clips_a_second_count_the_clips_of_a_batch(onnx_path):
    found = measure(run_of(onnx_path, "onnx", batch_size=16, num_runs=9))
    # the mean lies between the fastest batch and the slowest; half of the batches take no longer than the median
    assert found.clips_per_second < 2 * 16 / found.p50_seconds
    assert found.clips_per_second > 0


class Killer:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_process_that_is_killed_is_an_error_of_the_machine():
    with pytest.raises(EnvironmentProblem, match="was killed, perhaps for want of memory"):
        measure(run_of(Killer(), "eager"))


def test_a_missing_file_is_named_by_the_process_that_reads_it(tmp_path):
    with pytest.raises(Exception, match="no such model file") as caught:
        measure(run_of(tmp_path / "nothing", "eager"))
    assert caught.value.exit_code == 5


def test_json_has_the_numbers_of_every_way(call, model_path):
    code, out, said = call("bench", model_path, "--onnx", "--json", *FEW)
    assert code == 0, said
    found, cost = json.loads(out), cost_of(tiny_recognizer())
    assert [one["way"] for one in found["measured"]] == ["eager", "onnx"]
    assert (found["parameters"], found["gmac_per_clip"]) == (cost.parameters, pytest.approx(cost.gmac, abs=1e-6))
    assert (found["device"], found["threads"], found["batch_size"]) == ("cpu", 1, 1)
    assert found["clip"] == CLIP.model_dump()


def test_a_table_is_for_people(call, onnx_path):
    code, out, _ = call("bench", onnx_path, *FEW)
    assert code == 0
    parameters = cost_of(tiny_recognizer()).parameters
    assert f"r2plus1d_slim: {parameters:,} parameters" in out
    assert "for a clip of 2×16×16; on cpu, threads: 1, batch size: 1" in out
    assert "peak memory, MiB" in out
    assert "│ onnx" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.onnx", "--compile"], "is measured in ONNX Runtime alone"),
        (["x.onnx", "--onnx"], "is measured in ONNX Runtime alone"),
        (["x.safetensors", "--device", "toaster"], "expected cpu, cuda"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_said_before_anything_is_read(call, arguments, words):
    code, out, said = call("bench", *arguments)
    assert (code, out) == (2, "")
    assert words in said


@pytest.mark.slow
def test_a_compiled_model_is_measured_after_it_was_compiled(model_path):
    found = measure(run_of(model_path, "compiled"))
    assert found.first_seconds > 10 * found.p95_seconds


@pytest.mark.slow
def test_without_a_compiler_the_remedy_is_named(model_path, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "/nothing/c++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    with pytest.raises(EnvironmentProblem, match=r"cannot compile[^\n]*\nhelp: install a C\+\+ compiler"):
        measure(run_of(model_path, "compiled"))
