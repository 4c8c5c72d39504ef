"""How `dlkdd targets` prints a store, two beside each other, and what a verification found, for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.distill.store.attributes import is_imported
from pipeline.distill.store.certainty import NEARLY_HARD
from pipeline.tools.targets.card import seen_of
from pipeline.tools.targets.verify import Verdict
from stages._shell import print_facts, print_line, print_table, say, short_digest

_NUM_BARS = 20
_BAR = 40
_LONGEST = 60
_MOST_NAMES = 30


def print_summary(found: Mapping[str, Any]) -> None:
    """What `summarise` found, to stdout."""
    attributes = found["attributes"]
    num_classes, error = len(attributes["class_names"]), attributes["codec_error"]
    without = f" ({attributes['num_unlabelled']} without a label)" if attributes.get("num_unlabelled") else ""
    size = "" if found["bytes_on_disk"] is None else f", {found['bytes_on_disk']:,} bytes on disk"
    codec = " ".join(str(value) for value in attributes["codec"].values())
    print_facts(
        {
            "store": found["location"],
            "digest": found["digest"],
            "format": f"{attributes['format']} {found['format_version']}",
            "holds": f"{attributes['num_rows']} videos{without} × {attributes['num_views']} views × {num_classes} "
            f"classes; teachers: {attributes['num_teachers']}, shards: {len(attributes['shards'])}",
            "codec": f"{codec}: {found['bytes_per_view']} bytes a view of a teacher{size}",
            "classes": _names(attributes["class_names"]),
            "clip": _pairs(attributes["clip"]),
            "views": _pairs(attributes["view_policy"]),
            **{f"digest of {name}": str(digest or "none") for name, digest in attributes["digests"].items()},
            "merged from": ", ".join(map(short_digest, attributes.get("merged_from", ()))),
        }
    )
    _print_teachers(attributes["teachers"], found["by_seen"])
    print_table(
        ("temperature", "KL(teacher ‖ unpacked): mean, nats", "largest"),
        ((key, f"{mean:.3g}", f"{error['max_kl'][key]:.3g}") for key, mean in error["mean_kl"].items()),
    )
    print_line(f"the same top class after packing: {error['top1_agreement']:.2%} of the views\n")
    _print_certainty(found)
    _print_labels(found)


def _print_teachers(teachers: Sequence[Mapping[str, Any]], by_seen: Sequence[Mapping[str, Any]]) -> None:
    print_table(
        ("teacher", "light", "top-1 on these views", "on val", "weight"),
        (
            (
                teacher["name"] + (" (imported)" if is_imported(teacher) else ""),
                teacher["light"] or "not named",
                f"{teacher['top1_on_views']:.1%}",
                f"{teacher['top1_on_val']:.1%}" if "top1_on_val" in teacher else "",
                f"{teacher['weight']:g}" if "weight" in teacher else "",
            )
            for teacher in teachers
        ),
    )
    print_table(
        ("digests of teacher", "its file", "its enhancer", "its frames"),
        ((teacher["name"], *map(short_digest, (teacher["digest"], *seen_of(teacher)))) for teacher in teachers),
    )
    for teacher in teachers:
        if folds := teacher.get("folds"):
            digests = ", ".join(map(short_digest, folds))
            print_line(f"{teacher['name']} in {len(folds)} folds, the digests of their files: {digests}")
    print_table(
        ("teacher", "videos that it was trained on, or not", "views", "top-1", "mean entropy, nats"),
        (
            (
                teachers[each["teacher"]]["name"],
                each["videos"],
                str(each["num_views"]),
                "not known" if each["top1"] is None else f"{each['top1']:.1%}",
                f"{each['mean_entropy']:.3f}",
            )
            for each in by_seen
        ),
    )


def _print_certainty(found: Mapping[str, Any]) -> None:
    num_classes = len(found["attributes"]["class_names"])
    print_line(f"entropy of the soft targets in nats; in brackets: its share of log {num_classes}")
    print_table(
        ("temperature", "mean", "lower quartile", "median", "upper quartile"),
        (
            (
                f"{each['temperature']:g}",
                *(f"{nats:.3f} ({nats / each['most']:.0%})" for nats in (each["mean"], *each["quartiles"])),
            )
            for each in found["entropy"]
        ),
    )
    spread = found["spread"]
    print_line(
        f"spread of the mean probability of {spread['num_clips']} clips: {spread['value']:.4f}; hard labels have "
        f"{spread['of_hard_labels']:.4f}"
    )
    print_line(f"nearly hard labels (a probability above {NEARLY_HARD}): {found['nearly_hard']:.1%} of the views")
    if found["warning"] is not None:
        print_line(found["warning"])
    for each in found["entropy"]:
        print_line(f"views by their entropy in nats, at temperature {each['temperature']:g}")
        counts = np.array(each["counts"]).reshape(_NUM_BARS, -1).sum(axis=1)
        edges = np.linspace(0, each["most"], _NUM_BARS + 1)
        for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True):
            bar = "█" * round(_BAR * count / counts.max()) or "▏" * bool(count)
            print_line(f"  {low:5.2f} to {high:5.2f}  {bar:<{_BAR}} {count}")


def _print_labels(found: Mapping[str, Any]) -> None:
    """How right the teachers are, and how far they agree where there is no label."""
    num_unlabelled = found["attributes"].get("num_unlabelled", 0)
    if found["top1_by_class"] is not None:
        by_class = found["top1_by_class"].items()
        print_table(
            ("class", "views", "top-1"),
            ((name, str(values["num_views"]), f"{values['top1']:.1%}") for name, values in by_class),
        )
    if found["footage_agreement"] is not None:
        print_table(
            ("soft_targets.min_agreement", f"videos that reach it, of {num_unlabelled} without a label"),
            ((least, str(count)) for least, count in found["footage_agreement"].items()),
        )
    elif num_unlabelled and found["top1_by_class"] is None:
        print_line("--manifest shows how far the soft targets of each video without a label agree")


def print_verdict(verdict: Verdict) -> None:
    """What `verify` did and found, to stdout; notes to stderr, and findings where the error tells them."""
    for note in verdict.notes:
        say(f"note: {note}")
    if verdict.depth != "attributes":
        footage = f"; {verdict.num_unlabelled} are of videos without a label" if verdict.num_unlabelled else ""
        checked = f"{verdict.num_rows_checked} of {verdict.num_rows} rows checked, {verdict.num_rows_bad} bad"
        print_line(checked + footage)
    if verdict.teacher is not None:
        print_line(
            "teacher inference repeated for {num_videos} videos: {num_equal} of {num_views} views have the same "
            "bits; the largest difference of a logit is {max_difference:.3g}".format(**verdict.teacher)
        )
    state = "whole" if verdict.whole else "not whole"
    print_line(f"{verdict.location}: {state}, to the depth {verdict.depth}, digest {short_digest(verdict.digest)}")


def print_difference(a: str, b: str, found: Mapping[str, Any]) -> None:
    """What `diff` found of two stores, to stdout."""
    for side, store, digest in zip("AB", (a, b), found["digests"], strict=True):
        print_line(f"{side} {store}  {short_digest(digest)}")
    if found["same"]:
        print_line("the same store")
        return
    differing = found["attributes"].items()
    print_table(("attribute", "A", "B"), ((name, *map(_short, values)) for name, values in differing))
    for side, number, names in zip("AB", found["num_only"], found["only"], strict=True):
        if number:
            print_line(f"only in {side}: {number} videos: {', '.join(names)}{' …' * (number > len(names))}")
    print_line(
        f"in both: {found['num_common']} videos, {found['num_same_views']} with the same views, "
        f"{found['num_same_rows']} with the same bytes"
    )
    if not found["divergence"]["num_views"]:
        print_line("logits are not compared: no video has the same views and classes in both")
        return
    print_table(
        ("class on top in A", "views", "mean KL(A ‖ B)", "largest", "the same class on top"),
        (
            (
                name,
                str(part["num_views"]),
                f"{part['mean_kl']:.3g}",
                f"{part['max_kl']:.3g}",
                f"{part['top1_agreement']:.1%}",
            )
            for name, part in [*found["by_class"].items(), ("all", found["divergence"])]
        ),
    )
    most = found["most_divergent"]
    print_table(
        ("videos that differ most", "mean KL(A ‖ B)"), ((each["video_id"], f"{each['mean_kl']:.3g}") for each in most)
    )


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _short(value: object) -> str:
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value):
        return short_digest(value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
