"""Each kind of finding about disk, environment and DVC comes from a set-up that is broken in that way."""

from __future__ import annotations

import errno
import fcntl
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from check_setups import look_at, messages, params, prepare_here, the_finding
from held_locks import at_work
from paths import ROOT

from pipeline.core.work_folder import NO_LOCKS, stage_of, work_folder
from pipeline.tools.check import disk as disk_checks
from pipeline.tools.check import machine as machine_checks
from pipeline.tools.check import work_folders as work_folder_checks
from pipeline.tools.check.data import Seen
from pipeline.tools.check.disk import check_shared_memory, check_space, check_work, frame_bytes
from pipeline.tools.check.findings import Group
from pipeline.tools.check.machine import check_compiler, check_device, check_dvc, check_packages
from pipeline.tools.check.work_folders import work_folders
from pipeline.videos.reader import VideoInfo

# disk


@pytest.fixture(params=NO_LOCKS, ids=errno.errorcode.get)
def no_locks(request, monkeypatch):
    def refused(*_arguments):
        raise OSError(request.param, "no locks")

    monkeypatch.setattr(fcntl, "lockf", refused)
    monkeypatch.setattr(fcntl, "fcntl", refused)


def test_a_file_system_without_locks_is_a_warning(checked_project, no_locks):
    Path("dvc.yaml").touch()
    group = Group("disk")
    with work_folder("stage", params={}, inputs={}, format_version=1):
        check_work(group)
    locks, left = group.findings  # and who works there is not known
    assert "this file system has no locks" in locks.message
    assert "hardlink_lock" in locks.remedy
    assert left.message == "runs were not finished"


Usage = namedtuple("Usage", "total used free")


def seen(num_frames, width=320, height=240):
    return Seen(VideoInfo(num_frames, 30.0, True, 1, width, height), num_frames, None)


def free_bytes(monkeypatch, number):
    monkeypatch.setattr(disk_checks.shutil, "disk_usage", lambda _path: Usage(10 * number, 0, number))


def space(chosen, videos, dvc_root=None):
    group = Group("disk")
    check_space(group, chosen, videos, dvc_root=dvc_root)
    return group


def test_the_estimate_is_what_prepare_writes(checked_project):
    chosen = params()
    _, data = look_at(chosen)
    prepare_here(chosen)
    written = sum(path.stat().st_size for path in Path("dark").glob("*.h5"))
    assert frame_bytes(chosen.prepare, data.seen)[0] == pytest.approx(written, rel=0.1)


def test_too_little_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    videos = [seen(100)] * 4
    needed = sum(frame_bytes(params().prepare, videos))
    free_bytes(monkeypatch, needed + 1)
    assert space(params(), videos).findings == []
    free_bytes(monkeypatch, needed - 1)
    finding = the_finding(space(params(), videos))
    assert finding.level == "problem"
    assert "are needed" in finding.message


def test_each_further_teacher_needs_frames_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {"enhancer": "none", "network": "r2plus1d_slim", "seed": 1, "clip": None, "training": {}}
    dark, enhanced = frame_bytes(params().prepare, [seen(100)])
    chosen = params(more_teachers={"second": entry, "third": {**entry, "seed": 2}})
    for free, level in ((dark + 3 * enhanced + 1, []), (dark + 3 * enhanced - 1, ["problem"])):
        free_bytes(monkeypatch, free)
        assert [finding.level for finding in space(chosen, [seen(100)]).findings] == level


@pytest.mark.parametrize(
    ("kind", "copies"),
    [
        ("copy", 3),
        ("hardlink,copy", 1),
        ("symlink", 1),
        ("reflink,hardlink,symlink,copy", 1),
        ("copy,hardlink", 3),
        (None, 3),
    ],
)
def test_copies_of_dvc_count(tmp_path, monkeypatch, kind, copies):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(disk_checks, "_file_system", lambda _path: "ext4")
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text(f"[cache]\n    type = {kind}\n" if kind else "")
    videos = [seen(100)]
    needed = copies * sum(frame_bytes(params().prepare, videos))
    free_bytes(monkeypatch, needed + 1)
    assert space(params(), videos, tmp_path).findings == []
    free_bytes(monkeypatch, needed - 1)
    assert "are needed" in the_finding(space(params(), videos, tmp_path)).message


def test_videos_without_a_count_are_taken_for_average_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uncounted = Seen(VideoInfo(None, 30.0, True, 1, 320, 240), None, None)
    assert space(params(), [seen(100), uncounted]).facts == space(params(), [seen(100)] * 2).facts
    assert "not known" in space(params(), [uncounted]).facts[0]


def test_jpeg_takes_less(tmp_path):
    raw = frame_bytes(params().prepare, [seen(10)])
    sizes = [
        frame_bytes(params(prepare__codec="jpeg", prepare__jpeg_quality=quality).prepare, [seen(10)])
        for quality in (50, 95, 100)
    ]
    assert all(dark < enhanced for dark, enhanced in sizes)
    assert sorted(sizes) == sizes
    assert sizes[-1] < raw


def test_what_lies_in_the_work_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert work_folders() == []
    with work_folder("prepare", params={}, inputs={}, format_version=1) as work:
        work.keep()
    with work_folder("train_teacher", params={}, inputs={}, format_version=1) as work:
        (work.path / "checkpoint.pt").write_bytes(bytes(5000))
    group = Group("disk")
    check_work(group)
    finding = the_finding(group)
    assert finding.message == "runs were not finished"
    assert len(finding.details) == 1
    assert "train_teacher" in finding.details[0]
    assert "5.0 KiB" in finding.details[0] or "4.9 KiB" in finding.details[0]


def test_a_folder_that_its_stage_has_just_removed_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for name in ("enhance-1", "train_teacher-2"):
        Path(".work", name).mkdir(parents=True)

    def stage_that_ends(path):
        if path.name == "train_teacher-2":
            path.rmdir()
        return stage_of(path)

    monkeypatch.setattr(work_folder_checks, "stage_of", stage_that_ends)
    assert [folder.stage for folder in work_folders()] == ["enhance"]


def test_a_stage_at_work_is_named_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with at_work("enhance") as holder:
        group = Group("disk")
        check_work(group)
        assert the_finding(group).details == (f"enhance: process {holder.pid} on {socket.gethostname()}",)
    assert [folder.holder for folder in work_folders()] == [None]


# environment


def test_this_environment_is_sound():
    group = Group("environment")
    check_packages(group)
    check_device(group, torch.device("cpu"))
    assert messages(group, "problem") == []


def test_packages_are_compared_with_their_ranges(tmp_path, monkeypatch):
    file = tmp_path / "pyproject.toml"
    file.write_text(
        '[project]\nrequires-python = ">=3.11"\n'
        'dependencies = ["numpy>=2", "torch>=99", "no-such-package>=1", "other; python_version < \'3\'"]\n'
        "[project.optional-dependencies]\ndvc = []\n"
    )
    monkeypatch.setattr(machine_checks, "PYPROJECT", file)
    group = Group("environment")
    check_packages(group)
    old, missing = the_finding(group).details
    assert old.startswith("torch ")
    assert old.endswith("wanted >=99")
    assert missing == "no-such-package: not installed, wanted >=1"


def test_another_python(tmp_path, monkeypatch):
    file = tmp_path / "pyproject.toml"
    file.write_text('[project]\nrequires-python = "<3"\ndependencies = []\n[project.optional-dependencies]\ndvc = []\n')
    monkeypatch.setattr(machine_checks, "PYPROJECT", file)
    group = Group("environment")
    check_packages(group)
    assert "is not <3" in the_finding(group).message


def test_the_installed_copy_knows_its_ranges_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_checks, "PYPROJECT", tmp_path / "none.toml")
    group = Group("environment")
    check_packages(group)
    assert messages(group, "problem") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_driver_that_torch_does_not_use(tmp_path, monkeypatch):
    (tmp_path / "version").touch()
    monkeypatch.setattr(machine_checks, "NVIDIA_DRIVER", tmp_path / "version")
    group = Group("environment")
    check_device(group, torch.device("cpu"))
    assert "sees no GPU" in the_finding(group).message


def test_compiling_without_a_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    group = Group("environment")
    check_compiler(group, params())
    assert group.findings == []
    check_compiler(group, params(train_student__compile=True))
    assert the_finding(group).message.startswith("train_student.compile: ")


def test_shared_memory_that_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_checks, "SHARED_MEMORY", tmp_path)
    free_bytes(monkeypatch, 1000)
    group = Group("environment")
    check_shared_memory(group, params())
    assert group.findings == group.facts == []
    check_shared_memory(group, params(train_teacher__num_workers=2))
    assert the_finding(group).message.startswith("train_teacher.num_workers")
    free_bytes(monkeypatch, 2**30)
    group = Group("environment")
    check_shared_memory(group, params(train_teacher__num_workers=2))
    assert group.findings == []


# DVC


def git(*arguments):
    name = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *name, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """What `git init` and `dvc init` leave, with a commit, and the environment on the path."""
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    for name in (".dvc/config", "dvc.yaml", "params.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "start")
    return tmp_path


def dvc():
    group = Group("dvc")
    check_dvc(group, Path("params.yaml"))
    return group


def test_a_sound_repository(repository):
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    assert dvc().findings == []
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


LOCK = """\
schema: '2.0'
stages:
  prepare:
    cmd: python -m stages prepare
    deps:
    - path: data
      hash: md5
      md5: 2f2af3d1a0abdd7177d57b4b18e06d9b.dir
    outs:
    - path: data/dark
      hash: md5
      md5: 094b6fe528db3c957382348061f154f9.dir
"""


@pytest.mark.parametrize("length", [0, LOCK.index("'2.0") + 2, LOCK.index("cmd:") + 3, LOCK.index("- path") + 3])
@pytest.mark.parametrize("name", ["dvc.lock", "demo/dvc.lock", "teachers/dvc.lock"])
def test_a_lock_file_that_dvc_was_killed_over(repository, name, length):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(LOCK)
    assert dvc().findings == []
    Path(name).write_text(LOCK[:length])
    assert the_finding(dvc()).message.startswith(f"{name} is empty or cut off")
    assert f"`rm {name}`" in the_finding(dvc()).remedy


def test_dvc_s_record_of_running_stages_that_it_was_killed_over(repository):
    (repository / ".dvc/tmp").mkdir()
    (repository / ".dvc/tmp/rwlock").write_text("{}")
    assert dvc().findings == []
    (repository / ".dvc/tmp/rwlock").write_text('{"write": {"/')
    assert "`rm .dvc/tmp/rwlock`" in the_finding(dvc()).remedy


def test_a_path_beyond_ascii_is_told_before_dvc_fails_over_it(repository, monkeypatch):
    moved = repository.rename(repository.with_name("proj-é"))
    monkeypatch.chdir(moved)
    assert "dvc exp run --temp" in the_finding(dvc()).message
    (moved / ".dvc/config.local").write_text("[cache]\n    dir = /mnt/cache\n")
    assert dvc().findings == []


def test_parameters_that_are_not_committed(repository):
    Path("params.yaml").write_text("seed: 1\n")
    assert the_finding(dvc()).message.startswith("params.yaml has uncommitted changes")


def test_no_dvc_repository(repository):
    shutil.rmtree(".dvc")
    assert any("no DVC repository" in text for text in messages(dvc(), "problem"))


def test_another_folder_than_the_root(repository, monkeypatch):
    Path("inner").mkdir()
    monkeypatch.chdir("inner")
    assert any("no dvc.yaml" in text for text in messages(dvc(), "problem"))


def test_no_git_repository(repository):
    shutil.rmtree(".git")
    assert any("no git commit" in text for text in messages(dvc(), "warning"))


def test_dvc_that_tells_of_its_use(repository):
    Path(".dvc/config").write_text("[core]\n    check_update = false\n")
    assert the_finding(dvc()).remedy == "`dvc config core.analytics false`"


def test_dvc_that_is_not_installed(repository, monkeypatch):
    def version(name):
        if name == "dvc":
            raise machine_checks.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(machine_checks.metadata, "version", version)
    assert the_finding(dvc()).level == "warning"
    assert the_finding(dvc()).message.startswith("DVC is not installed")


def test_the_python_of_another_environment(repository, monkeypatch):
    other = repository / "bin"
    other.mkdir()
    (other / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{other}:{Path(sys.executable).parent}:/usr/bin:/bin")
    assert any("another environment" in text for text in messages(dvc(), "problem"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert any("activate" in finding.remedy for finding in dvc().findings)
