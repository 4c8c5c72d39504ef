"""Tables: CSV files in UTF-8 with \\n line ends, written whole and read strictly; a curve is a table of numbers."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.errors import shortened
from pipeline.core.files import read_text_whole, written_whole

Reader = Callable[[str], Any]  # of one field; raises ValueError
AddRow = Callable[[Iterable[object]], object]
Curve = list[dict[str, float]]  # of a training or a fit: a row for each epoch or point


class TableError(ValueError):
    """A file is not the table that was wanted: `findings` are all line numbers and reasons, the text is the first."""

    def __init__(self, findings: Sequence[tuple[int, str]]) -> None:
        self.findings = tuple(findings)
        line, reason = self.findings[0]
        super().__init__(f"line {line}: {reason}")


def whole_number(text: str) -> int:
    """A number of up to 18 digits: more would not fit the arrays that some of them become."""
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError(f"expected a whole number, not {text!r}")
    return int(text)


def number(text: str) -> float:
    """A finite number."""
    try:
        if math.isfinite(value := float(text)):
            return value
    except ValueError:
        pass
    raise ValueError(f"expected a number, not {text!r}")


def read_table(
    path: Path, columns: Mapping[str, Reader] | Reader, *, optional: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The rows of a table that has exactly these columns, or any where one reader is given for all of them.

    `optional` ones may be missing, and are then missing in the rows.
    Raises TableError with all that is wrong, ValueError where the file is cut off or not UTF-8, and OSError.
    """
    (_, header), *rows = parse_table(read_text_whole(path))
    if callable(columns):
        columns = dict.fromkeys(header, columns)
    columns = {name: column for name, column in columns.items() if name in header or name not in optional}
    if header != list(columns):
        found = shortened(",".join(header)) or "none"
        raise TableError([(1, f"its columns are {found}, expected {','.join(columns)}")])
    findings: list[tuple[int, str]] = []
    table = []
    for line, texts in rows:
        if len(texts) != len(columns):
            findings.append((line, f"{len(texts)} fields, expected {len(columns)}"))
            continue
        row = {}
        for (name, convert), text in zip(columns.items(), texts, strict=True):
            try:
                row[name] = convert(text)
            except ValueError as error:
                findings.append((line, f"{name}: {error}"))
        table.append(row)
    if findings:
        raise TableError(findings)
    return table


def parse_table(text: str) -> list[tuple[int, list[str]]]:
    """The rows of texts, the first of them the header, each with the number of the line that it begins in.

    Raises TableError where the text is not CSV, or empty.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    line = 1
    try:
        for texts in reader:
            rows.append((line, texts))
            line = reader.line_num + 1
    except csv.Error as error:
        raise TableError([(line, f"{error}, in the row that begins here")]) from None
    if not rows:
        raise TableError([(1, "empty, without a header")])
    return rows


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table whole: None as an empty field, floats as the shortest text that reads back as the same number."""
    with writing_table(path, columns) as add_row:
        for row in rows:
            add_row(row)


@contextmanager
def writing_table(path: Path, columns: Iterable[str], *, errors: str = "strict") -> Iterator[AddRow]:
    """Yields what adds a row to a table that exists once the block is done; `errors` as of `open`."""
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", errors=errors, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        yield writer.writerow


def write_curve(path: Path, curve: Curve, *, if_empty: Sequence[str] = ()) -> None:
    """Six digits of every number, under the names of the first row; of an empty curve the heading `if_empty` alone."""
    write_table(path, curve[0] if curve else if_empty, ([f"{value:.6g}" for value in row.values()] for row in curve))


def read_curve(path: Path) -> Curve:
    """Raises TableError or ValueError where the file is no curve, and OSError."""
    return read_table(path, float)


def best_on_val(curve: Curve) -> float:
    """The top-1 on val of a training's best epoch, which is the one whose weights are kept."""
    return max(row["val_top1"] for row in curve)


def weak_teacher(teacher: Curve, baseline: Curve) -> str | None:
    """One line with what to try where the teacher is no better than the baseline on val, else None."""
    taught, alone = best_on_val(teacher), best_on_val(baseline)
    if taught > alone:
        return None
    return (
        f"the teacher is not better than the baseline on val: top-1 {taught:.1%} and {alone:.1%}. Before other soft "
        "losses try another enhancer, more train_teacher.epochs or several teachers, over several seeds; "
        "docs/troubleshooting.md says why"
    )


def weak_teacher_of(curves: Path) -> str | None:
    """The same by the files of a folder; None where a curve is not there, or is not whole."""
    try:
        return weak_teacher(*(read_curve(curves / f"{name}.csv") for name in ("teacher", "baseline")))
    except (OSError, ValueError, KeyError):
        return None
