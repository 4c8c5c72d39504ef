"""Whatever is done to a store in whatever order, it is the one that is made from scratch, or its damage is known.

A state machine over write, kill, go on, grow, shrink, damage, verify and merge, beside a model in plain dicts.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import CLIP, VIEWS, manifest_row, noise_video, one_thread, write_frames  # noqa: F401 - a fixture
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from target_stores import contents

from pipeline.core.files import PARTIAL_SUFFIX, publish
from pipeline.core.weights import load_weights
from pipeline.core.work_folder import work_folder
from pipeline.data.dataset import BANK, samples_of
from pipeline.data.manifest import write_manifest
from pipeline.data.views import VIEW_POLICY_VERSION, draw_view, read_view
from pipeline.distill.store import store as soft_targets
from pipeline.distill.store.codecs import codec_of
from pipeline.distill.store.rows import concatenate
from pipeline.distill.store.store import SoftTargetStore, write_store
from pipeline.distill.teacher import precompute
from pipeline.distill.teacher.precompute import Packing, TeacherInference, compute_part, keys_of, pack_store, parts_of
from pipeline.distill.teacher.row_cache import RowCache
from pipeline.models.recognizer import ModelFile
from pipeline.tools.targets.merge import merge_videos
from pipeline.tools.targets.verify import verify

NAMES = ("drink", "jump", "wave")
VIDEOS = tuple(f"{NAMES[index % 3]}/{index}" for index in range(6))
CODECS = ({"name": "float16"}, {"name": "float32"}, {"name": "topk", "k": 2})
PER_PART = 2
SEED = 5
CPU = torch.device("cpu")


class Teacher(torch.nn.Module):
    """Logits that are a simple function of the pixels."""

    architecture = type("Named", (), {"name": "simple", "clip": CLIP})

    def forward(self, clip_BTHWC):
        return clip_BTHWC.float().mean(dim=(1, 2, 3)) / 10


def logits_of_clip(clip_THWC):
    return (clip_THWC[None].float().mean(dim=(1, 2, 3)) / 10)[0].numpy()


class World:
    """What does not change between two runs of the machine: frames, manifests, and each store made from scratch."""

    def __init__(self, folder):
        self.folder = folder
        shape = (5, 18, 22)
        rows = {name: manifest_row(name, NAMES.index(name.split("/")[0]), "train", shape) for name in VIDEOS}
        self.frames = write_frames(folder, {name: noise_video(name, shape) for name in VIDEOS})
        # every class is there in each of them
        self.subsets = [s for n in range(3, 7) for s in combinations(sorted(VIDEOS), n) if classes_of(s) == set(NAMES)]
        self.manifests = {
            s: write_manifest(folder / f"{i}.csv", [rows[n] for n in s]) for i, s in enumerate(self.subsets)
        }
        self.teacher = ModelFile(Teacher(), NAMES, {}, "7" * 32)
        self.logits_VK = {name: self.logits_of(name) for name in VIDEOS}
        self.scratch = {}

    def logits_of(self, name):
        """By another way than the pipeline's."""
        frames = self.frames
        options = {"seed": SEED, "purpose": BANK, "video_id": name}
        views = [draw_view(frames.shape(name), CLIP, VIEWS, number=n, **options) for n in range(VIEWS.num_views)]
        return np.array([logits_of_clip(read_view(frames, name, view, CLIP)) for view in views])

    def from_scratch(self, subset, codec):
        """Files of the store of some videos."""
        key = (subset, str(codec))
        if key not in self.scratch:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            self.make(folder, folder / "store", subset, codec)
            self.require_logits(folder / "store", subset, codec)
            self.scratch[key] = contents(folder / "store")
        return self.scratch[key]

    def require_logits(self, path, subset, codec):
        """A store made from scratch holds the teacher's logits."""
        store = SoftTargetStore(path)
        rows = concatenate([store.read_shard(shard) for shard in range(store.num_shards)])
        assert rows.video_ids == subset
        expected = np.array([self.logits_VK[name] for name in subset])[:, :, None]
        packer = codec_of(codec, 3)
        assert np.allclose(rows.logits(packer), packer.unpack(packer.pack(expected)), atol=1e-3)

    def make(self, work, built, subset, codec):
        """As the stage does it; returns how many videos were computed, and what removes the parts of others."""
        samples = samples_of(self.manifests[subset], self.frames, "train")
        cache, keys = RowCache(work), keys_of(samples, self.frames)
        new = [key[0] for key in keys if key not in cache]
        how = TeacherInference(
            teacher=(Path("teacher"), self.teacher.digest), frames=(self.frames.path, self.frames.digest),
            folder=work, clip=CLIP, views=VIEWS, seed=SEED, batch_size=4, device="cpu", num_workers=0,
        )  # fmt: skip
        for part in parts_of(new, how):
            compute_part(part)
        cache.refresh()
        packing = Packing(cache, keys, [sample.label for sample in samples], codec_of(codec, 3))
        manifest = self.manifests[subset]
        attributes = {
            "class_names": list(manifest.class_names),
            "clip": CLIP.model_dump(),
            "view_policy": {**VIEWS.model_dump(), "seed": SEED, "version": VIEW_POLICY_VERSION},
            "batch_size": 4,
            "digests": {"manifest": manifest.digest, "frames": self.frames.digest, "enhancer": None},
        }
        pack_store(built, packing, self.teacher, attributes, max_kl=100.0)
        return len(new), lambda: cache.remove_others(keys)


def classes_of(subset):
    return {name.split("/")[0] for name in subset}


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
    """A store at `out`; the model is what it should hold, in `published`, and the parts that should be kept."""

    world: World

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.world.folder))
        self.out = self.folder / "soft_targets.zarr"
        os.environ["DVC_ROOT"] = str(self.folder)
        self.subset, self.codec = self.world.subsets[0], CODECS[0]
        self.published = None  # (subset, codec) of the store that is there
        self.damaged = False
        self.parts = set()  # frozensets of videos

    def teardown(self):
        shutil.rmtree(self.folder)

    # the model

    def plan(self):
        """Parts that the next run makes."""
        kept = frozenset().union(*self.parts)
        new = [name for name in self.subset if name not in kept]
        return [frozenset(new[start : start + PER_PART]) for start in range(0, len(new), PER_PART)]

    def run(self):
        with work_folder("machine", params={}, inputs={}, format_version=1) as work:
            built = work.path / f"store{PARTIAL_SUFFIX}"
            num_new, remove_others = self.world.make(work.path, built, self.subset, self.codec)
            publish(built, self.out)
            remove_others()
        return num_new

    def parts_there(self):
        """Whole parts in the work folder."""
        for folder in self.folder.glob(".work/machine-*/"):
            if folder.is_dir():
                return {frozenset(load_weights(path)[1]["video_ids"]) for path in folder.glob("*.safetensors")}
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

    @rule()
    def write(self):
        plan = self.plan()
        assert self.run() == sum(map(len, plan))
        self.parts = {part for part in self.parts.union(plan) if part & set(self.subset)}
        assert self.parts_there() == self.parts
        self.published, self.damaged = (self.subset, self.codec), False

    @rule(touches=st.integers(0, 60))
    def write_and_die(self, touches):
        before, plan = self.published, self.plan()
        try:
            with killed_at(touches):
                self.run()
        except Killed:
            pass
        there = self.parts_there()
        assert {part for part in self.parts if part & set(self.subset)} <= there
        assert there <= self.parts.union(plan)
        self.parts = there
        wanted = (self.subset, self.codec)
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
        subset, codec = self.published
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
                codec=codec_of(codec, 3), num_rows=len(part), num_views=VIEWS.num_views, num_teachers=1,
                attributes={**given, **same, "digests": digests},
            )  # fmt: skip
            stores.append(SoftTargetStore(path))
        merge_videos(stores, self.folder / "merged", manifest=self.world.manifests[subset])
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
        patched.setattr(precompute, "_teacher", lambda _teacher, _device: Teacher())
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
    search(machine, 100, 50)
