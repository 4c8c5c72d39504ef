"""Where the chain stands in this folder, at a glance: neither DVC nor any artifact is read.

Compared are parameters, commands and code with what dvc.lock recorded of the last run, and what dvc.lock says of a
stage's inputs with what it says of the stages that make them. Of data only that it exists: `dvc status` reads it all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.core.text import printable
from pipeline.core.work_folder import out_lock_path
from pipeline.core.yaml import dotted
from pipeline.tools.check.declared import Recorded, Stage, declared_stages
from pipeline.tools.check.work_folders import lock_holder

State = Literal["done", "stale", "missing", "running"]
_FOLDER = ".dir"  # ends the digest of a folder in dvc.lock
_MOST_CHANGES = 2


@dataclass(frozen=True)
class Standing:
    """A stage: whether its last run, as dvc.lock recorded it, is still what would run, and if not, why."""

    stage: str
    state: State
    why: str = ""


def is_project(folder: Path) -> bool:
    """Whether a folder has the chain of this project."""
    try:
        return "python -m stages prepare" in (folder / "dvc.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def chain_standing(folder: Path) -> list[Standing]:
    """All stages in their order. Raises ParamsError where dvc.yaml or params.yaml cannot be read."""
    stages = declared_stages(folder)
    found: dict[str, Standing] = {}
    for stage in stages:
        makers = [other for other in stages if any(other.makes(dep) for dep in stage.deps)]
        unmade = [each.name for each in makers if each.name in found and found[each.name].state != "done"]
        found[stage.name] = _standing(stage, folder, makers, unmade)
    return list(found.values())


def _standing(stage: Stage, folder: Path, makers: Sequence[Stage], unmade: Sequence[str]) -> Standing:
    name = stage.name
    if holder := next(filter(None, (lock_holder(out_lock_path(folder / out)) for out in stage.outs)), None):
        return Standing(name, "running", f"{holder}{_live(folder, name)}")
    if stage.last is None:
        return Standing(name, "missing", "has not run: dvc.lock does not know it")
    changes = list(_changes(stage, stage.last, folder, makers))
    if gone := [out for out in stage.outs if not (folder / out).exists()]:
        kept = "" if changes or unmade else "; `dvc checkout` or `dvc pull` may bring it"
        return Standing(name, "missing", f"{gone[0]} is not here{kept}")
    if changes:
        more = f" and {len(changes) - _MOST_CHANGES} more" if len(changes) > _MOST_CHANGES else ""
        return Standing(name, "stale", f"{'; '.join(changes[:_MOST_CHANGES])}{more}")
    return Standing(name, "stale", f"follows {unmade[0]}") if unmade else Standing(name, "done")


def _changes(stage: Stage, last: Recorded, folder: Path, makers: Sequence[Stage]) -> Iterator[str]:
    """What is not as in the stage's last run, in words."""
    for key, value in stage.params.items():
        for place, before, now in _different((key,), last.params.get(key), value):
            yield printable(f"{dotted(place)} {_value(before)} → {_value(now)}", kept="")
    if stage.command != last.command:
        yield "its command"
    for dep in stage.deps:
        maker = next((each for each in makers if dep in each.outs), None)
        if maker is not None:
            if maker.last is not None and last.digests.get(dep) != maker.last.digests.get(dep):
                yield f"another {dep}"
        elif dep not in stage.data and last.digests.get(dep) != _digest(folder / dep):
            yield f"{'code of ' if dep.startswith(('pipeline/', 'stages/')) else ''}{dep}"


def _different(place: tuple[str, ...], before: Any, now: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _different((*place, key), before.get(key), now.get(key))
    elif before != now:
        yield place, before, now


def _value(value: Any) -> str:
    return "null" if value is None else str(value)


def _live(folder: Path, stage: str) -> str:
    """The epoch of a training that runs, by the file that it writes into live/."""
    name = stage.partition("@")[0].removeprefix("train_")
    try:
        (told,) = json.loads((folder / f"live/{name}.json").read_bytes()).values()
        return f"; epoch {told['epoch']}, val top-1 {told['val_top1']:.1%}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _digest(path: Path) -> str | None:
    """The digest that DVC gives a file or folder of code; None where there is none."""
    if path.is_dir():
        places = sorted(file.relative_to(path).parts for file in path.rglob("*") if file.is_file())
        listed = [
            {"md5": _md5(path.joinpath(*parts)), "relpath": "/".join(parts)}
            for parts in places
            if "__pycache__" not in parts and not parts[-1].endswith(".pyc")  # as .dvcignore has them
        ]
        return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + _FOLDER
    return _md5(path) if path.is_file() else None


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
