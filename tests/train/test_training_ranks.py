"""Several ranks train one network: the batches, statistics and validation are those of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from builders import CLIP, VIEWS, tiny_data, tiny_recognizer, train_params
from paths import ROOT

from pipeline.core.device import process_group
from pipeline.core.errors import DlkddError
from pipeline.core.progress import interruptible
from pipeline.core.weights import load_weights, save_weights
from pipeline.data.dataset import BANK, DrawnViews, EpochPlan, samples_of
from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest
from pipeline.models.recognizer import load_model
from pipeline.train.losses import hard_loss
from pipeline.train.state import Listener, TrainingData
from pipeline.train.trainer import Trainer

# small steps of sgd: AdamW, and batch statistics of few values, blow rounding up to whole steps
CHANGES = {"batch_size": 13, "dropout": 0.0, "clip_grad_norm": 0.5, "optimizer": "sgd", "learning_rate": 0.003}


# in each rank's own process


def train(folder, *, name, what="", splits=("train",)):
    """Train on the folder's data, and write down what happened."""
    torch.set_num_threads(1)
    manifest, frames = read_manifest(folder / "manifest.csv"), FrameStore(folder / "frames")
    train, val = samples_of(manifest, frames, *splits), samples_of(manifest, frames, "val")
    data = TrainingData(frames, train, val, DrawnViews(frames, CLIP, VIEWS, seed=0, purpose=BANK))
    seen = []
    with process_group() as ranks, interruptible() as stop:

        def loss(logits_BK, batch, epoch):
            seen.append(batch.video_ids)
            if what and ranks.index == 1 and len(seen) == 3:
                os.kill(os.getpid(), {"die": signal.SIGKILL, "stop": signal.SIGTERM}[what])
            hard = hard_loss(logits_BK, batch.labels_B, label_smoothing=0.0, labelled_share=batch.labelled_share)
            return hard + 0.1 * logits_BK.square().mean()  # of all clips, like a soft loss

        trainer = Trainer(
            tiny_recognizer(num_classes=2, dropout=0.0), data, train_params(**CHANGES), loss, seed=5,
            device=torch.device("cpu"), checkpoint_path=folder / f"{name}.pt", checkpoint_seconds=1e9, ranks=ranks,
        )  # fmt: skip
        try:
            trained = trainer.run(stop=stop, listener=Listener(lambda _count, _note, *, earlier=False: None))
        finally:
            (folder / f"{name}.{ranks.index}.seen").write_text(json.dumps(seen))
        if ranks.index == 0:
            (folder / f"{name}.curve").write_text(json.dumps(trained.curve))
            tensors = {key: value.contiguous().numpy() for key, value in trained.recognizer.state_dict().items()}
            save_weights(folder / f"{name}.safetensors", tensors, {})


def main():
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    try:
        train(folder, **options)
    except DlkddError as error:
        (folder / f"{options['name']}.{os.environ.get('RANK', 0)}.error").write_text(f"{error.exit_code} {error}")
        sys.exit(error.exit_code)


# from outside


def run(folder, num_ranks, **options):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    command = [sys.executable, *(torchrun if num_ranks > 1 else []), __file__, folder, json.dumps(options)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    tiny_data(folder, num_train=25, num_val=5, num_footage=12)
    return folder


def curve(folder, name):
    return json.loads((folder / f"{name}.curve").read_text())


def seen(folder, name, rank):
    return json.loads((folder / f"{name}.{rank}.seen").read_text())


@pytest.fixture(scope="module")
def one(folder):
    """A training in one process: its curve and weights."""
    done = run(folder, 1, name="one")
    assert done.returncode == 0, done.stderr
    return curve(folder, "one"), load_weights(folder / "one.safetensors")[0]


def check_curve(found, expected):
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=2e-3)
        assert row["val_top1"] == other["val_top1"]


def test_two_processes_learn_what_one_does(folder, one):
    done = run(folder, 2, name="two")
    assert done.returncode == 0, done.stderr
    check_curve(curve(folder, "two"), one[0])
    for name, value in load_weights(folder / "two.safetensors")[0].items():
        torch.testing.assert_close(torch.from_numpy(value), torch.from_numpy(one[1][name]), rtol=2e-3, atol=1e-3)


@pytest.mark.slow
def test_footage_counts_in_a_whole_batch_whoever_has_it(folder):
    for num_ranks in (1, 2):
        done = run(folder, num_ranks, name=f"footage{num_ranks}", splits=["train", "unlabelled"])
        assert done.returncode == 0, done.stderr
    check_curve(curve(folder, "footage2"), curve(folder, "footage1"))


@pytest.mark.slow
def test_no_sample_is_counted_twice_and_none_is_left_out(folder):
    assert run(folder, 3, name="three").returncode == 0
    videos = [row.video_id for row in read_manifest(folder / "manifest.csv").rows_of("train")]
    plan = EpochPlan(len(videos), CHANGES["batch_size"], 5)
    of_ranks = [seen(folder, "three", rank) for rank in range(3)]
    for step in range(3 * plan.steps_per_epoch):
        of_step = [video for rank in of_ranks for video in rank[step]]
        assert of_step == [videos[index] for index, _ in plan.batch(step)]


def test_a_signal_to_one_stops_all_after_the_same_step_and_another_number_of_them_goes_on(folder, one):
    assert run(folder, 2, name="stopped", what="stop").returncode != 0
    assert [len(seen(folder, "stopped", rank)) for rank in range(2)] == [3, 3]
    assert [(folder / f"stopped.{rank}.error").read_text()[:3] for rank in range(2)] == ["143", "143"]
    done = run(folder, 1, name="stopped")
    assert done.returncode == 0, done.stderr
    check_curve(curve(folder, "stopped"), one[0])
    assert len(seen(folder, "stopped", 0)) == 6 - 3


@pytest.mark.slow
def test_when_a_rank_is_killed_none_waits_for_it(folder):
    started = time.monotonic()
    assert run(folder, 2, name="dead", what="die").returncode != 0
    assert time.monotonic() - started < 60
    assert not (folder / "dead.curve").exists()
    for name in ("dead", "whole"):  # it goes on to the bytes of a run of two that nobody killed
        assert run(folder, 2, name=name).returncode == 0
    assert curve(folder, "dead") == curve(folder, "whole")
    assert (folder / "dead.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()


@pytest.mark.slow
def test_a_stage_starts_its_processes_by_itself_and_writes_one_model(folder):
    values = yaml.safe_load((ROOT / "configs/smoke.yaml").read_text())
    values |= {"clip": CLIP.model_dump(), "views": VIEWS.model_dump(), "train_student": train_params().model_dump()}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    options = ["--manifest", "manifest.csv", "--frames", "frames", "--out", "baseline.safetensors", "--curve", "c.csv"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DLKDD_PROCESSES": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages", "train_baseline", *options, "--tensorboard", "boards"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("best epoch") == 1
    assert load_model(folder / "baseline.safetensors").trained_on["skipped_steps"] == 0
    assert len((folder / "c.csv").read_text().splitlines()) == 1 + 3
    (events,) = (folder / "boards" / "train_baseline").iterdir()
    assert b"data_wait" in events.read_bytes()


if __name__ == "__main__":
    main()
