"""Peak memory of `dlkdd predict`, against the length of the video.

    python -m benchmarks.predict_memory

Videos of 15 and of 150 seconds at 30 frames a second, 172×128, in H.264; a slim network with the demo's clip, asked
about 8 clips at once. Each way to predict runs in a process of its own. Prints MiB over what the process held after its
imports, and the ratio.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.material import peak_mib
from pipeline.core.params import ClipParams
from pipeline.data.frames import Frames
from pipeline.enhance.classical import Clahe
from pipeline.models.recognizer import Architecture, Recognizer
from pipeline.tools.predict.inference import Sampling, VideoPrediction, predict_videos
from pipeline.tools.predict.overlay import write_overlay
from pipeline.videos.reader import write_video

HEIGHT, WIDTH, FPS = 128, 172, 30
SECONDS = (15, 150)
CLIP = ClipParams(num_frames=8, frame_stride=3, size=56)
CLASS_NAMES = tuple("abcdefghijk")
# seconds of a window, and from one to the next
WAYS = {
    "whole video": (None, None),
    "windows of 2 s": (2.0, None),
    "of 10 s, every 2 s": (10.0, 2.0),
    "with an overlay": (2.0, None),
}
# glibc raises this bound as it goes, after which big blocks leave holes: up to 10 MiB, once, that are nobody's
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


def gradient(num_frames: int) -> Iterator[Frames]:
    """A ramp that wanders: memory does not depend on what is seen, and this is quick to write."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for number in range(num_frames):
        yield np.stack([(x + y + number) // 8 % 40] * 3, axis=-1).astype(np.uint8)


def measure(path: Path, name: str) -> None:
    """Predict that video, and print by how many MiB the peak of memory rose."""
    torch.set_num_threads(1)
    arch = Architecture("r2plus1d_slim", len(CLASS_NAMES), CLIP, 16, 0.0, 0.0)
    recognizer = Recognizer(arch, mean_C=[0.1] * 3, std_C=[0.1] * 3)
    sampling = Sampling(64, 3, 1, *WAYS[name], FPS)
    before = peak_mib()
    found = predict_videos(
        recognizer, [path], sampling, batch_size=8, device=torch.device("cpu"), watch=lambda path, number: None
    )
    for result in found:
        assert isinstance(result, VideoPrediction), result
        if name == "with an overlay":
            write_overlay(
                result,
                path.with_suffix(".overlay.mp4"),
                class_names=CLASS_NAMES,
                top_k=3,
                beside=Clahe(2.0, 8),
                watch=lambda path, number: None,
            )
    print(peak_mib() - before)


def output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | ALLOCATION).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=2, metavar=("VIDEO", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(Path(options.measure[0]), options.measure[1])
        return
    with tempfile.TemporaryDirectory() as temporary:
        paths = [Path(temporary) / f"{seconds}.mp4" for seconds in SECONDS]
        for path, seconds in zip(paths, SECONDS, strict=True):
            write_video(path, gradient(seconds * FPS), fps=FPS)
        print("peak MiB over that of the imports\n")
        print("                      15 s   150 s   ratio")
        for name in WAYS:
            command = [sys.executable, "-m", "benchmarks.predict_memory", "--measure"]
            peaks = [float(output([*command, str(path), name])) for path in paths]
            print(f"{name:19} {peaks[0]:6.0f} {peaks[1]:7.0f} {peaks[1] / peaks[0]:7.2f}", flush=True)


if __name__ == "__main__":
    main()
