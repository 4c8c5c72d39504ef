"""Does a store keep the rules of docs/soft-target-store.md, whoever wrote it? Each is one check that has a name.

What is wrong is found by `verify`, and by nothing else: here its findings are only told apart, by their words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.tools.targets.verify import Verdict

Result = Literal["pass", "fail", "not checked"]


@dataclass(frozen=True)
class Rule:
    """A rule, the step in which it is checked, and how verify's findings about it read."""

    step: int
    name: str
    text: str
    words: str


# In the order in which they are checked: the rows of a store that breaks a rule of steps 1 to 7 are not read
_FILES, _OPENED = 5, 8
RULES = (
    Rule(1, "format", "`format` and `format_version` are known", r"expected dlkdd-|zarr\.json cannot be read"),
    Rule(2, "attributes digest", "the attributes have their digest", r"do not have their digest$"),
    Rule(3, "attributes", "none is missing or of another type", r"^attribute "),
    Rule(4, "agreement", "attributes agree with each other", r"^attributes: |a shard holds \d+, not"),
    Rule(_FILES, "files", "no file is missing, empty or another", r"is missing$|is empty$|no part of the store$"),
    Rule(6, "chunk bytes", "no chunk has more than 1 GiB", r"a chunk of .* would have"),
    Rule(7, "shapes", "arrays have the shapes that the attributes name", r"zarr\.json: shape is"),
    Rule(7, "types", "arrays have their types", r"zarr\.json: data_type is"),
    Rule(7, "chunks", "arrays have their chunks, shards and codecs", r"zarr\.json: (chunk_\w+|codecs) is"),
    Rule(7, "fill values", "arrays have their fill values", r"zarr\.json: fill_value is"),
    Rule(7, "arrays", "all arrays are there, and described by nothing else", r"KeyError|zarr\.json: "),
    Rule(8, "checksums", "chunks have their CRC-32C", r"rows \d+ to \d+ cannot be read: "),
    Rule(8, "row digests", "rows have their digests", r"fails its digest$"),
    Rule(8, "written", "no row has unwritten values", r"not finite: never written$"),
    Rule(8, "order", "rows ascend by their ids, each in its shard", r"rows ascend by their ids$"),
    Rule(8, "shards", "shards have the first ids and digests of `shards`", r"not the rows that the attributes name$"),
    Rule(8, "views", "views lie inside of their videos", r"is no view of a video of "),
    Rule(8, "classes", "the classes kept of a view are different ones", r"topk_classes are not different ones of"),
    Rule(8, "folds", "folds are those of their teachers", r": folds \[.*\] of teachers that have "),
    Rule(8, "blends", "partners are of the store, and blends in the clip", r"is no blend with a video of the"),
    Rule(8, "others", "nothing else is wrong", r""),
)


@dataclass(frozen=True)
class Check:
    """What a rule's check gave; findings: what breaks the rule."""

    name: str
    rule: str
    result: Result
    findings: tuple[str, ...]


def checks(verdict: Verdict) -> list[Check]:
    """One for each of RULES, of a verdict to the depth "checksums"."""
    broken: dict[str, list[str]] = {rule.name: [] for rule in RULES}
    for finding in verdict.findings:
        broken[next(rule.name for rule in RULES if re.search(rule.words, finding))].append(finding)
    reached = max((rule.step for rule in RULES if broken[rule.name]), default=_OPENED)
    if verdict.digest is not None:
        reached = _OPENED
    return [
        Check(rule.name, rule.text, _result(rule, broken[rule.name], reached, verdict), tuple(broken[rule.name]))
        for rule in RULES
    ]


def _result(rule: Rule, findings: Sequence[str], reached: int, verdict: Verdict) -> Result:
    if findings:
        return "fail"
    at_url = rule.step == _FILES and "://" in verdict.location  # which files a server has nobody can ask
    among_bad_rows = rule.name == "blends" and verdict.num_rows_bad > 0
    return "not checked" if rule.step > reached or at_url or among_bad_rows else "pass"
