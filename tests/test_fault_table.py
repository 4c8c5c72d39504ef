"""The table of the fault suite: what a run adds up, and how it gets into its page."""

from types import SimpleNamespace

from faults.fault_table import BEGIN, END, faults_in, in_page, rows_of, table


def report(fault, *, passed=1, failed=0, cases=None):
    properties = [("fault", fault)] + ([("cases", cases)] if cases else [])
    return SimpleNamespace(user_properties=properties, passed=passed, failed=failed, skipped=0)


def test_a_row_adds_up_what_its_tests_tried():
    one, two = ("Runs", "a kill", "R"), ("Lists", "a list", "E")
    rows = rows_of([report(one, cases=50), report(one, cases=50), report(one, passed=0, failed=1), report(two)])
    lines = table(rows)
    assert lines[2:] == ["| Lists | a list | E | 1 | 0 |", "| Runs | a kill | R | 100 | 1 |", "| all | | | 101 | 1 |"]
    assert faults_in(lines) == [two, one]


def test_a_new_table_takes_the_place_of_the_old_one():
    page = in_page(f"before\n{BEGIN}\nold\n{END}\nafter\n", ["| new |"], "today")
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")
    assert "old" not in page
    assert in_page(page, ["| new |"], "today") == page
