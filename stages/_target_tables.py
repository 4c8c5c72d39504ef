"""How `dlkdd targets` prints a store, and two beside each other, for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.tools.targets.diff import Difference
from pipeline.tools.targets.summary import Entropy, Summary
from stages._shell import printable

_NUM_BARS = 20
_BAR = 40
_LONGEST = 60
_MOST_NAMES = 30


def print_summary(found: Summary) -> None:
    """What a store is and holds, to stdout."""
    console = _console()
    attributes = found.attributes
    num_classes = len(attributes["class_names"])
    size = "" if found.bytes_on_disk is None else f", {found.bytes_on_disk:,} bytes on disk"
    codec = " ".join(str(value) for value in attributes["codec"].values())
    facts = {
        "store": found.location,
        "digest": found.digest,
        "format": f"{attributes['format']} {attributes['format_version']}",
        "holds": f"{attributes['num_rows']} videos × {attributes['num_views']} views × {num_classes} classes; "
        f"teachers: {attributes['num_teachers']}, shards: {len(attributes['shards'])}",
        "codec": f"{codec}: {found.bytes_per_view} bytes a view of a teacher{size}",
        "classes": _names(attributes["class_names"]),
        "clip": _pairs(attributes["clip"]),
        "views": _pairs(attributes["view_policy"]),
        **{f"digest of {name}": digest or "none" for name, digest in attributes["digests"].items()},
        "merged from": ", ".join(attributes.get("merged_from", ())),
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value:
            grid.add_row(name, printable(value))
    console.print(grid)
    _print_table(
        console,
        ("teacher", "top-1 on these views", "digest of its file"),
        ((teacher["name"], f"{teacher['top1_on_views']:.1%}", teacher["digest"]) for teacher in attributes["teachers"]),
    )
    error = attributes["codec_error"]
    _print_table(
        console,
        ("temperature", "KL(teacher ‖ unpacked): mean, nats", "largest"),
        ((key, f"{mean:.3g}", f"{error['max_kl'][key]:.3g}") for key, mean in error["mean_kl"].items()),
    )
    _print_line(console, f"the same top class after packing: {error['top1_agreement']:.2%} of the views\n")
    _print_line(console, f"entropy of the soft targets in nats; in brackets: its share of log {num_classes}")
    _print_table(
        console,
        ("temperature", "mean", "lower quartile", "median", "upper quartile"),
        (
            (
                f"{each.temperature:g}",
                *(f"{value:.3f} ({value / each.most:.0%})" for value in (each.mean, *each.quartiles)),
            )
            for each in found.entropy
        ),
    )
    for entropy in found.entropy:
        _print_histogram(console, entropy)
    if found.top1_by_class is not None:
        by_class = found.top1_by_class.items()
        _print_table(
            console,
            ("class", "views", "top-1"),
            ((name, str(values["num_views"]), f"{values['top1']:.1%}") for name, values in by_class),
        )


def _print_histogram(console: Console, entropy: Entropy) -> None:
    _print_line(console, f"views by their entropy in nats, at temperature {entropy.temperature:g}")
    counts = np.array(entropy.counts).reshape(_NUM_BARS, -1).sum(axis=1)
    for bin_number, count in enumerate(counts.tolist()):
        low, high = (entropy.most * edge / _NUM_BARS for edge in (bin_number, bin_number + 1))
        bar = "█" * round(_BAR * count / counts.max())
        _print_line(console, f"  {low:5.2f} to {high:5.2f}  {bar or '▏' * bool(count):<{_BAR}} {count}")


def print_difference(a: str, b: str, found: Difference) -> None:
    """Two stores beside each other, to stdout."""
    console = _console()
    _print_line(console, f"A {a}  {found.digests[0]}\nB {b}  {found.digests[1]}")
    if found.same:
        _print_line(console, "the same store")
        return
    differing = found.attributes.items()
    _print_table(console, ("attribute", "A", "B"), ((name, *map(_short, values)) for name, values in differing))
    for side, number, names in zip("AB", found.num_only, found.only, strict=True):
        if number:
            _print_line(console, f"only in {side}: {number} videos: {', '.join(names)}{' …' * (number > len(names))}")
    _print_line(
        console,
        f"in both: {found.num_common} videos, {found.num_same_views} with the same views, {found.num_same_rows} with "
        "the same bytes",
    )
    if not found.whole.num_views:
        _print_line(console, "logits are not compared: no video has the same views and classes in both")
        return
    parts = {name: part.to_dict() for name, part in [*sorted(found.by_class.items()), ("all", found.whole)]}
    _print_table(
        console,
        ("class on top in A", "views", "mean KL(A ‖ B)", "largest", "the same class on top"),
        (
            (
                name,
                str(part["num_views"]),
                f"{part['mean_kl']:.3g}",
                f"{part['max_kl']:.3g}",
                f"{part['top1_agreement']:.1%}",
            )
            for name, part in parts.items()
        ),
    )
    most = sorted(found.most, reverse=True)
    _print_table(console, ("videos that differ most", "mean KL(A ‖ B)"), ((name, f"{kl:.3g}") for kl, name in most))


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def _print_line(console: Console, text: str) -> None:
    console.print(printable(text), soft_wrap=True)


def _print_table(console: Console, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*headers)
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(table)


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
