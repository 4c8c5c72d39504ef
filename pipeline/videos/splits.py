"""Splits: val, and test where a data set lists none, carved out of train by whole groups.

A group is what two videos share besides their action: a recording, a person, a source video. If one split has a group,
no other may have it, or what is measured is memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.core.digest import digest_uint64
from pipeline.core.errors import DataError
from pipeline.data.listing import UNLABELLED, ListedVideo, without_label


def complete_splits(
    videos: Sequence[ListedVideo], *, val_share: float, test_share: float, unlabelled_share: float = 0.0, seed: int
) -> tuple[ListedVideo, ...]:
    """Give every video a split: test and val are carved out of train where the lists have none.

    Test is carved first, so that another `val_share` leaves it as it is, then val. Of what is left of train,
    `unlabelled_share` loses its labels. Footage of groups that val or test have is left out (`left_out_notes`). Raises
    DataError where all are of one class.
    """
    labelled = [video for video in videos if video.split != UNLABELLED]
    if len(names := {video.class_name for video in labelled}) == 1:
        raise DataError(
            f"all {len(labelled)} videos are of one class, {names.pop()}: there is nothing to tell apart",
            remedy="list videos of two classes or more",
        )
    done = tuple(replace(video, split=video.split or "train") for video in videos)
    for to_split, share in (("test", test_share), ("val", val_share)):
        if all(video.split != to_split for video in done):
            done = carve(done, share=share, seed=seed, to_split=to_split)
    if unlabelled_share > 0:
        done = carve(done, share=unlabelled_share, seed=seed, to_split=UNLABELLED)
    measured = {video.group for video in done if video.split in ("val", "test")}
    return tuple(
        without_label(video) if video.split == UNLABELLED else video
        for video in done
        if video.split != UNLABELLED or video.group not in measured
    )


def left_out_notes(videos: Sequence[ListedVideo], completed: Sequence[ListedVideo]) -> list[str]:
    """What to say of footage that `complete_splits` has left out; nothing where it has all."""
    number = len(videos) - len(completed)
    if not number:
        return []
    kept = {video.path for video in completed}
    example = next(video for video in videos if video.path not in kept)
    return [
        f"{number} videos without a label are not used: val or test has their groups, such as {example.path} "
        f"(group {example.group})"
    ]


def carve(videos: Sequence[ListedVideo], *, share: float, seed: int, to_split: str = "val") -> tuple[ListedVideo, ...]:
    """Move whole groups from train to another split, in the order of the input.

    Each class gives at least one group, keeps at least one, and gives `share` of its videos to within its largest group
    (guaranteed only where no group spans classes). Groups are taken in the order of a digest of (seed, to_split,
    group): the order of the list does not matter, and a class whose groups stay the same keeps its split when others
    grow.

    Raises DataError naming the classes that cannot give a group and keep one, each with the line of its first video.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is between 0 and 1, not {share}")
    sizes: dict[str, Counter[int]] = defaultdict(Counter)
    names: dict[int, str] = {}
    lines: dict[int, str] = {}
    for video in videos:
        if video.split == "train":
            sizes[video.group][video.label] += 1
            names[video.label] = video.class_name
            lines.setdefault(video.label, video.line)
    taken = _choose(sizes, share=share, key=lambda group: digest_uint64(f"{seed}\0{to_split}\0{group}".encode()))
    given = Counter(label for group in taken for label in sizes[group])
    lacking = [
        f"{lines[label]}: {names[label]}: its {sum(size[label] for size in sizes.values())} videos of train "
        f"are of {sum(label in size for size in sizes.values())} group(s)"
        for label in sorted(names)
        if not given[label]
    ]
    if lacking:
        raise DataError(
            f"{to_split} cannot be carved out of train: these classes cannot give a whole group and keep one",
            findings=lacking,
            remedy="add videos of other groups, leave these classes out, or list the splits yourself (layout csv)",
        )
    return tuple(
        replace(video, split=to_split) if video.split == "train" and video.group in taken else video for video in videos
    )


def _choose(sizes: dict[str, Counter[int]], *, share: float, key: Callable[[str], int]) -> set[str]:
    """Groups to move: first those that bring classes closer to their share, then one for each class that has none."""
    left = Counter(label for size in sizes.values() for label in size)  # groups of each class that stay
    goal = {label: share * sum(size[label] for size in sizes.values()) for label in left}
    moved: Counter[int] = Counter()
    taken: set[str] = set()

    def gain(group: str) -> float:
        """How much closer the classes get, in videos; minus infinity where a class would be left without a group."""
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
