"""The output of `dlkdd predict`: a table, JSON, and a CSV file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from pipeline.core.tables import writing_table
from pipeline.evaluate.score.predictions import DIGITS, PROBABILITY_PREFIX
from pipeline.models.recognizer import ModelFile
from pipeline.tools.predict.inference import BrokenVideo, Probs, Sampling, VideoPrediction, WindowPrediction, ranking
from stages._shell import print_line, printable, stdout

BAR_CELLS = 20
MILLISECOND = 3  # digits of seconds


@dataclass(frozen=True)
class Task:
    """How a model is run and its predictions are shown, checked; `top_k`: how many classes are shown."""

    model: ModelFile
    sampling: Sampling
    top_k: int
    batch_size: int
    device: torch.device
    as_json: bool
    csv_path: Path | None

    def top(self, probs_K: Probs) -> list[tuple[str, float]]:
        """The highest classes with their probabilities."""
        return [(self.model.class_names[k], float(probs_K[k])) for k in ranking(probs_K, self.top_k)]

    def windows(self, video: VideoPrediction) -> Sequence[WindowPrediction]:
        """Those of a video that are shown: none where it is one window."""
        return () if self.sampling.window_seconds is None else video.windows


def print_table(task: Task, videos: Sequence[VideoPrediction]) -> None:
    """The highest classes of each video, and below them the highest one of each window."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("video", "class", "", ""):
        table.add_column(heading, overflow="fold")
    for video in videos:
        seconds = video.num_frames / video.fps
        about = iter((printable(str(video.path)), f"{video.num_frames:,} frames, {_clock(seconds)}"))
        for rank, (name, probability) in enumerate(task.top(video.probs_K)):
            table.add_row(next(about, ""), *_cells(name, probability), style="bold" if rank == 0 else "")
        table.add_row(next(about, ""))
        for window in task.windows(video):
            span = f"  {_clock(window.start_seconds)} to {_clock(window.end_seconds)}"
            table.add_row(span, *_cells(*task.top(window.probs_K)[0]))
    stdout().print(table)


def print_window(task: Task, window: WindowPrediction) -> None:
    """One line for a window of a camera."""
    top = ", ".join(f"{name} {probability:.1%}" for name, probability in task.top(window.probs_K))
    print_line(f"{_clock(window.start_seconds)} to {_clock(window.end_seconds)}  {top}")


def video_values(task: Task, video: VideoPrediction) -> dict[str, Any]:
    """A video's prediction for JSON."""
    values: dict[str, Any] = {
        "path": str(video.path),
        "num_frames": video.num_frames,
        "fps": video.fps,
        "seconds": round(video.num_frames / video.fps, MILLISECOND),
        "top": _top_values(task, video.probs_K),
    }
    windows = [window_values(task, window) for window in task.windows(video)]
    return values | ({"windows": windows} if windows else {})


def window_values(task: Task, window: WindowPrediction) -> dict[str, Any]:
    """A window's prediction for JSON."""
    return {
        "start_seconds": round(window.start_seconds, MILLISECOND),
        "end_seconds": round(window.end_seconds, MILLISECOND),
        "top": _top_values(task, window.probs_K),
    }


AddRow = Callable[[WindowPrediction | BrokenVideo, str], None]


@contextmanager
def csv_table(task: Task) -> Iterator[AddRow]:
    """A CSV file of a row for each window or broken video, with every class's probability; none without a path.

    It is written when the block ends without an error. File names keep their bytes, whatever those are.
    """
    if task.csv_path is None:
        yield lambda found, name: None
        return
    names = task.model.class_names
    columns = ("path", "start_seconds", "end_seconds", "predicted", "broken")
    with writing_table(
        task.csv_path, [*columns, *(PROBABILITY_PREFIX + name for name in names)], errors="surrogateescape"
    ) as add:

        def add_row(found: WindowPrediction | BrokenVideo, name: str) -> None:
            if isinstance(found, BrokenVideo):
                add([name, "", "", "", found.reason, *("" for _ in names)])
                return
            span = [f"{seconds:.{MILLISECOND}f}" for seconds in (found.start_seconds, found.end_seconds)]
            predicted = names[ranking(found.probs_K, 1)[0]]
            add([name, *span, predicted, "", *(f"{p:.{DIGITS}f}" for p in found.probs_K)])

        yield add_row


def _cells(name: str, probability: float) -> tuple[str, str, str]:
    return printable(name), f"{probability:6.1%}", "█" * round(probability * BAR_CELLS)


def _top_values(task: Task, probs_K: Probs) -> list[dict[str, Any]]:
    return [{"class": name, "probability": round(probability, DIGITS)} for name, probability in task.top(probs_K)]


def _clock(seconds: float) -> str:
    """1:02:03.4, without the hours where there are none."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest / 10:04.1f}"
