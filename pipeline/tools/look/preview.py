"""All enhancers side by side: some dark videos, from the darkest to the brightest, each in the light of every one.

The classical ones have their parameters; the learned ones are fitted as the stage would fit them, and kept in the work
folder for the next preview.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.params import EnhancerName, FitEnhancerParams
from pipeline.core.progress import Progress, StopCheck, Stopwatch, no_progress
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import Frame
from pipeline.enhance.apply import StoredVideo
from pipeline.enhance.file import ENHANCERS, LEARNED, Classical, classical_from_params, load_enhancer
from pipeline.enhance.fit import Fit, fitted
from pipeline.tools.look.contact_sheet import Sheet, Title, draw_sheet
from pipeline.tools.look.flicker import Flicker, flicker_text, measure_flicker

if TYPE_CHECKING:
    import torch

    from pipeline.enhance.learned import LearnedEnhancer


FLICKER_FRAMES = 16  # around the middle of a video


@dataclass(frozen=True)
class Origin:
    """Where a preview's enhancers come from.

    enhancer: that of the parameters, whose weights are those of `fit_enhancer.weights`, if any. file: a model file, or
    None; it serves for its own name. train: the videos that learned ones are fitted to; None where nothing can be.
    """

    enhancer: EnhancerName
    options: FitEnhancerParams
    seed: int
    file: Path | None
    train: tuple[str, ...] | None
    device: torch.device


@dataclass(frozen=True)
class Column:
    """One enhancer, and in a few words what makes it."""

    enhancer: Classical | LearnedEnhancer
    note: str


def columns(dark: FrameStore, origin: Origin, *, stop: StopCheck, progress: Progress = no_progress) -> list[Column]:
    """Every enhancer that there is, `none` first; learned ones for which nothing is given are missing.

    Raises StaleArtifactError or ParamsError for an unusable file, and what a fit raises.
    """
    given = None if origin.file is None else load_enhancer(origin.file, device=str(origin.device))
    found = []
    for name in ENHANCERS:
        if given is not None and given.name == name:
            assert origin.file is not None
            found.append(Column(given, origin.file.name))
        elif name not in LEARNED:
            found.append(_classical(name, origin.options))
        elif name == origin.enhancer and origin.options.weights is not None:
            found.append(_with_weights(name, Path(origin.options.weights), origin))
        elif origin.train is not None:
            fit = Fit(name, origin.options, origin.seed, dark, origin.train, origin.device)
            found.append(_fitted(fit, stop, progress))
    return found


def _classical(name: str, options: FitEnhancerParams) -> Column:
    enhancer = classical_from_params(name, options)
    parameters = asdict(enhancer)
    statistics, smoothing = parameters.pop("statistics", None), parameters.pop("smoothing", None)
    notes = [f"{key.replace('_', ' ')} {value}" for key, value in parameters.items()]
    if statistics is not None:
        notes.append("over the video" if statistics == "video" else f"over {smoothing} frames")
    return Column(enhancer, ", ".join(notes))


def _with_weights(name: str, weights: Path, origin: Origin) -> Column:
    from pipeline.enhance.learned import make_learned
    from pipeline.enhance.outside_weights import enhancer_from_weights  # here and below: classical ones need no torch

    options = origin.options
    read = enhancer_from_weights(weights, name, curve_reduction=options.curve_reduction, precision=options.precision)
    return Column(make_learned(name, read.parameters, read.tensors(), device=str(origin.device)), weights.name)


def _fitted(fit: Fit, stop: StopCheck, progress: Progress) -> Column:
    # a name of its own for each network: a folder that is kept replaces the one before it
    with fitted(f"preview_{fit.name}", fit, stop=stop, progress=progress) as files:
        enhancer = load_enhancer(files.model_path, device=str(fit.device))
        files.work.keep()
    return Column(enhancer, f"fitted in {fit.options.steps:,} steps")


def preview(
    dark: FrameStore,
    video_ids: Sequence[str],
    shown: Sequence[Column],
    *,
    among: str,
    progress: Progress = no_progress,
) -> Sheet:
    """A row for each video: its middle frame as each enhancer makes it, with the statistics of its own video.

    Below an enhancer's name is its flicker (flicker.py) over the middle frames, the mean of the videos shown.

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
        Title(
            column.enhancer.name, (column.note, flicker_text([s.flicker for s in of_column if s.flicker is not None]))
        )
        for column, of_column in zip(shown, zip(*samples, strict=True), strict=True)
    ]
    frames = [[sample.frame for sample in row] for row in samples]
    return draw_sheet(heading, [_row_title(dark, name) for name in video_ids], titles, frames)


@dataclass(frozen=True)
class _Sample:
    """What is shown of a video in the light of one enhancer; flicker: None of a video of one frame."""

    frame: Frame
    flicker: Flicker | None


def _samples(dark: FrameStore, video_id: str, shown: Sequence[Column]) -> Iterator[_Sample]:
    video = StoredVideo(dark, video_id, Stopwatch())
    num_frames = video.shape[0]
    middle = num_frames // 2
    first = max(0, middle - FLICKER_FRAMES // 2)
    dark_THWC = video.read(range(first, min(first + FLICKER_FRAMES, num_frames)))
    for column in shown:
        enhanced_THWC = column.enhancer.for_video(video)(dark_THWC, first)
        flicker = measure_flicker(dark_THWC, enhanced_THWC) if num_frames > 1 else None
        yield _Sample(enhanced_THWC[middle - first], flicker)


def _row_title(dark: FrameStore, video_id: str) -> Title:
    num_frames, height, width = dark.shape(video_id)
    return Title(video_id, (f"frame {num_frames // 2} of {num_frames}", f"{width} x {height}"))
