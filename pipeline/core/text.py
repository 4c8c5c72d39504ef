"""Names that come from files, as text and nothing else: for terminals, pages and Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def printable(text: str, *, kept: str = "\n") -> str:
    """The text without what a terminal would obey, HTML may not hold, or what turns the direction of writing."""
    return "".join(char if char.isprintable() or char in kept else "\N{REPLACEMENT CHARACTER}" for char in text)


def code_span(text: str) -> str:
    """Markdown that shows the text as it is, in a line or a cell of a table: no markup, no HTML, no end of the cell.

    CommonMark 0.31, section 6.1: a span ends at as many backticks as it began with. A cell ends at a bar even in a
    span; U+2223, which looks like one, stands for it.
    """
    text = printable(text, kept="").replace("|", "\N{DIVIDES}")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return f"{fence}{space}{text}{space}{fence}"


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown, without a line end after it; cells are Markdown already."""
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (headers, ["---"] * len(headers), *rows))
