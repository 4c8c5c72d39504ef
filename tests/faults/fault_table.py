"""The table of a long run: a row for each fault, printed, and kept in docs/reliability.md."""

from __future__ import annotations

import re
from collections import defaultdict

CATEGORIES = ("Videos", "Lists", "Runs", "Disk", "Artifacts", "Numbers", "Security")
OUTCOMES = ("E", "Q", "R", "=")
BEGIN, END = "<!-- the table of the last long run -->", "<!-- end of the table -->"


def rows_of(reports):
    """Cases that passed, tests that failed and that were skipped, by category, fault and outcome."""
    rows = defaultdict(lambda: [0, 0, 0])
    for report in reports:
        properties = dict(report.user_properties)
        if "fault" not in properties:
            continue
        row = rows[tuple(properties["fault"])]
        row[0] += properties.get("cases", 1) if report.passed else 0
        row[1] += report.failed
        row[2] += report.skipped
    return dict(rows)


def table(rows):
    """The rows as lines of Markdown."""
    lines = ["| category | fault | outcome | cases | failed |", "|---|---|---|---:|---:|"]
    for category, fault, outcome in sorted(rows, key=lambda key: (CATEGORIES.index(key[0]), key[1:])):
        passed, failed, skipped = rows[category, fault, outcome]
        cases = f"{passed:,}" + (f", {skipped} skipped" if skipped else "")
        lines.append(f"| {category} | {fault} | {outcome} | {cases} | {failed} |")
    total = [sum(row[place] for row in rows.values()) for place in (0, 1)]
    lines.append(f"| all | | | {total[0]:,} | {total[1]} |")
    return lines


def faults_in(lines):
    """Category, fault and outcome of every row of a table."""
    cells = [tuple(cell.strip() for cell in line.strip("|\n").split("|")) for line in lines if line.startswith("| ")]
    return [row[:3] for row in cells if row[0] in CATEGORIES]


def in_page(page, lines, when):
    """The page with another table in the place of its own."""
    text = "\n".join([BEGIN, f"Last run: {when}.", "", *lines, END])
    assert BEGIN in page
    return re.sub(f"{BEGIN}.*?{END}", lambda _: text, page, flags=re.DOTALL)
