"""A power loss at any moment leaves the old or the new version: the model, and every command judged by it."""

from __future__ import annotations

import pytest
from disk_runs import LEDGER, OTHERS, STAGES
from long_run import LONG
from power_loss import Disk
from tiny_project import contents

WRITERS = {**STAGES, **OTHERS}
ROOT = "/root"
SYNC_OUT = [("sync", "/root/data", "")]
WRITTEN = [
    ("create", "/root/data/out.partial", ""),
    ("write", "/root/data/out.partial", ""),
    ("sync", "/root/data/out.partial", ""),
    ("rename", "/root/data/out", "/root/data/out.partial"),
    ("sync", "/root/data", ""),
]
FOLDER = [
    ("mkdir", "/root/.work/a/built", ""),
    ("create", "/root/.work/a/built/b", ""),
    ("write", "/root/.work/a/built/b", ""),
    ("sync", "/root/.work/a/built", ""),
    ("sync", "/root/.work/a/built/b", ""),
    ("rename", "/root/data/out", "/root/.work/a/built"),
    ("sync", "/root/data", ""),
    ("remove", "/root/.work/a", ""),
]


def without(log, number):
    return [*log[:number], *log[number + 1 :]]


GOOD = {
    "a file": WRITTEN,
    "a folder": FOLDER,
    "a replaced folder": [("exchange", *call[1:]) if call[0] == "rename" else call for call in FOLDER],
    "a link of what was there": [("link", "/root/data/out", "/root/old"), *SYNC_OUT],
    "a new folder above": [("mkdir", "/root/data", ""), ("sync", "/root", ""), *WRITTEN],
    "a file without a name": [("write", "/root/data/#12 (deleted)", "")],
    "progress that is lost": [("create", "/root/.work/a/note", ""), ("write", "/root/.work/a/note", "")],
}
BAD = {
    "content not synced": (without(WRITTEN, 2), "data/out.partial: its content is not durable before data/out"),
    "synced before the last write": (
        [*WRITTEN[:3], WRITTEN[1], *WRITTEN[3:]],
        "data/out.partial: its content is not durable before data/out",
    ),
    "name not synced": (without(WRITTEN, 4), "data/out: its name is not durable when the command ends"),
    "written in place": ([*WRITTEN, ("write", "/root/data/out", "")], "data/out: is written in place"),
    "made in place": ([("create", "/root/data/out", ""), *SYNC_OUT], "data/out: is made under its published name"),
    "a file of a folder not synced": (without(FOLDER, 4), "built/b: its content is not durable before data/out"),
    "a folder not synced": (without(FOLDER, 3), "built/b: its name is not durable before data/out"),
    "progress removed before": (without(FOLDER, 6), ".work/a: is removed before the name of data/out is durable"),
    "linked before it is synced": (
        [
            ("create", "/root/.work/a/b", ""),
            ("write", "/root/.work/a/b", ""),
            ("link", "/root/data/out", "/root/.work/a/b"),
            *SYNC_OUT,
        ],
        ".work/a/b: its content is not durable before data/out",
    ),
    "a new folder above not synced": (
        [("mkdir", "/root/data", ""), *WRITTEN],
        "data: its name is not durable when the command ends",
    ),
    "progress renamed before it is synced": (
        [
            ("create", "/root/.work/a/b.partial", ""),
            ("write", "/root/.work/a/b.partial", ""),
            ("rename", "/root/.work/a/b", "/root/.work/a/b.partial"),
        ],
        ".work/a/b.partial: its content is not durable before .work/a/b",
    ),
}


@pytest.mark.fault("Disk", "the model of a power loss tells good sequences of calls from bad ones", "=")
@pytest.mark.parametrize("log", GOOD.values(), ids=GOOD)
def test_the_model_accepts(log):
    assert Disk(ROOT).replay(log) == []


@pytest.mark.fault("Disk", "the model of a power loss tells good sequences of calls from bad ones", "=")
@pytest.mark.parametrize(("log", "finding"), BAD.values(), ids=BAD)
def test_the_model_finds(log, finding):
    found = Disk(ROOT).replay(log)
    assert any(finding in each for each in found), found


@pytest.mark.fault("Disk", "a power loss at any moment of a command that writes: the old or the new version", "=")
@pytest.mark.parametrize("name", WRITERS if LONG else STAGES)
def test_a_power_loss(request, name, cases):
    scene = request.getfixturevalue("all_run" if name in OTHERS else "scene")
    writer, root = WRITERS[name], str(scene.project.resolve())
    for old in (False, True):
        scene.reset(writer, old=old)
        before = contents(scene.project, (".",))
        ended = scene.run(writer, log=True)
        assert ended.code == 0, ended.err
        assert Disk(root, by_design=(".lock", LEDGER)).replay(ended.log) == []
        after = contents(scene.project, (".",))
        unknown = {path for path in after if after[path] != before.get(path)} - seen(ended.log, root)
        assert unknown == set()  # the log has all of it
    scene.restore(writer)
    cases(2)


def seen(log, root):
    """Names that the log knows of: those in it, and files below a folder that was renamed."""
    names = {path.removeprefix(f"{root}/") for kind, path, _ in log if kind != "sync"}
    for kind, path, source in log:
        if kind in ("rename", "exchange"):
            inner = f"{source.removeprefix(f'{root}/')}/"
            moved = {name for name in names if name.startswith(inner)}
            names |= {path.removeprefix(f"{root}/") + "/" + name.removeprefix(inner) for name in moved}
    return names
