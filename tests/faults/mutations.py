"""Small videos as encoders write them, and what happens to files: seeded changes of their bytes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

HEIGHT, WIDTH = 48, 64


@dataclass(frozen=True)
class Encoding:
    """A container and codec, with the options of both."""

    name: str  # with the suffix that says the container
    codec: str
    frames: int
    options: tuple[tuple[str, str], ...] = ()
    container: tuple[tuple[str, str], ...] = ()


X264 = (("crf", "26"), ("x264-params", "threads=1:no-mbtree=1"))  # the same bytes in every run: pipeline.videos.reader
ENCODINGS = (
    Encoding("h264.mp4", "libx264", 40, (("bf", "3"), ("g", "20"), *X264)),
    Encoding("faststart.mp4", "libx264", 40, (("bf", "2"), *X264), (("movflags", "faststart"),)),
    Encoding("fragmented.mp4", "libx264", 40, (("g", "10"), *X264), (("movflags", "frag_keyframe+empty_moov"),)),
    Encoding("xvid.avi", "mpeg4", 40, (("g", "12"), ("vtag", "xvid"))),
    Encoding("mjpeg.avi", "mjpeg", 30, (("qmin", "4"),)),
    Encoding("h264.avi", "libx264", 40, (("bf", "0"), ("g", "20"), *X264)),
    Encoding("h264.mkv", "libx264", 40, (("bf", "3"), ("g", "20"), *X264)),
    Encoding("vp9.webm", "libvpx-vp9", 30, (("deadline", "realtime"), ("cpu-used", "8"), ("g", "15"))),
    Encoding("vp8.webm", "libvpx", 40, (("deadline", "realtime"), ("cpu-used", "8"), ("g", "15"))),
)


def scene(number):
    """A dark frame in which something moves: every frame is another one."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    luma = 20 + 14 * np.sin((x + 2 * number) / 5) + 10 * np.cos((y - number) / 4)
    luma += 120 * ((x - 8 - number) ** 2 + (y - 24) ** 2 < 60)
    return np.stack([luma, 0.9 * luma, 1.1 * luma], -1).clip(0, 255).astype(np.uint8)


def encode(path, encoding):
    """Write the scene; returns the path."""
    with av.open(str(path), "w", options=dict(encoding.container)) as out:
        stream = out.add_stream(encoding.codec, rate=25)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if encoding.codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.options = dict(encoding.options)
        for number in range(encoding.frames):
            frame = av.VideoFrame.from_ndarray(scene(number), format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def _span(data, rng, longest):
    length = int(rng.integers(1, min(longest, len(data) // 2) + 1))
    start = int(rng.integers(0, len(data) - length + 1))
    return start, start + length


def flipped_bits(data, rng):
    """One to eight bits turned."""
    changed = bytearray(data)
    for place in rng.integers(0, len(data) * 8, rng.integers(1, 9)):
        changed[place // 8] ^= 1 << (place % 8)
    return bytes(changed)


def zeroed(data, rng):
    """A run of zeros, as a hole of a disk leaves."""
    start, end = _span(data, rng, 600)
    return data[:start] + bytes(end - start) + data[end:]


def truncated(data, rng):
    """Cut off somewhere."""
    return data[: rng.integers(1, len(data))]


def inserted(data, rng):
    """Bytes that do not belong there."""
    place = int(rng.integers(0, len(data) + 1))
    return data[:place] + rng.bytes(int(rng.integers(1, 400))) + data[place:]


def deleted(data, rng):
    """A span that is not there."""
    start, end = _span(data, rng, 2000)
    return data[:start] + data[end:]


def duplicated(data, rng):
    """A span that is there twice."""
    start, end = _span(data, rng, 2000)
    return data[:end] + data[start:]


def swapped(data, rng):
    """Two blocks of one size, each in the other's place."""
    size = int(rng.integers(1, min(512, len(data) // 3)))
    first, second = sorted(int(place) for place in rng.integers(0, len(data) - 2 * size, 2))
    second += size
    return (
        data[:first]
        + data[second : second + size]
        + data[first + size : second]
        + data[first : first + size]
        + data[second + size :]
    )


def edited_header(data, rng):
    """A number of the first or last bytes, where containers keep their tables, replaced by an extreme or a near one."""
    width = int(rng.choice([1, 2, 4]))
    reach = min(1200, len(data) - width)
    place = int(rng.integers(0, reach))
    if rng.random() < 0.5:
        place = len(data) - width - place
    order = "little" if rng.random() < 0.5 else "big"
    before = int.from_bytes(data[place : place + width], order)
    limit = 1 << 8 * width
    choices = [0, 1, limit - 1, limit // 2, before + 1, before - 1, 2 * before, before // 2, int(rng.integers(limit))]
    value = choices[rng.integers(len(choices))] % limit
    return data[:place] + value.to_bytes(width, order) + data[place + width :]


MUTATIONS = (flipped_bits, zeroed, truncated, inserted, deleted, duplicated, swapped, edited_header)


def mutated(data, seed):
    """The bytes after the mutation of that seed, which differ, and the mutation's name."""
    rng = np.random.default_rng(seed)
    while True:
        mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
        changed = mutation(data, rng)
        if changed != data:
            return changed, mutation.__name__
