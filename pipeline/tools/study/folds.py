"""The splits of a study's runs: folds that test every video once for each seed, and labels that are taken away.

Only splits are rewritten. Videos and frames stay the same, and no group is cut.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.core.errors import DataError
from pipeline.data.listing import SPLITS, UNLABELLED, ListedVideo, footage
from pipeline.data.manifest import Manifest, ManifestRow
from pipeline.models.folds import drawn_order, spread_groups
from pipeline.videos.splits import complete_splits


@dataclass(frozen=True)
class Splits:
    """How the videos of one run are divided; `fold` of `num_folds`, or None: as the manifest has them.

    `unlabelled_share` of train loses its labels, as `prepare` does it.
    """

    seed: int
    fold: int | None
    num_folds: int
    val_share: float
    unlabelled_share: float

    @property
    def name(self) -> str:
        """Of a file."""
        fold = "" if self.fold is None else f"-fold{self.fold}of{self.num_folds}"
        share = f"-unlabelled{self.unlabelled_share:g}" if self.unlabelled_share else ""
        return f"seed{self.seed}{fold}{share}"

    @property
    def as_given(self) -> bool:
        """Whether the manifest needs no rewriting."""
        return self.fold is None and not self.unlabelled_share


def split_rows(manifest: Manifest, splits: Splits) -> list[ManifestRow]:
    """The rows in those splits.

    Raises DataError where classes have too few groups for that, and for footage of groups that val or test have, which
    `prepare` would leave out: the frames are of all videos.
    """
    videos = [_as_listed(row) for row in manifest.rows]
    if splits.fold is not None:
        fold_of = fold_groups(manifest, splits.num_folds, splits.seed)
        test = {group for group, fold in fold_of.items() if fold == splits.fold}
        videos = [
            video if video.split == UNLABELLED else replace(video, split="test" if video.group in test else None)
            for video in videos
        ]
    completed = complete_splits(
        videos,
        val_share=splits.val_share,
        test_share=0.5,  # of no use: there is a test split
        unlabelled_share=splits.unlabelled_share,
        seed=splits.seed,
    )
    by_id = {video.line: video for video in completed}
    if leaking := sorted({row.group for row in manifest.rows if row.video_id not in by_id}):
        raise DataError(
            "videos without a label share groups with videos of val or test",
            findings=[f"group {group}" for group in leaking],
            remedy="prepare without that footage, or study the manifest's own splits, without --folds",
        )
    return [
        replace(row, split=str(video.split), label=video.label, class_name=video.class_name)
        for row in manifest.rows
        for video in [by_id[row.video_id]]
    ]


def fold_groups(manifest: Manifest, num_folds: int, seed: int) -> dict[str, int]:
    """The fold of each group that has labels, in an order drawn by the seed.

    Raises DataError with all classes whose groups are too few to be tested in one fold and trained on in the others.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for row in manifest.rows_of(*SPLITS):
        sizes[row.group][row.class_name] += 1
    _check(manifest, sizes, num_folds)
    return spread_groups(sizes, drawn_order(sizes, seed=seed), num_folds)


def _check(manifest: Manifest, sizes: dict[str, Counter[str]], num_folds: int) -> None:
    least = max(num_folds, 3)  # train, val and test
    groups = Counter(name for size in sizes.values() for name in size)
    findings = [f"{name}: {groups[name]} group(s)" for name in manifest.class_names if groups[name] < least]
    if findings:
        raise DataError(
            f"{num_folds} folds take at least {least} groups of each class, for no group is cut",
            findings=findings,
            remedy="give fewer --folds, or list finer groups (docs/datasets.md)",
        )


def _as_listed(row: ManifestRow) -> ListedVideo:
    """The row as `prepare` had it; its id is kept where a list's line would be."""
    if row.split == UNLABELLED:
        return footage(row.path, row.group, row.video_id)
    return ListedVideo(row.path, row.label, row.class_name, row.group, row.split, row.video_id)


def rewritten(manifest: Manifest, wanted: Sequence[Splits]) -> dict[Splits, list[ManifestRow]]:
    """The rows of all splits that need rewriting; raises DataError with the findings of all of them."""
    found: dict[Splits, list[ManifestRow]] = {}
    errors: dict[str, tuple[Splits, DataError]] = {}  # folds and seeds mostly have the same ones
    for splits in dict.fromkeys(wanted):
        if not splits.as_given:
            try:
                found[splits] = split_rows(manifest, splits)
            except DataError as error:
                errors.setdefault(str(error), (splits, error))
    if len(errors) == 1:
        raise next(error for _, error in errors.values())
    if errors:
        raise DataError(
            "the videos cannot be split so",
            findings=[
                f"{splits.name}: {error.message}: {'; '.join(error.findings)}" for splits, error in errors.values()
            ],
            remedy="give fewer --folds, a smaller prepare.unlabelled_share or val_share, or list finer groups",
        )
    return found
