"""Text on pictures, in every script that a font has: one of the package manimgx-fonts, or else of this machine.

Axes: H rows, W columns, C the channels red, green, blue; uint8. Lengths are pixels; the size of text is the height of
its capitals.
"""

from __future__ import annotations

import math
import os
import unicodedata
from bisect import bisect_right
from contextlib import suppress
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from pipeline.data.frames import Frame

Colour = tuple[int, int, int]

_CAPITALS = 0.714  # their height in Noto Sans, as a share of the font's size
_PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")  # the second is of the extra `cjk`
_FOLDERS = ("~/.fonts", "~/.local/share/fonts", "/usr/local/share/fonts", "/usr/share/fonts",
            "~/Library/Fonts", "/Library/Fonts", "/System/Library/Fonts")  # fmt: skip
_STYLES = ("black", "bold", "condensed", "italic", "light", "medium", "mono", "oblique", "serif", "thin")
_SUFFIXES = (".ttf", ".ttc", ".otf", ".otc")
_BUILT_IN = ""  # Pillow's own font, which has ASCII
_RIGHT_TO_LEFT = ("R", "AL")  # of Unicode's bidirectional classes
_JOINERS = "\u200c\u200d"  # letters of Persian and Indic scripts take their shape from these; alone they show nothing


def write(picture_HWC: Frame, text: str, left: int, baseline: int, size: int, colour: Colour) -> None:
    """Draw text whose capitals have that height, blended in; characters that no font has appear as Python escapes."""
    top, bottom = max(0, baseline - 2 * size), min(len(picture_HWC), baseline + size)
    if top >= bottom:
        return
    image = Image.fromarray(picture_HWC[top:bottom])
    draw, place = ImageDraw.Draw(image), float(left)
    for file, run in _runs(text):
        font = _font(file, size)
        draw.text((place, baseline - top), run, fill=colour, font=font, anchor="ls")
        place += font.getlength(run)
    picture_HWC[top:bottom] = np.asarray(image)


def text_width(text: str, size: int) -> int:
    """The width of the text as `write` draws it."""
    return math.ceil(sum(_font(file, size).getlength(run) for file, run in _runs(text)))


def cut(text: str, size: int, width: int) -> str:
    """The text, or its beginning and dots where it is wider than `width`."""
    if text_width(text, size) <= width:
        return text
    fitting = bisect_right(range(1, len(text)), width, key=lambda end: text_width(f"{text[:end]}...", size))
    return f"{text[:fitting]}..."


def _runs(text: str) -> list[tuple[str, str]]:
    """The text in pieces from left to right, each with the file of its font.

    A font stays as long as it can, since it shapes whole words; spaces between two fonts belong to neither direction.
    """
    text = unicodedata.normalize("NFC", text)
    pieces: list[tuple[str, str]] = []
    file: str | None = None
    for char in text:
        if file is None or not (char in _JOINERS or _has(file, char)):
            file = next((other for other in _files() if _has(other, char)), None)
        pieces.append((_BUILT_IN, char.encode("unicode_escape").decode()) if file is None else (file, char))
    runs: list[tuple[str, str]] = []
    for file, chars in groupby(pieces, key=itemgetter(0)):
        run = "".join(char for _, char in chars)
        words = run.rstrip()
        runs += [(file, words), (file, run[len(words) :])]
    directions = (unicodedata.bidirectional(char) for char in text)
    first = next((direction for direction in directions if direction in ("L", *_RIGHT_TO_LEFT)), "L")
    return runs[::-1] if first in _RIGHT_TO_LEFT else runs


@lru_cache(4096)
def _has(file: str, char: str) -> bool:
    """Whether the font has a glyph for the character: another one than for U+FFFF, which is no character.

    It has none of control characters, and of right-to-left scripts only where libraqm can order and join them.
    """
    if not char.isprintable():
        return False
    if unicodedata.bidirectional(char) in _RIGHT_TO_LEFT and not features.check("raqm"):
        return False
    try:
        font = _font(file, 16)
    except OSError:  # it is damaged, or has pictures of one size
        return False
    found, missing = font.getmask(char), font.getmask("\uffff")
    return (found.size, bytes(found)) != (missing.size, bytes(missing))


@lru_cache(512)
def _font(file: str, size: int) -> ImageFont.FreeTypeFont:
    if file == _BUILT_IN:
        font = ImageFont.load_default(size / _CAPITALS)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font
    font = ImageFont.truetype(file, size / _CAPITALS)
    with suppress(OSError, ValueError):  # it does not vary
        font.set_variation_by_name("Regular")  # that of Noto Sans CJK would be thin
    return font


@cache
def _files() -> tuple[str, ...]:
    """Fonts in the order in which they are tried: the packages', then the machine's; plain styles first in each."""

    def unlike_text(path: Path) -> tuple[int, int, str]:
        return sum(style in path.name.lower() for style in _STYLES), len(path.name), str(path)

    specs = [find_spec(name) for name in _PACKAGES]
    packages = [folder for spec in specs if spec for folder in spec.submodule_search_locations or ()]
    groups = [packages, [os.path.expanduser(folder) for folder in _FOLDERS]]  # noqa: PTH111  Path's raises without a home
    found: list[str] = []
    for folders in groups:
        paths = [path for folder in folders for path in Path(folder).rglob("*") if path.suffix.lower() in _SUFFIXES]
        found += map(str, sorted(paths, key=unlike_text))
    return (*found, _BUILT_IN)
