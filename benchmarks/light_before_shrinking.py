"""What an enhancer can bring back of the bright original, by what is kept of the dark frames: the table of LOG.md.

    python -m benchmarks.light_before_shrinking [../shared/data/videos/egogestar]

Bright clips are darkened by the demo's camera and coded as H.264; the darkest of them are looked at. Dark frames are
shrunk and kept in different ways, enhanced, and rounded to 8 bits once more. Correlation: of their high-passed luma
(BT.601, less its Gaussian blur of two pixels) with that of the original, shrunk without rounding; mean over frames,
then over clips. ms: CPU time to shrink, keep and enhance a frame by gamma, without decoding it (in the last row to
enhance it; there it is shrunk while it is decoded). bytes: of a frame.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.in_memory import enhance_frames
from pipeline.core.params import load_params
from pipeline.data.camera import ARID_CRF, ARID_LIKE, darken, video_stream
from pipeline.data.frames import Frames
from pipeline.data.names import is_video
from pipeline.enhance.file import classical_from_params
from pipeline.tools.look.preview import LUMA
from pipeline.videos.reader import read_frames, write_video

Values = NDArray[np.float32]  # (T, H, W, C): display values from 0 to 255, not rounded
Enhance = Callable[[Values], Values]
PARAMS = load_params(Path(__file__).parent.parent / "params.yaml").fit_enhancer
MOST_FRAMES = 32  # of each clip
FINE = 257  # steps of 16 bits in one of 8


# enhancers of values; `stored` are those of the product, on 8 bits


def gamma(values_THWC: Values, exponent: float = PARAMS.gamma) -> Values:
    return np.asarray(255 * (values_THWC / 255) ** np.float32(1 / exponent), np.float32)


def gamma_auto(values_THWC: Values) -> Values:
    low, high = 1.0, 10.0
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if gamma(values_THWC, middle).mean() < 255 * PARAMS.target_mean else (low, middle)
    return gamma(values_THWC, low)


def equalize(values_THWC: Values) -> Values:
    luma_THW = values_THWC @ LUMA
    ordered = np.sort(luma_THW.ravel())
    equal_THW = 255 * np.searchsorted(ordered, luma_THW, side="right").astype(np.float32) / ordered.size
    return values_THWC + (equal_THW - luma_THW)[..., None]


def clahe(values_THWC: Values) -> Values:
    """OpenCV's on 16 bits: its limit counts in 65536 bins, which hardly limits small tiles."""
    made = cv2.createCLAHE(PARAMS.clahe_clip_limit, (PARAMS.clahe_grid, PARAMS.clahe_grid))
    luma_THW = values_THWC @ LUMA
    fine_THW = np.rint(luma_THW * FINE).clip(0, 65535).astype(np.uint16)
    after_THW = np.stack([made.apply(fine) for fine in fine_THW]).astype(np.float32) / FINE
    return values_THWC + (after_THW - luma_THW)[..., None]


def stored(name: str, values_THWC: Values) -> Values:
    return enhance_frames(classical_from_params(name, PARAMS), rounded(values_THWC)).astype(np.float32)


ENHANCERS: dict[str, Enhance] = {"gamma": gamma, "gamma_auto": gamma_auto, "equalize": equalize, "clahe": clahe}


# what is kept of a frame


def rounded(values_THWC: Values) -> Frames:
    return np.rint(values_THWC).clip(0, 255).astype(np.uint8)


def offset_root(offset: float) -> Values:
    """Display values of the 256 codes of √(value + offset), from 0 to 255."""
    low, high = offset**0.5, (255 + offset) ** 0.5
    return np.asarray((low + np.arange(256) / 255 * (high - low)) ** 2 - offset, np.float32)


def logarithm(offset: float) -> Values:
    """Display values of the 256 codes of log(value + offset), from 0 to 255."""
    return np.asarray(offset * ((1 + 255 / offset) ** (np.arange(256) / 255) - 1), np.float32)


CURVES = {
    "√v": offset_root(0.0),
    "√(v + 1)": offset_root(1.0),
    "√(v + 4)": offset_root(4.0),
    "log(v + 8)": logarithm(8.0),
}


def companded(values_256: Values, values_THWC: Values) -> Frames:
    """The code nearest in the middle between neighbours."""
    edges = (values_256[1:] + values_256[:-1]) / 2
    return np.searchsorted(edges, values_THWC).astype(np.uint8)


def shrink(frames_THWC: NDArray[np.generic], short_side: int) -> Values:
    height, width = frames_THWC.shape[1:3]
    factor = short_side / min(height, width)
    size = (round(width * factor), round(height * factor))
    return np.stack([cv2.resize(f.astype(np.float32), size, interpolation=cv2.INTER_AREA) for f in frames_THWC])


@dataclass(frozen=True)
class Clip:
    """A bright clip, its dark copy as it is decoded, and that as `prepare` stores companded levels: (T, H, W, C)."""

    bright_THWC: Frames
    dark_THWC: Frames
    stored_THWC: Frames


@dataclass(frozen=True)
class Way:
    """How the dark frames of a clip become small enhanced ones, by the enhancer's name and the short side."""

    name: str
    bytes_per_value: int | None
    make: Callable[[str, int, Clip], NDArray[np.generic]]


def full_size(name: str, side: int, clip: Clip) -> Values:
    dark_THWC = clip.dark_THWC.astype(np.float32)
    return shrink(stored(name, dark_THWC) if name == "clahe" else ENHANCERS[name](dark_THWC), side)


def not_rounded(name: str, side: int, clip: Clip) -> Values:
    return ENHANCERS[name](shrink(clip.dark_THWC, side))


def sixteen_bits(name: str, side: int, clip: Clip) -> Values:
    return ENHANCERS[name](np.rint(shrink(clip.dark_THWC, side) * FINE) / FINE)


def eight_bits(name: str, side: int, clip: Clip) -> Values:
    return stored(name, shrink(clip.dark_THWC, side))


def by_curve(values_256: Values, name: str, side: int, clip: Clip) -> Values:
    return ENHANCERS[name](values_256[companded(values_256, shrink(clip.dark_THWC, side))])


def codes(values_256: Values, name: str, side: int, clip: Clip) -> Values:
    return stored(name, companded(values_256, shrink(clip.dark_THWC, side)).astype(np.float32))


def as_prepared(name: str, side: int, clip: Clip) -> Frames:
    return enhance_frames(classical_from_params(name, PARAMS), clip.stored_THWC, "companded")


WAYS = [
    Way("enhanced at full size, then shrunk", None, full_size),
    Way("shrunk, not rounded (float32)", 4, not_rounded),
    Way("16 bits", 2, sixteen_bits),
    Way("8 bits", 1, eight_bits),
    *(Way(f"8 bits, {name}", 1, partial(by_curve, curve)) for name, curve in CURVES.items()),
    *(Way(f"8 bits, {name}, codes enhanced", 1, partial(codes, curve)) for name, curve in CURVES.items()),
    Way("`prepare.levels: companded`, `enhance`", 1, as_prepared),
]


# the measure


def correlation(found_THWC: Values, bright_THWC: Values) -> float:
    pairs = zip(_high_passed(found_THWC), _high_passed(bright_THWC), strict=True)
    return float(np.mean([np.corrcoef(found.ravel(), bright.ravel())[0, 1] for found, bright in pairs]))


def _high_passed(frames_THWC: Values) -> list[Values]:
    lumas = [np.asarray(frame @ LUMA, np.float32) for frame in frames_THWC]
    return [luma - cv2.GaussianBlur(luma, (0, 0), 2.0) for luma in lumas]


def film(path: Path, folder: Path, side: int) -> Clip:
    bright = np.stack([frame for _, frame in zip(range(MOST_FRAMES), read_frames(path), strict=False)])
    dark = darken(bright, ARID_LIKE, video_stream(0, "camera", path.name))
    write_video(folder / path.name, dark, fps=25.0, crf=ARID_CRF)
    stored = np.stack(list(read_frames(folder / path.name, short_side=side, levels="companded")))
    return Clip(bright, np.stack(list(read_frames(folder / path.name))), stored)


def darkest(paths: Sequence[Path], count: int, side: int) -> list[Clip]:
    with tempfile.TemporaryDirectory() as folder:
        clips = [film(path, Path(folder), side) for path in paths]
    return sorted(clips, key=lambda clip: float(clip.dark_THWC.mean()))[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="?", default=Path("../shared/data/videos/egogestar"))
    parser.add_argument("--clips", type=int, default=30, help="to darken, spread over the folder (default: 30)")
    parser.add_argument("--darkest", type=int, default=10, help="to look at (default: 10)")
    parser.add_argument("--short-side", type=int, default=64, help="pixels to shrink to (default: 64, the demo's)")
    options = parser.parse_args()
    paths = sorted(path for path in options.videos.rglob("*") if is_video(path.name))
    if not paths:
        sys.exit(f"{options.videos}: no videos there; name a folder of bright ones")
    cv2.setNumThreads(1)
    spread = np.linspace(0, len(paths) - 1, min(options.clips, len(paths))).round().astype(int)
    side = options.short_side
    clips = darkest([paths[place] for place in spread], options.darkest, side)
    originals = [shrink(clip.bright_THWC, side) for clip in clips]
    height, width = originals[0].shape[1:3]
    means = [clip.dark_THWC.mean() for clip in clips]
    print(f"{len(clips)} darkest of {len(spread)} clips, mean values {min(means):.1f} to {max(means):.1f}")
    print(f"shrunk to {width}×{height}\n")
    print(f"| kept | {' | '.join(ENHANCERS)} | bytes | ms |\n|---|{'---|' * (len(ENHANCERS) + 2)}")

    def scored(make: Callable[[Clip], NDArray[np.generic]]) -> str:
        found = [
            correlation(rounded(make(clip).astype(np.float32)).astype(np.float32), bright)
            for clip, bright in zip(clips, originals, strict=True)
        ]
        return f"{np.mean(found):.3f}"

    def milliseconds(make: Callable[[Clip], object]) -> str:
        start = time.process_time()
        for clip in clips:
            make(clip)
        return f"{1000 * (time.process_time() - start) / sum(len(clip.dark_THWC) for clip in clips):.2f}"

    size, as_it_is = 3 * width * height, scored(lambda clip: shrink(clip.dark_THWC, side))
    print(f"| 8 bits, not enhanced | {' | '.join([as_it_is] * len(ENHANCERS))} | {size} | |")
    for way in WAYS:
        numbers = [scored(partial(way.make, name, side)) for name in ENHANCERS]
        kept = "the video" if way.bytes_per_value is None else str(way.bytes_per_value * size)
        spent = milliseconds(partial(way.make, "gamma", side))
        print(f"| {way.name} | {' | '.join(numbers)} | {kept} | {spent} |", flush=True)


if __name__ == "__main__":
    main()
