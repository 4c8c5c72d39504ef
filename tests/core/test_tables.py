"""Tables are written whole and read strictly, with the line of whatever is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.tables import (
    TableError,
    number,
    read_table,
    weak_teacher_of,
    whole_number,
    write_curve,
    write_table,
)

COLUMNS = {"name": str, "count": whole_number, "share": number}
# csv writes a lone carriage return without quotes, and reads it as the end of a row
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"))


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


def curve(*top1_on_val):
    return [{"epoch": epoch, "val_top1": top1} for epoch, top1 in enumerate(top1_on_val)]


@pytest.mark.parametrize(
    ("teacher", "baseline", "is_weak"),
    [((0.5, 0.9, 0.7), (0.8, 0.89), False), ((0.5, 0.8), (0.8, 0.5), True), ((0.9, 0.7), (0.2, 0.95, 0.1), True)],
)
def test_a_teacher_is_weak_where_its_best_epoch_is_not_above_the_baselines(tmp_path, teacher, baseline, is_weak):
    for name, values in {"teacher": teacher, "baseline": baseline}.items():
        write_curve(tmp_path / f"{name}.csv", curve(*values))
    warning = weak_teacher_of(tmp_path)
    assert (warning is not None) == is_weak
    if is_weak:
        assert f"top-1 {max(teacher):.1%} and {max(baseline):.1%}. " in warning
        assert "train_teacher.epochs" in warning
        assert "\n" not in warning


@pytest.mark.parametrize(
    "text", [None, "", "epoch,val_top1\n", "epoch,val_top1\n0,0.5", "epoch,loss\n0,0.5\n", "epoch\n"]
)
def test_nothing_is_said_where_a_curve_is_not_there_or_not_whole(tmp_path, text):
    write_curve(tmp_path / "teacher.csv", curve(0.1))
    if text is not None:
        (tmp_path / "baseline.csv").write_text(text)
    assert weak_teacher_of(tmp_path) is None
