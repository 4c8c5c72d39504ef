"""What to say of a container that is not read: its name, and the command that puts its frames into another."""

from __future__ import annotations

import shlex
from pathlib import Path

# By their first bytes: FFmpeg would have to open a file to say what it is. A raw stream has no time stamps, and ffmpeg
# loses frames when it copies one; what it decodes and packs without loss has them all.
COPY, PACK = "-c copy", "-c:v ffv1"
STREAM_STARTS = (b"\0\0\1", b"\0\0\0\1")
CONTAINERS = {
    b"GIF8": ("a GIF image", PACK),
    b"\x89PNG": ("a PNG image", PACK),
    b"\xff\xd8\xff": ("a JPEG image, or raw MJPEG", PACK),
    b"YUV4MPEG2": ("YUV4MPEG", PACK),
    b".RMF": ("RealMedia", PACK),
    b"\x1f\x07\0": ("raw DV", COPY),
    b"DKIF": ("IVF", COPY),
    b"nut/": ("NUT", COPY),
    b"DHAV": ("Dahua's DHAV", COPY),
    b"\xb7\xd8\0\x20": ("Windows TV", COPY),
}


def unread_container(path: Path) -> str | None:
    """Why a file is not read, with the way out; None where its beginning is none of those known here."""
    with path.open("rb") as file:
        start = file.read(16)
    found = next((value for magic, value in CONTAINERS.items() if start.startswith(magic)), None)
    if found is None and start.startswith(STREAM_STARTS) and not start.startswith(b"\0\0\1\xba"):
        found = ("a raw stream", PACK)
    if found is None:
        return None
    name, how = found
    command = f"ffmpeg -i {shlex.quote(path.name)} {how} {shlex.quote(path.stem + '.mkv')}"
    return f"{name} is not read; `{command}` makes a video of it"
