"""Files appear whole or not at all, one process works in a work folder, and a signal waits for a safe point."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import EnvironmentProblem, Interrupted
from pipeline.core.files import PARTIAL_SUFFIX, disk_error, publish, write_text_whole, written_whole
from pipeline.core.progress import interruptible
from pipeline.core.work_folder import NO_LOCKS, out_lock, work_folder, work_root

UNWRITABLE = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path / ".work"


def failing(code):
    def fail(*_args, **_options):
        raise OSError(code, os.strerror(code))

    return fail


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# written_whole


def test_a_file_is_there_when_the_block_is_done(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    with written_whole(path) as partial:
        partial.write_bytes(b"new")
        assert not path.exists()
    assert tree(tmp_path) == {"deep": None, "deep/er": None, "deep/er/file": b"new"}


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt("x"), OSError(errno.EBUSY, "x")], ids=repr)
def test_nothing_changes_when_the_block_fails(tmp_path, old, error):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    before = tree(tmp_path)

    def write():
        with written_whole(path) as partial:
            partial.write_bytes(b"half of the n")
            raise error

    with pytest.raises(type(error), match="x"):
        write()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("code", UNWRITABLE, ids=errno.errorcode.get)
@pytest.mark.parametrize("where", ["write", "fsync", "rename"])
def test_a_full_disk_is_a_message_and_leaves_the_old_file(tmp_path, monkeypatch, code, where):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    if where == "fsync":
        monkeypatch.setattr(os, "fsync", failing(code))
    if where == "rename":
        monkeypatch.setattr(Path, "replace", failing(code))

    def write():
        with written_whole(path) as partial:
            partial.write_bytes(b"half")
            if where == "write":
                failing(code)()

    with pytest.raises(EnvironmentProblem, match=r"file: cannot be (read or )?written") as caught:
        write()
    assert caught.value.exit_code == 4
    assert tree(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("code", UNWRITABLE, ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_made_is_a_message(tmp_path, monkeypatch, code):
    monkeypatch.setattr(Path, "mkdir", failing(code))
    with (
        pytest.raises(EnvironmentProblem, match=r"cannot be (read or )?written"),
        written_whole(tmp_path / "new" / "file"),
    ):
        pass


def raised(error, cause=None):
    try:
        raise error from cause
    except type(error) as caught:
        return caught


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FULL, "place: cannot be written: No space left on device"),
        (OSError(errno.ENOSPC, "x", "place.1.partial"), "place: cannot be written"),
        (OSError(errno.ENOSPC, "x", b"other"), "other: cannot be written"),
        (PermissionError(errno.EACCES, "x", "other"), "other: cannot be read or written: Permission denied"),
        (
            OSError("Can't write data (errno = 28, error message = 'No space left on device')"),
            "place: cannot be written",
        ),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "place: cannot be written"),
        (raised(ValueError("x"), cause=FULL), "place: cannot be written"),
    ],
    ids=str,
)
def test_what_a_disk_refuses_is_found_in_every_library_s_words(error, message):
    assert str(disk_error(error, Path("place"))).startswith(message)


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("a"), FileNotFoundError(errno.ENOENT, "x", "y")], ids=repr)
def test_other_errors_are_not_the_disk_s(error):
    assert disk_error(error, Path("place")) is None


@pytest.mark.parametrize("code", UNWRITABLE, ids=errno.errorcode.get)
def test_an_out_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch, code):
    monkeypatch.setattr(Path, "touch", failing(code))
    with pytest.raises(EnvironmentProblem, match=r"model: cannot be (read or )?written"):
        folder_of(outs=[tmp_path / "new" / "model"])
    assert [path for path in (tmp_path / ".work").iterdir() if path.is_dir()] == []


def test_a_run_holds_its_outs(tmp_path):
    out = tmp_path / "model"
    with work_folder("stage", params={}, inputs={}, format_version=1, outs=[out]):
        imports = "from pathlib import Path\nfrom pipeline.core.work_folder import out_lock"
        code = f"{imports}\nwith out_lock('other', Path({str(out)!r})): pass"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "is already writing" in other.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".work"]


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_a_message(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(EnvironmentProblem, match="Permission denied"):
        write_text_whole(tmp_path / "file", "text")
    tmp_path.chmod(0o700)


def test_what_a_killed_process_left_half_written_beside_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.core.files.socket.gethostname", lambda: "node.example")
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / f"file.node.example.{ended.pid}{PARTIAL_SUFFIX}"
    others = [
        f"file.node.example.{os.getppid()}{PARTIAL_SUFFIX}",  # one that is being written
        f"file.other.example.{ended.pid}{PARTIAL_SUFFIX}",  # another machine's
        f"mine{PARTIAL_SUFFIX}",
        f"{ended.pid}",
    ]
    for path in (left, *(tmp_path / name for name in others)):
        path.write_text("half")
    write_text_whole(tmp_path / "another", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "another"])


def test_text_is_written_with_the_line_ends_that_it_has(tmp_path):
    write_text_whole(tmp_path / "file", "é\r\nb\n")
    assert (tmp_path / "file").read_bytes() == b"\xc3\xa9\r\nb\n"


# publish


def build(path, kind, content):
    if kind == "folder":
        (path / "inner").mkdir(parents=True)
        (path / "inner" / content).write_text(content)
    else:
        path.write_text(content)
    return path


@contextlib.contextmanager
def other_file_system(monkeypatch, folder):
    """Renaming out of a folder fails, as it does from one file system to another."""
    rename = Path.replace

    def replace(self, target):
        if self.parent == folder != Path(target).parent:
            failing(errno.EXDEV)()
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace)
        patched.setattr("pipeline.core.files._exchanged", lambda *_: False)
        yield


@pytest.mark.parametrize("where", ["same file system", "one that exchanges no folders", "another"])
@pytest.mark.parametrize(
    ("old", "kind"),
    [
        (None, "file"),
        ("file", "file"),
        ("folder", "file"),
        (None, "folder"),
        ("folder", "folder"),
        ("file", "folder"),
    ],
)
def test_publish_replaces_what_was_there(tmp_path, monkeypatch, kind, old, where):
    work, outs = tmp_path / "work", tmp_path / "outs"
    work.mkdir()
    built = build(work / "built", kind, "new")
    expected = build(tmp_path / "expected" / "out", kind, "new") if kind == "folder" else None
    if old:
        outs.mkdir()
        build(outs / "out", old, "old")
    if where == "one that exchanges no folders":
        monkeypatch.setattr("pipeline.core.files._exchanged", lambda *_: False)
    with other_file_system(monkeypatch, work) if where == "another" else contextlib.nullcontext():
        publish(built, outs / "out")
    assert tree(work) == {}
    assert tree(outs) == (tree(expected.parent) if expected else {"out": b"new"})


def test_publish_replaces_a_link_and_not_what_it_points_to(tmp_path):
    cached = build(tmp_path / "cached", "file", "old")
    out = tmp_path / "out"
    out.symlink_to(cached)
    publish(build(tmp_path / "built", "file", "new"), out)
    assert not out.is_symlink()
    assert (out.read_text(), cached.read_text()) == ("new", "old")


def test_killed_while_it_replaces_a_folder_none_or_a_whole_one_is_there(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def halfway(path, *_args, **_options):
        """Removes a folder up to its first file, as a killed process would."""
        for inner in sorted(path.rglob("*") if path.is_dir() else []):
            if inner.is_file():
                inner.unlink()
                raise Killed

    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    build(out, "folder", "old")
    monkeypatch.setattr("pipeline.core.files.shutil.rmtree", halfway)
    with pytest.raises(Killed):
        publish(build(work / "built", "folder", "new"), out)
    assert tree(out) == {"inner": None, "inner/new": b"new"}
    assert [path.name for path in work.iterdir()] == [f"out.old{PARTIAL_SUFFIX}"]


def test_a_folder_is_there_at_every_moment_of_its_replacement(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    out = build(tmp_path / "out", "folder", "old")
    built = build(tmp_path / "work" / "built", "folder", "new")
    seen = []

    def look(self, target):
        seen.append(tree(out))
        return rename(self, target)

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", look)
    publish(built, out)
    assert seen == [{"inner": None, "inner/old": b"old"}]
    assert tree(out) == {"inner": None, "inner/new": b"new"}
    assert tree(tmp_path / "work") == {}


def test_publish_of_something_that_was_not_built_changes_nothing(tmp_path):
    out = build(tmp_path / "out", "folder", "old")
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "built", out)
    assert (out / "inner" / "old").exists()


# the work folder


def folder_of(stage="stage", params=None, inputs=None, format_version=1, outs=()):
    how = {"params": params or {}, "inputs": inputs or {}, "format_version": format_version, "outs": outs}
    with work_folder(stage, **how) as work:
        return work.path


def test_it_lies_under_the_repository_that_dvc_names(tmp_path, root, monkeypatch):
    assert work_root() == root
    assert folder_of().parent == root
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.chdir(tmp_path)
    assert work_root().resolve() == root


def test_everything_that_the_result_depends_on_makes_another_folder():
    paths = [
        folder_of(),
        folder_of("other_stage"),
        folder_of(params={"seed": 0}),
        folder_of(params={"seed": 1}),
        folder_of(params={"seed": 0.5}),
        folder_of(inputs={"seed": "0"}),
        folder_of(inputs={"frames": "ab"}),
        folder_of(format_version=2),
    ]
    assert len(set(paths)) == len(paths)


def test_the_order_of_parameters_does_not():
    values = {"a": 1, "b": {"c": 2, "d": 3}}
    assert folder_of(params=values) == folder_of(params={"b": {"d": 3, "c": 2}, "a": 1})


def test_progress_is_found_again_until_the_stage_is_finished():
    with work_folder("stage", params={}, inputs={}, format_version=1) as work:
        (work.path / "progress").write_text("half")
    with work_folder("stage", params={}, inputs={}, format_version=1) as work:
        assert (work.path / "progress").read_text() == "half"
        work.finish()
        assert not work.path.exists()
    with work_folder("stage", params={}, inputs={}, format_version=1) as work:
        assert not (work.path / "progress").exists()


def test_what_a_killed_run_left_half_written_is_swept():
    path = folder_of()
    build(path / f"store.zarr{PARTIAL_SUFFIX}", "folder", f"chunk{PARTIAL_SUFFIX}")
    build(path / "kept", "folder", f"file.1234{PARTIAL_SUFFIX}")
    build(path / "kept" / "inner" / "deep", "folder", "whole")
    (path / f"file.77{PARTIAL_SUFFIX}").write_text("half")
    folder_of()
    assert set(tree(path)) == {
        "fingerprint.json", "kept", "kept/inner", "kept/inner/deep", "kept/inner/deep/inner",
        "kept/inner/deep/inner/whole",
    }  # fmt: skip


@pytest.mark.parametrize("code", UNWRITABLE, ids=errno.errorcode.get)
def test_a_work_folder_that_cannot_be_made_is_a_message(monkeypatch, code):
    monkeypatch.setattr(Path, "mkdir", failing(code))
    with pytest.raises(EnvironmentProblem):
        folder_of()


# the lock

HOLDER = """
import os, sys
from pipeline.core.work_folder import work_folder
with work_folder("stage", params={}, inputs={}, format_version=1):
    child = os.fork() if "fork" in sys.argv else 1
    if child:
        print(child, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(*arguments):
    """Another process in the work folder; yields it and the number that it printed."""
    command = [sys.executable, "-c", HOLDER, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def test_a_second_process_is_told_who_works_there():
    with holder() as (process, _), pytest.raises(EnvironmentProblem) as caught:
        folder_of()
    assert f"process {process.pid} on {os.uname().nodename} is already working" in str(caught.value)
    assert caught.value.exit_code == 4


FINISHER = """
import sys
from pipeline.core.work_folder import work_folder
with work_folder("stage", params={}, inputs={}, format_version=1) as work:
    print(1, flush=True)
    (work.path / "progress").write_text("all")
    sys.stdin.readline()
    work.finish()
"""


def test_whoever_waits_goes_on_from_what_the_other_leaves(monkeypatch, caplog):
    with subprocess.Popen(
        [sys.executable, "-c", FINISHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "1\n"
        looks = []

        def look():
            looks.append(1)
            if len(looks) == 2:
                process.stdin.close()

        with work_folder("stage", params={}, inputs={}, format_version=1, stop=look) as work:
            assert (work.path / "progress").read_text() == "all"
            work.finish()
        assert not work.path.exists()
    assert process.returncode == 0
    (said,) = caplog.messages
    assert said.startswith(f"stage: process {process.pid} on {os.uname().nodename} is already working in ")
    assert said.endswith("waiting for it, to go on from what it leaves")


def test_waiting_ends_on_a_signal_and_then_nobody_waits(root):
    def wait():
        with interruptible() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            with work_folder("stage", params={}, inputs={}, format_version=1, stop=stop):
                raise AssertionError

    with holder() as (process, _):
        with pytest.raises(Interrupted):
            wait()
        process.communicate()
    with work_folder("stage", params={}, inputs={}, format_version=1) as work:
        work.finish()
    assert not work.path.exists()


def test_another_fingerprint_is_free_meanwhile():
    with holder():
        folder_of(params={"seed": 1})


def test_the_lock_ends_with_its_process_however_that_ends():
    with holder() as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
        folder_of()


def test_a_forked_child_does_not_keep_the_lock():
    with holder("fork") as (process, child):
        try:
            process.send_signal(signal.SIGKILL)
            process.wait()
            os.kill(child, 0)  # it lives
            folder_of()
        finally:
            os.kill(child, signal.SIGKILL)


def test_the_lock_is_free_after_an_error():
    def failing_run():
        with work_folder("stage", params={}, inputs={}, format_version=1):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        failing_run()
    with holder():
        pass


@pytest.mark.parametrize("code", NO_LOCKS, ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_told_once_and_gone_on_without(root, monkeypatch, caplog, code):
    monkeypatch.setattr(fcntl, "lockf", failing(code))
    for seed in range(2):
        folder_of(params={"seed": seed}, outs=[root.with_name("out")])
    (told,) = caplog.messages
    assert told.startswith(f"{root}: this file system has no locks")


def test_other_errors_of_a_lock_are_errors(monkeypatch):
    monkeypatch.setattr(fcntl, "lockf", failing(errno.EBADF))
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        folder_of()


OUT_HOLDER = """
import sys
from pathlib import Path
from pipeline.core.work_folder import out_lock
with out_lock("stage", Path("store.zarr")):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def out_holder(folder):
    """Another process, started in a folder, that writes store.zarr there."""
    command = [sys.executable, "-c", OUT_HOLDER]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, cwd=folder, **options) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_nobody_waits_for_an_out(tmp_path):
    out = tmp_path / "store.zarr"
    with (
        out_holder(tmp_path),
        pytest.raises(EnvironmentProblem, match="already writing"),
        work_folder("stage", params={}, inputs={}, format_version=1, outs=[out], stop=failing(errno.EIO)),
    ):
        raise AssertionError


def write_out(out):
    with out_lock("another stage", out):
        pass


def test_who_would_write_an_out_that_is_being_written_is_told(tmp_path, monkeypatch):
    out = tmp_path / "store.zarr"
    with out_holder(tmp_path) as process:
        with pytest.raises(EnvironmentProblem) as caught:
            write_out(out)
        assert f"process {process.pid} on {os.uname().nodename} is already writing {out}" in str(caught.value)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(EnvironmentProblem):
            write_out(Path("store.zarr"))
        write_out(tmp_path / "other.zarr")
        process.kill()
        process.wait()
        write_out(out)
    assert not out.exists()


def test_an_out_is_free_after_an_error(tmp_path):
    def failing_run():
        with out_lock("stage", tmp_path / "store.zarr"):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        failing_run()
    with out_holder(tmp_path):
        pass


# signals


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_waits_for_the_next_check(number, exit_code):
    steps = []

    def run():
        with interruptible() as stop:
            stop()
            os.kill(os.getpid(), number)
            steps.append("finished after the signal")
            stop()
            steps.append("not reached")

    with pytest.raises(Interrupted) as caught:
        run()
    assert caught.value.exit_code == exit_code
    assert steps == ["finished after the signal"]


def test_a_second_signal_does_not_wait():
    steps = []

    def run():
        with interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("after the first")
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("not reached")

    with pytest.raises(Interrupted) as caught:
        run()
    assert caught.value.exit_code == 130
    assert steps == ["after the first"]


@pytest.mark.parametrize("ends_with", [None, ValueError])
def test_handlers_are_put_back(ends_with):
    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    def run():
        with interruptible():
            assert handlers() != before
            if ends_with:
                raise ends_with

    before = handlers()
    if ends_with:
        with pytest.raises(ends_with):
            run()
    else:
        run()
    assert handlers() == before


def test_under_nohup_a_lost_terminal_is_no_request(monkeypatch):
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            stop()
    finally:
        signal.signal(signal.SIGHUP, handler)


# what is kept, of several artifacts of a kind


def kept_run(out, fingerprint):
    with work_folder("stage", params={"x": fingerprint}, inputs={}, format_version=1, outs=[Path(out)]) as work:
        (work.path / "progress").write_text(str(fingerprint))
        work.keep()
    return work.path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def test_another_out_does_not_cost_what_the_first_one_keeps(here):
    first, second = kept_run("a", 1), kept_run("b", 2)
    assert (first / "progress").exists()
    third = kept_run("a", 3)
    assert [(path / "progress").exists() for path in (first, second, third)] == [False, True, True]


def test_a_folder_of_two_outs_stays_until_both_have_another(here):
    shared = kept_run("a", 1)
    assert kept_run("b", 1) == shared
    kept_run("a", 2)
    assert (shared / "progress").exists()
    kept_run("b", 2)
    assert not shared.exists()


@pytest.mark.parametrize("marker", ["{}\n", "", "[]", '{"outs": 3}', "\xff"])
def test_a_folder_that_does_not_say_for_what_it_is_kept_goes(here, marker):
    first = kept_run("a", 1)
    (first / "kept.json").write_bytes(marker.encode("latin-1"))
    kept_run("b", 2)
    assert not first.exists()
