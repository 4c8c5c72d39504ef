"""Decoding in a process of its own: its time beside that of decoding in the same process.

    python -m benchmarks.decoder_process

Prints ratios of wall time, each the median of rounds in which both ways take turns, as `prepare` decodes (128 pixels
short side, each frame then coded as JPEG) and at full size. Below 1 the two processes work at the same time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import simplejpeg

from benchmarks.material import render_videos
from pipeline.data.frames import Frames
from pipeline.videos import decoder as decoding
from pipeline.videos import reader as video

ROUNDS = 5
Read = Callable[..., Iterator[Frames]]


def seconds(read: Read, paths: list[Path], short_side: int | None) -> float:
    start = time.perf_counter()
    for path in paths:
        for frame in read(path, short_side=short_side):
            simplejpeg.encode_jpeg(frame, quality=95)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=16, help="how many videos of 64 frames (default: 16)")
    parser.add_argument("--tiny", action="store_true", help="one round of two short videos: for the tests")
    options = parser.parse_args()
    count, frames, rounds = (2, 8, 1) if options.tiny else (options.videos, 64, ROUNDS)
    with tempfile.TemporaryDirectory() as temporary:
        paths = render_videos(Path(temporary), count, width=320, height=240, num_frames=frames)
        start = time.perf_counter()
        decoding.probe(paths[0])
        print(f"first answer of a new process  {time.perf_counter() - start:6.2f} s")
        for name, short_side in (("128 pixels", 128), ("full size", None)):
            pairs = [
                (seconds(video.read_frames, paths, short_side), seconds(decoding.read_frames, paths, short_side))
                for _ in range(rounds)
            ]
            ratio = statistics.median(there / here for here, there in pairs)
            here = statistics.median(here for here, _ in pairs)
            print(f"{name:10}  in this process {here:6.2f} s   in its own, relative to that {ratio:6.2f}")


if __name__ == "__main__":
    main()
