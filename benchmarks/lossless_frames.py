"""Lossless codecs for frames: bytes, and CPU time of a clip, over raw frames.

    python -m benchmarks.lossless_frames [--store data/enhanced ...]

A codec would have to halve the bytes at no more than twice the time of reading. Material: the built-in demo, dark and
after a gamma of 2.2, 128×171; and videos of the stores named. A clip is 8 frames at a stride of 3. Of a codec's time
only decoding counts, added to what the store takes for a clip of raw frames. `step` is the difference to the frame
before, with a whole frame each eighth; `green` takes the green from red and blue.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numcodecs import blosc

from benchmarks.frame_store import LIFT, build, dark_videos
from benchmarks.material import best_seconds
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import Frames

CLIP_FRAMES, CLIP_STRIDE = 8, 3
KEY = 8  # every so many frames one is whole


@dataclass(frozen=True)
class Blosc:
    """A codec of the Blosc library; delta: `step` and `green`."""

    name: str
    codec: str
    level: int
    delta: bool

    def encode(self, frames_THWC: Frames) -> list[bytes]:
        coded = np.ascontiguousarray(np.moveaxis(frames_THWC, -1, 1)) if self.delta else frames_THWC
        if self.delta:
            coded[:, ::2] -= coded[:, 1:2]
            whole = coded[::KEY].copy()
            coded[1:] -= coded[:-1].copy()
            coded[::KEY] = whole
        return [blosc.compress(frame.ravel(), self.codec.encode(), self.level, 0) for frame in coded]

    def decode(self, coded: Sequence[bytes], numbers: Sequence[int], height: int, width: int) -> Frames:
        if not self.delta:
            shape = (height, width, 3)
            return np.stack(
                [np.frombuffer(blosc.decompress(coded[number]), np.uint8).reshape(shape) for number in numbers]
            )
        planes = np.empty((len(numbers), 3, height, width), np.uint8)
        at, frame = -1, planes[0]
        for place, number in enumerate(numbers):
            for each in range(max(at + 1, number - number % KEY), number + 1):
                step = np.frombuffer(blosc.decompress(coded[each]), np.uint8).reshape(3, height, width)
                frame = step if each % KEY == 0 else frame + step
            at, planes[place] = number, frame
        planes[:, ::2] += planes[:, 1:2]
        return np.moveaxis(planes, 1, -1)


@dataclass(frozen=True)
class FFV1:
    """FFmpeg's lossless codec; every frame stands for itself."""

    name: str = "FFV1"

    def encode(self, frames_THWC: Frames) -> list[bytes]:
        with av.open(io.BytesIO(), "w", format="nut") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.height, stream.width, stream.pix_fmt = *frames_THWC.shape[1:3], "bgr0"
            stream.options = {"level": "3", "g": "1", "slices": "4"}
            context = stream.codec_context
            context.thread_count = 1
            frames = [
                av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0") for frame in frames_THWC
            ]
            packets = [packet for frame in frames for packet in context.encode(frame)] + context.encode(None)
            header = context.extradata or b""
        return [header, *(bytes(packet) for packet in packets)]

    def decode(self, coded: Sequence[bytes], numbers: Sequence[int], height: int, width: int) -> Frames:
        context = av.CodecContext.create("ffv1", "r")
        context.extradata, context.height, context.width, context.pix_fmt = coded[0], height, width, "bgr0"
        context.thread_count = 1
        decoded = [frame for number in numbers for frame in context.decode(av.Packet(coded[number + 1]))]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])


Codec = Blosc | FFV1
Coded = dict[str, list[bytes]]
CODECS: tuple[Codec, ...] = (
    Blosc("lz4", "lz4", 5, delta=False),
    Blosc("zstd", "zstd", 3, delta=False),
    Blosc("lz4, step, green", "lz4", 5, delta=True),
    Blosc("zstd, step, green", "zstd", 3, delta=True),
    FFV1(),
)


def compare(material: str, store: FrameStore, videos: dict[str, Frames]) -> None:
    """Print a line for each codec."""
    raw = sum(frames.nbytes for frames in videos.values())
    clips = {
        name: [min(place * CLIP_STRIDE, len(frames) - 1) for place in range(CLIP_FRAMES)]
        for name, frames in videos.items()
    }

    def read_all(read: Callable[[str, list[int]], object]) -> float:
        return best_seconds(lambda: [read(name, numbers) for name, numbers in clips.items()], number=3)

    reading = read_all(store.read)
    copying = read_all(lambda name, numbers: videos[name][numbers])
    for codec in CODECS:
        coded: Coded = {name: codec.encode(frames) for name, frames in videos.items()}

        def decode(name: str, numbers: list[int], codec: Codec = codec, coded: Coded = coded) -> Frames:
            return codec.decode(coded[name], numbers, *videos[name].shape[1:3])

        assert all(np.array_equal(decode(name, numbers), videos[name][numbers]) for name, numbers in clips.items())
        size = sum(len(frame) for frames in coded.values() for frame in frames) / raw
        print(
            f"| {material} | {codec.name} | {size:.2f} | {(reading - copying + read_all(decode)) / reading:.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, action="append", default=[], help="a frame store to measure as well")
    parser.add_argument("--videos", type=int, default=8, help="of each material (default: 8)")
    parser.add_argument("--tiny", action="store_true", help="one video: for the tests")
    options = parser.parse_args()
    options.videos = 1 if options.tiny else options.videos
    blosc.use_threads = False
    print("| material | codec | bytes | time of a clip |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        dark = dark_videos(Path(folder), options.videos)
        lifted = {name: LIFT(frames) for name, frames in dark.items()}
        for material, videos in (("dark", dark), ("after gamma", lifted)):
            place = Path(folder) / material
            place.mkdir()
            compare(material, build(place, videos, "raw", 95)[0], videos)
    for path in options.store:
        store = FrameStore(path)
        chosen = store.video_ids[:: max(1, len(store.video_ids) // options.videos)][: options.videos]
        compare(str(path), store, {name: store.read(name, range(store.shape(name)[0])) for name in chosen})


if __name__ == "__main__":
    main()
