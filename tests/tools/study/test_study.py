"""A study runs what dvc.yaml runs, varies the student alone, and compares within a seed."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import stdev

import numpy as np
import pytest
import yaml
from builders import CLASSES, CLIP, VIEWS, noise_video, tiny_data, train_params, write_frames
from paths import ROOT

from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.params import load_params
from pipeline.evaluate.score.predictions import Predictions, write_predictions
from pipeline.tools.study.results import Row, estimate, read_results, summarise, table, verdict, write_rows
from pipeline.tools.study.study import STUDENT_ALONE, USES, Study, read_variants

DVC_STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.fixture(scope="module")
def params():
    """With a temperature and a weight of their own: what ships may change."""
    return load_params(ROOT / "params.yaml").model_copy(update={"temperature": 2.0, "soft_weight": 0.5})


@pytest.fixture
def study_of(params, tmp_path):
    """Makes studies whose data and folder have the names that `study_arguments` gives them."""

    def study_of(variants=("",), *, seeds=(0, 1), params=params, with_test=True):
        paths = [tmp_path / name for name in ("manifest.csv", "dark", "enhanced", "study")]
        how = {"params": params, "with_test": with_test, "threads": 1, "device": "cpu"}
        return Study(*paths, seeds, read_variants(variants, params), **how)

    return study_of


def stage(job):
    return job.identity["stage"]


# variants


def test_variants_have_their_names_and_values(params):
    first, named, other = read_variants(
        ["", "dkd: soft_loss=dkd temperature=4", "distillation.extra_temperatures='[1.0, 4.0]' soft_weight=0.9"], params
    )
    assert (first.name, first.params) == ("default", params)
    assert (named.name, named.params.soft_loss, named.params.temperature) == ("dkd", "dkd", 4)
    assert other.params.distillation.extra_temperatures == [1.0, 4.0]
    assert other.params.model_copy(update={"distillation": params.distillation, "soft_weight": 0.5}) == params
    assert len({each.folder_name for each in (first, named, other)}) == 3
    assert all(re.fullmatch(r"[\w.+=-]+", each.folder_name) for each in (first, named, other))


@pytest.mark.parametrize("key", ["soft_loss", "temperature", "soft_weight", "soft_targets.teachers", "distillation"])
def test_what_the_student_alone_uses_may_vary(key):
    assert key.partition(".")[0] in STUDENT_ALONE


@pytest.mark.parametrize(
    ("variant", "finding"),
    [
        ("train_student.epochs=3", "train_student.epochs: train_baseline would have to run again with it"),
        ("clip.size=32", "train_teacher and precompute_soft_targets and train_baseline would"),
        ("student=r3d_18", "student: train_baseline would"),
        ("seed=3", "seed: a study sets the seeds itself"),
        ("enhancer=gamma", "enhancer: is used before the study begins, or after it"),
        ("temprature=3", "temprature is not a parameter; did you mean temperature?"),
        ("distillation.dkd_bta=3", "did you mean distillation.dkd_beta?"),
        ("temperature=-1", "temperature: input should be greater than 0, not -1"),
        ("temperature.x=1", "temperature: input should be a valid number"),
        ("temperature=[", "'temperature=[': the value is not YAML"),
        ("temperature=3 temperature=4", "temperature: is set twice"),
        ("temperature", "'temperature' is not key=value"),
        ("=3", "'=3' is not key=value"),
        ("'temperature=3", "No closing quotation"),
        ("temperature=2.0", "has the same parameters as default"),
        ("a b: temperature=3", "a variant has this name already"),
    ],
)
def test_what_a_variant_may_not_be_is_refused(params, variant, finding):
    with pytest.raises(ParamsError, match=re.escape(finding)):
        read_variants(["", "a_b: soft_loss=mse", variant], params)


def test_all_findings_come_at_once(params):
    with pytest.raises(ParamsError) as caught:
        read_variants(["clip.size=32 temperature=-1", "good: temperature=3", "bad: soft_loss=magic"], params)
    assert len(caught.value.findings) == 3
    assert caught.value.findings[2].startswith("bad: soft_loss: ")


# the plan


def test_the_stages_use_what_dvc_yaml_says():
    assert {stage: set(used) for stage, used in USES.items()} == {
        stage: set(DVC_STAGES[stage]["params"]) for stage in USES
    }


def test_the_jobs_have_the_options_of_dvc_yaml(study_of):
    jobs = list(study_of().jobs())
    assert {stage(job) for job in jobs} == set(USES)
    for job in jobs:
        options = {word for word in job.command if word.startswith("--")} - {"--params", "--device", "--workers"}
        of_stage = {word for word in DVC_STAGES[stage(job)]["cmd"].split() if word.startswith("--")}
        # a study has neither further teachers nor folds, and compares with the baseline itself
        assert options == of_stage - {"--more-teachers", "--teacher-folds", "--curves"}


def test_every_input_is_data_or_what_an_earlier_job_makes(study_of, tmp_path):
    made = {tmp_path / name for name in ("manifest.csv", "dark", "enhanced")}
    for job in study_of(["", "temperature=4"]).jobs():
        assert set(job.inputs.values()) <= made, job.name
        assert not set(job.outs) & made, job.name
        made |= set(job.outs)


def test_teacher_and_dark_are_not_mixed_up(study_of, tmp_path):
    for job in study_of().jobs():
        sees = "enhanced" if stage(job) in ("train_teacher", "precompute_soft_targets", "score_teacher") else "dark"
        assert job.inputs["--frames"] == tmp_path / sees


def test_a_variant_costs_a_student_and_a_seed_a_chain(study_of):
    names = [
        {job.name for job in study.jobs()}
        for study in (study_of([""]), study_of(["", "dkd: soft_loss=dkd"]), study_of([""], seeds=(0, 1, 2)))
    ]
    assert names[1] - names[0] == {f"seed{seed}/{stage}_student/dkd" for seed in (0, 1) for stage in ("train", "score")}
    assert names[2] - names[0] == {name.replace("seed0", "seed2") for name in names[0] if name.startswith("seed0/")}


def test_parameters_of_a_variant_reach_its_student_alone(study_of):
    for job in study_of(["dkd: soft_loss=dkd"], seeds=(3,)).jobs():
        found = yaml.safe_load(Path(job.command[job.command.index("--params") + 1]).read_text())
        assert found["seed"] == 3
        assert (found["soft_loss"] == "dkd") == stage(job).endswith("student")
        assert job.identity["params"].items() <= found.items()


def test_without_test_nothing_is_scored(study_of):
    assert not any(stage(job).startswith("score") for job in study_of(with_test=False).jobs())


# statistics


def test_t_is_the_tables():
    """NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, column 0.975."""
    expected = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 30: 2.042, 100: 1.984}
    for degrees, t in expected.items():
        values = range(degrees + 1)
        assert estimate(values).half == pytest.approx(t * stdev(values) / math.sqrt(len(values)), rel=2.5e-4)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = [abs(found.mean - 3) <= found.half for found in (estimate(rng.normal(3, 2, 4)) for _ in range(4000))]
    assert np.mean(hits) == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 4000))


def test_one_seed_has_no_interval():
    assert estimate([0.5]).half is None


# results


def rows_of(values, *, seeds=range(3)):
    """Rows of a study from (val, test, seconds) of each seed by model and variant."""
    return [Row(seed, *key, *values[key][number]) for number, seed in enumerate(seeds) for key in values]


VALUES = {
    ("teacher", ""): [(0.9, 0.9, 60.0), (0.9, 0.8, 60.0), (0.9, 0.7, 60.0)],
    ("baseline", ""): [(0.5, 0.5, 60.0), (0.6, 0.6, 120.0), (0.7, 0.7, 60.0)],
    ("student", "a"): [(0.6, 0.6, 120.0), (0.7, 0.7, 120.0), (0.8, 0.8, 120.0)],
    ("student", "b"): [(0.4, 0.9, 60.0), (0.6, 0.9, None), (0.8, 0.7, 60.0)],
}


def test_gains_are_within_a_seed():
    """A student that is above by the same in every seed has no spread, however the seeds differ."""
    by_name = {line.variant or line.model: line for line in summarise(rows_of(VALUES)).lines}
    gain = by_name["a"].test_gain
    assert (gain.mean, gain.half) == (pytest.approx(0.1), pytest.approx(0, abs=1e-9))
    assert by_name["a"].test.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3))
    assert (by_name["a"].num_above, by_name["b"].num_above) == (3, 2)  # equal is not above
    assert by_name["teacher"].test_gain is None


def test_val_chooses_though_test_would_choose_another():
    results = summarise(rows_of(VALUES))
    assert results.chosen.variant == "a"
    assert verdict(results).startswith("val chooses a: 70.0 ± 24.8 % on val; on test 70.0 ± 24.8 %, +10.0 ± 0.0 points")
    assert verdict(results).endswith("above it for 3 of 3 seeds")


def test_cost_is_against_the_baseline_of_the_seed_and_may_be_unknown():
    by_name = {line.variant or line.model: line for line in summarise(rows_of(VALUES)).lines}
    assert by_name["a"].times_baseline == pytest.approx((2 + 1 + 2) / 3)
    assert by_name["b"].minutes == 1


def test_without_test_there_are_no_columns_of_it():
    values = {key: [(val, None, seconds) for val, _, seconds in found] for key, found in VALUES.items()}
    results = summarise(rows_of(values))
    headers, cells = table(results)
    assert not any("test" in header for header in headers)
    assert {len(row) for row in cells} == {len(headers)}
    assert "test" not in verdict(results)
    assert results.chosen.num_above == 3  # on val


def test_the_rows_are_read_from_what_the_jobs_wrote(study_of, tmp_path):
    manifest, _ = tiny_data(tmp_path, num_test=4)
    study = study_of(["temperature=4"], seeds=(7,))
    video_ids = tuple(row.video_id for row in manifest.rows_of("test"))
    for number, files in enumerate(study.models(7)):
        files.folder.mkdir(parents=True, exist_ok=True)
        files.curve.write_text(f"epoch,val_top1\n0,0.{number}\n1,0.9\n2,0.2\n")
        labels_N = np.array([manifest.class_index(row) for row in manifest.rows_of("test")])
        probs_NK = np.eye(2)[np.where(np.arange(4) < number, labels_N, 1 - labels_N)]  # so many are right
        write_predictions(files.predictions, Predictions(video_ids, labels_N, probs_NK, CLASSES[:2]))
    seconds = {job.name: 60.0 for job in study.jobs()}
    results = read_results(study, seconds, manifest)
    assert [row.test_top1 for row in results.rows] == [0, 0.25, 0.5]
    assert {row.val_top1 for row in results.rows} == {0.9}
    write_rows(tmp_path / "study.csv", results.rows)
    found = list(csv.DictReader((tmp_path / "study.csv").read_text().splitlines()))
    assert found[2] == {
        "seed": "7",
        "model": "student",
        "variant": "temperature=4",
        "val_top1": "0.9",
        "test_top1": "0.5",
        "seconds": "60",
    }
    files.predictions.write_text("video_id\n")
    with pytest.raises(StaleArtifactError):
        read_results(study, seconds, manifest)


# the command


def study_arguments(folder, *more, params=ROOT / "params.yaml"):
    paths = {"--manifest": "manifest.csv", "--dark": "dark", "--enhanced": "enhanced", "--out": "study"}
    named = [word for option, name in paths.items() for word in (option, str(folder / name))]
    return ["study", *named, "--params", str(params), *more]


def test_wrong_variants_stop_it_before_anything_is_written(call, tmp_path):
    tiny_data(tmp_path)
    (tmp_path / "dark").mkdir()
    (tmp_path / "variants.txt").write_text("# two\n\nhot: temperature=9  # very\nseed=1\n")
    more = ["--variants", str(tmp_path / "variants.txt"), "--variant", "temperature=0"]
    code, out, err = call(*study_arguments(tmp_path, *more))
    assert (code, out) == (2, "")
    assert "seed=1: seed: a study sets the seeds itself" in err
    assert "temperature=0: temperature: input should be greater than 0" in err
    assert "hot" not in err
    assert not (tmp_path / "study").exists()


def test_several_teachers_are_not_studied(call, tmp_path):
    tiny_data(tmp_path)
    entry = {"enhancer": "none", "network": "r2plus1d_slim", "seed": 1, "clip": None, "training": {}}
    values = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"more_teachers": {"second": entry}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    code, _, err = call(*study_arguments(tmp_path, params=tmp_path / "params.yaml"))
    assert code == 2
    assert "more_teachers has second" in err
    assert not (tmp_path / "study").exists()


def test_missing_frames_are_3(call, tmp_path):
    tiny_data(tmp_path)
    code, _, err = call(*study_arguments(tmp_path))
    assert code == 3
    assert "dark: no such folder" in err
    assert "enhanced: no such folder" in err


@pytest.fixture
def tiny(tmp_path):
    """A folder with manifest, dark and enhanced frames, and parameters of a training of seconds."""
    manifest, enhanced = tiny_data(tmp_path)
    enhanced.path.rename(tmp_path / "enhanced")
    shape, levels = (6, 18, 22), {0: (0, 60), 1: (100, 160)}
    videos = {
        row.video_id: noise_video(row.video_id, shape, low=levels[row.label][0], high=levels[row.label][1]) // 4
        for row in manifest.rows
    }
    write_frames(tmp_path / "dark", videos)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    training = train_params().model_dump()
    values |= {"clip": CLIP.model_dump(), "views": VIEWS.model_dump()}
    values |= {name: {**training} for name in ("train_teacher", "train_student")}  # YAML writes one object as an anchor
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def start(folder, *more):
    command = [sys.executable, "-m", "stages", *study_arguments(folder, *more, params=folder / "params.yaml")]
    environment = {**os.environ, "DVC_ROOT": str(folder), "COLUMNS": "200"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def made(folder):
    """When each file of the study's seeds was written."""
    return {path: path.stat().st_mtime_ns for path in (folder / "study").rglob("*.safetensors")}


@pytest.mark.slow
def test_a_study_from_frames_to_table(tiny):
    two = ["--variant", "", "--variant", "dkd: soft_loss=dkd temperature=4", "--seeds", "2", "--jobs", "2"]
    process = start(tiny, "--variant", "", "--no-test")
    begun = tiny / "study/seed0/steps/train_baseline/record.json"
    deadline = time.monotonic() + 120
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert (code, out) == (130, ""), err
    assert not list((tiny / "study").glob("study.*"))
    before = made(tiny)

    code, out, err = finish(start(tiny, *two, "--no-test"))
    assert code == 0, err
    assert "val chooses" in out
    assert not list((tiny / "study").rglob("predictions.csv"))
    after = made(tiny)
    assert {path: after[path] for path in before} == before
    assert before

    code, out, err = finish(start(tiny, *two, "--variant", "mse: soft_loss=mse", "--json"))
    assert code == 0, err
    assert {path: found for path, found in made(tiny).items() if path in after} == after
    results = json.loads(out)
    assert len(results["rows"]) == 2 * 5
    assert {row["test_top1"] is None for row in results["rows"]} == {False}
    text = (tiny / "study/study.md").read_text()
    assert "- dkd: `soft_loss=dkd temperature=4`" in text
    assert "| mse |" in text


@pytest.mark.slow
def test_the_student_of_a_study_is_the_one_of_the_stages(tiny, study_of):
    """The same command by hand, in another work folder, gives the same bytes."""
    code, _, err = finish(start(tiny, "--variant", "temperature=4", "--seeds", "1", "--first-seed", "3"))
    assert code == 0, err
    study = study_of(["temperature=4"], seeds=(3,), params=load_params(tiny / "params.yaml"))
    files = study.models(3)[2]
    (job,) = [job for job in study.jobs() if stage(job) == "train_student"]
    expected = files.weights.read_bytes()
    files.weights.unlink()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DVC_ROOT": str(tiny / "elsewhere")}
    subprocess.run(job.command, cwd=ROOT, env=environment, check=True)
    assert files.weights.read_bytes() == expected
