"""A teacher in folds: models each trained without some of train's groups, so that each video has one that never saw it.

They lie in a folder: `fold0.safetensors` and its curve `fold0.csv`, …, and `folds.json`, which says which model was
trained without which groups. A recipe without folds has the file alone, and in it neither groups nor models.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.digest import digest_json, digest_uint64
from pipeline.core.errors import DataError, ParamsError, StaleArtifactError
from pipeline.core.files import read_text_whole, write_text_whole
from pipeline.models.recognizer import ModelFile, load_model

FOLDS_NAME = "folds.json"
FOLDS_FORMAT_VERSION = 1
LEFT_OUT = "left_out_groups"  # in `trained_on.digests` of a fold's model
_REMEDY = "`dvc repro train_teacher_folds` makes them; `dvc checkout` brings back what was made"


def fold_path(folder: Path, fold: int) -> Path:
    """The model file of a fold; its curve has the suffix .csv."""
    return folder / f"fold{fold}.safetensors"


def assign_folds(videos: Iterable[tuple[str, str]], num_folds: int, *, seed: int) -> dict[str, int]:
    """The fold of each group, of the (group, class name) of all training videos.

    Groups go from the largest to the smallest, those of one size in the order of a digest of (seed, group), each to the
    fold that has the fewest videos of its classes: neither the order of the videos nor names of others matter. Raises
    DataError where there are fewer groups than folds, or a fold's model would see no video of some class.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for group, class_name in videos:
        sizes[group][class_name] += 1
    if len(sizes) < num_folds:
        raise DataError(
            f"teacher_folds is {num_folds}, and the training videos are of {len(sizes)} group(s): a group is never cut",
            remedy="lower teacher_folds, or set it to null",
        )
    drawn = drawn_order(sizes, seed=seed)
    found = spread_groups(sizes, sorted(drawn, key=lambda group: -sizes[group].total()), num_folds, _parted)
    _require_all_classes(sizes, found, num_folds)
    return found


def drawn_order(groups: Iterable[str], *, seed: int) -> list[str]:
    """Groups in the order of a digest of (seed, group)."""
    return sorted(groups, key=lambda group: (digest_uint64(f"{seed}\0fold\0{group}".encode()), group))


def crowding(size: Counter[str], held: Counter[str], _seen: Counter[str]) -> tuple[int, ...]:
    """What a group's place in a fold costs: the fold's videos of the group's classes, then all of them."""
    return sum(number * held[name] for name, number in size.items()), held.total()


def spread_groups(
    sizes: Mapping[str, Counter[str]],
    ordered: Iterable[str],
    num_folds: int,
    cost: Callable[[Counter[str], Counter[str], Counter[str]], tuple[int, ...]] = crowding,
) -> dict[str, int]:
    """The fold of each group: in that order each goes to the first of the folds in which its place costs least.

    sizes: of each group its videos by class. cost: of a group's videos, those that a fold holds, and all seen so far.
    """
    folds: list[Counter[str]] = [Counter() for _ in range(num_folds)]
    seen: Counter[str] = Counter()
    found: dict[str, int] = {}
    for group in ordered:
        costs = [cost(sizes[group], held, seen) for held in folds]
        found[group] = costs.index(min(costs))
        folds[found[group]] += sizes[group]
        seen += sizes[group]
    return found


def _parted(size: Counter[str], held: Counter[str], seen: Counter[str]) -> tuple[int, ...]:
    """First the group's classes that no other fold has so far, then the crowding."""
    return sum(0 < held[name] == seen[name] for name in size), *crowding(size, held, seen)


def _require_all_classes(sizes: Mapping[str, Counter[str]], fold_of: Mapping[str, int], num_folds: int) -> None:
    folds: list[Counter[str]] = [Counter() for _ in range(num_folds)]
    for group, size in sizes.items():
        folds[fold_of[group]] += size
    seen = sum(folds, Counter[str]())
    lacking = [
        f"{name}: all {seen[name]} training videos are of {sum(name in size for size in sizes.values())} group(s), "
        f"which fold {fold} has"
        for fold, held in enumerate(folds)
        for name in sorted(held)
        if held[name] == seen[name]
    ]
    if lacking:
        raise DataError(
            "teacher_folds: a fold's teacher learns from the other folds, which would have no video of these classes",
            findings=lacking,
            remedy="add videos of other groups, leave these classes out, or set teacher_folds to null",
        )


@dataclass(frozen=True)
class TeacherFolds:
    """The models in a folder, by fold, and the fold of each group; none of either where the teacher has no folds."""

    folder: Path
    groups: Mapping[str, int]
    models: Sequence[ModelFile]

    def path_of(self, fold: int) -> Path:
        """The model file of a fold."""
        return fold_path(self.folder, fold)


NO_FOLDS = TeacherFolds(Path(), {}, ())


def left_out_digest(groups: Mapping[str, int], fold: int) -> str:
    """Names the groups that a fold's model was trained without."""
    return digest_json(sorted(group for group, number in groups.items() if number == fold))


def write_folds(folder: Path, groups: Mapping[str, int], digests: Sequence[str]) -> None:
    """Write `folds.json` beside the models with these digests."""
    text = json.dumps(
        {"format_version": FOLDS_FORMAT_VERSION, "groups": dict(sorted(groups.items())), "models": list(digests)},
        indent=1,
        ensure_ascii=False,
    )
    write_text_whole(folder / FOLDS_NAME, text + "\n")


def read_folds(folder: Path) -> TeacherFolds:
    """The folds in a folder; StaleArtifactError where a file is missing, damaged or not the one that is named."""
    path = folder / FOLDS_NAME
    try:
        held = json.loads(read_text_whole(path))
        version, groups, digests = held["format_version"], held["groups"], held["models"]
        whole = version == FOLDS_FORMAT_VERSION and set(groups.values()) == set(range(len(digests)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StaleArtifactError(f"{path}: cannot be read: {error}", remedy=_REMEDY) from None
    if not whole:
        raise StaleArtifactError(f"{path}: its groups are not those of its {len(digests)} models", remedy=_REMEDY)
    models = [load_model(fold_path(folder, fold)) for fold in range(len(digests))]
    findings = [
        f"{fold_path(folder, fold)}: {what} is {found}, {path} says {expected}"
        for fold, (model, digest) in enumerate(zip(models, digests, strict=True))
        for what, found, expected in (
            ("its digest", model.digest, digest),
            (LEFT_OUT, model.trained_on.get("digests", {}).get(LEFT_OUT), left_out_digest(groups, fold)),
        )
        if found != expected
    ]
    if findings:
        raise StaleArtifactError(
            f"{folder}: models and {FOLDS_NAME} are not of one run", findings=findings, remedy=_REMEDY
        )
    return TeacherFolds(folder, groups, models)


def chosen_folds(num_folds: int | None, folder: Path | None) -> TeacherFolds:
    """The folds that the parameters name.

    Raises StaleArtifactError where the folder has another number, ParamsError where none is given.
    """
    if folder is None:
        if num_folds is None:
            return NO_FOLDS
        raise ParamsError(
            f"teacher_folds is {num_folds}, and --teacher-folds, the folder that holds their models, is not given",
            remedy="`dvc repro precompute_soft_targets` gives it, or set teacher_folds to null",
        )
    folds = read_folds(folder)
    if len(folds.models) != (num_folds or 0):
        raise StaleArtifactError(
            f"{folder}: holds the models of {len(folds.models)} folds, teacher_folds is {num_folds or 'null'}",
            remedy="`dvc repro train_teacher_folds` trains those that fit",
        )
    return folds


def require_same_run(folds: TeacherFolds, teacher: ModelFile, path: Path) -> None:
    """Raise StaleArtifactError for models of folds that are another network than the teacher's, or of another run."""

    def facts(model: ModelFile) -> dict[str, object]:
        digests = model.trained_on.get("digests", {})
        of_run = {"seed": model.trained_on.get("seed"), **{name: digests.get(name) for name in ("manifest", "frames")}}
        network = {"network": model.recognizer.architecture, "levels": model.recognizer.levels}
        return {**network, "classes": list(model.class_names), **of_run}

    expected = facts(teacher)
    findings = [
        f"{folds.path_of(fold)}: {name} {value}, the teacher's is {expected[name]}"
        for fold, model in enumerate(folds.models)
        for name, value in facts(model).items()
        if value != expected[name]
    ]
    if findings:
        raise StaleArtifactError(
            f"{path}: its folds are not of the run that trained it",
            findings=findings,
            remedy="`dvc repro train_teacher train_teacher_folds` trains both on the same videos",
        )
