"""Text on pictures, smooth at any size, by OpenCV's font.

Axes: H rows, W columns, C the channels red, green, blue; uint8. Lengths are pixels; the size of text is the height of
its capitals.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FINER = 4  # text is drawn so many times larger and shrunk: OpenCV's own small text is ragged


def plain(text: str) -> str:
    """What the font can draw: other characters are escaped as Python writes them."""
    return "".join(char if " " <= char <= "~" else char.encode("unicode_escape").decode() for char in text)


def cut(text: str, size: int, width: int) -> str:
    """The text, or its beginning and dots where it is wider than `width`."""
    if text_width(text, size) <= width:
        return text
    fitting = next(end for end in range(len(text), -1, -1) if not end or text_width(f"{text[:end]}...", size) <= width)
    return f"{text[:fitting]}..."


def text_width(text: str, size: int) -> int:
    """How wide the text is."""
    (width, _), _ = cv2.getTextSize(text, _FONT, _scale(size), _thickness(size))
    return -(-int(width) // _FINER)


def _scale(size: int) -> float:
    return float(cv2.getFontScaleFromHeight(_FONT, size * _FINER, _thickness(size)))


def _thickness(size: int) -> int:
    return size * _FINER // 8


def write(picture_HWC: Picture, text: str, left: int, baseline: int, size: int, colour: Colour) -> None:
    """Text whose capitals have that height, blended in."""
    top, bottom = max(0, baseline - size - 4), min(len(picture_HWC), baseline + size // 2 + 2)
    target = picture_HWC[top:bottom]
    mask_HW = np.zeros((target.shape[0] * _FINER, target.shape[1] * _FINER), np.uint8)
    place = left * _FINER, (baseline - top) * _FINER
    cv2.putText(mask_HW, text, place, _FONT, _scale(size), 255, _thickness(size), cv2.LINE_AA)
    share_HW = cv2.resize(mask_HW, target.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None] / 255.0
    target[:] = np.rint(target * (1 - share_HW) + np.array(colour) * share_HW).astype(np.uint8)
