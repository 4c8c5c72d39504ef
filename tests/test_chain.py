"""The whole chain as a user runs it, by dvc in a fresh clone: what runs again, what does not, and what a kill costs."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from clones import clone, commit, environment, run, wait_for_queue
from paths import ROOT
from waiting import wait_for

from pipeline.core.work_folder import stage_of
from pipeline.distill.store.store import SoftTargetStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HOLDER = re.compile(r"process (\d+) ")  # what a lock says of the process that holds it


def stages_run(output):
    return re.findall(r"Running stage '(?:(?:demo|teachers)/dvc\.yaml:)?([\w@]+)'", output)


def content(path):
    """Digest of a file, or of all files of a folder with their names."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    whole = hashlib.sha256()
    for file in files:
        if file.is_file():
            whole.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()


ARTIFACTS = (
    "data/manifest.csv",
    "data/dark",
    "data/enhanced",
    "data/soft_targets.zarr",
    "models/teacher.safetensors",
    "models/student.safetensors",
    "models/baseline.safetensors",
    "results/predictions/student.csv",
    "results/evaluation.json",
    "results/metrics.json",
    "results/report.html",
)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A clone in which the smoke recipe ran once."""
    folder = tmp_path_factory.mktemp("chain")
    clone(folder)
    done = run(folder, "dvc", "repro")
    folder_stages = stages_run(done.stdout)
    assert folder_stages[0] == "demo_videos@smoke"
    assert set(folder_stages[1:]) == set(re.findall(r"^  (\w+):$", (ROOT / "dvc.yaml").read_text(), re.MULTILINE))
    commit(folder, "the lock files")
    return folder


def test_it_ends_with_metrics_of_the_three_models(chain):
    metrics = json.loads((chain / "results/evaluation.json").read_text())
    for name in ("teacher", "student", "baseline"):
        assert 0 <= metrics[name]["top1"] <= metrics[name]["top5"] <= 1
    assert metrics["student_minus_baseline"]["top1"] == pytest.approx(
        metrics["student"]["top1"] - metrics["baseline"]["top1"], abs=2e-6
    )
    shown = json.loads(run(chain, "dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert list(shown) == ["results/metrics.json"]
    assert shown["results/metrics.json"]["data"]["gain"] == round(metrics["student_minus_baseline"]["top1"], 3)
    lines = run(chain, "dvc", "metrics", "show").stdout.splitlines()
    assert max(map(len, lines)) <= 100


def test_nothing_is_left_behind(chain):
    assert run(chain, "git", "status", "--porcelain").stdout == ""
    kept = {path.name.partition("-")[0] for path in (chain / ".work").iterdir() if path.is_dir()}
    assert kept == {"prepare", "enhance", "precompute_soft_targets"}  # for a next run with more videos


def test_a_frame_lies_on_the_disk_once(chain):
    stats = [
        path.stat()
        for place in ("data", ".dvc/cache", ".work")
        for path in (chain / place).rglob("*")
        if path.is_file()
    ]
    on_disk = sum({stat.st_ino: stat.st_size for stat in stats}.values())
    published = sum(path.stat().st_size for path in (chain / "data").rglob("*") if path.is_file())
    models = sum(path.stat().st_size for path in (chain / "models").rglob("*") if path.is_file())
    assert on_disk <= 1.1 * published + models
    assert {path.stat().st_nlink for path in (chain / "data").rglob("*.h5")} == {
        3
    }  # here, in the cache, for the next run


def test_a_second_run_runs_nothing(chain):
    assert stages_run(run(chain, "dvc", "repro").stdout) == []


def test_the_plots_are_there(chain):
    run(chain, "dvc", "plots", "show", "--out", "plots")
    page = (chain / "plots/index.html").read_text()
    for title in ("Top-1 on val", "Training loss", "Confusion of the student"):
        assert title in page
    shutil.rmtree(chain / "plots")


def test_a_run_by_force_gives_the_same_bytes(chain):
    before = {name: content(chain / name) for name in ARTIFACTS}
    run(chain, "dvc", "repro", "--force")
    assert {name: content(chain / name) for name in ARTIFACTS} == before
    assert run(chain, "git", "status", "--porcelain").stdout == ""


def test_a_new_temperature_costs_a_students_training(chain):
    done = run(chain, "dvc", "exp", "run", "-S", "temperature=4")
    assert stages_run(done.stdout) == ["train_student", "score_student", "evaluate", "report"]
    run(chain, "git", "checkout", "-q", "--", ".")
    run(chain, "dvc", "checkout", "-q")


def test_a_further_teacher_costs_its_own_training_and_what_follows(chain, tmp_path):
    folder = tmp_path / "further"
    shutil.copytree(chain, folder, symlinks=True)
    parameters = (folder / "params.yaml").read_text()
    entry = "{enhancer: gamma, network: r2plus1d_slim, seed: 1, clip: null, training: {}}"
    (folder / "params.yaml").write_text(
        parameters.replace("more_teachers: {}\n", f"more_teachers:\n  second: {entry}\n")
    )
    done = run(folder, "dvc", "repro")
    own = {f"{stage}@second" for stage in ("fit_enhancer", "enhance", "train_more_teacher")}
    follow = {"precompute_soft_targets", "train_student", "score_student", "evaluate", "report"}
    assert set(stages_run(done.stdout)) == own | follow
    assert not re.search(r"enhance: [\d,]+ frames, ", done.stdout + done.stderr)  # they are those of the same light
    store = SoftTargetStore(folder / "data/soft_targets.zarr")
    assert [teacher["light"] for teacher in store.attributes["teachers"]] == ["gamma", "gamma"]
    commit(folder, "two teachers")
    assert run(folder, "git", "status", "--porcelain").stdout == ""
    done = run(folder, "dvc", "exp", "run", "-S", "temperature=4")
    assert stages_run(done.stdout) == ["train_student", "score_student", "evaluate", "report"]


def test_folds_cost_their_own_trainings_and_what_follows(chain, tmp_path):
    folder = tmp_path / "folds"
    shutil.copytree(chain, folder, symlinks=True)
    parameters = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(parameters.replace("teacher_folds: null\n", "teacher_folds: 2\n"))
    done = run(folder, "dvc", "repro")
    follow = ["precompute_soft_targets", "train_student", "score_student", "evaluate", "report"]
    assert stages_run(done.stdout) == ["train_teacher_folds", *follow]
    assert {path.stem for path in (folder / "models/teacher_folds").iterdir()} == {"folds", "fold0", "fold1"}
    (teacher,) = SoftTargetStore(folder / "data/soft_targets.zarr").attributes["teachers"]
    assert len(teacher["folds"]) == 2
    models = ["--teacher", "models/teacher.safetensors", "--teacher", "models/teacher_folds"]
    store = ["data/soft_targets.zarr", "--depth", "teacher"]
    run(folder, sys.executable, "-m", "stages", "targets", "verify", *store, *models, "--enhanced", "data/enhanced")
    assert "by 2 models of folds" in (folder / "results/report.html").read_text()
    commit(folder, "folds")
    done = run(folder, "dvc", "exp", "run", "-S", "temperature=4")
    assert stages_run(done.stdout) == ["train_student", "score_student", "evaluate", "report"]


def experiments_of(chain):
    """What `dvc exp show` knows of each experiment, by name."""
    shown = json.loads(run(chain, "dvc", "exp", "show", "--json").stdout)
    experiments = [each for baseline in shown for each in baseline.get("experiments") or []]
    return {each["name"]: each["revs"][0]["data"] for each in experiments}


def test_a_queue_gives_a_row_for_each_temperature(chain):
    run(chain, "dvc", "exp", "run", "-S", "temperature=3,8", "--queue", "--name", "one")
    run(chain, "dvc", "queue", "start")
    status = wait_for_queue(chain)
    found = [data for name, data in experiments_of(chain).items() if name.startswith("one-")]
    assert {data["params"]["params.yaml"]["data"]["temperature"] for data in found} == {3, 8}, status
    assert all(data["metrics"]["results/metrics.json"]["data"]["gain"] is not None for data in found)


def locks_of(chain, stages):
    """The locks of the stages that say which process holds them, or did."""
    locks = (chain / ".work").glob("*.lock")
    return {lock for lock in locks if stage_of(lock) in stages and HOLDER.match(lock.read_text())}


def hold_until_waited_for(lock):
    """Stop the process that holds a stage's lock until another one waits for it: beside other work it can end before
    the other has started, and then there is nothing to take over.
    """
    holder = int(HOLDER.match(lock.read_text())[1])
    os.kill(holder, signal.SIGSTOP)
    try:
        wait_for(lock.with_suffix(".waiting").exists, bool, seconds=300)
    finally:
        os.kill(holder, signal.SIGCONT)


def test_of_two_workers_that_want_the_same_teacher_one_waits_for_the_others(chain):
    training = ("seed=5", "train_teacher.epochs=20", "train_student.epochs=20")
    changes = [word for change in (*training, "temperature=5,6") for word in ("-S", change)]
    run(chain, "dvc", "exp", "run", *changes, "--queue", "--name", "two")
    stages = {"train_teacher", "train_baseline"}
    before = locks_of(chain, stages)
    with subprocess.Popen(("dvc", "queue", "start", "-j", "2"), cwd=chain, env=environment()) as starting:
        while stages:
            (lock,) = wait_for(lambda: locks_of(chain, stages) - before, bool, seconds=300)
            hold_until_waited_for(lock)
            stages.remove(stage_of(lock))
    assert starting.returncode == 0
    status = wait_for_queue(chain)
    found = [data for name, data in experiments_of(chain).items() if name.startswith("two-")]
    assert {data["params"]["params.yaml"]["data"]["temperature"] for data in found} == {5, 6}, status
    for name in ("models/teacher.safetensors", "models/baseline.safetensors"):
        assert len({data["outs"][name]["hash"] for data in found}) == 1
    logs = [run(chain, "dvc", "queue", "logs", line.split()[0]).stdout for line in status if " two-" in line]
    assert len(logs) == 2
    for stage in ("train_teacher", "train_baseline"):
        assert sum(f"{stage}: epoch 0: loss" in log for log in logs) == 1


def test_a_training_is_seen_while_it_runs_in_the_workspace_and_in_a_copy(chain):
    for more in ((), ("--temp",)):
        changes = ("-S", "train_teacher.epochs=200", "-S", f"seed={7 + len(more)}")
        with subprocess.Popen(
            ("dvc", "exp", "run", *more, *changes),
            cwd=chain,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                deadline = time.monotonic() + 300  # DVC alone takes a minute beside other work
                while not (told := told_of_running(chain)):
                    assert process.poll() is None
                    assert time.monotonic() < deadline
            finally:
                os.killpg(process.pid, signal.SIGINT)
        assert told[0]["teacher"].keys() == {"epoch", "train_loss", "val_top1"}
        assert [path.name for path in (chain / "live").iterdir()] == ["README.md"]
        run(chain, "git", "checkout", "-q", "--", ".")
        run(chain, "dvc", "checkout", "-q")
    assert run(chain, "git", "status", "--porcelain").stdout == ""


def told_of_running(chain):
    """What `dvc exp show` knows of the teacher of each experiment that runs; at any moment DVC may know nothing."""
    shown = json.loads(run(chain, "dvc", "exp", "show", "--json").stdout)
    experiments = [each for baseline in shown for each in baseline.get("experiments") or []]
    running = [each for each in experiments if (each.get("executor") or {}).get("state") == "running"]
    revs = [rev.get("data") or {} for each in running for rev in (each["revs"] or [])[:1]]
    files = [(data.get("metrics") or {}).get("live/teacher.json") or {} for data in revs]
    return [file["data"] for file in files if file.get("data")]


def start_and_kill(folder, stage, ready, kill):
    """Start `dvc repro` of one stage, wait until its work folder says `ready`, send a signal to the stage's process."""
    process = subprocess.Popen(
        ("dvc", "repro", "--single-item", stage),
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        deadline = time.monotonic() + 300  # DVC alone takes a minute beside other work
        while not (work := [path for path in (folder / ".work").glob(f"{stage}-*/") if ready(path)]):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        holder = work[0].with_suffix(".lock").read_text()
        os.kill(int(HOLDER.match(holder)[1]), kill)
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    return output


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda kill: kill.name)
@pytest.mark.parametrize(
    ("stage", "out", "values", "ready"),
    [
        (
            "precompute_soft_targets",
            "data/soft_targets.zarr",
            {"  num_views: 2\n": "  num_views: 96\n"},
            lambda work: len(list(work.glob("*.safetensors"))) >= 2,
        ),
        (
            "train_student",
            "models/student.safetensors",
            {"  epochs: 2\n": "  epochs: 40\n"},
            lambda work: (work / "checkpoint.previous.pt").exists(),
        ),
    ],
    ids=["precompute_soft_targets", "train_student"],
)
def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(chain, tmp_path, stage, out, values, ready, kill):
    folder = tmp_path / "killed"
    shutil.copytree(chain, folder, symlinks=True)
    parameters = (folder / "params.yaml").read_text()
    for old, new in values.items():
        assert old in parameters
        parameters = parameters.replace(old, new)
    (folder / "params.yaml").write_text(parameters)
    curve = "--curve results/curves/student.csv"
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(text.replace(curve, f"{curve} --checkpoint-seconds 0"))
    run(folder, "dvc", "repro", "--single-item", stage)
    uninterrupted = content(folder / out)

    # forget the result, so that the same stage has to run once more from the start
    (folder / "dvc.lock").write_text((chain / "dvc.lock").read_text())
    shutil.rmtree(folder / ".dvc/cache/runs", ignore_errors=True)
    shutil.rmtree(folder / ".work")
    output = start_and_kill(folder, stage, ready, kill)
    if kill != signal.SIGKILL:
        assert "interrupted; the progress is saved" in output
        assert f"exited with {128 + kill}" in output
    resumed = run(folder, "dvc", "repro", "--single-item", stage)
    assert stages_run(resumed.stdout) == [stage]
    assert content(folder / out) == uninterrupted
    if stage == "train_student":
        assert "from the checkpoint" in resumed.stdout + resumed.stderr


def train_student(chain, params, out):
    """The student's stage, run by hand in the chain's clone with another parameter file."""
    (out / "other.yaml").write_text(params)
    paths = ["--manifest", "data/manifest.csv", "--frames", "data/dark", "--soft-targets", "data/soft_targets.zarr"]
    outs = ["--out", str(out / "student.safetensors"), "--curve", str(out / "curve.csv")]
    command = [sys.executable, "-m", "stages", "train_student", "--params", str(out / "other.yaml")]
    return run(chain, *command, *paths, *outs, check=False)


def test_wrong_parameters_stop_before_work(chain, tmp_path):
    params = (chain / "params.yaml").read_text()
    params = params.replace("temperature: 2.0", "temperatur: 0").replace("soft_weight: 0.5", "soft_weight: 2")
    done = train_student(chain, params, tmp_path)
    assert done.returncode == 2
    for words in ("did you mean temperature?", "soft_weight", "temperature is missing"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_of_other_clips_is_refused_with_every_difference(chain, tmp_path):
    done = train_student(chain, (chain / "params.yaml").read_text().replace("size: 32", "size: 24"), tmp_path)
    assert done.returncode == 5
    assert "clip: the store has" in done.stderr
    assert "dvc repro precompute_soft_targets" in done.stderr
