"""Light and noise of rendered or darkened videos beside those of 24 real ARID clips: the table of docs/demo.md.

Run: python benchmarks/demo_light.py data/demo
"""

import sys
from pathlib import Path

import numpy as np

from pipeline.data.camera import measure_light
from pipeline.data.names import is_video
from pipeline.videos.reader import read_frames

EVERY = 4  # videos; enough for the percentiles


def main() -> None:
    paths = sorted(path for path in Path(sys.argv[1]).rglob("*") if is_video(path.name))[::EVERY]
    lights = [measure_light(np.stack(list(read_frames(path)))) for path in paths]
    means = [light.mean for light in lights]
    noise = np.nanmedian([light.noise for light in lights], axis=0)
    red, green, blue = np.mean([light.channel_means for light in lights], axis=0)
    rows = [
        ("mean luma of a clip: minimum", "0.3", f"{min(means):.1f}"),
        *(
            (f"{q}th percentile", real, f"{np.percentile(means, q):.1f}")
            for q, real in ((10, "8.6"), (50, "19.1"), (90, "32.4"))
        ),
        ("maximum", "47", f"{max(means):.1f}"),
        ("median luma, median over clips", "14", f"{np.median([light.median for light in lights]):.1f}"),
        ("99th percentile, median over clips", "90", f"{np.median([light.percentile_99 for light in lights]):.1f}"),
        ("mean of R, G, B", ".085 .077 .075", f"{red:.3f} {green:.3f} {blue:.3f}"),
        *(
            (f"noise over time at levels {band}", real, f"{value:.1f}")
            for band, real, value in zip(
                ("0-16", "16-32", "32-64", "64-128"), ("0-0.3", "0.8", "1.5", "3"), noise, strict=True
            )
        ),
    ]
    sys.stdout.write(f"{len(paths)} videos\n{'':<36}{'real':>16}{'here':>20}\n")
    sys.stdout.writelines(f"{name:<36}{real:>16}{here:>20}\n" for name, real, here in rows)


if __name__ == "__main__":
    main()
