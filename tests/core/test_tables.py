"""Tables are written whole and read strictly, with the line of whatever is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.tables import TableError, number, read_table, whole_number, write_curve, write_table

COLUMNS = {"name": str, "count": whole_number, "share": number}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(rows=st.lists(st.tuples(TEXTS, st.integers(0, 10**18 - 1), st.floats(allow_nan=False, allow_infinity=False))))
def test_what_was_written_is_read_again(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.csv"
    write_table(path, COLUMNS, rows)
    assert [tuple(row.values()) for row in read_table(path, COLUMNS)] == rows


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("", [(1, "empty, without a header")]),
        ("\n", [(1, "its columns are none, expected name,count,share")]),
        ("name,count\n", [(1, "its columns are name,count, expected name,count,share")]),
        ("name,share,count\n", [(1, "its columns are name,share,count, expected name,count,share")]),
        (
            'name,count,share\n"a\nb",1\nc,-1,nan\n\n',
            [
                (2, "2 fields, expected 3"),
                (4, "count: expected a whole number, not '-1'"),
                (4, "share: expected a number, not 'nan'"),
                (5, "0 fields, expected 3"),
            ],
        ),
        ('name,count,share\na,1,2\n"b,1,2\n', [(3, "unexpected end of data, in the row that begins here")]),
        ('name,count,share\n"a"b,1,2\n', [(2, "',' expected after '\"', in the row that begins here")]),
    ],
)
def test_all_that_is_wrong_is_told_with_its_line(text, findings, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(TableError) as raised:
        read_table(path, COLUMNS)
    assert raised.value.findings == tuple(findings)
    assert str(raised.value) == f"line {findings[0][0]}: {findings[0][1]}"


def test_a_table_whose_end_was_cut_off_is_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("name,count,share\na,1,2")
    with pytest.raises(ValueError, match="cut off"):
        read_table(path, COLUMNS)


def test_a_curve_has_six_digits_and_its_columns_even_when_empty(tmp_path):
    path = tmp_path / "curve.csv"
    write_curve(path, [{"step": 1, "loss": 1 / 3}])
    assert path.read_bytes() == b"step,loss\n1,0.333333\n"
    assert read_table(path, float) == [{"step": 1.0, "loss": 0.333333}]
    write_curve(path, [], if_empty=("step", "loss"))
    assert path.read_bytes() == b"step,loss\n"
    assert read_table(path, float) == []
