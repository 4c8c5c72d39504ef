"""The output of `dlkdd predict`: a table, JSON, and a CSV file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline.core.files import written_whole
from pipeline.evaluate.score.predictions import DIGITS, PROBABILITY_PREFIX
from pipeline.tools.predict.inference import BrokenVideo, Probs, VideoPrediction, WindowPrediction, ranking
from stages._shell import printable

BAR_CELLS = 20
MILLISECOND = 3  # digits of seconds


@dataclass(frozen=True)
class Classes:
    """The model's classes, and how many of the highest are shown."""

    names: Sequence[str]
    top_k: int

    def top(self, probs_K: Probs) -> list[tuple[str, float]]:
        """The highest classes with their probabilities."""
        return [(self.names[k], float(probs_K[k])) for k in ranking(probs_K, self.top_k)]


def print_table(videos: Sequence[VideoPrediction], classes: Classes, *, windowed: bool) -> None:
    """The highest classes of each video, and below them the highest one of each window."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("video", "class", "", ""):
        table.add_column(heading, overflow="fold")
    for video in videos:
        seconds = video.num_frames / video.fps
        about = iter((printable(str(video.path)), f"{video.num_frames:,} frames, {_clock(seconds)}"))
        top = classes.top(video.probs_K)
        for rank, (name, probability) in enumerate(top):
            table.add_row(next(about, ""), *_cells(name, probability), style="bold" if rank == 0 else "")
        table.add_row(next(about, ""))
        for window in video.windows if windowed else ():
            name, probability = classes.top(window.probs_K)[0]
            span = f"  {_clock(window.start_seconds)} to {_clock(window.end_seconds)}"
            table.add_row(span, *_cells(name, probability))
    _out().print(table)


def print_window(window: WindowPrediction, classes: Classes) -> None:
    """One line for a window of a camera."""
    top = ", ".join(f"{name} {probability:.1%}" for name, probability in classes.top(window.probs_K))
    span = f"{_clock(window.start_seconds)} to {_clock(window.end_seconds)}"
    _out().print(printable(f"{span}  {top}"), soft_wrap=True)


def print_json(values: dict[str, Any], *, indent: int | None) -> None:
    """JSON in ASCII: no file name can control a terminal, and every name survives."""
    typer.echo(json.dumps(values, indent=indent))


def video_values(video: VideoPrediction, classes: Classes, *, windowed: bool) -> dict[str, Any]:
    """A video's prediction for JSON."""
    values: dict[str, Any] = {
        "path": str(video.path),
        "num_frames": video.num_frames,
        "fps": video.fps,
        "seconds": round(video.num_frames / video.fps, MILLISECOND),
        "top": _top_values(video.probs_K, classes),
    }
    return values | ({"windows": [window_values(window, classes) for window in video.windows]} if windowed else {})


def window_values(window: WindowPrediction, classes: Classes) -> dict[str, Any]:
    """A window's prediction for JSON."""
    return {
        "start_seconds": round(window.start_seconds, MILLISECOND),
        "end_seconds": round(window.end_seconds, MILLISECOND),
        "top": _top_values(window.probs_K, classes),
    }


AddRow = Callable[[WindowPrediction | BrokenVideo, str], None]


@contextmanager
def csv_table(path: Path | None, classes: Classes) -> Iterator[AddRow]:
    """A CSV file of a row for each window or broken video, with every class's probability; none without a path.

    It is written when the block ends without an error. File names keep their bytes, whatever those are.
    """
    if path is None:
        yield lambda found, name: None
        return
    with (
        written_whole(path) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        probabilities = [f"{PROBABILITY_PREFIX}{name}" for name in classes.names]
        writer.writerow(["path", "start_seconds", "end_seconds", "predicted", "broken", *probabilities])

        def add(found: WindowPrediction | BrokenVideo, name: str) -> None:
            if isinstance(found, BrokenVideo):
                writer.writerow([name, "", "", "", found.reason, *[""] * len(classes.names)])
                return
            span = [f"{seconds:.{MILLISECOND}f}" for seconds in (found.start_seconds, found.end_seconds)]
            predicted = classes.names[ranking(found.probs_K, 1)[0]]
            writer.writerow([name, *span, predicted, "", *(f"{p:.{DIGITS}f}" for p in found.probs_K)])

        yield add


def _out() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def _cells(name: str, probability: float) -> tuple[str, str, str]:
    return printable(name), f"{probability:6.1%}", "█" * round(probability * BAR_CELLS)


def _top_values(probs_K: Probs, classes: Classes) -> list[dict[str, Any]]:
    return [{"class": name, "probability": round(probability, DIGITS)} for name, probability in classes.top(probs_K)]


def _clock(seconds: float) -> str:
    """1:02:03.4, without the hours where there are none."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest / 10:04.1f}"
