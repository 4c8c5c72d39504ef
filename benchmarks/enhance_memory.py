"""Peak memory of a worker of the enhance stage, against the length of the video.

    python -m benchmarks.enhance_memory

Videos of one and of ten minutes at 30 frames a second, 172×128; each enhancer in a process of its own that does what a
worker does. Prints MiB over what the process held after its imports, and the ratio. The frames are noise: memory does
not depend on what they show.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.enhance_stage import here, run_stage, save
from benchmarks.material import peak_mib
from pipeline.data.frame_shard import write_shard
from pipeline.data.frame_store import shard_path, write_index
from pipeline.data.frames import Frames
from pipeline.enhance.classical import Equalize
from pipeline.enhance.file import save_enhancer

SHAPE = (128, 172, 3)
FPS = 30
MINUTES = (1, 10)
NAMES = ("gamma", "gamma_auto", "equalize_frames", "clahe", "zero_dce", "zero_dce_pp", "sci")


def noise(num_frames: int) -> Iterator[Frames]:
    rng = np.random.default_rng(0)
    for _ in range(num_frames):
        yield rng.integers(0, 40, SHAPE, dtype=np.uint8)


def write_dark(folder: Path, minutes: int) -> None:
    videos = [("video", lambda: noise(minutes * 60 * FPS))]
    rows = write_shard(shard_path(folder, 0), videos, shard=0, codec="raw", jpeg_quality=0).rows
    write_index(folder, rows, codec="raw", jpeg_quality=0, origin={})


def measure(folder: Path, name: str) -> None:
    """Enhance the store of that folder, and print by how many MiB the peak of memory rose."""
    torch.set_num_threads(1)
    path = folder / f"{name}.safetensors"
    if name == "equalize_frames":
        save_enhancer(path, Equalize("frame", 15), fitted_on={})
    else:
        save(name, path)
    before = peak_mib()
    run_stage(folder, path, here)
    print(peak_mib() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(Path(options.measure[0]), options.measure[1])
        return
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / f"{minutes}" for minutes in MINUTES]
        for folder, minutes in zip(folders, MINUTES, strict=True):
            write_dark(folder / "dark", minutes)
        print("peak MiB over that of the imports\n")
        print("enhancer          one minute   ten minutes   ratio")
        for name in NAMES:
            command = [sys.executable, "-m", "benchmarks.enhance_memory", "--measure"]
            peaks = [
                float(subprocess.run([*command, str(folder), name], check=True, capture_output=True, text=True).stdout)
                for folder in folders
            ]
            print(f"{name:16} {peaks[0]:11.0f} {peaks[1]:13.0f} {peaks[1] / peaks[0]:7.2f}", flush=True)


if __name__ == "__main__":
    main()
