"""The figures of the report, as SVG in the colours of the page (pipeline/report/report.css).

Every model has a colour, a shape and, in curves, a dash of its own: any one of these identifies it. A figure is 360
units wide, so that its text is as large as the page's on a phone. Axes: K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.core.tables import Curve
from pipeline.evaluate.metrics_file import MODELS, Metrics
from pipeline.evaluate.tables import Table
from pipeline.report.svg import Drawing, Scale, shortened, ticks

Format = Callable[[float], str]

WIDTH = 360.0
SHAPES = {"teacher": "diamond", "student": "circle", "baseline": "square"}
MOST_CLASSES = 24  # drawn in a figure by name; tables have them all
HIT, MISS = (47, 125, 224), (214, 74, 62)  # red, green, blue
Z = 1.959964  # of a 95 % interval


def named(model: str) -> Markup:
    """A model's mark and name, for a line of text."""
    drawing = Drawing(16, 16, "")
    drawing.mark(8, 8, SHAPES[model], f"mark {model}")
    element = Markup('<svg class="key" viewBox="0 0 16 16" aria-hidden="true">{}</svg> {}')
    return element.format(drawing.parts[0], model)


def bar(share: float, model: str) -> Markup:
    """A share of 1 as a small bar, beside its number."""
    drawing = Drawing(72, 9, "")
    drawing.rect(0, 0, 72, 9, "empty")
    drawing.rect(0, 0, 72 * share, 9, f"mark {model}")
    parts = Markup("").join(drawing.parts)
    return Markup('<svg class="bar" viewBox="0 0 72 9" aria-hidden="true">{}</svg>').format(parts)


def comparison(metrics: Metrics) -> Markup:
    """Top-1 of the three models, and below it student minus baseline; 95 % intervals."""
    gain = metrics.student_minus_baseline
    models = {name: metrics.of(name) for name in MODELS}
    in_words = (
        f"{m} {100 * v.top1:.1f} % ({100 * v.top1_low:.1f} to {100 * v.top1_high:.1f})" for m, v in models.items()
    )
    drawing = Drawing(
        WIDTH,
        272,
        f"Top-1 with 95 % intervals: {', '.join(in_words)}. "
        f"Student minus baseline: {points(gain.top1)} points, {points(gain.top1_low)} to {points(gain.top1_high)}.",
    )
    lowest, highest = min(m.top1_low for m in models.values()), max(m.top1_high for m in models.values())
    scale = Scale(max(0, lowest - 0.06), min(1, highest + 0.06), 84, WIDTH - 20)
    _x_axis(drawing, scale, 14, 132)
    for index, (name, found) in enumerate(models.items()):
        y = 34 + 38 * index
        drawing.text(0, y + 5, name, "name")
        _interval(drawing, name, scale, (found.top1_low, found.top1, found.top1_high), y)
        drawing.text(scale(found.top1), y - 9, f"{100 * found.top1:.1f}", f"value {name}", anchor="middle")
    drawing.text(WIDTH - 20, 162, "top-1 on test, %", "dim", anchor="end")

    reach = max(abs(gain.top1_low), abs(gain.top1_high), 0.02) * 1.15
    scale = Scale(-reach, reach, 84, WIDTH - 20)
    difference_axis(drawing, scale, 184, 236)
    drawing.text(0, 206, "student", "name")
    drawing.text(0, 222, "− baseline", "name")
    kind = kind_of(gain.top1_low, gain.top1_high)
    _interval(drawing, kind, scale, (gain.top1_low, gain.top1, gain.top1_high), 212, shape="circle")
    drawing.text(scale(gain.top1), 201, points(gain.top1), f"value {kind}", anchor="middle")
    drawing.text(WIDTH - 20, 266, "difference, points", "dim", anchor="end")
    return drawing.markup()


def kind_of(low: float, high: float) -> str:
    """What an interval of a difference says: good above zero, bad below it, unsure where it holds zero."""
    return "good" if low > 0 else "bad" if high < 0 else "unsure"


def difference_axis(drawing: Drawing, scale: Scale, top: float, bottom: float) -> None:
    """The axis of differences, in points, with a line at zero."""
    _x_axis(drawing, scale, top, bottom, lambda value: points(value, digits=0))
    drawing.line(scale(0), top - 4, scale(0), bottom + 4, "zero")


def points(share: float, *, digits: int = 1) -> str:
    """A difference of shares in percentage points, with its sign."""
    text = f"{100 * share:+.{digits}f}".replace("-", "−")
    return text.lstrip("+−") if float(text.replace("−", "-")) == 0 else text


def training_curves(curves: Mapping[str, Curve], column: str, title: str, *, percent: bool) -> Markup:
    """One column of the curves of all models, by epoch; what is not finite is left out."""
    lines = {
        name: [(row["epoch"] + 1, row[column]) for row in curve if math.isfinite(row[column])]
        for name, curve in curves.items()
    }
    values = [value for line in lines.values() for _, value in line] or [0.0, 1.0]
    drawing = Drawing(WIDTH, 230, f"{title} by epoch; the table below has the numbers of each model's best epoch.")
    x = Scale(1, max([last for line in lines.values() for last, _ in line[-1:]] or [1]), 44, WIDTH - 12)
    y = Scale(0 if percent else min(values), max(values), 190, 14)
    _x_axis(drawing, x, 10, 194, lambda value: f"{value:.0f}", least_step=1)
    _y_axis(drawing, y, 44, WIDTH - 12, _percent if percent else lambda value: f"{value:.3g}")
    for name, line in lines.items():
        drawing.path([(x(epoch), y(value)) for epoch, value in line], f"curve {name}")
        for epoch, value in line[-1:]:
            drawing.mark(x(epoch), y(value), SHAPES[name], f"mark {name}", size=4)
    drawing.text(WIDTH - 12, 226, "epoch", "dim", anchor="end")
    return drawing.markup()


def confusion(counts_KK: NDArray[np.int64], class_names: Sequence[str], model: str) -> Markup:
    """Rows are the true classes, columns the predicted ones, and the shade is the share of the row's videos."""
    num_classes = len(class_names)
    named = num_classes <= MOST_CLASSES
    longest = max(len(shortened(name, 12)) for name in class_names)
    left, top = (16 + 6.2 * longest, 16 + 5.4 * longest) if named else (24.0, 24.0)
    side = WIDTH - left - 24
    drawing = Drawing(
        WIDTH,
        top + side + 4,
        f"Confusion matrix of the {model}: {np.trace(counts_KK)} of {counts_KK.sum()} test videos are on the diagonal; "
        "the table below has its most frequent confusions.",
    )
    drawing.rect(left, top, side, side, "panel")
    if named:
        _draw_cells(drawing, left, top, side / num_classes, counts_KK, class_names)
    else:
        drawing.text(left, 14, f"predicted, {num_classes} classes in the manifest's order", "small")
        drawing.pixels(left, top, side, _shades(counts_KK))
    return drawing.markup()


def _draw_cells(
    drawing: Drawing, left: float, top: float, cell: float, counts_KK: NDArray[np.int64], class_names: Sequence[str]
) -> None:
    totals_K = counts_KK.sum(axis=1)
    for row, column in np.argwhere(counts_KK).tolist():
        count, total = int(counts_KK[row, column]), int(totals_K[row])
        note = f"{class_names[row]} taken for {class_names[column]}: {count} of {total}"
        kind, share = "hit" if row == column else "miss", 0.15 + 0.85 * count / total
        drawing.rect(left + column * cell, top + row * cell, cell, cell, kind, share=share, note=note)
    for index, name in enumerate(class_names):
        middle = (index + 0.5) * cell + 4
        drawing.text(left - 6, top + middle, shortened(name, 12), "small", anchor="end", note=name)
        turn = Markup('<g transform="translate({} {}) rotate(-60)">').format(f"{left + middle:.1f}", f"{top - 6:.1f}")
        drawing.parts.append(turn)  # its text runs upwards
        drawing.text(0, 0, shortened(name, 12), "small")
        drawing.parts.append(Markup("</g>"))


def _shades(counts_KK: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A pixel for each cell, in colours for light and dark pages: as elements, hundreds of classes take megabytes."""
    totals_K1 = np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    pixels_KKC = np.empty((*counts_KK.shape, 4), np.uint8)
    pixels_KKC[..., :3] = np.where(np.eye(len(counts_KK), dtype=bool)[..., None], HIT, MISS)
    pixels_KKC[..., 3] = np.where(counts_KK > 0, 255 * (0.3 + 0.7 * counts_KK / totals_K1), 0)
    return pixels_KKC


def class_gains(classes: Table) -> Markup:
    """For each class the baseline's and the student's share; the most won first. Of many, those that differ most."""
    gain = {row["class_name"]: row["student"] - row["baseline"] for row in classes}
    shown = sorted(classes, key=lambda row: -abs(gain[row["class_name"]]))[:MOST_CLASSES]
    shown.sort(key=lambda row: (-gain[row["class_name"]], row["class_name"]))
    height = 26.0
    bottom = 12 + height * len(shown)
    drawing = Drawing(
        WIDTH,
        bottom + 36,
        f"Share of each class's test videos that baseline and student recognise, {len(shown)} of {len(classes)} "
        "classes, the most won first; the table has the numbers.",
    )
    scale = Scale(0, 1, 112, WIDTH - 42)
    _x_axis(drawing, scale, 8, bottom)
    for index, row in enumerate(shown):
        y = 12 + height * (index + 0.5)
        before, after = row["baseline"], row["student"]
        won = kind_of(after - before, after - before)
        drawing.text(0, y + 4, shortened(row["class_name"], 15), "small", note=row["class_name"])
        drawing.line(scale(before), y, scale(after), y, f"step {won}")
        drawing.mark(scale(before), y, SHAPES["baseline"], "mark baseline", size=4)
        drawing.mark(scale(after), y, SHAPES["student"], "mark student", size=4.5)
        drawing.text(WIDTH, y + 4, points(after - before, digits=0), f"small {won}", anchor="end")
    drawing.text(WIDTH - 42, bottom + 32, "recognised, %", "dim", anchor="end")
    return drawing.markup()


def bands(found: Table, label: str, unit: str) -> Markup:
    """The share that each model recognises in each band, with Wilson's 95 % intervals."""
    drawing = Drawing(WIDTH, 240, f"Recognised videos by {label}, in quarters; the table below has the numbers.")
    y = Scale(0, 1, 184, 14)
    _y_axis(drawing, y, 44, WIDTH - 4)
    step = (WIDTH - 52) / max(1, len(found))
    places: dict[str, list[tuple[float, float]]] = {name: [] for name in MODELS}
    for index, band in enumerate(found):
        middle = 48 + step * (index + 0.5)
        for offset, name in zip((-13, 0, 13), MODELS, strict=True):
            low, high = wilson(band[name], band["num_videos"])
            drawing.line(middle + offset, y(low), middle + offset, y(high), f"whisker {name}")
            places[name].append((middle + offset, y(band[name])))
        limits = dict.fromkeys(f"{band[limit]:.0f}" for limit in ("low", "high"))  # equal ones are one
        drawing.text(middle, 204, " to ".join(limits), "small", anchor="middle")
        drawing.text(middle, 219, f"{band['num_videos']} videos", "small dim", anchor="middle")
    for name, line in places.items():
        for place in line:
            drawing.mark(*place, SHAPES[name], f"mark {name}", size=4.5)
    drawing.text(WIDTH - 4, 238, unit, "dim", anchor="end")
    return drawing.markup()


def wilson(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of `count` videos (Wilson, JASA 22, 1927)."""
    spread = Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    reach = Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def reliability(bins: Table, model: str, ece: float) -> Markup:
    """Accuracy by confidence; the larger a mark, the more videos. On the diagonal confidence equals accuracy."""
    drawing = Drawing(
        WIDTH, 300, f"Reliability of the {model}: calibration error {100 * ece:.1f} %; the table has the numbers."
    )
    x, y = Scale(0, 1, 44, WIDTH - 12), Scale(0, 1, 254, 14)
    _x_axis(drawing, x, 10, 258)
    _y_axis(drawing, y, 44, WIDTH - 12)
    drawing.line(x(0), y(0), x(1), y(1), "zero")
    most = max((found["num_videos"] for found in bins), default=1)
    for found in bins:
        count, confidence, accuracy = (found[key] for key in ("num_videos", "confidence", "accuracy"))
        place = x(confidence)
        drawing.line(place, y(confidence), place, y(accuracy), f"whisker {model}")
        note = f"{count} videos: confidence {confidence:.0%}, right {accuracy:.0%}"
        size = 3 + 7 * math.sqrt(count / most)
        drawing.mark(place, y(accuracy), SHAPES[model], f"mark {model}", size=size, note=note)
    drawing.text(WIDTH - 12, 294, "confidence, %", "dim", anchor="end")
    return drawing.markup()


def _interval(
    drawing: Drawing, kind: str, scale: Scale, values: tuple[float, float, float], y: float, *, shape: str = ""
) -> None:
    low, middle, high = map(scale, values)
    drawing.line(low, y, high, y, f"whisker {kind}")
    for end in (low, high):
        drawing.line(end, y - 5, end, y + 5, f"whisker {kind}")
    drawing.mark(middle, y, shape or SHAPES[kind], f"mark {kind}", size=6)


def _hundredths(share: float) -> str:
    return f"{100 * share:.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _x_axis(
    drawing: Drawing, scale: Scale, top: float, bottom: float, text: Format = _hundredths, *, least_step: float = 1e-4
) -> None:
    for value in ticks(scale.low, scale.high, 6, least_step=least_step):
        drawing.line(scale(value), top, scale(value), bottom, "grid-line")
        drawing.text(scale(value), bottom + 14, text(value), "small dim", anchor="middle")


def _y_axis(drawing: Drawing, scale: Scale, left: float, right: float, text: Format = _percent) -> None:
    for value in ticks(scale.low, scale.high, 6):
        drawing.line(left, scale(value), right, scale(value), "grid-line")
        drawing.text(left - 6, scale(value) + 4, text(value), "small dim", anchor="end")
