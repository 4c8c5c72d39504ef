"""A disk that is full, fails, takes less than it is given or is read-only, under every command that writes."""

from __future__ import annotations

import errno
import os
import re

import numpy as np
import pytest
from disk_runs import OTHERS, STAGES, Scene
from long_run import LONG
from stage_server import ALL, GROWING, Fault
from tiny_project import Stage

PARTS = range(4 if LONG else 1)  # of a command's cases, so that several processes share them
WRITERS = {**STAGES, **OTHERS}
NAMES = list(WRITERS if LONG else STAGES)
MESSAGE = r"^error: (?P<path>.+): cannot be (read or )?written: {reason}\nhelp: {help}"
HELP = "free disk space, then run the same command again"


@pytest.fixture
def writer(request):
    """The command of that name; what it needs is there."""
    chosen = WRITERS[request.param]
    scene = request.getfixturevalue("all_run" if request.param in OTHERS else "scene")
    yield chosen
    scene.restore(chosen)


def positions(name: str, total: int, part: int, few: int) -> list[int]:
    """Which of the calls, from 1: in the long run all of this part's, else a few of each command's."""
    if LONG:
        return list(range(1 + part, total + 1, len(PARTS)))
    rng = np.random.default_rng([*name.encode()])
    return sorted(rng.choice(np.arange(1, total + 1), size=min(few, total), replace=False).tolist())


def is_refused(scene: Scene, writer: Stage, fault: Fault, *, old: bool) -> None:
    """It ends with one message that names a path and helps, has harmed nothing, and goes on where it was."""
    scene.reset(writer, old=old)
    ended = scene.run(writer, fault)
    context = f"{writer.name}: {fault}, old: {old}\n{ended.err}"
    assert ended.code == 4, context
    assert "Traceback" not in ended.err, context
    told = re.search(MESSAGE.format(reason=os.strerror(fault.error), help=HELP), ended.err, re.MULTILINE)
    assert told is not None, context
    assert told["path"] != "a file", context
    assert scene.torn(writer) == [], context
    # the old version stays where the exchange cannot be made durable
    assert [path for path in scene.partials() if not path.endswith(".old.partial")] == [], context
    goes_on(scene, writer, context)


def goes_on(scene: Scene, writer: Stage, context: str) -> None:
    again = scene.run(writer)
    assert again.code == 0, f"{context}\n{again.err}"
    assert scene.is_right(writer), context
    assert scene.partials() == [], context


@pytest.mark.fault("Disk", "full from the n-th growing call on, in every command that writes", "E")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("writer", NAMES, indirect=True)
def test_a_full_disk(scene, writer, part, cases):
    for old in (False, True):
        total = scene.count(writer, GROWING, old=old)
        chosen = [n for n in positions(writer.name, total, part, 2) if not LONG or n // len(PARTS) % 2 == old]
        for index, n in enumerate(chosen if LONG else chosen[old::2]):
            error = errno.EDQUOT if index % 5 == 4 else errno.ENOSPC
            is_refused(scene, writer, Fault("fail", n, GROWING, error=error), old=old)
    cases(len(positions(writer.name, total, part, 2)))


@pytest.mark.fault("Disk", "one call fails with an input/output error", "E")
@pytest.mark.parametrize("writer", list(WRITERS) if LONG else ["prepare", "train_student"], indirect=True)
def test_a_failing_disk(scene, writer, cases):
    """A single failure that a command can do without (a hard link, an exchange of names) is none."""
    total = scene.count(writer, ALL, old=True)
    rng = np.random.default_rng(total)
    chosen = rng.choice(np.arange(1, total + 1), size=min(total, 12 if LONG else 3), replace=False).tolist()
    for n in chosen:
        fault = Fault("fail once", n, ALL, error=errno.EIO)
        scene.reset(writer, old=True)
        ended = scene.run(writer, fault)
        context = f"{writer.name}: {fault}\n{ended.err}"
        assert ended.code in (0, 4), context
        assert "Traceback" not in ended.err, context
        assert scene.torn(writer) == [], context
        goes_on(scene, writer, context)
    cases(len(chosen))


@pytest.mark.fault("Disk", "every write takes half of what it is given", "=")
@pytest.mark.parametrize("writer", NAMES, indirect=True)
def test_short_writes(scene, writer):
    scene.reset(writer, old=False)
    ended = scene.run(writer, Fault("short", 1, ("write",)))
    assert ended.code == 0, ended.err
    assert scene.is_right(writer)


OUTS = [(name, out) for name, stage in STAGES.items() for out in stage.outs]


@pytest.mark.fault("Disk", "an out or the work folder may not be written: known before the work", "E")
@pytest.mark.parametrize(("writer", "out"), OUTS if LONG else OUTS[::4], indirect=["writer"])
@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_an_out_that_may_not_be_written(scene, writer, out, error):
    scene.reset(writer, old=True)
    changes = ("create", "mkdir", "rename", "link", "remove")
    match = str(scene.project.resolve() / out)
    ended = scene.run(writer, Fault("fail", 1, changes, match, error), log=True)
    assert ended.code == 4, ended.err
    assert f"error: {out}" in ended.err
    assert f"cannot be written: {os.strerror(error)}\nhelp: make" in ended.err.replace("read or ", "")
    made = [path for kind, path, _ in ended.log if kind in ("create", "mkdir") and "/.work/" in path]
    assert [path for path in made if not path.endswith(".lock")] == []
    assert scene.torn(writer) == []


@pytest.mark.fault("Disk", "an out or the work folder may not be written: known before the work", "E")
@pytest.mark.parametrize("writer", ["prepare", "enhance", "train_student", "precompute_soft_targets"], indirect=True)
def test_a_work_folder_that_may_not_be_written(scene, writer):
    scene.reset(writer, old=True)
    ended = scene.run(writer, Fault("fail", 1, ("create", "mkdir"), "/.work", errno.EACCES))
    assert ended.code == 4, ended.err
    assert "error: .work" in ended.err
    assert scene.torn(writer) == []
