"""Folds test every video once for each seed and cut no group; labels are taken as `prepare` takes them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from builders import manifest_row

from pipeline.core.errors import DataError
from pipeline.data.listing import NO_LABEL, SPLITS, UNLABELLED, ListedVideo
from pipeline.data.manifest import Manifest
from pipeline.tools.study.folds import Splits, fold_groups, rewritten, split_rows
from pipeline.videos.splits import complete_splits


def manifest_of(num_groups=9, *, footage=()):
    """Two classes, of each group one to three videos; footage are groups of videos without a label."""
    rows = []
    for group in range(num_groups):
        for label in (0, 1):
            for number in range(1 + (group + label) % 3):
                row = manifest_row(f"{label}/{group}_{number}", label, SPLITS[group % 3], (6, 18, 22))
                rows.append(replace(row, group=f"g{group}"))
    for number, group in enumerate(footage):
        row = manifest_row(f"footage_{number}", NO_LABEL, UNLABELLED, (6, 18, 22), class_name="")
        rows.append(replace(row, group=group))
    return Manifest(tuple(sorted(rows, key=lambda row: row.video_id)), "digest")


def splits(seed=0, fold=0, num_folds=3, val_share=0.3, unlabelled_share=0.0):
    return Splits(seed, fold, num_folds, val_share, unlabelled_share)


def groups_of(rows, split):
    return {row.group for row in rows if row.split == split}


@pytest.mark.parametrize("num_folds", [2, 3, 5])
@pytest.mark.parametrize("unlabelled_share", [0.0, 0.5])
def test_every_video_is_tested_once_a_seed_and_no_group_is_cut(num_folds, unlabelled_share):
    manifest = manifest_of(footage=["far"])
    tested = Counter()
    for fold in range(num_folds):
        rows = split_rows(manifest, splits(1, fold, num_folds, unlabelled_share=unlabelled_share))
        assert [row.video_id for row in rows] == [row.video_id for row in manifest.rows]
        tested.update(row.video_id for row in rows if row.split == "test")
        by_split = [groups_of(rows, split) for split in (*SPLITS, UNLABELLED)]
        assert sum(map(len, by_split)) == len(set().union(*by_split))
        for split in SPLITS:
            assert {row.label for row in rows if row.split == split} == {0, 1}
        assert "far" in groups_of(rows, UNLABELLED)
        assert (len(groups_of(rows, UNLABELLED)) > 1) == (unlabelled_share > 0)
    assert set(tested.values()) == {1}
    assert len(tested) == len(manifest.rows_of(*SPLITS))


def test_another_seed_draws_other_folds_whatever_the_order():
    manifest = manifest_of()
    first, second = (fold_groups(manifest, 3, seed) for seed in (0, 1))
    assert first != second
    assert fold_groups(Manifest(manifest.rows[::-1], ""), 3, 0) == first


def test_folds_have_about_as_many_videos():
    manifest = manifest_of(30)
    fold_of = fold_groups(manifest, 5, 0)
    for label in (0, 1):
        sizes = Counter(fold_of[row.group] for row in manifest.rows if row.label == label)
        assert all(abs(sizes[fold] - sizes.total() / 5) <= 3 for fold in range(5))  # the largest group of a class


def test_labels_are_taken_as_prepare_takes_them():
    manifest = manifest_of()
    listed = [
        ListedVideo(row.path, row.label, row.class_name, row.group, row.split, row.video_id) for row in manifest.rows
    ]
    expected = complete_splits(listed, val_share=0.3, test_share=0.5, unlabelled_share=0.5, seed=4)
    rows = split_rows(manifest, splits(4, None, unlabelled_share=0.5))
    assert [(row.split, row.label, row.class_name) for row in rows] == [
        (video.split, video.label, video.class_name) for video in expected
    ]
    assert [row.split for row in rows if row.split != UNLABELLED] == [
        row.split for row, new in zip(manifest.rows, rows, strict=True) if new.split != UNLABELLED
    ]


def test_what_is_as_given_is_not_rewritten():
    assert rewritten(manifest_of(), [splits(fold=None), splits(3, None)]) == {}


def test_too_few_groups_are_told_for_all_classes():
    with pytest.raises(DataError, match="2 folds take at least 3 groups of each class") as caught:
        rewritten(manifest_of(2), [splits(0, fold, 2) for fold in range(2)])
    assert caught.value.findings == ("drink: 2 group(s)", "jump: 2 group(s)")


def test_footage_of_tested_groups_is_refused():
    with pytest.raises(DataError, match="share groups") as caught:
        rewritten(manifest_of(footage=["g1"]), [splits(0, fold) for fold in range(3)])
    assert "group g1" in str(caught.value)
