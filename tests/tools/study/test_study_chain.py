"""A study runs what dvc.yaml runs, and arms share what is equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from builders import tiny_data
from paths import ROOT

from pipeline.core.params import load_params, overridden
from pipeline.tools.study.arms import read_design
from pipeline.tools.study.chain import MORE_TEACHER, STAGES, Chain, Data

DVC_STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
MORE_STAGES = yaml.safe_load((ROOT / "teachers/dvc.yaml").read_text())["stages"]
FURTHER = "{{enhancer: {}, network: r2plus1d_slim, seed: 1, clip: null, training: {{}}}}"
DUAL = f"dual: more_teachers='{{dark: {FURTHER.format('none')}}}'"
TWO = f"two: more_teachers='{{second: {FURTHER.format('clahe')}}}'"


@pytest.fixture(scope="module")
def params():
    dials = {"enhancer": "clahe", "temperature": 2.0, "prepare.unlabelled_share": 0.0}
    return overridden(load_params(ROOT / "params.yaml"), dials, name="the demo")


@pytest.fixture
def chain_of(params, tmp_path):
    """Makes the chain of these arms over seeds and folds, and its runs."""
    tiny_data(tmp_path)

    def chain_of(*arms, seeds=(0,), folds=(None,), with_test=True, params=params, threads=1):
        data = Data(tmp_path / "manifest.csv", tmp_path / "frames", tmp_path / "bright")
        chain = Chain(tmp_path / "study", data, with_test, threads, "cpu")
        design = read_design(None, arms, params, with_bright=any("bright" in arm for arm in arms))
        chain.runs = []
        for seed in seeds:
            for fold in folds:
                manifest = data.manifest
                if fold is not None:
                    manifest = tmp_path / f"fold{fold}_of_{seed}.csv"
                    manifest.write_text(f"{seed} {fold}")
                for arm in design.arms:
                    chain.runs += chain.add_runs(arm, manifest, seed=seed, fold=fold)
        return chain

    return chain_of


def stage(job):
    return job.identity["stage"]


def jobs_of(chain, *stages):
    return [job for job in chain.jobs.values() if stage(job) in stages]


def option(job, name):
    return job.command[job.command.index(name) + 1]


def test_the_stages_use_what_dvc_yaml_says():
    assert {name: set(found.uses) for name, found in STAGES.items()} == {
        name: set(DVC_STAGES[name].get("params", [])) for name in STAGES
    }
    of_dvc = MORE_STAGES["train_more_teacher"]["do"]["params"]
    assert set(MORE_TEACHER.uses) == {param.removesuffix(".${key}") for param in of_dvc}


def test_the_jobs_have_the_options_of_dvc_yaml(chain_of):
    commands = {**{name: found["cmd"] for name, found in DVC_STAGES.items()}}
    commands["train_more_teacher"] = MORE_STAGES["train_more_teacher"]["do"]["cmd"]
    commands["fit_enhancer"] = MORE_STAGES["fit_enhancer"]["do"]["cmd"]
    seen = set()
    for job in chain_of(DUAL).jobs.values():
        seen.add(stage(job))
        options = {word for word in job.command if word.startswith("--")} - {"--params", "--device", "--workers"}
        # --curves is for a last line that compares, --live for DVC; a first teacher's enhancer is the parameters'
        expected = {word for word in commands[stage(job)].split() if word.startswith("--")} - {"--curves", "--live"}
        assert options in (expected, expected - {"--enhancer"} if stage(job) == "fit_enhancer" else expected)
    assert seen == {*STAGES, "train_more_teacher"}


def test_every_input_is_data_or_what_an_earlier_job_makes(chain_of, tmp_path):
    made = {tmp_path / "manifest.csv", tmp_path / "frames", tmp_path / "bright"}
    for job in chain_of("a: ", DUAL, "b: enhancer=bright", "z: enhancer=zero_dce", seeds=(0, 1)).jobs.values():
        assert set(job.inputs.values()) <= made, job.name
        assert not set(job.outs) & made, job.name
        made |= set(job.outs)


def test_names_and_folders_tell_jobs_apart(chain_of):
    jobs = chain_of("a: ", DUAL, TWO, seeds=(0, 1), folds=(0, 1)).jobs.values()
    assert len({job.name for job in jobs}) == len({job.folder for job in jobs}) == len(jobs)


ENHANCED = ("train_teacher", "train_teacher_folds", "precompute_soft_targets", "score_teacher")


def test_teacher_and_dark_are_not_mixed_up(chain_of, tmp_path):
    for job in chain_of().jobs.values():
        if "--frames" in job.inputs:
            sees_enhanced = stage(job) in ENHANCED
            assert (job.inputs["--frames"] != tmp_path / "frames") == sees_enhanced


@pytest.mark.parametrize(
    ("arm", "new"),
    [
        ("temperature=4", {"train_student", "score_student"}),
        ("train_student.label_smoothing=0.1", {"train_student", "train_baseline", "score_student", "score_baseline"}),
        ("score.num_clips=5", {"score_teacher", "score_student", "score_baseline"}),
        ("enhancer=none", {*STAGES} - {"train_baseline", "score_baseline"}),
        ("enhancer=bright", {*STAGES} - {"train_baseline", "score_baseline", "fit_enhancer", "enhance"}),
    ],
)
def test_another_arm_costs_what_is_new_in_it(chain_of, arm, new):
    alone, both = chain_of("a: "), chain_of("a: ", f"b: {arm}")
    assert {stage(both.jobs[folder]) for folder in both.jobs.keys() - alone.jobs.keys()} == new


def test_a_further_teacher_costs_itself_the_soft_targets_and_a_student(chain_of):
    alone, both = chain_of("a: "), chain_of("a: ", TWO)
    new = [stage(both.jobs[folder]) for folder in both.jobs.keys() - alone.jobs.keys()]
    assert sorted(new) == ["precompute_soft_targets", "score_student", "train_more_teacher", "train_student"]


def test_a_further_teacher_varies_with_the_seed(chain_of):
    chain = chain_of(TWO, seeds=(0, 3))
    seeds = [job.identity["params"]["more_teachers"]["seed"] for job in jobs_of(chain, "train_more_teacher")]
    assert seeds == [100_000, 100_003]
    for job in jobs_of(chain, "train_more_teacher"):
        found = load_params(Path(option(job, "--params")))
        assert found.more_teachers["second"].seed == job.identity["params"]["more_teachers"]["seed"]


def test_precompute_finds_further_teachers_in_one_folder(chain_of):
    chain = chain_of(DUAL)
    (teacher,), (soft,) = (jobs_of(chain, name) for name in ("train_more_teacher", "precompute_soft_targets"))
    folder = Path(option(soft, "--more-teachers"))
    assert (folder / "records/dark.json").resolve() == Path(option(teacher, "--record")).resolve()
    assert (folder / "made/dark/model.safetensors").resolve() == Path(option(teacher, "--out")).resolve()
    assert (folder / "made/dark/frames").resolve() == Path(option(teacher, "--frames")).resolve()
    assert Path(option(teacher, "--record")) in soft.inputs.values()


@pytest.mark.parametrize(("enhancer", "times"), [("clahe", 1), ("zero_dce", 4)])
def test_frames_are_made_once_for_all_seeds_where_the_enhancer_is_not_learned(chain_of, enhancer, times):
    chain = chain_of(f"a: enhancer={enhancer}", seeds=(0, 1), folds=(0, 1))
    assert len(jobs_of(chain, "enhance")) == len(jobs_of(chain, "fit_enhancer")) == times
    assert len(jobs_of(chain, "train_teacher")) == 4


def test_a_bright_teacher_sees_the_bright_frames(chain_of, tmp_path):
    chain = chain_of("a: enhancer=bright")
    assert not jobs_of(chain, "fit_enhancer", "enhance")
    for job in jobs_of(chain, "train_teacher", "precompute_soft_targets", "score_teacher"):
        assert job.inputs["--frames"] == tmp_path / "bright"


def test_parameters_of_an_arm_reach_the_jobs_that_use_them(chain_of):
    for job in chain_of("dkd: soft_loss=dkd", seeds=(3,)).jobs.values():
        if stage(job) != "enhance":
            found = yaml.safe_load(Path(option(job, "--params")).read_text())
            assert (found["seed"], found["soft_loss"]) == (3, "dkd")
            assert job.identity["params"].items() <= found.items()


def test_another_manifest_device_or_number_of_threads_is_another_job(chain_of, tmp_path):
    before = set(chain_of().jobs)
    assert not before & set(chain_of(threads=2).jobs)
    (tmp_path / "manifest.csv").write_text("other")
    assert {path.parent.name for path in before & set(chain_of().jobs)} == {"fit_enhancer", "enhance"}


def test_without_test_nothing_is_scored(chain_of):
    chain = chain_of(with_test=False)
    assert not [job for job in chain.jobs.values() if stage(job).startswith("score")]
    assert {run.scoring for run in chain.runs} == {None}
