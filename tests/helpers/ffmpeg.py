"""The ffmpeg program of imageio-ffmpeg: files as users make them, and a second opinion of what a file holds."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg


@dataclass(frozen=True)
class Opinion:
    """What ffmpeg decodes of a file's first video track: the number of frames, and what it complains of."""

    frames: int
    warnings: str

    @property
    def sound(self) -> bool:
        """Whether it decodes without a word."""
        return not self.warnings and self.frames > 0


def ffmpeg(*arguments: str | Path) -> None:
    """Run ffmpeg with arguments; an existing file is written over."""
    _run("-v", "error", "-y", *arguments).check_returncode()


def opinion(path: Path) -> Opinion:
    """Decode a file."""
    done = _run(
        "-v",
        "warning",
        "-i",
        path,
        "-map",
        "0:v:0",
        "-fps_mode",
        "passthrough",
        "-progress",
        "-",
        "-f",
        "null",
        "/dev/null",
    )
    frames = re.findall(r"^frame=(\d+)$", done.stdout, re.MULTILINE)
    return Opinion(int(frames[-1]) if frames else 0, done.stderr)


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
