"""Draws docs/images/rooms/: the rooms of pipeline/, and the files of each, with what imports what.

    python docs/draw_rooms.py          # tests/test_docs.py compares the pictures with the imports

An arrow goes from a file to one that it imports; arrows that follow from others are omitted. On the left stands what
nothing in the picture imports.
"""

from __future__ import annotations

import sys
from functools import cache
from itertools import product
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # this checkout's pipeline, not one that is installed
FOLDER = ROOT / "docs/images/rooms"
# From the ground up
ROOMS = ("core", "data", "models", "videos", "enhance", "train", "distill", "evaluate", "report", "tools")
CHAR, HEIGHT, GAP_X, GAP_Y, MARGIN = 7.3, 28, 46, 12, 10
STYLE = (
    "text{font:13px ui-monospace,monospace;fill:#1c2430;text-anchor:middle}rect{fill:#eef1f6;stroke:#4a5563}"
    "path{fill:none;stroke:#7b8494;stroke-width:1.3}"
)

Edges = dict[str, set[str]]


def edges_of(graph: grimp.ImportGraph, prefix: str, *, depth: int | None = None) -> Edges:
    """The files below a package, each with those that it imports; `depth` 1 takes the folders in it as wholes."""
    files = [name for name in graph.modules if name.startswith(prefix) and not _is_folder(name)]

    def node(module: str) -> str:
        return "/".join(module.removeprefix(prefix).split(".")[:depth])

    edges: Edges = {node(name): set() for name in files}
    for name in files:
        found = graph.find_modules_directly_imported_by(name)
        edges[node(name)] |= {node(other) for other in found if other in files} - {node(name)}
    return edges


def _is_folder(module: str) -> bool:
    return (ROOT / module.replace(".", "/")).is_dir()


def reduced(edges: Edges) -> Edges:
    """Without the edges that follow from others."""

    @cache
    def reach(name: str) -> frozenset[str]:
        return frozenset(edges[name]).union(*(reach(other) for other in edges[name]))

    return {
        name: {other for other in others if not any(other in reach(between) for between in others - {other})}
        for name, others in edges.items()
    }


def with_bends(edges: Edges) -> tuple[Edges, dict[str, int]]:
    """The edges, with a bend (a name that begins with a space) in each column that they pass; each name's column."""

    @cache
    def column(name: str) -> int:
        return 1 + max((column(other) for other, targets in edges.items() if name in targets), default=-1)

    columns = {name: column(name) for name in edges}
    bent: Edges = {name: set() for name in edges}
    for name, other in [(name, other) for name, others in sorted(edges.items()) for other in sorted(others)]:
        last = name
        for number in range(columns[name] + 1, columns[other]):
            bend = f" {name} {other} {number}"
            columns[bend], bent[bend] = number, set()
            bent[last].add(bend)
            last = bend
        bent[last].add(other)
    return bent, columns


def columns_of(edges: Edges, column: dict[str, int]) -> list[list[str]]:
    """The names of each column, near what they are connected with."""
    columns: list[list[str]] = [[] for _ in range(1 + max(column.values()))]
    for name in sorted(edges):
        columns[column[name]].append(name)
    place = {name: float(row) for names in columns for row, name in enumerate(names)}
    for _, names in product(range(8), columns):
        for name in names:
            near = [place[other] for other in edges if other in edges[name] or name in edges[other]]
            place[name] = sum(near) / len(near) if near else place[name]
        names.sort(key=lambda name: (place[name], name))
        place |= {name: float(row) for row, name in enumerate(names)}
    return columns


def svg_of(edges: Edges, label: str) -> str:
    """The picture."""
    edges, column = with_bends(edges)
    columns = columns_of(edges, column)
    tallest = max(map(len, columns)) * (HEIGHT + GAP_Y) - GAP_Y
    boxes: dict[str, tuple[float, float, float]] = {}
    x = float(MARGIN)
    for names in columns:
        width = max(len(name) for name in names if not _is_bend(name)) * CHAR + 20
        y = MARGIN + (tallest - len(names) * (HEIGHT + GAP_Y) + GAP_Y) / 2
        for row, name in enumerate(names):
            boxes[name] = (x, y + row * (HEIGHT + GAP_Y), width)
        x += width + GAP_X
    width, height = round(x - GAP_X + MARGIN), round(tallest + 2 * MARGIN)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{label}"><style>{STYLE}</style>',
        '<defs><marker id="m" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L10 5L0 10z" style="fill:#7b8494;stroke:none"/></marker></defs>',
        f'<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
    ]
    for name, others in sorted(edges.items()):
        for other in sorted(others):
            (left, top, own), (right, bottom, _) = boxes[name], boxes[other]
            start, end, y1, y2 = left + own, right, top + HEIGHT / 2, bottom + HEIGHT / 2
            middle = (start + end) / 2
            before = f"M{left:.0f} {y1:.0f}L{start:.0f}" if _is_bend(name) else f"M{start:.0f}"
            tip = "" if _is_bend(other) else ' marker-end="url(#m)"'
            curve = f"C{middle:.0f} {y1:.0f} {middle:.0f} {y2:.0f} {end:.0f} {y2:.0f}"
            lines.append(f'<path d="{before} {y1:.0f}{curve}"{tip}/>')
    for name, (left, top, own) in sorted(boxes.items()):
        if _is_bend(name):
            continue
        lines.append(f'<rect x="{left:.0f}" y="{top:.0f}" width="{own:.0f}" height="{HEIGHT}" rx="6"/>')
        lines.append(f'<text x="{left + own / 2:.0f}" y="{top + HEIGHT / 2 + 4.5:.0f}">{name}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _is_bend(name: str) -> bool:
    return name.startswith(" ")


def pictures() -> dict[str, str]:
    """The SVG of the whole house, and that of each room, by name."""
    graph = grimp.build_graph("pipeline", exclude_type_checking_imports=True, cache_dir=None)
    house = {"house": svg_of(reduced(edges_of(graph, "pipeline.", depth=1)), "The rooms of pipeline/")}
    return house | {
        room: svg_of(
            reduced(edges_of(graph, f"pipeline.{room}.", depth=1 if room == "tools" else None)),
            f"The files of pipeline/{room}",
        )
        for room in ROOMS
    }


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, svg in pictures().items():
        (FOLDER / f"{name}.svg").write_text(svg, encoding="utf-8")
