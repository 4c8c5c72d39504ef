"""A contact sheet shows each frame's own pixels, where it says, and nothing over them."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from builders import noise_video
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tools.look.contact_sheet import BACKGROUND, BARS, MARK, draw_sheet, save_sheet, shown_size

SIZES = [(18, 22), (128, 171), (40, 30)]  # of a row each
COLUMNS = [("none",), ("gamma", "gamma 2.2"), ("a very long name of an enhancer " * 3, "x" * 400)]


def frames_of(sizes, num_columns=3):
    return [[noise_video(f"{row}/{column}", (1, *size))[0] for column in range(num_columns)]
            for row, size in enumerate(sizes)]  # fmt: skip


@pytest.fixture(scope="module")
def sheet():
    rows = [("Run/Run_1",), ("a/" * 200, "frame 3 of 7"), ("日本\x1b[31m",)]
    return draw_sheet("a heading", rows, COLUMNS, frames_of(SIZES))


def part(sheet, box):
    return sheet.picture_HWC[box.top : box.top + box.height, box.left : box.left + box.width]


def test_each_frame_is_shown_in_whole_pixels_and_nothing_is_over_it(sheet):
    for boxes, frames in zip(sheet.boxes, frames_of(SIZES), strict=True):
        for box, frame in zip(boxes, frames, strict=True):
            factor = box.height // frame.shape[0]
            np.testing.assert_array_equal(part(sheet, box), frame.repeat(factor, axis=0).repeat(factor, axis=1))


def test_the_boxes_are_a_grid(sheet):
    for boxes in sheet.boxes:
        assert len({(box.top, box.height, box.width) for box in boxes}) == 1
        for left, right in pairwise(boxes):
            assert left.left + left.width < right.left
    for column in zip(*sheet.boxes, strict=True):
        middles = [box.left + box.width / 2 for box in column]
        assert max(middles) - min(middles) <= 1
        for upper, lower in pairwise(column):
            assert upper.top + upper.height + 50 < lower.top


def test_nothing_reaches_the_border(sheet):
    picture = sheet.picture_HWC
    for edge in (picture[:8], picture[-8:], picture[:, :8], picture[:, -8:]):
        assert (edge == BACKGROUND).all()


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_a_frame_is_shown_at_about_200_pixels_in_its_shape(height, width):
    shown = shown_size(height, width)
    assert 133 <= max(shown) <= 300
    if max(height, width) <= 300:
        assert shown[0] % height == shown[1] % width == 0
        assert shown[0] // height == shown[1] // width


@pytest.mark.parametrize(("level", "share"), [(0, 0.0), (60, 60 / 255), (255, 1.0)])
def test_the_histogram_stands_below_its_frame_with_the_mean(level, share):
    sheet = draw_sheet("", [("",)], [("",)], [[np.full((150, 200, 3), level, np.uint8)]])
    (box,) = sheet.boxes[0]
    below = sheet.picture_HWC[box.top + box.height : box.top + box.height + 60, box.left : box.left + box.width]
    marked = np.flatnonzero((below[-1] == MARK).all(axis=1))
    assert len(marked) == 2
    assert abs(marked.mean() - share * (box.width - 1)) <= 1.5
    bars = np.flatnonzero((below[-1] == BARS).all(axis=1))  # of one level there is one, beside or behind the mark
    assert np.abs(bars - marked.mean()).max(initial=0) <= 200 / 64 + 2


def test_large_frames_are_reduced_by_areas():
    frame = noise_video("large", (1, 600, 800))[0]
    sheet = draw_sheet("", [("",)], [("",)], [[frame]])
    (box,) = sheet.boxes[0]
    assert (box.height, box.width) == (150, 200)
    np.testing.assert_allclose(part(sheet, box), frame.reshape(150, 4, 200, 4, 3).mean(axis=(1, 3)), atol=1)


def test_the_file_is_the_picture_and_the_same_sheet_gives_the_same_bytes(sheet, tmp_path):
    for name in ("a.png", "b.png"):
        save_sheet(sheet, tmp_path / name)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], sheet.picture_HWC)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
