"""Parameter files from anybody: a message with the key and its line, or the values as they are written."""

from __future__ import annotations

import math
import re
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT

from pipeline.core.errors import ParamsError
from pipeline.core.params import load_params, params_text
from pipeline.core.yaml import yaml_text

SMOKE = (ROOT / "configs/smoke.yaml").read_text()
CPU_SECONDS = 20  # ten times what the longest takes


def places(values, place=()):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from places(value, (*place, key))
        else:
            yield (*place, key)


PLACES = list(places(yaml.safe_load(SMOKE)))


def value_at(values, place):
    for key in place:
        values = values[key]
    return values


def refusal(path, text):
    """Why a parameter file is refused; None where it is read."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        params = load_params(path)
    except ParamsError as error:
        return error
    path.write_text(params_text(params))
    assert load_params(path) == params  # what is read is written and read the same
    return None


# files that would do something, or take much


def bomb(levels=30):
    return "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, levels))


HOSTILE = {
    "an alias bomb": bomb(),
    "a list that holds itself": "seed: &a [*a]\n",
    "merge keys": "base: &b {seed: 1}\nprepare:\n  <<: *b\n",
    "deep brackets": "seed: " + "[" * 10_000 + "]" * 10_000 + "\n",
    "deep sections": "".join(f"{' ' * n}a:\n" for n in range(400)),
    "a number of 100,000 digits": f"seed: {'9' * 90_000}\n",
    "hexadecimal digits": SMOKE.replace("temperature: 2.0", f"temperature: 0x{'f' * 50_000}"),
    "an impossible date": SMOKE.replace("root: data/smoke", "root: 2024-13-45"),
    "a tag of an empty number": SMOKE.replace("seed: 0", 'seed: !!int ""'),
    "a tag of a wrong truth": SMOKE.replace("flip: true", "flip: !!bool maybe"),
    "an escape sequence by its number": SMOKE.replace("root: data/smoke", 'root: "a\\x1b[2J"'),
    "half a character by its number": SMOKE.replace("root: data/smoke", 'root: "\\ud800"'),
    "keys that are no texts": f"{SMOKE}\n1: 2\n~: 3\n[a]: 4\n",
    "equal keys": "a:\n" * 33_000,
    "a file of megabytes": "# comment\n" * 1_000_000,
    "many keys": "".join(f"k{n}: 1\n" for n in range(9_000)),
    "several documents": f"{SMOKE}\n---\nseed: 1\n",
    "tabs": SMOKE.replace("  root:", "\troot:"),
    "a list in place of keys": "- seed\n- 1\n",
    "nothing": "",
    "no text": b"\x00\x01\xff",
    "UTF-16": SMOKE.encode("utf-16"),
    "NUL": SMOKE.encode() + b"x: \x00\n",
}


@pytest.mark.fault("Lists", "hostile YAML", "E")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_soon(tmp_path, name):
    began = time.process_time()
    error = refusal(tmp_path / "params.yaml", HOSTILE[name])
    assert error is not None
    assert error.exit_code == 2
    assert len(str(error)) < 10_000  # whatever is quoted is shortened
    assert time.process_time() - began < CPU_SECONDS


TAGS = ["!!python/object/apply:os.system [{}]", "!!python/object/new:subprocess.Popen [[sh, -c, {}]]",
        "!!python/name:os.system", "!!python/module:os", "!!binary aGVsbG8="]  # fmt: skip


@pytest.mark.fault("Lists", "code in YAML", "E")
@pytest.mark.parametrize("tag", TAGS)
def test_code_in_yaml_is_refused_and_never_run(tmp_path, tag, call):
    canary = tmp_path / "canary"
    path = tmp_path / "params.yaml"
    path.write_text(SMOKE.replace("seed: 0", f"seed: {tag.format(f'touch {canary}')}"))
    outs = ("--manifest", tmp_path / "m.csv", "--quarantine", tmp_path / "q.csv", "--dark", tmp_path / "dark")
    code, _, err = call("prepare", "--params", path, *outs)
    assert code == 2
    assert "line " in err
    assert "Traceback" not in err
    assert not canary.exists()


# any value at any place


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.sampled_from(["1e-4", "no", "010", "1:30", "0x1F", "1_000", ".inf", "clahe", "~"]),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(max_size=5), SCALARS, max_size=2))


def hypothesis_settings(scale):
    return settings(
        max_examples=scale(60, 500),
        derandomize=True,
        database=None,
    )


@pytest.mark.fault("Lists", "any value at any parameter (hypothesis)", "E")
def test_a_value_is_refused_by_its_name_or_read_as_it_is(tmp_path, scale, cases):
    path = tmp_path / "params.yaml"

    @hypothesis_settings(scale)
    @given(st.sampled_from(PLACES), VALUES)
    def each(place, value):
        values = yaml.safe_load(SMOKE)
        value_at(values, place[:-1])[place[-1]] = value
        error = refusal(path, yaml_text(values))
        if error is not None:
            assert place[-1] in str(error) or "not plain YAML" in str(error)
            return
        found = value_at(load_params(path).model_dump(), place)
        assert type(found) is type(value) or (type(found) is float and type(value) is int)
        assert found == value
        assert not (isinstance(found, float) and not math.isfinite(found))

    each()
    cases(scale(60, 500))


# damage to the text


@pytest.mark.fault("Lists", "parameter lines doubled, lost or misspelt (hypothesis)", "E")
def test_a_line_that_is_doubled_lost_or_misspelt_is_named(tmp_path, scale, cases):
    path = tmp_path / "params.yaml"
    lines = SMOKE.splitlines()
    with_values = [n for n, line in enumerate(lines) if re.match(r" *\w+: +\S", line)]

    @hypothesis_settings(scale)
    @given(st.sampled_from(with_values), st.sampled_from(["double", "lose", "misspell"]))
    def each(number, how):
        key = re.match(r" *(\w+):", lines[number])[1]
        changed = {
            "double": [*lines[: number + 1], lines[number], *lines[number + 1 :]],
            "lose": [*lines[:number], *lines[number + 1 :]],
            "misspell": [*lines[:number], lines[number].replace(f"{key}:", f"{key}x:", 1), *lines[number + 1 :]],
        }[how]
        error = refusal(path, "\n".join(changed) + "\n")
        assert error is not None
        said = {"double": f"line {number + 2}: ", "lose": f"{key} is missing", "misspell": f"line {number + 1}: "}[how]
        if said not in str(error):  # it was the only key of its section, which is named then
            assert how == "lose"
            assert f"line {number}: " in str(error)

    each()
    cases(scale(60, 500))


@pytest.mark.fault("Lists", "bytes of a parameter file changed (hypothesis)", "E")
def test_changed_bytes_are_refused_or_another_plain_reading(tmp_path, scale, cases):
    path = tmp_path / "params.yaml"
    data = SMOKE.encode()

    @hypothesis_settings(scale)
    @given(st.integers(0, len(data) - 1), st.sampled_from([0, 1, len(data)]), st.binary(max_size=3))
    def each(at, lost, new):
        refusal(path, data[:at] + new + data[at + lost :])

    each()
    cases(scale(60, 500))
