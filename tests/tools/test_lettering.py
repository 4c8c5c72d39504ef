"""Names are drawn in every script that a font has; what none has is escaped, and control characters always are."""

from __future__ import annotations

import shutil
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageDraw, features

from pipeline.tools import lettering
from pipeline.tools.lettering import cut, text_width, write

SIZE, BASELINE = 20, 60
SCRIPTS = {
    "Latin": "Läufer", "decomposed": unicodedata.normalize("NFD", "Ångström"), "Greek": "άλμα", "Cyrillic": "прыжок",
    "Hebrew": "קפיצה", "Arabic": "القفز", "Persian": "می‌پرم", "Hindi": "कूदना", "Thai": "กระโดด", "emoji": "🏃",
    "Japanese": "跳ぶ", "Korean": "뛰다", "Chinese": "跳跃",
}  # fmt: skip
CJK = ("Japanese", "Korean", "Chinese")
RIGHT_TO_LEFT = ("Hebrew", "Arabic", "Persian")
NO_RAQM = "this Pillow has no libraqm, or finds no libfribidi"
needs_raqm = pytest.mark.skipif(not features.check("raqm"), reason=NO_RAQM)


def drawn(text, *, left=5, size=SIZE):
    picture = np.zeros((100, 700, 3), np.uint8)
    write(picture, text, left, BASELINE, size, (255, 255, 255))
    return picture


def escaped(text):
    return text.encode("unicode_escape").decode()


def columns(picture):
    """The first column that is drawn on, and the one behind the last."""
    (found,) = picture.any(axis=(0, 2)).nonzero()
    return int(found[0]), int(found[-1]) + 1


@pytest.fixture
def fonts(monkeypatch):
    """Let these be the only files of fonts, beside the one that Pillow brings."""

    def have(folder=None):
        monkeypatch.setattr(lettering, "_PACKAGES", ())
        monkeypatch.setattr(lettering, "_FOLDERS", () if folder is None else (str(folder),))
        lettering._files.cache_clear()

    yield have
    lettering._files.cache_clear()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_name_is_drawn_in_its_script(script):
    text = SCRIPTS[script]
    if script in RIGHT_TO_LEFT and not features.check("raqm"):
        pytest.skip(NO_RAQM)
    if script in CJK and not find_spec("manimgx_fonts_cjk") and text_width(text, SIZE) > 6 * SIZE:
        pytest.skip("neither the extra `cjk` nor a font of this machine has these characters")
    assert text_width(text, SIZE) < text_width(escaped(text), SIZE) / 1.2
    first, end = columns(drawn(text))
    assert first >= 3
    assert end <= 5 + text_width(text, SIZE) + 2


def test_the_size_is_the_height_of_capitals():
    rows = drawn("HIE").any(axis=(1, 2)).nonzero()[0]
    assert rows[-1] + 1 == BASELINE
    assert rows[0] == pytest.approx(BASELINE - SIZE, abs=1)


@needs_raqm
def test_words_of_right_to_left_scripts_run_and_join_that_way():
    end = 5 + text_width("ב", SIZE)
    np.testing.assert_array_equal(drawn("אב")[:, :end], drawn("ב")[:, :end])
    assert text_width("القفز", SIZE) < sum(text_width(letter, SIZE) for letter in "القفز")


@needs_raqm
@pytest.mark.parametrize(("text", "left_to_right"), [("אב 3", "3 אב"), ("x אב y", "x אב y"), ("אב x גד", "גד x אב")])
def test_several_fonts_stand_in_the_order_of_the_first_script(text, left_to_right):
    place, expected = 5.0, np.zeros((100, 700, 3), np.uint8)
    for word in left_to_right.split():
        write(expected, word, round(place), BASELINE, SIZE, (255, 255, 255))
        place += text_width(word, SIZE) + text_width(" ", SIZE)
    assert columns(drawn(text)) == pytest.approx(columns(expected), abs=4)
    assert np.abs(drawn(text).any(axis=(0, 2)) ^ expected.any(axis=(0, 2))).sum() < 20


def test_what_no_font_has_is_escaped(fonts):
    fonts()
    np.testing.assert_array_equal(drawn("Läufer\x1b\n日"), drawn("L\\xe4ufer\\x1b\\n\\u65e5"))
    assert text_width("日", SIZE) == text_width("\\u65e5", SIZE)


def test_fonts_of_the_machine_serve_and_broken_ones_are_passed_over(fonts, tmp_path):
    font = Path(find_spec("manimgx_fonts").submodule_search_locations[0]) / "NotoSans[wght].ttf"
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.ttf").write_bytes(b"broken")
    shutil.copy(font, tmp_path / "deep/NotoSans-Some.TTF")
    expected = drawn("прыжок")
    fonts(tmp_path)
    np.testing.assert_array_equal(drawn("прыжок"), expected)


@settings(deadline=None)
@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zs", "Zl", "Zp", "Nd"]), max_size=12))
def test_control_characters_never_reach_the_renderer(text):
    given_to_pillow = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, run, **options: given_to_pillow.append(run))
        drawn(text)
    assert all(char.isprintable() or char in "\u200c\u200d" for char in "".join(given_to_pillow))


@pytest.mark.parametrize("height", [1, 5, 30])
def test_text_below_a_small_picture_is_left_out(height):
    picture = np.zeros((height, 40, 3), np.uint8)
    write(picture, "x", 2, height + 3 * SIZE, SIZE, (255, 255, 255))
    assert not picture.any()


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=60), st.integers(40, 300))
def test_a_text_is_cut_to_as_much_as_fits(text, width):
    shown = cut(text, SIZE, width)
    assert text_width(shown, SIZE) <= width
    if shown != text:
        kept = shown.removesuffix("...")
        assert text.startswith(kept)
        assert text_width(text, SIZE) > width
        assert text_width(f"{text[: len(kept) + 1]}...", SIZE) > width
