"""Decoders' processes as tests see them, and files that ask for more than they should get."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from video_files import encode, image_folder, patched

from pipeline.videos import decoder as decoding

HUGE = b"\xff\xdc\xff\xdc"  # 65,500 twice, the most that a JPEG can state


@pytest.fixture(autouse=True)
def own_decoders():
    """For test files that import it: each test starts its decoders itself, and leaves none behind."""
    decoding.end_idle()
    yield
    decoding.end_idle()
    assert decoders() == []


def decoders(parent: int | None = None) -> list[int]:
    """Ids of the living processes that decode for this one, or for another."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            state, owner = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended
            continue
        if int(owner) == (parent or os.getpid()) and state != "Z" and b"decoder import serve" in command:
            found.append(int(folder.name))
    return found


def is_gone(pid: int, *, within: float = 60) -> bool:
    """Whether a process that may not be a child of ours ends in that time."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def peak_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def bombs(folder: Path) -> dict[str, Path]:
    """Small files whose frames would take gigabytes."""
    folder.mkdir(exist_ok=True)
    jpeg = encode(folder / "jpeg.avi", codec="mjpeg", pix_fmt="yuvj420p", frames=3)
    vp8 = encode(folder / "vp8.webm", codec="libvpx", frames=3)
    images = image_folder(folder / "jpegs", range(1, 3))
    pngs = image_folder(folder / "pngs", range(1, 3), ".png")
    return {
        "jpeg in avi": patched(jpeg, (b"\xff\xc0", 5, HUGE)),
        "vp8": patched(vp8, (b"\x9d\x01\x2a", 3, b"\xff\x3f\xff\x3f")),  # 16,383 twice
        "jpegs": patched(sorted(images.iterdir())[0], (b"\xff\xc0", 5, HUGE)).parent,
        "pngs": patched(sorted(pngs.iterdir())[0], (b"IHDR", 4, b"\x00\x00\xff\xff" * 2)).parent,
    }


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
