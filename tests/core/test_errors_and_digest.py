"""An error tells everything in one message and its exit code; a digest names content and nothing else."""

from __future__ import annotations

import hashlib
import json
import math
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.digest import digest_bytes, digest_file, digest_json, digest_uint64, has_valid_digest, with_digest
from pipeline.core.errors import (
    SHOWN_FINDINGS,
    DataError,
    DlkddError,
    EnvironmentProblem,
    Interrupted,
    ParamsError,
    StaleArtifactError,
)

KEYS = st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def test_exit_codes_are_those_of_the_documentation():
    codes = {kind: kind.exit_code for kind in (ParamsError, DataError, EnvironmentProblem, StaleArtifactError)}
    assert list(codes.values()) == [2, 3, 4, 5]
    assert DlkddError.exit_code == 1
    assert Interrupted(signal.SIGINT).exit_code == 130
    assert Interrupted(signal.SIGTERM).exit_code == 143


def test_a_message_has_a_line_for_every_finding_and_the_help_at_the_end():
    error = DataError("list.txt: 2 wrong lines", findings=["line 3: no label", "line 7: no video"], remedy="mend it")
    assert str(error).splitlines() == [
        "list.txt: 2 wrong lines",
        "  - line 3: no label",
        "  - line 7: no video",
        "help: mend it",
    ]
    assert error.findings == ("line 3: no label", "line 7: no video")
    assert error.remedy == "mend it"


def test_a_message_without_findings_and_help_is_one_line():
    assert str(DataError("gone")) == "gone"


def test_the_message_has_the_first_findings_and_the_error_all_of_them():
    names = [f"video {number}" for number in range(SHOWN_FINDINGS + 2)]
    error = DataError("broken", findings=names, remedy="mend them")
    assert error.findings == tuple(names)
    assert str(error).splitlines() == [
        "broken",
        *(f"  - {name}" for name in names[:-2]),
        "  - … and 2 more",
        "help: mend them",
    ]


@pytest.mark.parametrize("kind", [ParamsError, DataError, EnvironmentProblem, StaleArtifactError, Interrupted])
def test_one_handler_catches_all_of_them(kind):
    assert issubclass(kind, DlkddError)


# from GNU coreutils: printf abc | b2sum -l 128
def test_digest_is_plain_blake2b():
    assert digest_bytes(b"abc") == "cf4ab791c62b8d2b2109c90275287816"


# printf '{"a":[1,2.5,"é"],"b":null}' | b2sum -l 128
def test_json_digest_is_that_of_sorted_compact_utf8():
    assert digest_json({"b": None, "a": [1, 2.5, "é"]}) == "0c8393390b41611b094b88fd47e67b0e"


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_digest_of_parts_is_that_of_the_whole(parts):
    assert digest_bytes(*parts) == digest_bytes(b"".join(parts))


@given(content=st.binary(max_size=1000))
def test_digest_of_a_file_is_that_of_its_bytes(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "digested"
    path.write_bytes(content)
    assert digest_file(path) == digest_bytes(content)


@given(st.binary(max_size=20))
def test_integer_digest_is_the_first_64_bits(content):
    first = hashlib.blake2b(content, digest_size=16).digest()[:8]
    assert digest_uint64(content) == int.from_bytes(first, "big")


@given(JSON)
def test_json_digest_survives_being_written_and_read(value):
    assert digest_json(json.loads(json.dumps(value))) == digest_json(value)


@given(st.dictionaries(KEYS, JSON, min_size=2, max_size=4))
def test_json_digest_does_not_depend_on_the_order_of_keys(values):
    assert digest_json(dict(reversed(values.items()))) == digest_json(values)


@given(JSON, JSON)
def test_different_json_has_different_digests(one, other):
    if json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
        assert digest_json(one) != digest_json(other)


@given(st.dictionaries(KEYS, JSON, max_size=3), KEYS, JSON)
def test_a_seal_holds_until_a_value_changes(values, key, value):
    values.pop("digest", None)
    read = json.loads(json.dumps(with_digest(values)))
    assert has_valid_digest(read)
    changed = {**read, key: value}
    assert has_valid_digest(changed) == (json.dumps(changed, sort_keys=True) == json.dumps(read, sort_keys=True))


@pytest.mark.parametrize("values", [[], {}, {"a": 1}, {"digest": "0"}, {"digest": "0", "a": math.nan}, "text", None])
def test_what_was_never_sealed_is_not(values):
    assert not has_valid_digest(values)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_json_digest_refuses_what_json_cannot_say(number):
    with pytest.raises(ValueError, match="JSON compliant"):
        digest_json({"value": number})
