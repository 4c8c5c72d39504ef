"""A contact sheet: frames in a titled grid, each above the histogram of its luma, as one picture.

Axes: H rows, W columns, C the channels red, green, blue; uint8. Lengths are pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.core.files import written_whole
from pipeline.data.frames import Frame
from pipeline.enhance.classical import count_luma, mean_level
from pipeline.tools.lettering import Colour, cut, text_width, write

LONG_SIDE = 200  # of a shown frame, about
MARGIN, GUTTER, GAP, ROW_GAP = 24, 168, 16, 28
HEADING = 44  # height above the titles of the columns
HISTOGRAM = 60  # its height, with a line above the bars for the mean
NUM_BINS = 64

BACKGROUND: Colour = (28, 29, 31)
PANEL: Colour = (38, 40, 43)
BARS: Colour = (139, 152, 168)
MARK: Colour = (240, 173, 78)
BRIGHT: Colour = (232, 233, 235)
DIM: Colour = (148, 152, 158)

_LARGE, _SMALL = 11, 9  # heights of capitals
_LARGE_LINE, _SMALL_LINE = _LARGE + 8, _SMALL + 7


Title = Sequence[str]  # of a row or a column: its name, and smaller lines below it


@dataclass(frozen=True)
class Box:
    """Where a frame is shown on the sheet."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Sheet:
    """The picture (H, W, C), and where it shows each frame: by row, then by column."""

    picture_HWC: Frame
    boxes: tuple[tuple[Box, ...], ...]


def draw_sheet(
    heading: str, rows: Sequence[Title], columns: Sequence[Title], frames: Sequence[Sequence[Frame]]
) -> Sheet:
    """Draw frames[row][column], (H, W, C) each; the frames of a row have one size.

    A frame keeps its size or is enlarged by a whole number, so that noise and blocks stay as they are; one whose
    longer side is above 300 is reduced to 200, by areas.
    """
    sizes = [shown_size(*row[0].shape[:2]) for row in frames]
    cell = max(max(width for _, width in sizes), 150)  # histogram and titles need some room
    titles = _LARGE_LINE + _SMALL_LINE * (max(map(len, columns)) - 1) + 12  # their height
    tops = np.cumsum([MARGIN + HEADING + titles, *(height + HISTOGRAM + ROW_GAP for height, _ in sizes)]).tolist()
    lefts = [MARGIN + GUTTER + column * (cell + GAP) for column in range(len(columns))]
    picture_HWC = np.full((tops[-1] - ROW_GAP + MARGIN, lefts[-1] + cell + MARGIN, 3), BACKGROUND, np.uint8)
    fitting = cut(heading, _LARGE, picture_HWC.shape[1] - 2 * MARGIN)
    write(picture_HWC, fitting, MARGIN, MARGIN + _LARGE, _LARGE, DIM)
    for left, title in zip(lefts, columns, strict=True):
        _write_title(picture_HWC, title, left, MARGIN + HEADING, cell)
    boxes = []
    for top, title, (height, width), row in zip(tops[:-1], rows, sizes, frames, strict=True):
        _write_title(picture_HWC, title, MARGIN, top, GUTTER - GAP)
        boxes.append(tuple(Box(top, left + (cell - width) // 2, height, width) for left in lefts))
        for box, left, frame in zip(boxes[-1], lefts, row, strict=True):
            _show(picture_HWC, box, frame)
            _draw_histogram(picture_HWC, frame, Box(top + height + 4, left, HISTOGRAM - 4, cell))
    return Sheet(picture_HWC, tuple(boxes))


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which a frame of this size is shown."""
    longer = max(height, width)
    if longer > 1.5 * LONG_SIDE:
        return max(1, round(height * LONG_SIDE / longer)), max(1, round(width * LONG_SIDE / longer))
    factor = max(1, round(LONG_SIDE / longer))
    return height * factor, width * factor


def save_sheet(sheet: Sheet, path: Path) -> None:
    """Write the picture whole, as PNG."""
    encoded, content = cv2.imencode(".png", sheet.picture_HWC[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert encoded
    with written_whole(path) as partial:
        partial.write_bytes(content.tobytes())


def _show(picture_HWC: Frame, box: Box, frame: Frame) -> None:
    enlarged = box.height >= frame.shape[0]
    how = cv2.INTER_NEAREST if enlarged else cv2.INTER_AREA
    shown = cv2.resize(np.ascontiguousarray(frame), (box.width, box.height), interpolation=how)
    picture_HWC[box.top : box.top + box.height, box.left : box.left + box.width] = shown


def _draw_histogram(picture_HWC: Frame, frame: Frame, box: Box) -> None:
    """Bars of luma from 0 to 255, as high as the root of their share of the highest; a line at the mean."""
    counts = count_luma(frame)
    mean = mean_level(counts)
    bins = counts.reshape(NUM_BINS, -1).sum(axis=1)
    heights = np.ceil(np.sqrt(bins / bins.max()) * (box.height - _SMALL - 10)).astype(int)
    heights_W = heights[np.arange(box.width) * NUM_BINS // box.width]
    panel = picture_HWC[box.top : box.top + box.height, box.left : box.left + box.width]
    panel[:] = PANEL
    panel[np.arange(box.height)[:, None] >= box.height - heights_W] = BARS
    place = min(round(mean / 255 * (box.width - 1)), box.width - 2)
    panel[4:, place : place + 2] = MARK
    text = f"{mean:.0f}"
    width = text_width(text, _SMALL)
    beside = place + 6 if place + 6 + width < box.width else place - 4 - width
    write(panel, text, beside, _SMALL + 4, _SMALL, MARK)


def _write_title(picture_HWC: Frame, title: Title, left: int, top: int, width: int) -> None:
    baseline, (name, *notes) = top + _LARGE, title
    for line in _wrapped(name, _LARGE, width):
        write(picture_HWC, line, left, baseline, _LARGE, BRIGHT)
        baseline += _LARGE_LINE
    for note in notes:
        write(picture_HWC, cut(note, _SMALL, width), left, baseline, _SMALL, DIM)
        baseline += _SMALL_LINE


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """At most three lines, broken after a slash, else between words, else anywhere; the rest is cut."""
    rest, lines = text, list[str]()
    while rest and len(lines) < 2 and text_width(rest, size) > width:
        fitting = next(end for end in range(len(rest), 0, -1) if end == 1 or text_width(rest[:end], size) <= width)
        words = max(rest.rfind(char, 0, fitting) for char in " _-")
        end = rest.rfind("/", 0, fitting) + 1 or words + 1 or fitting
        lines.append(rest[:end])
        rest = rest[end:]
    return [*lines, cut(rest, size, width)]
