"""Whatever is done to a store in whatever order, it is the one that is made from scratch, or its damage is known.

A state machine over write, kill, go on, grow, shrink, videos with and without a label, teachers that come, go and are
replaced, damage, verify and merge, beside a model in plain dicts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import CLIP, VIEWS, manifest_row, noise_video, one_thread, write_frames  # noqa: F401 - a fixture
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from long_run import LONG
from target_stores import contents, rows_of_teacher, teacher_attributes

from pipeline.core.files import PARTIAL_SUFFIX, publish
from pipeline.core.weights import load_weights
from pipeline.core.work_folder import work_folder
from pipeline.data.dataset import BANK, samples_of
from pipeline.data.listing import NO_LABEL, TAUGHT, UNLABELLED
from pipeline.data.manifest import write_manifest
from pipeline.data.views import VIEW_POLICY_VERSION, draw_view, read_view
from pipeline.distill.store import store as soft_targets
from pipeline.distill.store.codecs import codec_of
from pipeline.distill.store.rows import concatenate
from pipeline.distill.store.store import SoftTargetStore, write_store
from pipeline.distill.teacher import precompute
from pipeline.distill.teacher.precompute import (
    CachedTeacher,
    Packing,
    TeacherInference,
    compute_part,
    keys_of,
    pack_store,
    parts_of,
)
from pipeline.distill.teacher.row_cache import RowCache
from pipeline.distill.teacher.weights import on_val
from pipeline.tools.targets.merge import merge_teachers, merge_videos
from pipeline.tools.targets.verify import verify

NAMES = ("drink", "jump", "wave")
VIDEOS = tuple(f"{NAMES[index % 3]}/{index}" for index in range(6))
FOOTAGE = ("lake/0", "night/0")  # without a label; in ids they come between the classes
VAL = ("drink/val", "wave/val")
TEACHERS = {"one": "7" * 32, "two": "8" * 32, "two again": "9" * 32, "three": "a" * 32}
LIGHTS = {"one": "one", "two": "two", "two again": "two", "three": "three"}  # of the frames that each sees
LISTS = (
    ("one",), ("two",), ("one", "two"), ("one", "two again"), ("two again", "one"),
    ("one", "two", "three"), ("one", "two again", "three"),
)  # fmt: skip
CODECS = ({"name": "float16"}, {"name": "float32"}, {"name": "topk", "k": 2})
PER_PART = 2
SEED = 5


class Teacher(torch.nn.Module):
    """Logits that are a simple function of the pixels."""

    architecture = type("Named", (), {"name": "simple", "clip": CLIP})

    def __init__(self, name):
        super().__init__()
        self.divisor = {"one": 10, "two": 20, "two again": 15, "three": 40}[name]

    def forward(self, clip_BTHWC):
        return clip_BTHWC.float().mean(dim=(1, 2, 3)) / self.divisor


class World:
    """What does not change between two runs of the machine: frames, manifests, and each store made from scratch.

    `computed` are the videos of each teacher that `make` computed.
    """

    def __init__(self, folder):
        self.folder = folder
        shape = (5, 18, 22)
        label = {name: NAMES.index(name.split("/")[0]) for name in (*VIDEOS, *VAL)}
        rows = {name: manifest_row(name, label[name], "val" if name in VAL else "train", shape) for name in label}
        rows |= {name: manifest_row(name, NO_LABEL, UNLABELLED, shape, class_name="") for name in FOOTAGE}
        lights = {
            light: write_frames(folder / light, {name: noise_video(f"{name} {light}", shape) for name in rows})
            for light in LIGHTS.values()
        }
        self.frames = {teacher: lights[light] for teacher, light in LIGHTS.items()}
        # every class is there in each of them
        labelled = [s for n in range(3, 7) for s in combinations(sorted(VIDEOS), n) if classes_of(s) == set(NAMES)]
        footage = [s for n in range(3) for s in combinations(FOOTAGE, n)]
        self.subsets = [tuple(sorted(one + other)) for one in labelled for other in footage]
        self.manifests = {
            s: write_manifest(folder / f"{i}.csv", [rows[n] for n in (*s, *VAL)]) for i, s in enumerate(self.subsets)
        }
        of_store = (*VIDEOS, *FOOTAGE)
        self.logits_VK = {(name, teacher): self.logits_of(name, teacher) for name in of_store for teacher in TEACHERS}
        self.scratch = {}

    def logits_of(self, name, teacher):
        """By another way than the pipeline's."""
        frames = self.frames[teacher]
        options = {"seed": SEED, "purpose": BANK, "video_id": name}
        views = [draw_view(frames.shape(name), CLIP, VIEWS, number=n, **options) for n in range(VIEWS.num_views)]
        clips = [read_view(frames, name, view, CLIP)[None] for view in views]
        return np.array([Teacher(teacher)(clip_1THWC)[0].numpy() for clip_1THWC in clips])

    def from_scratch(self, subset, codec, teachers):
        """Files of the store of some videos and teachers."""
        key = (subset, str(codec), teachers)
        if key not in self.scratch:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            self.make(folder, folder / "store", subset, codec, teachers)
            self.require_logits(folder / "store", subset, codec, teachers)
            self.scratch[key] = contents(folder / "store")
        return self.scratch[key]

    def require_logits(self, path, subset, codec, teachers):
        """A store made from scratch holds the teachers' logits, and names what each saw."""
        store = SoftTargetStore(path)
        rows = concatenate([store.read_shard(shard) for shard in range(store.num_shards)])
        assert rows.video_ids == subset
        expected = np.array([[self.logits_VK[name, teacher] for teacher in teachers] for name in subset])
        expected = np.moveaxis(expected, 1, 2)
        found = [(teacher["digest"], teacher["frames"]) for teacher in store.attributes["teachers"]]
        assert found == [(TEACHERS[teacher], self.frames[teacher].digest) for teacher in teachers]
        assert store.attributes["digests"]["manifest"] == self.manifests[subset].digest
        assert store.num_unlabelled == len(set(subset) & set(FOOTAGE))
        assert ("weight" in store.attributes["teachers"][0]) == (len(teachers) > 1)
        for axis, teacher in enumerate(teachers):
            digest_of = {row.video_id: row.digest for row in self.frames[teacher].rows}
            found = [digest.tobytes().hex() for digest in rows.arrays["frames_digest"][:, axis]]
            assert found == [digest_of[name] for name in subset]
        packer = codec_of(codec, 3)
        assert np.allclose(rows.logits(packer), packer.unpack(packer.pack(expected)), atol=1e-3)

    def make(self, work, built, subset, codec, teachers):
        """As the stage does it; returns how many rows were computed, and what removes the parts of other videos."""
        cached, cached_val, num_new = [], [], 0
        for teacher in teachers:
            frames, folder = self.frames[teacher], work / teacher
            folder.mkdir(exist_ok=True)
            samples = samples_of(self.manifests[subset], frames, *TAUGHT)
            val = samples_of(self.manifests[subset], frames, "val") if len(teachers) > 1 else []
            cached.append(CachedTeacher(RowCache(folder), keys_of([sample.video_id for sample in samples], frames)))
            new = cached[-1].missing()
            how = TeacherInference(
                name=teacher, teacher=(Path(teacher), TEACHERS[teacher]), frames=(frames.path, frames.digest),
                folder=folder, clip=CLIP, views=VIEWS, seed=SEED, batch_size=4, device="cpu", num_workers=0,
            )  # fmt: skip
            cached_val.append(CachedTeacher(RowCache(folder / "val"), keys_of([each.video_id for each in val], frames)))
            how_val = replace(how, folder=folder / "val", views=None)
            for part in (*parts_of(new, how), *parts_of(cached_val[-1].missing(), how_val)):
                compute_part(part)
            num_new += len(new)
            cached[-1].cache.refresh()
            cached_val[-1].cache.refresh()
        packing = Packing(cached, [sample.label for sample in samples], codec_of(codec, 3))
        manifest = self.manifests[subset]
        named = [
            teacher_attributes(name, TEACHERS[name], light=name, frames=self.frames[name].digest) for name in teachers
        ]
        if val:
            weights = on_val(np.stack([each.logits() for each in cached_val], axis=1), [sample.label for sample in val])
            named = [{**one, **other} for one, other in zip(named, weights, strict=True)]
        attributes = {
            "class_names": list(manifest.class_names),
            **unlabelled_of(subset),
            "clip": CLIP.model_dump(),
            "view_policy": {**VIEWS.policy(), "seed": SEED, "version": VIEW_POLICY_VERSION},
            "batch_size": 4,
            "teachers": named,
            "digests": {"manifest": manifest.digest, "dark": None},
        }
        pack_store(built, packing, attributes, max_kl=100.0)
        return num_new, lambda: [each.cache.remove_others(each.keys) for each in (*cached, *cached_val)]


def classes_of(subset):
    return {name.split("/")[0] for name in subset}


def unlabelled_of(subset):
    """The attribute for the footage among some videos."""
    number = len(set(subset) & set(FOOTAGE))
    return {"num_unlabelled": number} if number else {}


def without_weight(teacher):
    return {name: value for name, value in teacher.items() if name not in ("weight", "top1_on_val")}


class Killed(BaseException):
    """The process ends here, as by SIGKILL."""


@contextmanager
def killed_at(number):
    """Let the process die at its number-th touch of the disk; a dead process touches nothing more.

    Threads of zarr, which would live on here, are left to end; tests/distill/test_precompute.py kills whole processes.
    """
    touches = {"left": number}

    def dying(function):
        def touch(*arguments, **options):
            if threading.current_thread() is threading.main_thread():
                if touches["left"] == 0:
                    raise Killed
                touches["left"] -= 1
            return function(*arguments, **options)

        return touch

    places = [
        (os, "fsync"), (os, "replace"), (shutil, "rmtree"), (Path, "replace"), (Path, "unlink"),
        (Path, "write_bytes"), (Path, "write_text"), (precompute.Packing, "rows"), (soft_targets, "check_rows"),
        (precompute, "write_store"),
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        for owner, name in places:
            patched.setattr(owner, name, dying(getattr(owner, name)))
        yield


class StoreMachine(RuleBasedStateMachine):
    """A store at `out`; the model is what it should hold, in `published`, and the parts of each teacher."""

    world: World

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.world.folder))
        self.out = self.folder / "soft_targets.zarr"
        os.environ["DVC_ROOT"] = str(self.folder)
        self.subset, self.codec, self.teachers = self.world.subsets[0], CODECS[0], LISTS[0]
        self.published = None  # (subset, codec, teachers) of the store that is there
        self.damaged = False
        self.parts = set()  # (teacher, frozenset of videos)

    def teardown(self):
        shutil.rmtree(self.folder)

    # the model

    def plan(self):
        """Parts that the next run makes."""
        planned = []
        for teacher in self.teachers:
            kept = frozenset().union(*(videos for of, videos in self.parts if of == teacher))
            new = [name for name in self.subset if name not in kept]
            planned += [(teacher, frozenset(new[at : at + PER_PART])) for at in range(0, len(new), PER_PART)]
        return planned

    def kept(self, parts):
        """Those that a run to its end leaves: it looks after the teachers that it has."""
        return {(of, videos) for of, videos in parts if of not in self.teachers or videos & set(self.subset)}

    def run(self):
        with work_folder("machine", params={}, inputs={}, format_version=1) as work:
            built = work.path / f"store{PARTIAL_SUFFIX}"
            num_new, remove_others = self.world.make(work.path, built, self.subset, self.codec, self.teachers)
            publish(built, self.out)
            remove_others()
        return num_new

    def parts_there(self):
        """Whole parts in the work folder."""
        for folder in self.folder.glob(".work/machine-*/"):
            if folder.is_dir():
                paths = folder.glob("*/*.safetensors")
                return {(path.parent.name, frozenset(load_weights(path)[1]["video_ids"])) for path in paths}
        return set()

    # rules

    @rule(data=st.data())
    def grow(self, data):
        larger = [subset for subset in self.world.subsets if set(subset) >= set(self.subset)]
        self.subset = data.draw(st.sampled_from(larger))

    @rule(data=st.data())
    def shrink(self, data):
        smaller = [subset for subset in self.world.subsets if set(subset) <= set(self.subset)]
        self.subset = data.draw(st.sampled_from(smaller))

    @rule(codec=st.sampled_from(CODECS))
    def choose_codec(self, codec):
        self.codec = codec

    @rule(teachers=st.sampled_from(LISTS))
    def choose_teachers(self, teachers):
        self.teachers = teachers

    @rule()
    def write(self):
        plan = self.plan()
        assert self.run() == sum(len(videos) for _, videos in plan)
        self.parts = self.kept(self.parts.union(plan))
        assert self.parts_there() == self.parts
        self.published, self.damaged = (self.subset, self.codec, self.teachers), False

    @rule(touches=st.integers(0, 60))
    def write_and_die(self, touches):
        before, plan = self.published, self.plan()
        try:
            with killed_at(touches):
                self.run()
        except Killed:
            pass
        there = self.parts_there()
        assert self.kept(self.parts) <= there
        assert there <= self.parts.union(plan)
        self.parts = there
        wanted = (self.subset, self.codec, self.teachers)
        if not self.out.exists():
            self.published = None
        elif contents(self.out) == self.world.from_scratch(*wanted):
            self.published, self.damaged = wanted, False
        else:
            assert before is not None  # and the invariant says that it is the old store still

    @precondition(lambda self: self.published and not self.damaged)
    @rule(data=st.data())
    def damage(self, data):
        files = sorted(path for path in self.out.glob("*/c/**/*") if path.is_file())
        file = data.draw(st.sampled_from(files))
        content = bytearray(file.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content)
        self.damaged = True

    @precondition(lambda self: self.published and not self.damaged)
    @rule(data=st.data())
    def lose_a_file(self, data):
        data.draw(st.sampled_from(sorted(path for path in self.out.rglob("*/*") if path.is_file()))).unlink()
        self.damaged = True

    @precondition(lambda self: self.published)
    @rule()
    def check(self):
        verdict = verify(self.out, "checksums")
        assert verdict.whole != self.damaged, verdict.findings

    @precondition(lambda self: self.published and not self.damaged)
    @rule(data=st.data())
    def split_and_merge(self, data):
        subset, codec, teachers = self.published
        pairs = [
            (one, other)
            for one in self.world.subsets
            if set(one) < set(subset) and (other := tuple(n for n in subset if n not in one)) in self.world.manifests
        ]
        if not pairs:
            return
        whole = SoftTargetStore(self.out)
        rows = concatenate([whole.read_shard(shard) for shard in range(whole.num_shards)])
        given = {n: v for n, v in whole.attributes.items() if n in ("class_names", "clip", "view_policy", "batch_size")}
        stores = []
        for number, part in enumerate(data.draw(st.sampled_from(pairs))):
            path = self.folder / f"part-{number}"
            digests = {**whole.attributes["digests"], "manifest": self.world.manifests[part].digest}
            same = {n: whole.attributes[n] for n in ("teachers", "codec_error")}
            write_store(
                path, [rows.take([row for row, name in enumerate(rows.video_ids) if name in part])],
                codec=codec_of(codec, 3), num_rows=len(part), num_views=VIEWS.num_views, num_teachers=len(teachers),
                attributes={**given, **same, **unlabelled_of(part), "digests": digests},
            )  # fmt: skip
            stores.append(SoftTargetStore(path))
        merge_videos(stores, self.folder / "merged", manifest=self.world.manifests[subset])
        self.require_merged()

    @precondition(lambda self: self.published and not self.damaged and len(self.published[2]) > 1)
    @rule()
    def split_and_merge_teachers(self):
        subset, codec, _teachers = self.published
        whole = SoftTargetStore(self.out)
        rows = concatenate([whole.read_shard(shard) for shard in range(whole.num_shards)])
        stores = []
        teachers = [without_weight(teacher) for teacher in whole.attributes["teachers"]]
        for axis, teacher in enumerate(teachers):
            path = self.folder / f"part-{axis}"
            given = ("class_names", "clip", "view_policy", "batch_size", "digests", "codec_error")
            write_store(
                path, [rows_of_teacher(rows, axis)], codec=codec_of(codec, 3), num_rows=len(subset),
                num_views=VIEWS.num_views, num_teachers=1,
                attributes={**{n: whole.attributes[n] for n in given}, **unlabelled_of(subset), "teachers": [teacher]},
            )  # fmt: skip
            stores.append(SoftTargetStore(path))
        merge_teachers(stores, self.folder / "merged")
        assert SoftTargetStore(self.folder / "merged").attributes["teachers"] == teachers
        self.require_merged()

    def require_merged(self):
        """The merged store has the bytes of the published one, but for its attributes."""
        expected = {name: content for name, content in contents(self.out).items() if name != "zarr.json"}
        found = contents(self.folder / "merged")
        found.pop("zarr.json")
        assert found == expected
        for path in (*self.folder.glob("part-*"), self.folder / "merged"):
            shutil.rmtree(path)

    # what is always so

    @invariant()
    def it_is_the_store_that_is_made_from_scratch(self):
        assert self.out.exists() == (self.published is not None)
        if self.published is None or self.damaged:
            return
        assert contents(self.out) == self.world.from_scratch(*self.published)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DVC_ROOT", "")
        patched.setattr(soft_targets, "CHUNK_ROWS", 1)
        patched.setattr(soft_targets, "SHARD_ROWS", 2)
        patched.setattr(precompute, "CLIPS_PER_PART", PER_PART * VIEWS.num_views)
        patched.setattr(precompute, "_teacher", lambda teacher, _device: Teacher(teacher[0].name))
        StoreMachine.world = World(tmp_path_factory.mktemp("world"))
        yield StoreMachine


def search(machine, examples, steps):
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=list(HealthCheck)),
    )


def test_any_order_of_a_few_steps(machine):
    search(machine, 8, 20)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_any_order_of_many_steps(machine):
    search(machine, 30 if LONG else 12, 50)
