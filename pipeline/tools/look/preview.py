"""All enhancers side by side: some dark videos, from the darkest to the brightest, as each enhancer brightens them.

The classical ones have their parameters; the learned ones are fitted as the stage would fit them, and kept in the work
folder for the next preview. Below an enhancer's name are its flicker and grain: how much it makes the light jump and
the grain grow where nothing moves.

Axes: T frames, H rows, W columns, C the channels red, green, blue. Luma is Y of ITU-R BT.601, in levels of 0 to 255.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.params import FitEnhancerParams, Params
from pipeline.core.progress import Progress, StopCheck, Stopwatch, no_progress
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import Frame, Frames
from pipeline.data.frames import shown as as_shown
from pipeline.enhance.apply import StoredVideo
from pipeline.enhance.classical import levels_after
from pipeline.enhance.file import ENHANCERS, LEARNED, Classical, classical_from_params, load_enhancer
from pipeline.enhance.fit import MODEL, Fit, fitted
from pipeline.evaluate.light import LUMA_C
from pipeline.tools.look.contact_sheet import Sheet, draw_sheet

if TYPE_CHECKING:
    import torch

    from pipeline.enhance.learned import LearnedEnhancer

FLICKER_FRAMES = 16  # around the middle of a video
LUMA = np.array(LUMA_C, np.float32)

# A pixel is background where its dark luma varies by no more than grain does: real dark clips have 0.3 levels of noise
# below level 16, 1.5 at 32 to 64 and 3 at 64 to 128 (docs/demo.md)
STILL_LEVELS = 1.0
STILL_SHARE = 0.04  # of the pixel's own mean


@dataclass(frozen=True)
class Column:
    """One enhancer, and a short note of its parameters or origin."""

    enhancer: Classical | LearnedEnhancer
    note: str


def columns(
    dark: FrameStore,
    params: Params,
    *,
    file: Path | None,
    train: tuple[str, ...] | None,
    device: torch.device,
    stop: StopCheck,
    progress: Progress = no_progress,
) -> list[Column]:
    """Every enhancer, `none` first; learned ones that have neither a file nor videos to be fitted to are missing.

    That of the parameters has the weights of `fit_enhancer.weights`, if any. file: a model file, used for the enhancer
    that it holds. train: the videos that learned ones are fitted to; None where nothing can be. Raises
    StaleArtifactError or ParamsError for an unusable file, and what a fit raises.
    """
    options, found = params.fit_enhancer, []
    given = None if file is None else load_enhancer(file, device=str(device))
    for name in ENHANCERS:
        if file is not None and given is not None and given.name == name:
            found.append(Column(given, file.name))
        elif name not in LEARNED:
            found.append(_classical(name, options))
        elif name == params.enhancer and options.weights is not None:
            from pipeline.enhance.learned import make_learned  # classical enhancers need no torch
            from pipeline.enhance.outside_weights import enhancer_from_weights

            weights, precision = Path(options.weights), options.precision
            read = enhancer_from_weights(weights, name, curve_reduction=options.curve_reduction, precision=precision)
            network = make_learned(name, read.parameters, read.tensors(), device=str(device))
            found.append(Column(network, weights.name))
        elif train is not None:
            fit = Fit(name, options, params.seed, dark, train, device)
            # a name of its own for each network: a folder that is kept replaces the one before it
            with fitted(f"preview_{name}", fit, stop=stop, progress=progress) as work:
                found.append(
                    Column(load_enhancer(work.path / MODEL, device=str(device)), f"fitted in {options.steps:,} steps")
                )
                work.keep()
    return found


def _classical(name: str, options: FitEnhancerParams) -> Column:
    enhancer = classical_from_params(name, options)
    parameters = asdict(enhancer)
    statistics, smoothing = parameters.pop("statistics", None), parameters.pop("smoothing", None)
    notes = [f"{key.replace('_', ' ')} {value}" for key, value in parameters.items()]
    if statistics is not None:
        notes.append("over the video" if statistics == "video" else f"over {smoothing} frames")
    return Column(enhancer, ", ".join(notes))


def preview(
    dark: FrameStore,
    video_ids: Sequence[str],
    shown: Sequence[Column],
    *,
    among: str,
    progress: Progress = no_progress,
) -> Sheet:
    """A row for each video: its middle frame as each enhancer makes it, with the statistics of its own video.

    Flicker and grain of an enhancer are means over the videos shown.

    among: of how many and what kind of videos these are, for the heading. Raises StaleArtifactError where a frame that
    is read is damaged.
    """
    with progress("preview", len(video_ids), "videos") as advance:
        samples = []
        for name in video_ids:
            samples.append(list(_samples(dark, name, shown)))
            advance(1, name)
    heading = (
        f"{len(video_ids)} of {among}, from dark to bright: middle frames, "
        "histograms of luma 0 to 255 (root of the share), and mean luma"
    )
    titles = [
        (column.enhancer.name, column.note, flicker_text(flicker for _, flicker in of_column))
        for column, of_column in zip(shown, zip(*samples, strict=True), strict=True)
    ]
    rows = []
    for name in video_ids:
        num_frames, height, width = dark.shape(name)
        rows.append((name, f"frame {num_frames // 2} of {num_frames}", f"{width} x {height}"))
    return draw_sheet(heading, rows, titles, [[frame for frame, _ in row] for row in samples])


def _samples(dark: FrameStore, video_id: str, shown: Sequence[Column]) -> Iterator[tuple[Frame, Flicker | None]]:
    """The middle frame of a video as each enhancer makes it, and the flicker around it."""
    video = StoredVideo(dark, video_id, Stopwatch())
    num_frames = video.shape[0]
    middle = num_frames // 2
    first = max(0, middle - FLICKER_FRAMES // 2)
    dark_THWC = video.read(range(first, min(first + FLICKER_FRAMES, num_frames)))
    dark_shown_THWC = as_shown(dark_THWC, video.levels)
    for column in shown:
        made_THWC = column.enhancer.for_video(video)(dark_THWC, first)
        enhanced_THWC = as_shown(made_THWC, levels_after(column.enhancer, video.levels))
        flicker = measure_flicker(dark_shown_THWC, enhanced_THWC) if num_frames > 1 else None
        yield enhanced_THWC[middle - first], flicker


class Flicker(NamedTuple):
    """Mean absolute changes from one frame to the next, in levels, over the background: of its mean, of its pixels."""

    light: float
    grain: float


def measure_flicker(dark_THWC: Frames, enhanced_THWC: Frames) -> Flicker | None:
    """The flicker of enhanced frames over the background that their dark frames show; None where everything moves.

    Raises ValueError on other shapes, and on fewer than two frames.
    """
    if dark_THWC.shape != enhanced_THWC.shape or len(dark_THWC) < 2:
        raise ValueError(
            f"flicker is measured on two or more frames of one shape, not {dark_THWC.shape} and {enhanced_THWC.shape}"
        )
    still_HW = background(dark_THWC)
    if not still_HW.any():
        return None
    luma_TP = (enhanced_THWC[:, still_HW] @ LUMA).astype(np.float64)  # P pixels of the background
    return Flicker(*(float(np.abs(np.diff(luma, axis=0)).mean()) for luma in (luma_TP.mean(axis=1), luma_TP)))


def mean_flicker(found: Iterable[Flicker | None]) -> Flicker | None:
    """The mean over the videos that have a background; None where none has."""
    still = [flicker for flicker in found if flicker is not None]
    return Flicker(*np.mean(still, axis=0).tolist()) if still else None


def flicker_text(found: Iterable[Flicker | None]) -> str:
    """For a person: `flicker 0.12, grain 1.6`, the mean of some videos in levels; empty where none has a background."""
    mean = mean_flicker(found)
    return "" if mean is None else f"flicker {mean.light:.2f}, grain {mean.grain:.1f}"


def background(dark_THWC: Frames) -> NDArray[np.bool_]:
    """(H, W): the pixels whose luma has a standard deviation over time of at most 1 level plus 4 % of its mean."""
    luma_THW = dark_THWC @ LUMA
    still_HW: NDArray[np.bool_] = luma_THW.std(axis=0) <= STILL_LEVELS + STILL_SHARE * luma_THW.mean(axis=0)
    return still_HW
