"""Small data sets for tests that look for files: their names count, not what they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.errors import DataError

GOOD = "0\t0\tDrink/Drink_1_1.avi\n1\t1\tJump/Jump_1_1.avi\n"
ARID_TEST = "0\t0\tDrink/Drink_9_1.avi\n1\t1\tJump/Jump_9_1.avi\n"
LISTED = ("Drink/Drink_1_1.avi", "Jump/Jump_1_1.avi", "Drink/Drink_9_1.avi", "Jump/Jump_9_1.avi")


def refused(action: Callable[[], object]) -> str:
    """What a user is told."""
    with pytest.raises(DataError) as error:
        action()
    return str(error.value)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def csv_of(folder: Path, text: str) -> Path:
    path = folder / "videos.csv"
    path.write_text(text, encoding="utf-8")
    return path


def arid_lists(root: Path, train: str = GOOD, test: str = ARID_TEST) -> Path:
    lists = root / "list_cvt"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "mapping_table.txt").write_text("0\tDrink\n1\tJump\n", encoding="utf-8")
    (lists / "ARID_split1_train.txt").write_bytes(train.encode())
    (lists / "ARID_split1_test.txt").write_bytes(test.encode())
    return lists
