"""The command: what is wrong is told before anything runs; from frames to tables, through an interrupt; same bytes."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from builders import CLIP, VIEWS, noise_video, tiny_data, train_params, write_frames
from paths import ROOT
from waiting import wait_for

from pipeline.core.device import choose_device, machine_name
from pipeline.core.errors import StaleArtifactError
from pipeline.core.params import load_params
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import write_manifest
from pipeline.tools.study.arms import read_design
from pipeline.tools.study.bright import adopt_bright
from pipeline.tools.study.chain import Chain, Data


def study_arguments(folder, *more, params=ROOT / "params.yaml"):
    paths = {"--manifest": "manifest.csv", "--dark": "dark", "--out": "study"}
    named = [word for option, name in paths.items() for word in (option, str(folder / name))]
    return ["study", *named, "--params", str(params), *more]


def test_wrong_arms_stop_it_before_anything_is_written(call, tmp_path):
    tiny_data(tmp_path)
    (tmp_path / "dark").mkdir()
    (tmp_path / "arms.yaml").write_text("arms:\n  hot: {temperature: 9}\n  wrong: {seed: 1}\n")
    more = ["--arms", str(tmp_path / "arms.yaml"), "--arm", "cold: temperature=0"]
    code, out, err = call(*study_arguments(tmp_path, *more))
    assert (code, out) == (2, "")
    assert "arms.yaml:3: wrong: seed: a study sets the seeds itself" in err
    assert "cold: temperature: input should be greater than 0" in err
    assert "hot" not in err
    assert not (tmp_path / "study").exists()


def test_another_device_is_refused_before_anything_is_written(call, tmp_path):
    tiny_data(tmp_path)
    (tmp_path / "dark").mkdir()
    code, _, err = call(*study_arguments(tmp_path, "--device", "toaster"))
    assert code == 2
    assert "--device toaster: expected cpu, cuda, cuda:N or auto" in err
    assert not (tmp_path / "study").exists()


def test_missing_frames_are_3(call, tmp_path):
    tiny_data(tmp_path)
    code, _, err = call(*study_arguments(tmp_path))
    assert code == 3
    assert "dark: no such folder" in err


def test_folds_that_cannot_be_are_3_before_anything_is_written(call, tmp_path):
    tiny_data(tmp_path)  # all of one group
    (tmp_path / "dark").mkdir()
    code, _, err = call(*study_arguments(tmp_path, "--folds", "2"))
    assert code == 3
    assert "drink: 1 group(s)" in err
    assert not (tmp_path / "study").exists()


def test_bright_frames_stand_for_enhanced_ones(tmp_path):
    manifest, bright = tiny_data(tmp_path)
    videos = {name: bright.read(name, range(6)) // 4 for name in bright.video_ids}
    dark = write_frames(tmp_path / "dark", videos, origin={"videos": manifest.videos_digest})
    adopt_bright(bright.path, dark.path, tmp_path / "adopted")
    adopt_bright(bright.path, dark.path, tmp_path / "adopted")
    found = FrameStore(tmp_path / "adopted")
    assert found.digest == bright.digest
    assert found.origin == {**dark.origin, "dark": dark.digest, "enhancer": bright.digest, "light": "bright"}
    name = bright.video_ids[0]
    assert (found.read(name, [3]) == bright.read(name, [3])).all()


def test_bright_frames_of_other_videos_are_refused(tmp_path):
    _, bright = tiny_data(tmp_path)
    videos = {name: bright.read(name, range(6)) for name in bright.video_ids}
    first, second, *_ = videos
    videos["new"] = videos.pop(first)
    videos[second] = videos[second][:4]
    write_frames(tmp_path / "dark", videos)
    with pytest.raises(StaleArtifactError) as caught:
        adopt_bright(bright.path, tmp_path / "dark", tmp_path / "adopted")
    assert [finding.partition(":")[0] for finding in caught.value.findings] == ["new", first, second]


@pytest.fixture
def tiny(tmp_path):
    """A folder with manifest, dark and bright frames, parameters of a training of seconds; a group a video."""
    manifest, bright = tiny_data(tmp_path)
    bright.path.rename(tmp_path / "bright")
    write_manifest(tmp_path / "manifest.csv", [replace(row, group=row.video_id) for row in manifest.rows])
    shape, levels = (6, 18, 22), {0: (0, 60), 1: (100, 160)}
    videos = {
        row.video_id: noise_video(row.video_id, shape, low=levels[row.label][0], high=levels[row.label][1]) // 4
        for row in manifest.rows
    }
    write_frames(tmp_path / "dark", videos)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["prepare"]["unlabelled_share"] = 0.0
    training = train_params().model_dump()
    values |= {"clip": CLIP.model_dump(), "views": VIEWS.model_dump()}
    values |= {name: {**training} for name in ("train_teacher", "train_student")}  # YAML writes one object as an anchor
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def start(folder, *more):
    command = [sys.executable, "-m", "stages", *study_arguments(folder, *more, params=folder / "params.yaml")]
    environment = {**os.environ, "DVC_ROOT": str(folder), "COLUMNS": "200"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def made(folder):
    """When each model of the study was written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "study").rglob("*.safetensors")}


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_a_study_whose_terminal_is_gone_stops_its_steps(tiny, sent):
    process = start(tiny, "--seeds", "1", "--no-test", "--jobs", "2")

    def states():
        return [json.loads(path.read_text())["state"] for path in (tiny / "study").glob("steps/*/*/record.json")]

    wait_for(states, lambda seen: seen.count("running") >= 2, seconds=120)
    process.stderr.close()  # as the reader of a pipe, or a terminal, that ended
    os.killpg(process.pid, sent)
    assert process.wait(timeout=60) == 128 + sent
    assert "running" not in states()
    process.stdout.close()


@pytest.mark.slow
def test_a_study_from_frames_to_tables_through_an_interrupt(tiny):
    (tiny / "arms.yaml").write_text(
        "arms:\n  light: {}\n  few: {prepare.unlabelled_share: 0.5}\n  bright: {enhancer: bright}\n"
        "contrasts:\n  total: light - light.baseline\n  bound: bright.teacher - few.baseline\n"
    )
    some = ["--arms", str(tiny / "arms.yaml"), "--bright", str(tiny / "bright"), "--seeds", "2", "--jobs", "2"]
    process = start(tiny, *some, "--no-test")
    wait_for(lambda: list((tiny / "study").glob("steps/train_baseline/*/record.json")), bool, seconds=120)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert (code, out) == (130, ""), err
    assert not list((tiny / "study").glob("study.*"))
    before = made(tiny)

    code, out, err = finish(start(tiny, *some, "--no-test"))
    assert code == 0, err
    assert "Val chooses" in out
    assert f"All steps ran on {machine_name(choose_device('auto'))}." in " ".join(out.split())
    assert not list((tiny / "study").rglob("predictions.csv"))
    after = made(tiny)
    assert {path: after[path] for path in before} == before

    code, out, err = finish(start(tiny, *some, "--arm", "mse: soft_loss=mse", "--json"))
    assert code == 0, err
    assert re.search(r"^study: 18/18 models", err, re.MULTILINE), (
        err
    )  # arms share the baseline, and mse light's teacher
    assert {path: found for path, found in made(tiny).items() if path in after} == after
    values = json.loads(out)
    assert values == json.loads((tiny / "study/study.json").read_text())
    assert len(values["rows"]) == 2 * 4 * 3
    assert {row["test_top1"] is None for row in values["rows"]} == {False}
    assert [each["on"] for each in values["contrasts"]] == ["test", "test"]
    text = (tiny / "study/study.md").read_text()
    assert '- mse: `{"soft_loss": "mse"}`' in text
    with (tiny / "study/contrasts.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["total", "bound"]


@pytest.mark.slow
def test_folds_and_a_failure_that_stops_no_other_run(tiny):
    """A training that no machine can do fails alone; the tables have the others, and the exit code is its."""
    broken = "broken: train_teacher.weights=nowhere.safetensors"
    code, _, err = finish(
        start(tiny, "--arm", "good: ", "--arm", broken, "--seeds", "1", "--folds", "2", "--jobs", "2")
    )
    assert code not in (0, 1), err
    assert "seed0/fold0/broken/train_teacher: exit code" in err
    values = json.loads((tiny / "study/study.json").read_text())
    failed = {(row["arm"], row["model"]) for row in values["rows"] if row["state"] == "failed"}
    assert failed == {("broken", "teacher"), ("broken", "student")}
    good, other = values["contrasts"]
    assert (good["num_runs"], good["num_missing"], other["num_runs"], other["num_missing"]) == (2, 0, 0, 2)


@pytest.mark.slow
def test_the_models_of_a_study_are_those_of_the_stages(tiny):
    """The same commands by hand, in processes of their own and in other work folders, give the same bytes."""
    code, _, err = finish(start(tiny, "--arm", "a: temperature=4", "--seeds", "1", "--first-seed", "3"))
    assert code == 0, err
    design = read_design(None, ["a: temperature=4"], load_params(tiny / "params.yaml"), with_bright=False)
    chain = Chain(tiny / "study", Data(tiny / "manifest.csv", tiny / "dark", None), True, 1, "auto")
    chain.add_runs(design.arms[0], tiny / "manifest.csv", seed=3, fold=None)
    for job in chain.jobs.values():
        if job.identity["stage"] in ("enhance", "train_student"):
            files = [path for out in job.outs for path in ([out] if out.is_file() else sorted(out.iterdir()))]
            expected = {path: path.read_bytes() for path in files}
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "DVC_ROOT": str(tiny / "elsewhere")}
            subprocess.run([sys.executable, "-m", *job.command], cwd=ROOT, env=environment, check=True)
            assert {path: path.read_bytes() for path in files} == expected
