"""The table of docs/reliability.md has a row for each fault of the suite, and nothing else."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from faults.fault_table import BEGIN, END, faults_in, in_page, rows_of, table

ROOT = Path(__file__).parent.parent
FAULT = re.compile(r'mark\.fault\(\s*"(\w+)",\s*"([^"]+)",\s*"([EQR=])",?\s*\)')


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


@pytest.mark.parametrize("path", sorted((ROOT / "tests/faults").glob("test_*.py")), ids=lambda path: path.stem)
def test_every_marker_can_be_read(path):
    text = path.read_text()
    assert len(FAULT.findall(text)) == text.count("mark.fault(")


def test_the_page_has_the_faults_of_the_suite():
    suite = {fault for path in (ROOT / "tests/faults").glob("test_*.py") for fault in FAULT.findall(path.read_text())}
    assert suite == set(faults_in((ROOT / "docs/reliability.md").read_text().splitlines())), "run `make faults`"
