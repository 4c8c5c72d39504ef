"""Videos that take their decoder with them, and videos that change while they are read: what becomes of them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from check_setups import write_params
from decoder_runs import bombs, decoders, is_gone, own_decoders  # noqa: F401 - a fixture
from video_files import encode

from pipeline.data.frame_store import FrameStore
from pipeline.data.manifest import read_manifest, read_quarantine
from pipeline.videos import dark_shard
from pipeline.videos import decoder as decoding

CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS")
OUTS = ("--manifest", "out/manifest.csv", "--quarantine", "out/quarantine.csv", "--dark", "out/dark", "--workers", "1")


@pytest.fixture
def project(checked_project):
    """Eight videos in the current folder, and parameters under which two of them may be broken."""
    write_params(prepare__max_quarantined=0.3, prepare__min_frames=2, prepare__num_shards=1)
    return checked_project


@pytest.fixture
def videos(project):
    """Of train, where each class has more than one."""
    found = [line.split(",") for line in Path("data/videos.csv").read_text().splitlines()]
    split, path = found[0].index("split"), found[0].index("path")
    return [Path("data") / line[path] for line in found[1:] if line[split] == "train"]


def quarantined(call, broken):
    """Run `prepare`; the reason for which that video alone is in quarantine."""
    code, _, err = call("prepare", *OUTS)
    assert code == 0, err
    (row,) = read_quarantine(Path("out/quarantine.csv"))
    assert Path("data") / row.path == broken
    rows = read_manifest(Path("out/manifest.csv")).rows
    assert len(rows) == 7
    FrameStore(Path("out/dark")).verify()
    return row.reason


def in_midst_of(monkeypatch, victim, act):
    """Call `act` with the decoder's process when it has given a first frame of that video."""
    read = dark_shard.read_frames

    def watched(path, **options):
        for number, frame in enumerate(read(path, **options)):
            if number == 0 and path == victim.absolute():
                act(*decoders())
            yield frame

    monkeypatch.setattr(dark_shard, "read_frames", watched)


def replace_code(monkeypatch, victim, code):
    """Let the decoder's process do something else with that video."""
    body = f"if path.name == {victim.name!r}:\n        {code}\n    yield from read(path, **options)"
    function = f"def other(path, read=pipeline.videos.reader.read_frames, **options):\n    {body}\n"
    reader = "pipeline.videos.reader"
    text = f"import ctypes, os, time, {reader}\nexec({function!r})\n{reader}.read_frames = other\n"
    serving = text.replace("{", "{{").replace("}", "}}") + decoding.SERVING
    monkeypatch.setattr(decoding, "SERVING", serving)


@pytest.mark.fault("Videos", "decoder crash", "Q")
def test_a_crash_costs_the_video(call, monkeypatch, videos, scale, cases):
    rng = random.Random(0)
    tried = scale(2, len(CRASHES) * 4)
    for number in range(tried):
        victim, name = rng.choice(videos), CRASHES[number % len(CRASHES)]
        shutil.rmtree(".work", ignore_errors=True)
        with monkeypatch.context() as patch:
            decoding.end_idle()
            replace_code(patch, victim, f"os.kill(os.getpid(), {signal.Signals[name].value})")
            assert quarantined(call, victim) == f"its decoder crashed ({name})"
        decoding.end_idle()
    cases(tried)


@pytest.mark.fault("Videos", "decoder crash", "Q")
def test_a_wild_pointer_costs_the_video(call, monkeypatch, videos):
    replace_code(monkeypatch, videos[0], "ctypes.string_at(0)")
    assert quarantined(call, videos[0]) == "its decoder crashed (SIGSEGV)"


@pytest.mark.fault("Videos", "decoder raises what nobody foresaw", "Q")
@pytest.mark.parametrize(
    "error", ["ValueError('29 is not a valid Type')", "AssertionError()", "IndexError('x' * 9999)"]
)
def test_an_exception_costs_the_video(call, monkeypatch, videos, error):
    replace_code(monkeypatch, videos[0], f"raise {error}")
    assert quarantined(call, videos[0]).startswith(f"its decoder failed: {error.partition('(')[0]}: ".rstrip())


@pytest.mark.fault("Videos", "decoder hang", "Q")
@pytest.mark.parametrize("how", ["busy", "waiting"])
def test_a_hang_costs_the_video(call, monkeypatch, videos, how):
    monkeypatch.setattr(decoding, "WAIT_SECONDS", 3 if how == "waiting" else 60)
    monkeypatch.setattr(decoding, "CPU_SECONDS", 1)
    replace_code(monkeypatch, videos[1], "while True: pass" if how == "busy" else "time.sleep(600)")
    expected = "worked on one frame for more than 1 s" if how == "busy" else "gave no frame for 3 s"
    assert quarantined(call, videos[1]) == f"its decoder {expected}"


@pytest.mark.fault("Videos", "decompression bomb", "Q")
@pytest.mark.parametrize("kind", ["jpeg in avi", "vp8"])
def test_a_bomb_costs_the_video(call, monkeypatch, project, videos, kind):
    bomb = bombs(project / "bombs")[kind]
    victim = videos[0]
    victim.unlink()
    new = victim.with_suffix(bomb.suffix)
    bomb.rename(new)
    table = Path("data/videos.csv")
    old_name, new_name = (str(path.relative_to("data")) for path in (victim, new))
    table.write_text(table.read_text().replace(old_name, new_name))
    assert "gave no frame" not in quarantined(call, new)


@pytest.mark.fault("Videos", "more memory than a decoder may take", "Q")
def test_memory_costs_the_video(call, monkeypatch, videos):
    monkeypatch.setattr(decoding, "MEMORY_BYTES", 32 * 2**20)
    encode(videos[0], codec="mpeg4", frames=3, size=(4000, 3000))
    assert quarantined(call, videos[0]) == "its decoder needs more than 0.03125 GiB of memory"


@pytest.mark.fault("Runs", "decoder killed from outside", "E")
def test_a_killed_decoder_is_no_videos_fault(call, monkeypatch, project, videos):
    with monkeypatch.context() as patch:
        replace_code(patch, videos[0], "os.kill(os.getpid(), 9)")
        code, _, err = call("prepare", *OUTS)
    assert code == 4
    assert f"{videos[0].absolute()}: its decoder was killed from outside (SIGKILL)" in err
    assert not Path("out/manifest.csv").exists()
    decoding.end_idle()
    assert call("prepare", *OUTS)[0] == 0
    assert read_quarantine(Path("out/quarantine.csv")) == ()


@pytest.mark.fault("Videos", "changed data while running", "E")
@pytest.mark.parametrize("how", ["replaced", "appended", "truncated", "removed"])
def test_data_that_change_are_an_error(call, monkeypatch, videos, how):
    victim = videos[2]
    before = victim.read_bytes()

    def change(_pid):
        if how == "replaced":
            shutil.copy(videos[0], victim)
        elif how == "removed":
            victim.unlink()
        else:
            victim.write_bytes(before + b"more" if how == "appended" else before[:-100])

    with monkeypatch.context() as patch:
        in_midst_of(patch, victim, change)
        code, _, err = call("prepare", *OUTS)
    assert code == 5
    assert "videos changed while they were read" in err
    assert str(victim) in err
    assert not Path("out/manifest.csv").exists()
    victim.write_bytes(before)
    assert call("prepare", *OUTS)[0] == 0
    assert read_quarantine(Path("out/quarantine.csv")) == ()


@pytest.mark.fault("Videos", "changed data while running", "E")
def test_a_video_that_goes_before_it_is_read_is_an_error(call, monkeypatch, videos):
    digest = dark_shard.digest_video

    def removed(path, images):
        if path == videos[0].absolute():
            path.unlink()
        return digest(path, images)

    monkeypatch.setattr(dark_shard, "digest_video", removed)
    code, _, err = call("prepare", *OUTS)
    assert code == 5
    assert f"{videos[0].absolute()}: it was there, and is gone" in err


LIMITS = {
    "writes a file": ("open('data/written', 'w').write('x' * 9999)", None),
    "takes memory": ("bytes(5 * 2**30)", "its decoder needs more than 4 GiB of memory"),
    "dumps a core": ("ctypes.string_at(0)", "its decoder crashed (SIGSEGV)"),
}


@pytest.mark.fault("Security", "decoder beyond its limits", "Q")
@pytest.mark.parametrize("what", LIMITS)
def test_a_decoder_has_limits(call, monkeypatch, project, videos, what):
    code, expected = LIMITS[what]
    replace_code(monkeypatch, videos[0], code)
    if expected is None:
        call("prepare", *OUTS)
    else:
        assert quarantined(call, videos[0]) == expected
    assert not Path("data/written").exists() or Path("data/written").stat().st_size == 0
    assert list(project.rglob("core*")) == []


@pytest.mark.fault("Security", "decoder outlives its parent", "=")
@pytest.mark.parametrize("how", ["busy", "asleep"])
def test_a_decoder_ends_with_its_parent(videos, how):
    code = "while True: pass" if how == "busy" else "time.sleep(600)"
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            function = f"def other(*_, **__):\n    {code}\n    yield"
            decoding.SERVING = (
                f"import time, pipeline.videos.reader\nexec({function!r})\npipeline.videos.reader.read_frames = other\n"
                f"{decoding.SERVING}"
            )
            decoding.probe(videos[0])
            os.write(writing, f"{decoders()[0]}\n".encode())
            list(decoding.read_frames(videos[0]))
        finally:
            os._exit(1)
    pid = int(os.read(reading, 20))
    time.sleep(0.5)  # until it is at it
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert is_gone(pid)
    for end in (reading, writing):
        os.close(end)
