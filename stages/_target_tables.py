"""How `dlkdd targets` prints a store, and two beside each other, for people."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.target_diff import Difference
from pipeline.target_summary import Entropy, Summary

_NUM_BARS = 20
_BAR = 40
_LONGEST = 60


def print_summary(found: Summary) -> None:
    """What a store is and holds, to stdout."""
    console = Console(highlight=False, markup=False, emoji=False)
    said = found.attributes
    facts = Table.grid(padding=(0, 2))
    size = "" if found.bytes_on_disk is None else f", {found.bytes_on_disk:,} bytes on disk"
    codec = " ".join(str(value) for value in said["codec"].values())
    rows: dict[str, str] = {
        "store": found.location,
        "digest": found.digest,
        "format": f"{said['format']} {said['format_version']}",
        "holds": f"{said['num_rows']} videos × {said['num_views']} views × {len(said['class_names'])} classes; "
        f"teachers: {said['num_teachers']}, shards: {len(said['shards'])}",
        "codec": f"{codec}: {found.bytes_per_view} bytes a view of a teacher{size}",
        "classes": ", ".join(said["class_names"]),
        "clip": _pairs(said["clip"]),
        "views": _pairs(said["view_policy"]),
        **{f"digest of {name}": str(digest) for name, digest in said["digests"].items()},
        **{name: str(said[name]) for name in ("merged_from", "repaired_rows") if name in said},
    }
    for name, value in rows.items():
        facts.add_row(name, value)
    console.print(facts)
    teachers = Table("teacher", "top-1 on these views", "digest of its file")
    for teacher in said["teachers"]:
        teachers.add_row(teacher["name"], f"{teacher['top1_on_views']:.1%}", teacher["digest"])
    console.print(teachers)
    error = said["codec_error"]
    packing = Table("temperature", "mean KL in nats", "largest", title="what packing cost", title_justify="left")
    for key, mean in error["mean_kl"].items():
        packing.add_row(key, f"{mean:.3g}", f"{error['max_kl'][key]:.3g}")
    console.print(packing)
    console.print(f"the same top class after packing: {error['top1_agreement']:.2%} of the views\n")
    _print_entropy(console, found.entropy, len(said["class_names"]))
    if found.top1_by_class is not None:
        by_class = Table("class", "views", "top-1")
        for name, values in found.top1_by_class.items():
            by_class.add_row(name, str(values["num_views"]), f"{values['top1']:.1%}")
        console.print(by_class)


def _print_entropy(console: Console, entropy: Entropy, num_classes: int) -> None:
    most = math.log(max(num_classes, 2))
    quartiles = ", ".join(f"{value:.2f}" for value in entropy.quartiles)
    console.print(
        f"entropy of the soft targets at temperature {entropy.temperature:g}: mean {entropy.mean:.3f} nats, "
        f"{entropy.mean / most:.0%} of log {num_classes}; quartiles {quartiles}"
    )
    counts = np.array(entropy.counts).reshape(_NUM_BARS, -1).sum(axis=1)
    for bin_number, count in enumerate(counts.tolist()):
        low, high = (most * edge / _NUM_BARS for edge in (bin_number, bin_number + 1))
        bar = "█" * round(_BAR * count / counts.max())
        console.print(f"  {low:5.2f} to {high:5.2f}  {bar or '▏' * bool(count):<{_BAR}} {count}")


def print_difference(a: str, b: str, found: Difference) -> None:
    """Two stores beside each other, to stdout."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(f"A {a}  {found.digests[0]}\nB {b}  {found.digests[1]}")
    if found.same:
        console.print("the same store")
        return
    attributes = Table("attribute", "A", "B")
    for name, values in found.attributes.items():
        attributes.add_row(name, *(_short(value) for value in values))
    console.print(attributes)
    for side, number, names in zip("AB", found.num_only, found.only, strict=True):
        if number:
            console.print(f"only in {side}: {number} videos: {', '.join(names)}{' …' * (number > len(names))}")
    console.print(
        f"in both: {found.num_common} videos, {found.num_same_views} with the same views, {found.num_same_rows} with "
        "the same bytes"
    )
    if not found.whole.num_views:
        console.print("what the teachers say is not compared: no video has the same views and classes in both")
        return
    divergence = Table("class on top in A", "views", "mean KL(A ‖ B)", "largest", "the same class on top")
    for name, part in [*sorted(found.by_class.items()), ("all", found.whole)]:
        shown = part.to_dict()
        divergence.add_row(
            name,
            str(part.num_views),
            f"{shown['mean_kl']:.3g}",
            f"{part.kl_max:.3g}",
            f"{shown['top1_agreement']:.1%}",
        )
    console.print(divergence)
    most = Table("videos that differ most", "mean KL(A ‖ B)")
    for kl, name in sorted(found.most, reverse=True):
        most.add_row(name, f"{kl:.3g}")
    console.print(most)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
