"""Light and noise of rendered or darkened videos beside those of 24 real ARID clips: the table of docs/demo.md.

Run: python benchmarks/demo_light.py data/demo
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.frames import Frames
from pipeline.data.names import is_video
from pipeline.evaluate.light import LUMA_C
from pipeline.videos.reader import read_frames

EVERY = 4  # videos; enough for the percentiles
MAD_TO_SIGMA = 1.4826  # of a normal distribution
NOISE_BANDS = ((0, 16), (16, 32), (32, 64), (64, 128))  # levels, as docs/demo.md compares them


@dataclass(frozen=True)
class LightStatistics:
    """How dark and how noisy a clip is, in 8-bit levels.

    noise: deviation over time in each of NOISE_BANDS, robustly (1.48·MAD of frame differences / √2), NaN where no
    pixel's median over time lies in the band. channel_means: R, G, B as shares of 255.
    """

    mean: float
    median: float
    percentile_99: float
    noise: tuple[float, ...]
    channel_means: tuple[float, float, float]


def measure_light(frames_THWC: Frames) -> LightStatistics:
    """Statistics of a clip's luma (BT.601) and channels, as docs/demo.md compares them with real dark clips."""
    luma = frames_THWC @ np.array(LUMA_C)
    level, differences = np.median(luma, axis=0), np.diff(luma, axis=0)
    noise = []
    for low, high in NOISE_BANDS:
        inside = differences[:, (level >= low) & (level < high)]
        deviation = np.median(np.abs(inside - np.median(inside))) if inside.size else np.nan
        noise.append(float(MAD_TO_SIGMA * deviation / np.sqrt(2)))
    red, green, blue = (float(value) for value in frames_THWC.mean(axis=(0, 1, 2)) / 255)
    return LightStatistics(
        mean=float(luma.mean()),
        median=float(np.median(luma)),
        percentile_99=float(np.percentile(luma, 99)),
        noise=tuple(noise),
        channel_means=(red, green, blue),
    )


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
            (f"noise over time at levels {low}-{high}", real, f"{value:.1f}")
            for (low, high), real, value in zip(NOISE_BANDS, ("0-0.3", "0.8", "1.5", "3"), noise, strict=True)
        ),
    ]
    print(f"{len(paths)} videos\n{'':<36}{'real':>16}{'here':>20}")
    for name, real, here in rows:
        print(f"{name:<36}{real:>16}{here:>20}")


if __name__ == "__main__":
    main()
