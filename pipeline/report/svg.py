"""A small writer of SVG for figures inside an HTML page.

Colours, fonts and widths of lines are the page's: an element names its class, and the page's style sheet, which knows
light and dark, does the rest. Texts are escaped here, whatever they hold. Lengths are units of the view box.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.core import text as names

_KEPT = "\n\t\N{NO-BREAK SPACE}"


def printable(text: str) -> str:
    """The text without control characters, which HTML forbids, and marks that change the direction of writing."""
    return names.printable(text, kept=_KEPT)


def data_uri(kind: str, content: bytes) -> str:
    """A picture that lies inside the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def shortened(text: str, most: int) -> str:
    """Up to `most` characters; an ellipsis stands for what is left out of the middle."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2 + (most - 1) % 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


@dataclass(frozen=True)
class Scale:
    """A linear map from values to places, of an axis or of a colour."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Where a value is; beyond the ends where it is beyond low or high."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.stop - self.start)


def ticks(low: float, high: float, most: int, *, least_step: float = 1e-4) -> list[float]:
    """Up to `most` round values within low and high, at equal steps of 1, 2 or 5 times a power of ten."""
    for step in (factor * 10.0**exponent for exponent in range(-4, 9) for factor in (1, 2, 5)):
        first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
        if step >= least_step and last - first < most:
            return [number * step for number in range(first, last + 1)]
    return []


@dataclass
class Drawing:
    """A figure: what is drawn is appended, `markup` gives the whole. `label` describes it in words."""

    width: float
    height: float
    label: str
    parts: list[Markup] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self.path([(x1, y1), (x2, y2)], kind)

    def path(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        places = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self._add('<polyline class="{}" points="{}"/>', kind, places)

    def rect(
        self, x: float, y: float, width: float, height: float, kind: str, *, share: float = 1.0, note: str = ""
    ) -> None:
        """A filled rectangle; `share` of its colour, 0 to 1, and a note that shows under the pointer."""
        attributes = Markup('x="{}" y="{}" width="{}" height="{}"').format(*map(_number, (x, y, width, height)))
        faded = Markup(' fill-opacity="{}"').format(_number(share, 3)) if share < 1 else ""
        self._add('<rect class="{}" {}{}>{}</rect>', kind, attributes, faded, _title(note))

    def pixels(self, x: float, y: float, side: float, pixels_HWC: NDArray[np.uint8]) -> None:
        """A square picture, each pixel of which is seen; C are red, green, blue and opacity."""
        encoded, content = cv2.imencode(".png", np.ascontiguousarray(pixels_HWC[..., [2, 1, 0, 3]]))
        assert encoded
        uri = data_uri("png", content.tobytes())
        self._add('<image x="{}" y="{}" width="{}" height="{}" href="{}"/>', *map(_number, (x, y, side, side)), uri)

    def mark(self, x: float, y: float, shape: str, kind: str, *, size: float = 5.0, note: str = "") -> None:
        """A mark that needs no colour to be told from others: a circle, square or diamond."""
        if shape == "circle":
            self._add(
                '<circle class="{}" cx="{}" cy="{}" r="{}">{}</circle>', kind, *map(_number, (x, y, size)), _title(note)
            )
            return
        reach = size * (0.9 if shape == "square" else 1.25)
        corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)] if shape == "square" else [(0, -1), (1, 0), (0, 1), (-1, 0)]
        places = " ".join(f"{_number(x + reach * dx)},{_number(y + reach * dy)}" for dx, dy in corners)
        self._add('<polygon class="{}" points="{}">{}</polygon>', kind, places, _title(note))

    def text(self, x: float, y: float, content: str, kind: str = "", *, anchor: str = "start", note: str = "") -> None:
        """A line of text with its baseline at y; the note shows under the pointer."""
        self._add(
            '<text class="{}" x="{}" y="{}" text-anchor="{}">{}{}</text>',
            kind,
            _number(x),
            _number(y),
            anchor,
            _title(note),
            printable(content),
        )

    def markup(self) -> Markup:
        """The SVG element."""
        size = Markup('viewBox="0 0 {} {}"').format(_number(self.width), _number(self.height))
        body = Markup("").join(self.parts)
        return Markup('<svg {} role="img" aria-label="{}">{}</svg>').format(size, printable(self.label), body)

    def _add(self, element: str, *values: str | Markup) -> None:
        self.parts.append(Markup(element).format(*values))


def _title(note: str) -> Markup:
    return Markup("<title>{}</title>").format(printable(note)) if note else Markup()


def _number(value: float, digits: int = 1) -> str:
    """The shortest text of a rounded number; no -0."""
    return f"{round(value, digits) + 0.0:.{digits}f}".rstrip("0").rstrip(".")
