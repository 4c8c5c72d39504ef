"""Where the chain of dvc.yaml stands in this folder, at a glance: neither DVC nor any artifact is read.

Compared are parameters, commands and code with what dvc.lock recorded of the last run, and what dvc.lock says of a
stage's inputs with what it says of the stages that make them. Of data only that it exists: `dvc status` reads it all.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import ParamsError
from pipeline.core.text import printable
from pipeline.core.work_folder import out_lock_path
from pipeline.core.yaml import dotted, read_text, read_yaml
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


@dataclass(frozen=True)
class Recorded:
    """What dvc.lock says of a stage's last run: its command, MD5 sums of deps and outs by path, parameters."""

    command: str
    digests: Mapping[str, str]
    params: Mapping[str, Any]


def is_project(folder: Path) -> bool:
    """Whether a folder has the chain of this project."""
    try:
        return "python -m stages prepare" in (folder / "dvc.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def chain_standing(folder: Path) -> list[Standing]:
    """All stages in their order. Raises ParamsError where dvc.yaml or params.yaml cannot be read."""
    stages = _read(folder / "dvc.yaml")["stages"]
    params = _read(folder / "params.yaml")
    lock = folder / "dvc.lock"
    recorded = read_lock(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
    maker_of = {out: name for name, stage in stages.items() for out in _outs(stage)}
    found: dict[str, Standing] = {}
    for name, stage in stages.items():
        makers = dict.fromkeys(maker_of[dep] for dep in stage.get("deps", []) if dep in maker_of)
        unmade = [maker for maker in makers if maker in found and found[maker].state != "done"]
        found[name] = _standing(name, stage, folder, params, recorded, maker_of, unmade)
    return list(found.values())


def _standing(
    name: str,
    stage: Mapping[str, Any],
    folder: Path,
    params: Mapping[str, Any],
    recorded: Mapping[str, Recorded],
    maker_of: Mapping[str, str],
    unmade: list[str],
) -> Standing:
    outs = _outs(stage)
    if holder := next(filter(None, (lock_holder(out_lock_path(folder / out)) for out in outs)), None):
        return Standing(name, "running", f"{holder}{_live(folder, name)}")
    last = recorded.get(name)
    if last is None:
        return Standing(name, "missing", "has not run: dvc.lock does not know it")
    changes = list(_changes(stage, folder, params, recorded, maker_of, last))
    if gone := [out for out in outs if not (folder / out).exists()]:
        kept = "" if changes or unmade else "; `dvc checkout` or `dvc pull` may bring it"
        return Standing(name, "missing", f"{gone[0]} is not here{kept}")
    if changes:
        more = f" and {len(changes) - _MOST_CHANGES} more" if len(changes) > _MOST_CHANGES else ""
        return Standing(name, "stale", f"{'; '.join(changes[:_MOST_CHANGES])}{more}")
    return Standing(name, "stale", f"follows {unmade[0]}") if unmade else Standing(name, "done")


def _changes(
    stage: Mapping[str, Any],
    folder: Path,
    params: Mapping[str, Any],
    recorded: Mapping[str, Recorded],
    maker_of: Mapping[str, str],
    last: Recorded,
) -> Iterator[str]:
    """What is not as in the stage's last run, in words."""
    for key in stage.get("params", []):
        for place, before, now in _different((key,), last.params.get(key), params.get(key)):
            yield printable(f"{dotted(place)} {_value(before)} → {_value(now)}", kept="")
    if " ".join(stage["cmd"].split()) != last.command:
        yield "its command"
    for dep in stage.get("deps", []):
        maker = recorded.get(maker_of.get(dep, ""))
        if dep in maker_of:
            if maker is not None and last.digests.get(dep) != maker.digests.get(dep):
                yield f"another {dep}"
        elif "${" not in dep and last.digests.get(dep) != _digest(folder / dep):
            yield f"{'code of ' if dep.startswith(('pipeline/', 'stages/')) else ''}{dep}"


def _different(place: tuple[str, ...], before: Any, now: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _different((*place, key), before.get(key), now.get(key))
    elif before != now:
        yield place, before, now


def _value(value: Any) -> str:
    return "null" if value is None else str(value)


def _outs(stage: Mapping[str, Any]) -> list[str]:
    named = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in named]


def _live(folder: Path, stage: str) -> str:
    """The epoch of a training that runs, by the file that it writes into live/."""
    try:
        (told,) = json.loads((folder / f"live/{stage.removeprefix('train_')}.json").read_bytes()).values()
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


def read_lock(text: str) -> dict[str, Recorded]:
    """Of a dvc.lock what is compared, by stage.

    DVC writes these files, in one form. A YAML parser takes most of a second for one; sections of parameters, which
    several stages repeat, are parsed once.
    """
    _, *parts = re.split(r"(?m)^  (\w+):\n", text)
    return {name: _recorded(block) for name, block in zip(parts[::2], parts[1::2], strict=True)}


def _recorded(block: str) -> Recorded:
    _, *parts = re.split(r"(?m)^    (\w+):", block)
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    listed = found.get("deps", "") + found.get("outs", "")
    digests = re.findall(r"- path: ['\"]?(.+?)['\"]?\n(?:      .*\n)*?      md5: (\S+)\n", listed)
    sections = re.split(r"(?m)^        (?=\w)", found.get("params", ""))[1:]
    params = {key: value for section in sections for key, value in _section(section).items()}
    return Recorded(" ".join(found.get("cmd", "").split()), dict(digests), params)


@cache
def _section(text: str) -> dict[str, Any]:
    return dict(read_yaml(text, "dvc.lock")[0])


def _read(path: Path) -> dict[str, Any]:
    values, _ = read_yaml(read_text(path), str(path))
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected names with values")
    return values
