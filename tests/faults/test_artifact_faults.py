"""Artifacts that are damaged, cut off, missing or another run's: each reader says which it is, or makes the same.

One tiny whole chain is made once; every case is a copy of it, one damage, and a stage that reads the damaged file.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from builders import one_thread  # noqa: F401 - a fixture
from whole_chain import OUTS, READERS, content, make_chain, run

from pipeline.data.manifest import read_manifest, write_manifest
from pipeline.train import run as train_run
from stages import fit_enhancer

# Tables without a digest of their own: their form is checked, digits of them are not
PLAIN = ("data/quarantine.csv", "data/light.csv", "results/curves/teacher.csv", "results/curves/student.csv")
PLAIN = (*PLAIN, "results/curves/baseline.csv")
GUARDED = sorted(READERS.keys() - set(PLAIN))
# What the page leaves out where it is not there: whoever was given the soft targets alone lacks it
OPTIONAL = tuple(f"models/{name}.safetensors" for name in ("enhancer", "teacher", "baseline"))


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """All artifacts of a run."""
    return make_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def copies(chain, tmp_path, monkeypatch):
    """`copies()`: a new copy of the chain, which is the current folder then; the one before goes."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    folder = tmp_path / "copy"

    def copied():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(chain, folder)
        monkeypatch.chdir(folder)
        return folder

    return copied


def offsets(rng, length, number):
    """Places all over a file, half of them where formats keep what they say about themselves: start and end."""
    ends = [*range(min(length, 1024)), *range(max(0, length - 256), length)]
    return [rng.choice(ends) if rng.random() < 0.5 else rng.randrange(length) for _ in range(number)]


def with_a_bit_flipped(whole, offset, bit):
    changed = bytearray(whole)
    changed[offset] ^= 1 << bit
    return bytes(changed)


def outcome(chain, copy, stage):
    """A stage on a copy: its code, what it said, and whether its outs are the chain's."""
    said = run(stage)
    same = said.code == 0 and all(content(copy / out) == content(chain / out) for out in OUTS[stage])
    return said, same


@pytest.mark.fault("Artifacts", "a bit flipped anywhere in an artifact with a digest", "E")
@pytest.mark.parametrize("artifact", GUARDED)
def test_a_flipped_bit_is_told_or_changes_nothing(chain, copies, artifact, scale, cases):
    rng = random.Random(artifact)
    whole = (chain / artifact).read_bytes()
    places = offsets(rng, len(whole), scale(3, 24))
    for number, offset in enumerate(places):
        stage = READERS[artifact][number % len(READERS[artifact])]
        copy, bit = copies(), rng.randrange(8)
        (copy / artifact).write_bytes(with_a_bit_flipped(whole, offset, bit))
        said, same = outcome(chain, copy, stage)
        where = f"{artifact}, byte {offset}, bit {bit}, {stage}: {said.code} {said.err}"
        if artifact == "data/manifest.csv":
            assert said.code in (0, 3, 5), where
            # numbers that no stage computes with move the manifest's digest, by which the next ones know it
            assert said.code or same or run("report").code == 5, where
        else:
            assert said.code == 5 or same, where
        assert same or said.code == 0 or "help: " in said.err, where
    cases(len(places))


@pytest.mark.fault("Artifacts", "a bit flipped in a table for people: its form is checked", "E")
@pytest.mark.parametrize("artifact", PLAIN)
def test_a_flipped_bit_of_a_plain_table_is_no_bug(chain, copies, artifact, scale, cases):
    rng = random.Random(artifact)
    whole = (chain / artifact).read_bytes()
    places = offsets(rng, len(whole), scale(3, 24))
    for offset in places:
        copy = copies()
        (copy / artifact).write_bytes(with_a_bit_flipped(whole, offset, rng.randrange(8)))
        said = run(READERS[artifact][0])
        assert said.code in (0, 3, 5), f"{artifact}, byte {offset}: {said.err}"
    cases(len(places))


def cut(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def replaced_by_a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "its first byte alone": lambda path: path.write_bytes(path.read_bytes()[:1]),
    "its first half": cut(0.5),
    "without its last byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "missing": Path.unlink,
    "a folder": replaced_by_a_folder,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a picture": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)),
    "a page": lambda path: path.write_text("<!doctype html><title>404</title>\n"),
    "with bytes behind it": lambda path: path.write_bytes(path.read_bytes() + b"garbage\n"),
}


@pytest.mark.fault("Artifacts", "an artifact cut off, missing, or something else in its place", "E")
@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_not_whole_is_refused(chain, copies, kind, scale, cases):
    tried = [(artifact, stage) for artifact in sorted(READERS) for stage in READERS[artifact]]
    tried = random.Random(kind).sample(tried, scale(6, len(tried)))
    for artifact, stage in tried:
        copy = copies()
        DAMAGE[kind](copy / artifact)
        said, same = outcome(chain, copy, stage)
        if kind == "missing" and stage in ("report", "train_student") and artifact in OPTIONAL:
            assert said.code == 0, said.err
            continue
        where = f"{artifact} {kind}, {stage}: {said.code} {said.err}"
        assert said.code in (3, 5) or same, where
        assert said.code != 3 or artifact in ("data/manifest.csv", "data/quarantine.csv"), where
        assert same or "help: " in said.err, where
    cases(len(tried))


OTHERS = {
    "another seed": {"seed": 1},
    "other classes": {"class_names": ("fall", "jump", "wave")},
    "other videos": {"salt": "other videos"},
    "another enhancer": {"enhancer": "none"},
}
# Which stage must refuse an artifact of another run, with a word of the field that differs
SWAPPED = {
    "another seed": {
        ("models/teacher.safetensors", "train_student"): "teachers.digest",
        ("models/teacher.safetensors", "report"): "teacher's file",
        ("models/student.safetensors", "report"): "student's file",
        ("models/baseline.safetensors", "report"): "baseline's file",
        ("data/soft_targets.zarr", "train_student"): "teachers.digest",
        ("data/soft_targets.zarr", "report"): "soft-target store",
        ("results/predictions", "report after evaluate"): "student's file",
        ("results/evaluation.json", "report"): "student's file",
        ("results/tables", "report"): "tables",
    },
    "other classes": {
        ("data/manifest.csv", "precompute_soft_targets"): "class names",
        ("data/manifest.csv", "train_student"): "class_names",
        ("data/manifest.csv", "score_student"): "other classes",
        ("data/manifest.csv", "evaluate"): "classes",
        ("models/teacher.safetensors", "precompute_soft_targets"): "class names",
        ("models/student.safetensors", "score_student"): "other classes",
        ("data/soft_targets.zarr", "train_student"): "class_names",
        ("results/predictions", "evaluate"): "classes",
        ("results/evaluation.json", "report"): "manifest",
    },
    "another enhancer": {
        ("models/enhancer.safetensors", "report"): "its enhancer",
        ("data/enhanced", "report"): "its enhanced store",
        ("data/soft_targets.zarr", "train_student"): "teachers.digest",
        ("data/soft_targets.zarr", "report"): "its enhanced store",
    },
    "other videos": {
        ("data/manifest.csv", "train_teacher"): "digest of all videos",
        ("data/manifest.csv", "precompute_soft_targets"): "digest of all videos",
        ("data/manifest.csv", "train_student"): "digest of all videos",
        ("data/manifest.csv", "score_baseline"): "digest of all videos",
        ("data/manifest.csv", "evaluate"): "manifest",
        ("data/dark", "train_student"): "digest of all videos",
        ("data/dark", "score_student"): "digest of all videos",
        ("data/dark", "report"): "dark store",
        ("data/enhanced", "train_teacher"): "digest of all videos",
        ("data/enhanced", "precompute_soft_targets"): "digest of all videos",
        ("data/enhanced", "score_teacher"): "digest of all videos",
        ("data/enhanced", "report"): "dark store",
        ("data/soft_targets.zarr", "train_student"): "digests.manifest",
        ("models/student.safetensors", "report"): "manifest",
        ("results/predictions", "evaluate"): "its manifest",
        ("results/evaluation.json", "report"): "manifest",
    },
}


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Whole chains of other runs, each made when it is first asked for."""
    made = {}

    def other(kind):
        if kind not in made:
            made[kind] = make_chain(
                tmp_path_factory.mktemp("other"), light=0 if "enhancer" in kind else 30, **OTHERS[kind]
            )
        return made[kind]

    return other


@pytest.mark.fault("Artifacts", "swapped with another run's: seed, classes, videos, enhancer", "E")
@pytest.mark.parametrize("kind", SWAPPED)
def test_another_runs_artifact_is_refused_with_the_field_that_differs(copies, others, kind, cases):
    for (artifact, stage), field in SWAPPED[kind].items():
        copy, other = copies(), others(kind) / artifact
        if other.is_dir():
            shutil.rmtree(copy / artifact)
            shutil.copytree(other, copy / artifact)
        else:
            shutil.copyfile(other, copy / artifact)
        first, _, after = stage.partition(" after ")
        if after:
            assert run(after).code == 0
        said = run(first)
        assert (said.code, field in said.err) == (5, True), f"{artifact} in {stage}: {said.code} {said.err}"
        assert "help: " in said.err
    cases(len(SWAPPED[kind]))


@pytest.mark.fault("Artifacts", "student's and baseline's files exchanged", "E")
def test_exchanged_predictions_do_not_become_a_gain(copies):
    copy = copies()
    student, baseline = (copy / f"results/predictions/{name}.csv" for name in ("student", "baseline"))
    held = student.read_bytes()
    student.write_bytes(baseline.read_bytes())
    baseline.write_bytes(held)
    said = run("evaluate")
    if said.code == 0:
        said = run("report")
    assert said.code == 5
    assert "student's file" in said.err


@pytest.mark.fault("Artifacts", "predictions of other views than the parameters say", "E")
def test_predictions_of_other_views_are_refused(copies):
    copy = copies()
    text = (copy / "params.yaml").read_text()
    assert "num_clips: 1\n" in text
    (copy / "params.yaml").write_text(text.replace("num_clips: 1\n", "num_clips: 2\n"))
    said = run("evaluate")
    assert said.code == 5
    assert "its views is 1x1, this run's 2x1" in said.err


@pytest.mark.fault("Artifacts", "a label of the manifest changed by hand, the frames as they were", "E")
def test_a_changed_label_does_not_reach_the_student(copies):
    copy = copies()
    path = copy / "data/manifest.csv"
    rows = list(read_manifest(path).rows)
    at = next(index for index, row in enumerate(rows) if row.split == "train")
    other = next(row for row in rows if row.label != rows[at].label)
    rows[at] = replace(rows[at], label=other.label, class_name=other.class_name)
    write_manifest(path, rows)
    for stage in ("train_student", "evaluate", "report"):
        said = run(stage)
        assert said.code == 5, said.err
        assert "manifest" in said.err


# progress


def work_file(pattern):
    (path,) = Path(".work").glob(pattern)
    return path


def stopped(*_arguments, **_options):
    raise KeyboardInterrupt


def stop_student():
    """A student's training that is stopped before it publishes: its checkpoints are there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_run, "_publish", stopped)
        with contextlib.suppress(KeyboardInterrupt):
            run("train_student", "--checkpoint-seconds", "0")


@pytest.mark.fault("Artifacts", "the newest checkpoint damaged: the one before is used", "R")
def test_a_damaged_checkpoint_costs_a_step(chain, copies, scale, cases):
    rng = random.Random(0)
    copy = copies()
    stop_student()
    left = copy.with_name("left")
    shutil.copytree(copy / ".work", left)
    damages = [*DAMAGE.values(), *(None for _ in range(scale(2, 30)))]
    damages = damages if scale(0, 1) else rng.sample(damages, 4)
    for damage in damages:
        copy = copies()
        shutil.copytree(left, copy / ".work")
        path = work_file("train_student-*/checkpoint.pt")
        if damage is None:
            whole = path.read_bytes()
            path.write_bytes(with_a_bit_flipped(whole, rng.randrange(len(whole)), rng.randrange(8)))
        else:
            damage(path)
        said, same = outcome(chain, copy, "train_student")
        assert same, said.err
    cases(len(damages))


@pytest.mark.fault("Artifacts", "all checkpoints damaged", "E")
def test_only_damaged_checkpoints_are_told_with_the_way_out(chain, copies):
    copy = copies()
    stop_student()
    for path in Path(".work").glob("train_student-*/checkpoint*.pt"):
        path.write_bytes(bytes(100))
    said = run("train_student")
    assert said.code == 5
    assert "remove the folder" in said.err
    shutil.rmtree(path.parent)
    assert outcome(chain, copy, "train_student")[1]


PROGRESS = {
    ("enhance", "enhance-*/records/*.json"),
    ("enhance", "enhance-*/frames/*.h5"),
    ("enhance", "enhance-*/kept.json"),
    ("enhance", "enhance-*/fingerprint.json"),
    ("precompute_soft_targets", "precompute_soft_targets-*/*.safetensors"),
    ("precompute_soft_targets", "precompute_soft_targets-*/fingerprint.json"),
}


@pytest.mark.fault("Artifacts", "progress damaged: records, shards, rows of soft targets", "R")
@pytest.mark.parametrize(("stage", "pattern"), sorted(PROGRESS))
def test_damaged_progress_is_made_again(chain, copies, stage, pattern, scale, cases):
    rng = random.Random(pattern)
    assert outcome(chain, copies(), stage)[1]
    left = Path.cwd().with_name("left")
    shutil.copytree(".work", left)
    files = [damage for kind, damage in DAMAGE.items() if kind != "a folder"]  # nobody makes one in there
    damages = [*files, *(None for _ in range(scale(6, 30)))]
    damages = damages if scale(0, 1) else rng.sample(damages, 4)
    for damage in damages:
        copy = copies()
        shutil.copytree(left, copy / ".work")
        path = work_file(pattern)
        if damage is None:
            whole = path.read_bytes()
            path.write_bytes(with_a_bit_flipped(whole, rng.choice(offsets(rng, len(whole), 9)), rng.randrange(8)))
        else:
            damage(path)
        said, same = outcome(chain, copy, stage)
        assert same, said.err
    cases(len(damages))


@pytest.mark.fault("Artifacts", "a finished fit of an enhancer damaged in the work folder", "R")
def test_a_damaged_fit_is_fitted_again(copies):
    copy = copies()
    text = (copy / "params.yaml").read_text()
    for old, new in {"enhancer: gamma\n": "enhancer: zero_dce\n", "steps: 1000\n": "steps: 2\n"}.items():
        assert old in text
        text = text.replace(old, new)
    (copy / "params.yaml").write_text(text.replace("size: 64\n", "size: 16\n"))
    assert run("fit_enhancer").code == 0
    expected = {out: content(copy / out) for out in OUTS["fit_enhancer"]}
    for name in ("enhancer.safetensors", "curve.csv", "fitted.json"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fit_enhancer, "publish", stopped)
            with contextlib.suppress(KeyboardInterrupt):
                run("fit_enhancer")
        path = work_file(f"fit_enhancer-*/{name}")
        whole = path.read_bytes()
        path.write_bytes(with_a_bit_flipped(whole, len(whole) - 3, 0))
        said = run("fit_enhancer")
        assert said.code == 0, said.err
        assert {out: content(copy / out) for out in OUTS["fit_enhancer"]} == expected
