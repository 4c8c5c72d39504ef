"""The stages that the dvc.yaml of a project declare, and what the dvc.lock beside each recorded of their last runs.

Those of demo/ and teachers/ are written once for each name in the recipe (`foreach`), as DVC does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.core.errors import ParamsError
from pipeline.core.yaml import read_text, read_yaml

BESIDE = ("demo", "teachers")  # the folders of further dvc.yaml, in the order in which the chain needs their stages
_NAMED = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Recorded:
    """What dvc.lock says of a stage's last run: its command, MD5 sums of deps and outs by path, parameters."""

    command: str
    digests: Mapping[str, str]
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """A stage, with what the recipe names in it filled in. `last`: None where dvc.lock does not know it.

    data: those of the deps that a parameter names. params: their values now.
    """

    name: str
    command: str
    deps: tuple[str, ...]
    data: frozenset[str]
    params: Mapping[str, Any]
    outs: tuple[str, ...]
    last: Recorded | None

    def makes(self, dep: str) -> bool:
        """Whether it is an out, or a folder that holds one."""
        return any(out == dep or out.startswith(f"{dep}/") for out in self.outs)


def declared_stages(folder: Path) -> list[Stage]:
    """All stages in an order in which they could run. Raises ParamsError for a file that cannot be read."""
    params = _read(folder / "params.yaml")
    chain = list(_stages(folder, "dvc.yaml", params))
    for name in BESIDE:
        if (folder / name / "dvc.yaml").is_file():
            made = list(_stages(folder, f"{name}/dvc.yaml", params))
            needed = (any(stage.makes(dep) for stage in made for dep in each.deps) for each in chain)
            place = next((index for index, needs in enumerate(needed) if needs), len(chain))
            chain[place:place] = made
    return chain


def _stages(folder: Path, file: str, params: Mapping[str, Any]) -> Iterator[Stage]:
    lock = (folder / file).with_name("dvc.lock")
    recorded = read_lock(lock.read_text(encoding="utf-8")) if lock.is_file() else {}
    for name, names, written in _each(_read(folder / file)["stages"], params):
        deps = {_filled(dep, names): dep for dep in written.get("deps", [])}
        outs = [*written.get("outs", []), *written.get("metrics", [])]
        yield Stage(
            name,
            " ".join(_filled(written["cmd"], names).split()),
            tuple(deps),
            frozenset(path for path, dep in deps.items() if path != dep),
            {key: value for entry in written.get("params", []) for key, value in _values(folder, entry, names, params)},
            tuple(_filled(out if isinstance(out, str) else next(iter(out)), names) for out in outs),
            recorded.get(name),
        )


def _values(
    folder: Path, entry: str | Mapping[str, list[str]], names: Mapping[str, Any], params: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Keys and values of an entry of `params`: a key of params.yaml, or keys of another file."""
    if isinstance(entry, str):
        yield (key := _filled(entry, names)), _at(params, key)
        return
    for file, keys in entry.items():
        values = _read(folder / file)
        yield from ((key, _at(values, key)) for key in (_filled(each, names) for each in keys))


def _each(stages: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """Name, what names in it stand for, and text of each stage; one of `foreach` for each of its names."""
    for name, stage in stages.items():
        if "foreach" not in stage:
            yield name, params, stage
            continue
        items = _at(params, _NAMED.sub(r"\1", stage["foreach"]))
        pairs = items.items() if isinstance(items, dict) else ((item, item) for item in items or [])
        for key, item in pairs:
            yield f"{name}@{key}", {**params, "key": key, "item": item}, stage["do"]


def _filled(text: str, names: Mapping[str, Any]) -> str:
    return _NAMED.sub(lambda found: str(_at(names, found[1])), text)


def _at(values: Any, place: str) -> Any:
    """The value at a place, `section.key`; None where there is none."""
    for key in place.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def read_lock(text: str) -> dict[str, Recorded]:
    """Of a dvc.lock what is compared, by stage.

    DVC writes these files, in one form. A YAML parser takes most of a second for one; sections of parameters, which
    several stages repeat, are parsed once.
    """
    _, *parts = re.split(r"(?m)^  ([\w@-]+):\n", text)
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
