"""Leakage: what two splits share; and files that are listed under two labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from pipeline.data.listing import SPLITS, UNLABELLED, ListedVideo
from pipeline.data.manifest import ManifestRow
from pipeline.data.names import name_stem, without_suffix

NUM_EXAMPLES = 3
PAIRS = tuple(combinations(SPLITS, 2))
FOOTAGE_PAIRS = tuple((UNLABELLED, split) for split in SPLITS if split != "train")  # with train it may share anything
STEM_LAYOUTS = ("frame_folders", "class_folders", "csv")


@dataclass(frozen=True)
class Leak:
    """What two splits share, of one kind.

    kind: path, digest (the same bytes under one label, or without one), group, or stem (the source's part of the file
    name). splits: the one that is trained on first. num_shared: paths, digests … in both. num_videos: of each split,
    how many have one of those; num_total: of how many. examples: some of what is shared, sorted; of a digest a path of
    each split.
    """

    kind: str
    splits: tuple[str, str]
    num_shared: int
    num_videos: tuple[int, int]
    num_total: tuple[int, int]
    examples: tuple[str, ...]

    def __str__(self) -> str:
        """One line for the report."""
        first, second = self.splits
        share = 100 * self.num_videos[1] / self.num_total[1]
        return (
            f"{self.num_videos[1]} of {self.num_total[1]} {second} videos ({share:.2f} %) share a {self.kind} with "
            f"{self.num_videos[0]} {first} videos ({self.num_shared} in both, such as {', '.join(self.examples)})"
        )


def find_leakage(rows: Sequence[ManifestRow | ListedVideo], *, stems: bool = False) -> list[Leak]:
    """What two splits share: paths, digests of files (in a manifest's rows), groups, and with `stems` name stems.

    stems: for data sets that number the clips of one source and whose groups do not say so.
    """
    checks: list[tuple[str, Sequence[tuple[str, str]], Callable[[ManifestRow | ListedVideo], str | None]]] = [
        ("path", (*PAIRS, *FOOTAGE_PAIRS), lambda row: without_suffix(row.path)),
        ("digest", PAIRS, lambda row: f"{row.digest} {row.label}" if isinstance(row, ManifestRow) else None),
        ("digest", FOOTAGE_PAIRS, lambda row: row.digest if isinstance(row, ManifestRow) else None),
        ("group", (*PAIRS, *FOOTAGE_PAIRS), lambda row: row.group),
    ]
    if stems:
        checks.append(("stem", (*PAIRS, *FOOTAGE_PAIRS), lambda row: name_stem(row.path)))
    totals = Counter(row.split for row in rows)
    leaks = []
    for kind, pairs, value_of in checks:
        paths: dict[str | None, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if (value := value_of(row)) is not None:
                paths[row.split][value].append(row.path)
        for first, second in pairs:
            shared = sorted(paths[first].keys() & paths[second].keys())
            examples = shared[:NUM_EXAMPLES]
            if kind == "digest":
                examples = [f"{paths[first][digest][0]} = {paths[second][digest][0]}" for digest in examples]
            if shared:
                leaks.append(
                    Leak(
                        kind,
                        (first, second),
                        len(shared),
                        (
                            sum(len(paths[first][value]) for value in shared),
                            sum(len(paths[second][value]) for value in shared),
                        ),
                        (totals[first], totals[second]),
                        tuple(examples),
                    )
                )
    return leaks


def find_contradictions(rows: Iterable[ManifestRow]) -> list[str]:
    """A line for each file that has copies under other labels: none of them can be right for all."""
    by_digest: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in rows:
        if row.split != UNLABELLED:
            by_digest[row.digest].append(row)
    copies = [same for same in by_digest.values() if len({row.label for row in same}) > 1]
    return sorted(
        " = ".join(f"{row.path} ({row.class_name}, {row.split})" for row in same) + ": the same bytes, other labels"
        for same in copies
    )


def leakage_text(leaks: Sequence[Leak]) -> str:
    """The leaks as lines for a person, or the line that there are none."""
    return "\n".join(map(str, leaks)) or "no path, file, or group is in two splits"
