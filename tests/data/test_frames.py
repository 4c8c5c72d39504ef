"""Codes keep the dark values apart, come back as they were, and mean what their formula says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.frames import FINE, bytes_of_fine, display_values, encoded, expanded, shown

EVERY_BYTE = np.arange(256, dtype=np.uint8)
each = pytest.mark.parametrize("levels", ["linear", "companded"])


@each
def test_every_byte_comes_back_from_its_value(levels):
    values = expanded(EVERY_BYTE, levels)
    assert (values[0], values[255]) == (0, 255)
    assert (np.diff(values) > 0).all()
    np.testing.assert_array_equal(encoded(values, levels), EVERY_BYTE)


def test_linear_bytes_are_their_values():
    np.testing.assert_array_equal(display_values("linear"), EVERY_BYTE)
    np.testing.assert_array_equal(shown(EVERY_BYTE, "linear"), EVERY_BYTE)


def test_codes_have_their_formula():
    values = display_values("companded")
    assert (values[17], values[34], values[153]) == (3, 8, 99)
    assert 17 * (np.sqrt(values + 1) - 1) == pytest.approx(EVERY_BYTE, abs=1e-4)


def test_codes_are_close_in_the_dark_and_wide_in_the_light():
    steps = np.diff(display_values("companded"))
    assert (display_values("companded") < 1).sum() == 8
    assert steps[0] == pytest.approx(0.121, abs=1e-3)
    assert steps[127] == pytest.approx(1.0, abs=0.01)
    assert 1.8 < steps[-1] < 1.9


@given(value=st.floats(-10, 300))
@each
def test_a_value_gets_the_byte_of_a_neighbour(levels, value):
    values, inside = display_values(levels), min(max(value, 0), 255)
    byte = int(encoded(np.array([value]), levels)[0])
    assert values[max(byte - 1, 0)] <= inside <= values[min(byte + 1, 255)]


@each
def test_sixteen_bits_have_the_bytes_of_their_values(levels):
    table = bytes_of_fine(levels)
    assert table[[0, 255 * FINE, 65535]].tolist() == [0, 255, 255]
    whole = shown(table[::FINE], levels)[:64]  # where there is a code for each, or more
    np.testing.assert_array_equal(whole, np.arange(64))


def test_what_people_see_is_rounded_once():
    np.testing.assert_array_equal(shown(EVERY_BYTE, "companded"), np.rint(display_values("companded")))


@each
def test_tables_cannot_be_written_to(levels):
    for table in (display_values(levels), bytes_of_fine(levels)):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 1
