"""A decoder may crash, hang, or want more than there is: that costs its process, and never the one that asked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from decoder_runs import bombs, decoders, is_gone, own_decoders, peak_mib, stop  # noqa: F401 - a fixture
from paths import ROOT
from video_files import encode, image_folder

from pipeline.core.errors import BrokenVideoError, DataError, EnvironmentProblem
from pipeline.core.text import printable
from pipeline.videos import decoder as decoding
from pipeline.videos import reader as video


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("small") / "v.mp4")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """More frames than a pipe holds."""
    return encode(tmp_path_factory.mktemp("long") / "v.mp4", frames=200, size=(160, 120))


@pytest.fixture
def decoder_does(monkeypatch):
    """`decoder_does(code)`: what the decoder's process does in place of decoding, as a generator's body."""

    def replace(code):
        body = f"def read(path, **options):\n    {code}\n    yield"
        reader = "pipeline.videos.reader"
        serving = f"import pathlib, {reader}\nexec({body!r})\n{reader}.read_frames = read\n".replace("{", "{{")
        monkeypatch.setattr(decoding, "SERVING", serving.replace("}", "}}") + decoding.SERVING)

    return replace


def reason(path):
    with pytest.raises(BrokenVideoError) as error:
        list(decoding.read_frames(path))
    return str(error.value)


# --- the same as in one process ---


@pytest.mark.parametrize(("short_side", "levels"), [(None, "linear"), (20, "linear"), (20, "companded")])
def test_frames_are_those_of_one_process(small, tmp_path, short_side, levels):
    for path in (small, image_folder(tmp_path / "images", range(1, 4))):
        assert decoding.probe(path) == video.probe(path)
        found = list(decoding.read_frames(path, short_side=short_side, levels=levels))
        expected = list(video.read_frames(path, short_side=short_side, levels=levels))
        np.testing.assert_array_equal(found, expected)
        assert found[0].flags.writeable
    assert len(decoders()) == 1


@pytest.mark.parametrize("name", ["-v.mp4", "a\nb.mp4", 'q"\\.mp4', "nix\udcff.mp4", "%d.mp4"])
def test_names_are_those_of_one_process(small, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(small.read_bytes())
    assert len(list(decoding.read_frames(Path(name)))) == 30
    os.truncate(name, 0)
    assert reason(Path(name)) == "the file is empty"
    Path(name).unlink()
    with pytest.raises(DataError) as error:
        decoding.probe(Path(name))
    assert str(error.value) == printable(f"{name}: cannot be opened: No such file or directory")


def test_an_error_of_the_system_keeps_its_type_and_file(tmp_path):
    folder = image_folder(tmp_path / "images", range(1, 3))
    (folder / f"img_{3:05}.jpg").mkdir()
    names = sorted(path.name for path in folder.iterdir())
    (folder / names[1]).unlink()
    (folder / names[2]).rename(folder / names[1])
    with pytest.raises(IsADirectoryError) as error:
        list(decoding.read_frames(folder))
    assert error.value.filename == str(folder / names[1])


def test_an_exception_that_nobody_foresaw_is_about_its_video_and_ends_the_process(small, decoder_does):
    decoder_does("raise ValueError('29 is not a valid Type')")
    assert reason(small) == "its decoder failed: ValueError: 29 is not a valid Type"
    assert decoders() == []


# --- what is lost is the process ---


def frames_after(path, signal_number):
    """Read on after the decoder got a signal in the midst of a video."""
    frames = decoding.read_frames(path)
    next(frames)
    (pid,) = decoders()
    os.kill(pid, signal_number)
    return list(frames)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"])
def test_a_crash_is_the_videos_fault(small, long, name):
    with pytest.raises(BrokenVideoError) as error:
        frames_after(long, signal.Signals[name])
    assert str(error.value) == f"its decoder crashed ({name})"
    assert len(list(decoding.read_frames(small))) == 30


def test_a_crash_within_the_decoder(long, decoder_does):
    decoder_does("import ctypes; ctypes.string_at(0)")
    assert reason(long) == "its decoder crashed (SIGSEGV)"


def test_a_kill_is_not(long):
    with pytest.raises(EnvironmentProblem, match=r"v\.mp4: its decoder was killed from outside"):
        frames_after(long, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_stops_the_parent_is_left_to_it(long, number):
    assert len(frames_after(long, number)) == 199


def test_a_process_that_died_while_it_waited_is_replaced(small):
    decoding.probe(small)
    (pid,) = decoders()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert decoding.probe(small).num_frames == 30


def test_a_process_that_does_not_start_is_no_videos_fault(small, monkeypatch):
    monkeypatch.setattr(decoding, "SERVING", "import os; os.abort()")
    with pytest.raises(EnvironmentProblem, match="does not start"):
        decoding.probe(small)


def test_silence_ends(long, monkeypatch):
    frames = decoding.read_frames(long)
    next(frames)
    stop(*decoders())
    monkeypatch.setattr(decoding, "WAIT_SECONDS", 1)
    with pytest.raises(BrokenVideoError, match="its decoder gave no frame for 1 s"):
        list(frames)
    assert decoders() == []


def test_work_without_end_ends(long, monkeypatch, decoder_does):
    monkeypatch.setattr(decoding, "CPU_SECONDS", 0)
    decoder_does("while True: pass")
    assert reason(long) == "its decoder worked on one frame for more than 0 s"


def test_a_long_video_has_the_time_of_each_of_its_frames(long, monkeypatch, decoder_does):
    monkeypatch.setattr(decoding, "CPU_SECONDS", 2)
    decoder_does(
        "import time, numpy\n"
        "    for _ in range(5):\n"
        "        until = time.process_time() + 0.9\n"
        "        while time.process_time() < until: pass\n"
        "        yield numpy.zeros((4, 4, 3), numpy.uint8)\n"
        "    return"
    )
    assert len(list(decoding.read_frames(long))) == 5


def test_memory_has_a_limit(tmp_path, small, monkeypatch):
    large = encode(tmp_path / "large.mp4", codec="mpeg4", frames=2, size=(4000, 3000))
    monkeypatch.setattr(decoding, "MEMORY_BYTES", 32 * 2**20)
    assert reason(large) == "its decoder needs more than 0.03125 GiB of memory"
    assert len(list(decoding.read_frames(small))) == 30


def test_what_earlier_videos_took_is_not_counted(long, monkeypatch, decoder_does):
    monkeypatch.setattr(decoding, "MEMORY_BYTES", 64 * 2**20)
    decoder_does("kept = globals().setdefault('kept', []); kept.append(bytes(40 * 2**20)); return")
    for _ in range(4):
        assert list(decoding.read_frames(long)) == []
    assert len(decoders()) == 1


@pytest.mark.parametrize("kind", ["jpeg in avi", "vp8", "jpegs", "pngs"])
def test_bombs_are_refused_before_memory_is_taken(tmp_path, small, kind):
    list(decoding.read_frames(small))
    (pid,) = decoders()
    before = peak_mib(pid)
    bomb = bombs(tmp_path / "bombs")[kind]
    with pytest.raises(BrokenVideoError):
        decoding.probe(bomb)
    assert "decoder" not in reason(bomb)
    assert decoders() == [pid]
    assert peak_mib(pid) < before + 40


def test_the_resized_size_has_a_limit(tmp_path):
    path = encode(tmp_path / "narrow.mp4", codec="mpeg4", frames=2, size=(16, 4096))
    assert len(list(decoding.read_frames(path, short_side=32))) == 2
    with pytest.raises(BrokenVideoError, match="frames of 1024x262144 exceed the limit"):
        list(decoding.read_frames(path, short_side=1024))


# --- what the process may do ---


def test_it_writes_no_file(long, tmp_path, decoder_does):
    target = tmp_path / "written"
    decoder_does(f"pathlib.Path({str(target)!r}).write_text('x')")
    with pytest.raises(OSError, match="File too large"):
        list(decoding.read_frames(long))
    assert not target.exists() or target.stat().st_size == 0


def test_it_opens_few_files(long, decoder_does):
    decoder_does("files = [open('/dev/null') for _ in range(99)]")
    with pytest.raises(OSError, match="Too many open files"):
        list(decoding.read_frames(long))


def test_what_a_library_prints_is_no_answer(small, decoder_does, capfd):
    decoder_does("print('noise', flush=True); import os; os.write(1, b'more'); return")
    assert list(decoding.read_frames(small)) == []
    assert "noise" not in capfd.readouterr().out


def test_references_open_nothing(tmp_path):
    os.mkfifo(tmp_path / "canary")  # whoever opens it waits for a writer
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v.ts"
        for name in ("v.mp4", "v.mkv", "v.avi", "v.ts"):
            for target in (url, f"file:{tmp_path}/canary", "canary"):
                for text in (
                    f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
                    f"ffconcat version 1.0\nfile {target}\n",
                ):
                    (tmp_path / name).write_text(text)
                    assert "gave no frame" not in reason(tmp_path / name)
        with pytest.raises(BlockingIOError):
            server.accept()
    with pytest.raises(OSError, match="No such device"):  # nobody has it open
        os.open(tmp_path / "canary", os.O_WRONLY | os.O_NONBLOCK)


def test_it_imports_nothing_large_and_nothing_from_the_current_folder(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("av", "json", "pipeline"):
        Path(f"{name}.py").write_text("raise SystemExit")
    decoding.probe(small)
    (pid,) = decoders()
    assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


# --- whose process it is ---


def test_videos_one_after_the_other_share_a_process(small):
    seen = set()
    for _ in range(5):
        decoding.probe(small)
        list(decoding.read_frames(small))
        seen.update(decoders())
    assert len(seen) == 1


def test_iterators_at_one_time_have_one_each(small, long):
    expected = list(video.read_frames(long))
    for number, pair in enumerate(zip(decoding.read_frames(long), decoding.read_frames(long), strict=True)):
        for frame in pair:
            np.testing.assert_array_equal(frame, expected[number])
        assert len(decoders()) == 2
    decoding.probe(small)
    assert len(decoders()) == 2


def test_an_iterator_closed_early_ends_its_process(long):
    frames = decoding.read_frames(long)
    next(frames)
    frames.close()
    assert decoders() == []


def test_threads(long):
    found = []
    expected = list(video.read_frames(long))
    read = [threading.Thread(target=lambda: found.append(list(decoding.read_frames(long)))) for _ in range(4)]
    for thread in read:
        thread.start()
    for thread in read:
        thread.join()
    assert len(found) == 4
    for frames in found:
        np.testing.assert_array_equal(frames, expected)


FORKED = """
import os, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from pipeline.videos import decoder as decoding
path = Path(sys.argv[1])
decoding.probe(path)
frames = decoding.read_frames(path)
next(frames)
if not (child := os.fork()):
    frames.close()
    os._exit(len(list(decoding.read_frames(path))) != 200)
assert os.waitpid(child, 0)[1] == 0
assert len(list(frames)) == 199
"""


def python(code, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, **options)


def test_a_fork_has_processes_of_its_own(long):
    assert python(FORKED, long).wait(timeout=60) == 0


PARENT = """
import sys, time
from pathlib import Path
from pipeline.videos import decoder as decoding
path, how = Path(sys.argv[1]), sys.argv[2]
if how == "busy":
    busy = "from pipeline.videos import reader\\ndef read(*a, **b):\\n    while True: pass\\n"
    decoding.SERVING = busy + "reader.read_frames = read\\n" + decoding.SERVING
decoding.probe(path)
print("probed", flush=True)
frames = decoding.read_frames(path)
if how != "idle":
    next(frames)
    print("read", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["idle", "busy", "amid"])
def test_it_ends_with_its_parent_however_that_ends(long, how):
    with python(PARENT, long, how, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"probed\n"
        if how == "amid":
            assert parent.stdout.readline() == b"read\n"
        (pid,) = decoders(parent.pid)
        time.sleep(0.5)  # until it is at it
        parent.kill()
        assert is_gone(pid)
