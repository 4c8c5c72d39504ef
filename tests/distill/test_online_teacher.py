"""A student whose teacher runs at every step learns what it learns from the cache: the same bits, if none are lost.

From float16 the weights end apart by a share of the way that they went. In 20 tiny trainings of 3 steps, at a learning
rate of 0.002 and with batch normalisation over 7 or 21 clips, that share was 2e-4 in the median, below 2e-3 in 17 and
0.13 in the worst: AdamW's first steps have the same length for the smallest gradients as for the largest.
"""

from __future__ import annotations

import pytest
import torch
import yaml
from builders import CLIP, DEVICE, VIEWS, distillation_params, one_thread, tiny_recognizer, train_params  # noqa: F401 - a fixture
from paths import ROOT
from student_runs import StudentRun, dark_frames
from target_stores import BATCH_SIZE, SEED, make_store, make_teacher, write

from pipeline.core.checkpoint import load_checkpoint
from pipeline.core.errors import Interrupted, ParamsError, StaleArtifactError
from pipeline.data.dataset import Batch, ClipDataset, load_batches, samples_of
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.student.cached_targets import load_targets
from pipeline.distill.student.loss import distillation_loss
from pipeline.train.state import Listener, TrainingData
from pipeline.train.trainer import Trainer
from stages import precompute_soft_targets
from stages.train_student import OnlineTeacher

NUM_STEPS = 6  # 3 epochs of 7 samples in batches of 4 and 3
FLOAT16_TOLERANCE = 5e-3  # distance of the weights over the way they went; the median of five trainings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of each codec, all of the same teacher, frames and views."""
    return {codec: make_store(tmp_path_factory.mktemp(codec), codec=codec) for codec in ("float32", "float16")}


@pytest.fixture(scope="module")
def dark(made, tmp_path_factory):
    return dark_frames(tmp_path_factory.mktemp("dark"), made["float32"])


class Run:
    """A student's training from the cache or with the teacher online, which can be started several times."""

    def __init__(self, folder, made, dark, *, online, initial=9, **changes):
        manifest, self.folder, self.params = made.manifest, folder, train_params(**changes)
        self.initial = initial
        train, val = samples_of(manifest, dark, "train"), samples_of(manifest, dark, "val")
        store = SoftTargetStore(made.path)
        targets = load_targets(
            store, made.rows.video_ids, memory_bytes=2**30, folder=folder, teachers="mean", seed=0, frames=dark
        )
        self.data = TrainingData(dark, train, val, targets, made.frames if online else None)
        self.online = OnlineTeacher(made.teachers[0].recognizer, made.frames, BATCH_SIZE) if online else None

    def loss(self, logits_BK, batch, epoch):
        teacher_BK = self.online.logits(batch) if self.online else batch.teacher_BK
        options = {"soft_loss": "kl", "temperature": 2.0, "soft_weight": 0.7, "options": distillation_params()}
        return distillation_loss(logits_BK, batch.labels_B, teacher_BK, **options)

    def start(self, *, interrupt_after=NUM_STEPS + 1):
        steps = 0

        def stop():
            if steps >= interrupt_after:
                raise Interrupted(15)

        def advance(count, note, *, earlier=False):
            nonlocal steps
            steps += not note.startswith("from")

        trainer = Trainer(
            tiny_recognizer(seed=self.initial), self.data, self.params, self.loss, seed=5, device=DEVICE,
            checkpoint_path=self.folder / "checkpoint.pt", checkpoint_seconds=0,
        )  # fmt: skip
        trained = trainer.run(stop=stop, listener=Listener(advance))
        last_weights = load_checkpoint(trainer.checkpoint_path)["weights"]
        return trained.curve, trained.recognizer.state_dict(), last_weights


def check_same(found, expected):
    curve, *weights = found
    expected_curve, *expected_weights = expected
    assert curve == expected_curve
    for ours, others in zip(weights, expected_weights, strict=True):
        assert [name for name in ours if not torch.equal(ours[name], others[name])] == []


@pytest.fixture(scope="module")
def cached(made, dark, tmp_path_factory):
    return Run(tmp_path_factory.mktemp("cached"), made["float32"], dark, online=False).start()


def test_three_epochs_online_end_with_the_weights_of_three_from_the_cache(made, dark, cached, tmp_path):
    check_same(Run(tmp_path, made["float32"], dark, online=True).start(), cached)


@pytest.mark.parametrize("step", [1, 3, 4])
@pytest.mark.parametrize("online", [False, True])
def test_so_do_those_that_were_interrupted(made, dark, cached, tmp_path, online, step):
    run = Run(tmp_path, made["float32"], dark, online=online)
    with pytest.raises(Interrupted):
        run.start(interrupt_after=step)
    check_same(run.start(), cached)


def test_data_loader_processes_change_nothing(made, dark, cached, tmp_path):
    check_same(Run(tmp_path, made["float32"], dark, online=True, num_workers=2).start(), cached)


def learned(weights):
    """The trained numbers of a state, in one vector."""
    names = [name for name, _ in tiny_recognizer().named_parameters()]
    return torch.cat([weights[name].flatten() for name in names])


def test_from_float16_the_weights_are_nearly_the_same(made, dark, tmp_path):
    shares = []
    for initial in range(5):
        ends = {}
        for codec in made:
            folder = tmp_path / f"{codec}-{initial}"
            folder.mkdir()
            calm = {"batch_size": 7, "learning_rate": 0.002}
            run = Run(folder, made[codec], dark, online=False, initial=initial, **calm)
            ends[codec] = learned(run.start()[-1])
        way = ends["float32"] - learned(tiny_recognizer(seed=initial).state_dict())
        shares.append(((ends["float16"] - ends["float32"]).norm() / way.norm()).item())
    assert 0 < sorted(shares)[2] < FLOAT16_TOLERANCE


def test_what_float16_rounded_away_does_not_matter_online(made, dark, cached, tmp_path):
    check_same(Run(tmp_path, made["float16"], dark, online=True).start(), cached)


def test_a_batch_shows_student_and_teacher_the_same_views_of_their_frames(made, dark):
    made = made["float32"]
    store = SoftTargetStore(made.path)
    ids = made.rows.video_ids
    targets = load_targets(store, ids, memory_bytes=2**30, folder=dark.path, teachers="mean", seed=0)
    samples = samples_of(made.manifest, dark, "train")
    dataset = ClipDataset(dark, samples, targets, CLIP, made.frames)
    online = OnlineTeacher(made.teachers[0].recognizer, made.frames, BATCH_SIZE)
    for batch in load_batches(dataset, iter([[(0, 0), (3, 1), (6, 2)], [(5, 7)]]), num_workers=0):
        assert torch.equal(online.logits(batch), batch.teacher_BK)
        assert batch.teacher_clip_BTHWC.shape == batch.clip_BTHWC.shape
        assert (batch.teacher_clip_BTHWC.float().mean() / batch.clip_BTHWC.float().mean()).item() > 3.5
        moved = batch.to(torch.device("meta"))
        assert {moved.teacher_clip_BTHWC.device.type, moved.teacher_BK.device.type} == {"meta"}


def test_it_computes_where_the_clips_are(made):
    """Of several ranks each has a GPU of its own, which is chosen after the teacher was read."""
    online = OnlineTeacher(tiny_recognizer(), made["float32"].frames, BATCH_SIZE)
    clip_BTHWC = torch.zeros(3, CLIP.num_frames, CLIP.size, CLIP.size, 3, dtype=torch.uint8, device="meta")
    batch = Batch(clip_BTHWC, torch.zeros(3, device="meta"), None, clip_BTHWC, ("a", "b", "c"))
    assert online.logits(batch).device.type == "meta"


# the stage


@pytest.fixture(scope="module")
def run(made):
    made = made["float32"]
    return StudentRun(made.path.parent, made).prepare()


@pytest.fixture(autouse=True)
def work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")


def paths(made):
    return {"teacher_path": made.path.parent / "teacher_0.safetensors", "enhanced_path": made.frames.path}


def test_the_stage_writes_the_same_file_from_cache_and_online(run, made):
    run.train(name="cached")
    run.train(name="online", source="online", **paths(made["float32"]))
    for suffix in ("safetensors", "csv"):
        cached, online = [(run.folder / f"{name}.{suffix}").read_bytes() for name in ("cached", "online")]
        assert cached == online


@pytest.mark.parametrize("absent", [("teacher_path",), ("enhanced_path",), ("teacher_path", "enhanced_path")])
@pytest.mark.parametrize("given", [False, True])
def test_what_an_online_teacher_needs_is_asked_for(run, made, tmp_path, absent, given):
    options = paths(made["float32"]) | dict.fromkeys(absent, tmp_path / "nothing" if given else None)
    with pytest.raises(ParamsError, match=r"soft_targets\.source is online") as caught:
        run.train(source="online", **options)
    assert len(caught.value.findings) == len(absent)
    assert "soft_targets.source to cache" in caught.value.remedy


def test_another_teacher_or_other_frames_are_refused_before_a_step(run, made, dark, tmp_path):
    other = make_teacher(tmp_path / "other.safetensors", seed=8)
    with pytest.raises(StaleArtifactError) as caught:
        run.train(source="online", teacher_path=tmp_path / "other.safetensors", enhanced_path=dark.path)
    findings = "\n".join(caught.value.findings)
    for value in (other.digest, made["float32"].teachers[0].digest, dark.digest, made["float32"].frames.digest):
        assert value in findings
    assert not list(tmp_path.rglob("checkpoint*"))


def test_an_online_teacher_sees_its_own_geometry(tmp_path):
    """As when its store was made: the student comes out the same."""
    made = make_store(tmp_path, codec="float32")
    clip = CLIP.model_copy(update={"num_frames": 4, "frame_stride": 1, "size": 20})
    make_teacher(tmp_path / "teacher_0.safetensors", clip=clip)
    run = StudentRun(tmp_path, made).prepare()
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"seed": SEED, "clip": CLIP.model_dump(), "views": VIEWS.model_dump(), "teacher_clip": clip.model_dump()}
    values["precompute_soft_targets"] |= {"batch_size": BATCH_SIZE, "codec": "float32"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    precompute_soft_targets.main(
        manifest_path=tmp_path / "manifest.csv",
        frames_path=made.frames.path,
        teacher_path=tmp_path / "teacher_0.safetensors",
        out=tmp_path / "denser.zarr",
        params_path=tmp_path / "params.yaml",
        device="cpu",
        workers=1,
    )
    run = StudentRun(tmp_path, made.at(tmp_path / "denser.zarr"))
    run.train(name="cached")
    run.train(name="online", source="online", **paths(made))
    cached, online = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("cached", "online")]
    assert cached == online


def test_several_teachers_are_not_asked_online(tmp_path):
    made = make_store(tmp_path, num_teachers=2)
    with pytest.raises(ParamsError, match="2 teachers"):
        StudentRun(tmp_path, made).prepare().train(source="online", **paths(made))


def test_a_teacher_in_folds_is_not_asked_online(tmp_path):
    made = make_store(tmp_path)
    teachers = [{**teacher, "folds": ["e" * 32]} for teacher in made.attributes["teachers"]]
    codec = SoftTargetStore(made.path).codec
    write(tmp_path / "folds.zarr", made.rows, codec, {**made.attributes, "teachers": teachers})
    run = StudentRun(tmp_path, made.at(tmp_path / "folds.zarr")).prepare()
    with pytest.raises(ParamsError, match="the logits of a teacher in folds"):
        run.train(source="online", **paths(made))
