"""`prepare` of many tiny videos: does its time grow with their number, and its memory not?

    python -m benchmarks.growth [--counts 1000 4000 16000]

The videos are one of 8 frames of 16×16, told apart by a box of the container that nobody shows; a group has one of each
class. Each count runs in a process of its own, on one worker: CPU time a video, its decoder's included, and peak
memory, both over the first count's. `again` is a second run, which finds everything as it was.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.material import peak_mib, used_cpu_seconds
from pipeline.core.params import load_params, overridden
from pipeline.videos.decoder import end_idle
from pipeline.videos.prepare import prepare
from pipeline.videos.reader import write_video

RECIPE = Path(__file__).parent.parent / "configs/csv.yaml"
CLASSES = 10


def make_videos(root: Path, count: int) -> None:
    """The videos and their table."""
    root.mkdir()
    frames = np.random.default_rng(0).integers(0, 60, (8, 16, 16, 3), dtype=np.uint8)
    write_video(root / "one.mp4", iter(frames), fps=25)
    content = (root / "one.mp4").read_bytes()
    (root / "one.mp4").unlink()
    lines = ["path,label,group"]
    for number in range(count):
        (root / f"{number:06d}.mp4").write_bytes(content + b"\0\0\0\x10free" + number.to_bytes(8, "big"))
        lines.append(f"{number:06d}.mp4,class {number % CLASSES},group {number // CLASSES}")
    (root / "videos.csv").write_text("\n".join(lines) + "\n")


def measure(folder: Path) -> None:
    """Prepare what lies in the folder, twice; prints the CPU seconds of both, and the peak."""
    os.chdir(folder)
    changes = {"prepare.root": "videos", "prepare.short_side": 16, "prepare.num_shards": 16}
    params = overridden(load_params(RECIPE), changes, name="growth")
    for _ in range(2):
        before = used_cpu_seconds()
        prepare(
            params.prepare,
            seed=0,
            manifest_path=Path("manifest.csv"),
            quarantine_path=Path("quarantine.csv"),
            dark_path=Path("dark"),
            run=lambda function, tasks: [function(task) for task in tasks],
        )
        end_idle()
        print(used_cpu_seconds() - before)
    print(peak_mib())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 4000, 16000], help="numbers of videos")
    parser.add_argument("--tiny", action="store_true", help="80 and 160 videos: for the tests")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure)
        return
    print("| videos | CPU ms a video | over the first | again, ms a video | peak MiB | over the first |")
    print("|---|---|---|---|---|---|")
    first: tuple[float, float] | None = None
    for count in (80, 160) if options.tiny else options.counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_videos(folder / "videos", count)
            command = [sys.executable, "-m", "benchmarks.growth", "--measure", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, again, peak = map(float, done.stdout.split())
        each = 1000 * seconds / count
        first = first or (each, peak)
        ratios = f"{each / first[0]:.2f} | {1000 * again / count:.2f} | {peak:.0f} | {peak / first[1]:.2f}"
        print(f"| {count:,} | {each:.2f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
