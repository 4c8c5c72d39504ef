"""Splits: val (and test, where a data set has no lists) carved by whole groups; and leakage between splits, counted.

A group is what two videos share besides their action: a recording, a person, a source video. If one split has a group,
no other may have it, or what is measured is memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from pipeline.digest import digest_uint64
from pipeline.errors import DataError
from pipeline.listing import SPLITS, ListedVideo, name_stem, without_suffix
from pipeline.manifest import ManifestRow

NUM_EXAMPLES = 3
# Layouts whose groups may be the videos themselves: only the names tell which come from one source
STEM_LAYOUTS = ("frame_folders", "class_folders", "csv")


def complete_splits(
    videos: Sequence[ListedVideo], *, val_share: float, test_share: float, seed: int
) -> tuple[ListedVideo, ...]:
    """Give every video a split: test and val are carved out of train where the lists have none.

    Test is carved first, so that another `val_share` leaves it as it is. Raises DataError where there is but one class.
    """
    if len(names := {video.class_name for video in videos}) == 1:
        raise DataError(
            f"all {len(videos)} videos are of one class, {names.pop()}: there is nothing to tell apart",
            remedy="list videos of two classes or more",
        )
    done = tuple(replace(video, split=video.split or "train") for video in videos)
    for to_split, share in (("test", test_share), ("val", val_share)):
        if all(video.split != to_split for video in done):
            done = carve(done, share=share, seed=seed, to_split=to_split)
    return done


def carve(
    videos: Sequence[ListedVideo], *, share: float, seed: int, from_split: str = "train", to_split: str = "val"
) -> tuple[ListedVideo, ...]:
    """Move whole groups from one split to another, in the order of the input.

    Each class gives at least one group, keeps at least one, and gives `share` of its videos to within its largest group
    (surely so only where no group spans classes). Groups are taken in the order of a digest of (seed, to_split, group):
    the order of the list does not matter, and a class whose groups stay the same keeps its split when others grow.

    Raises DataError naming the classes that cannot give a group and keep one, each with the line of its first video.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is between 0 and 1, not {share}")
    sizes: dict[str, Counter[int]] = defaultdict(Counter)
    names: dict[int, str] = {}
    lines: dict[int, str] = {}
    for video in videos:
        if video.split == from_split:
            sizes[video.group][video.label] += 1
            names[video.label] = video.class_name
            lines.setdefault(video.label, video.line)
    taken = _choose(sizes, share=share, key=lambda group: digest_uint64(f"{seed}\0{to_split}\0{group}".encode()))
    given = Counter(label for group in taken for label in sizes[group])
    lacking = [
        f"{lines[label]}: {names[label]}: its {sum(size[label] for size in sizes.values())} videos of {from_split} "
        f"are of {sum(label in size for size in sizes.values())} group(s)"
        for label in sorted(names)
        if not given[label]
    ]
    if lacking:
        raise DataError(
            f"{to_split} cannot be carved out of {from_split}: these classes cannot give a whole group and keep one",
            findings=lacking,
            remedy="add videos of other groups, leave these classes out, or list the splits yourself (layout csv)",
        )
    return tuple(
        replace(video, split=to_split) if video.split == from_split and video.group in taken else video
        for video in videos
    )


def _choose(sizes: dict[str, Counter[int]], *, share: float, key: Callable[[str], int]) -> set[str]:
    """Groups to move: first those that bring classes nearer to their share, then one for each class that has none."""
    left = Counter(label for size in sizes.values() for label in size)  # groups of each class that stay
    goal = {label: share * sum(size[label] for size in sizes.values()) for label in left}
    moved: Counter[int] = Counter()
    taken: set[str] = set()

    def gain(group: str) -> float:
        """How much nearer the classes come, in videos; minus infinity where a class would be left without a group."""
        if any(left[label] < 2 for label in sizes[group]):
            return float("-inf")
        return sum(
            abs(moved[label] - goal[label]) - abs(moved[label] + count - goal[label])
            for label, count in sizes[group].items()
        )

    def take(group: str) -> None:
        taken.add(group)
        moved.update(sizes[group])
        left.subtract(sizes[group].keys())

    order = sorted(sizes, key=lambda group: (key(group), group))
    for group in order:
        if gain(group) > 0:
            take(group)
    for label in sorted(goal):
        if not moved[label]:
            candidates = [group for group in order if label in sizes[group] and gain(group) > float("-inf")]
            if candidates:
                take(max(candidates, key=gain))  # the first of equals, in digest order
    return taken


@dataclass(frozen=True)
class Leak:
    """What two splits share, of one kind.

    kind: path, digest (the same bytes), group, or stem (the source's part of the file name). splits: the one that is
    trained on first. num_shared: paths, digests … in both. num_videos: of each split, how many have one of those;
    num_total: of how many. examples: some of what is shared, sorted.
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


def find_leakage(rows: Iterable[ManifestRow | ListedVideo], *, stems: bool = False) -> list[Leak]:
    """What two splits share: paths, digests of files (in a manifest's rows), groups, and with `stems` name stems.

    stems: for data sets that number the clips of one source and whose groups do not say so.
    """
    kinds: dict[str, Callable[[ManifestRow | ListedVideo], str | None]] = {
        "path": lambda row: without_suffix(row.path),
        "digest": lambda row: row.digest if isinstance(row, ManifestRow) else None,
        "group": lambda row: row.group,
    }
    if stems:
        kinds["stem"] = lambda row: name_stem(row.path)
    by_split: dict[str, list[ManifestRow | ListedVideo]] = defaultdict(list)
    for row in rows:
        if row.split is not None:
            by_split[row.split].append(row)
    leaks = []
    for kind, value_of in kinds.items():
        counts = {split: Counter(map(value_of, by_split[split])) for split in SPLITS}
        for first, second in combinations(SPLITS, 2):
            shared = {value for value in counts[first].keys() & counts[second].keys() if value is not None}
            if shared:
                leaks.append(
                    Leak(
                        kind,
                        (first, second),
                        len(shared),
                        (sum(counts[first][value] for value in shared), sum(counts[second][value] for value in shared)),
                        (len(by_split[first]), len(by_split[second])),
                        tuple(sorted(shared)[:NUM_EXAMPLES]),
                    )
                )
    return leaks


def leakage_text(leaks: Sequence[Leak]) -> str:
    """The leaks as lines for a person, or the line that there are none."""
    return "\n".join(map(str, leaks)) or "no path, file, or group is in two splits"
