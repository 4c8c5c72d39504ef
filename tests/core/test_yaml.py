"""YAML 1.2 as DVC reads it, less what is no plain value, with the line of everything."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.errors import ParamsError
from pipeline.core.yaml import read_yaml, yaml_text

NUMBERS = ["1e-05", "1E5", "1e3", "+2.5e+7", ".5", "-.5e-3", "4.", "00.5", "0", "-0", "+3"]
TEXTS = ["no", "yes", "on", "Off", "y", "1:30", "1e-", "e5", "1.2.3", "~x"]


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_those_of_yaml_1_2(text):
    value = read_yaml(text, "it")[0]
    assert value == float(text)
    assert type(value) is (int if text.lstrip("+-").isdigit() else float)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_a_value_to_yaml_1_1_alone_is_a_text(text):
    assert read_yaml(text, "it")[0] == text


@pytest.mark.parametrize("text", ["010", "-010", "0o17", "0x1F", "0b1", "1_000", "1_0.5", "9" * 19, "2024-01-01", "="])
def test_what_readers_disagree_about_is_refused(text):
    with pytest.raises(ParamsError) as caught:
        read_yaml(f"a:\n  b: [1, {text}]", "it")
    (finding,) = caught.value.findings
    assert finding.startswith("line 2: a.b.1: a number has")
    assert finding.endswith(f"needs quotes, not {text}")


@given(st.text(st.sampled_from("0123456789+-.eE_xonyf:~ #'\"[]{},&*a\n"), max_size=12))
@example("1e5")
@example("[.inf, -.INF]")
def test_what_is_read_is_what_dvc_reads(text):
    serialize = pytest.importorskip("dvc.utils.serialize")
    try:
        value = read_yaml(text, "it")[0]
    except ParamsError:
        return
    theirs = serialize.parse_yaml(text, "it") or value
    assert theirs == value or (isinstance(value, float) and math.isnan(value) and math.isnan(theirs))
    assert type(theirs) is type(value)


def test_aliases_stand_for_their_values_with_the_lines_where_these_are_written():
    values, lines = read_yaml("a: &shared\n  b: [1, &two 2]\nc: *shared\nd: *two\n", "it")
    assert values == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "d": 2}
    assert lines["c",] == 3
    assert lines["c", "b"] == lines["a", "b"] == lines["a", "b", 1] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [*a]", "line 1: aliases (*) stand for too much"),
        ("\n".join(["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 18)]), "stand for"),
        ("a: 1\nb: !!int 2", "line 2: tags (!) are not read"),
        ("%YAML 1.1\n---\na: yes", "line 3: only YAML 1.2 is read"),
        ("[" * 21 + "]" * 21, "line 1: more than 20 brackets or sections are nested"),
        ("a: 1\n1: 2", "line 2: a key is a text, not 1"),
        ("<<: {a: 1}", "line 1: a key is a text, not <<"),
        ('a: "\\e[2J"', "line 1: a: a text is one line"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_line(text, words):
    with pytest.raises(ParamsError) as caught:
        read_yaml(text, "it")
    assert words in caught.value.findings[0]


SCALARS = st.floats(allow_nan=False) | st.integers(-(10**18) + 1, 10**18 - 1) | st.sampled_from(TEXTS)


@given(st.recursive(SCALARS, st.lists))
def test_values_are_written_so_that_they_are_read_the_same(values):
    assert read_yaml(yaml_text(values), "it")[0] == values
