"""The arms of a study, and the contrasts between them: read from a file and from the command line, and checked.

An arm is the parameter file with other values: another teacher, light, loss, training, or share of labels. A contrast
is the difference of two models: `light - light.baseline`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import ParamsError, shortened
from pipeline.core.params import Params, overridden, read_override
from pipeline.core.yaml import read_yaml
from pipeline.tools.study.chain import MODELS, USED

BRIGHT = "bright"  # in place of an enhancer: the frames of --bright
UNLABELLED_SHARE = "prepare.unlabelled_share"  # the one parameter of `prepare` that a study applies by itself
ARM_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+-]*")
SIDE = re.compile(rf"({ARM_NAME.pattern})(?:\.({'|'.join(MODELS)}))?")


@dataclass(frozen=True)
class Arm:
    """What it overrides, as written, and all parameters with that.

    bright: its teacher sees the frames of --bright, and `params.enhancer` is not used. unlabelled_share: of train loses
    its labels.
    """

    name: str
    overrides: Mapping[str, object] = field(hash=False)
    params: Params = field(repr=False, hash=False)
    bright: bool = False
    unlabelled_share: float = 0.0


@dataclass(frozen=True)
class Side:
    """A model of an arm."""

    arm: str
    model: str

    def __str__(self) -> str:
        """As it is written: the student is an arm's name alone."""
        return self.arm if self.model == "student" else f"{self.arm}.{self.model}"


@dataclass(frozen=True)
class Contrast:
    """The first model's top-1 minus the second's."""

    name: str
    first: Side
    second: Side


@dataclass(frozen=True)
class Design:
    """What a study compares."""

    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]


@dataclass(frozen=True)
class _Written:
    """An arm as it was written: its place, which findings name, its overrides and the place of each."""

    place: str
    name: str
    overrides: Mapping[str, object]
    places: Mapping[str, str]


def read_design(path: Path | None, texts: Sequence[str], params: Params, *, with_bright: bool) -> Design:
    """The arms of a file and of the command line, and their contrasts: `name: key=value section.key=value …`.

    Without any arm it is `default`, the parameters as they are; without contrasts each student is compared with its
    baseline. `with_bright`: whether there are bright frames. Raises ParamsError with all findings of all arms and
    contrasts, with lines: unknown parameters, values out of range, parameters that no stage of a study uses, arms that
    are the same, and contrasts of unknown models.
    """
    findings: list[str] = []
    written, wanted = _read_file(path, findings) if path else ([], {})
    written += [_read_text(text, findings) for text in texts]
    arms: list[Arm] = []
    for each in written or [_Written("default", "default", {}, {})]:
        arms += _arm(each, arms, params, findings)
    if with_bright and not any(arm.bright for arm in arms) and not findings:
        findings.append(f"--bright: no arm has enhancer: {BRIGHT}")
    if not with_bright:
        findings += [f"{arm.name}: enhancer: {BRIGHT} takes the frames of --bright" for arm in arms if arm.bright]
    contrasts = [*_contrasts(wanted, {each.name for each in written}, findings)]
    if findings:
        raise ParamsError(
            "the arms of the study are wrong",
            findings=findings,
            remedy="docs/study.md shows arms and contrasts; `dlkdd recipe show demo` prints all parameters",
        )
    return Design(tuple(arms), tuple(contrasts or _totals(arms)))


def _totals(arms: Sequence[Arm]) -> list[Contrast]:
    """Each student against its own baseline."""
    names = {arm.name: "total" if len(arms) == 1 else f"total {arm.name}" for arm in arms}
    return [Contrast(names[arm], Side(arm, "student"), Side(arm, "baseline")) for arm in names]


def _read_file(path: Path, findings: list[str]) -> tuple[list[_Written], dict[str, tuple[str, object]]]:
    """Arms and contrasts of a file, as written; contrasts by name, with their places."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"--arms {path}: cannot be read as UTF-8 text: {error}") from None
    values, lines = read_yaml(text, str(path))
    if not isinstance(values, dict) or not isinstance(values.get("arms"), dict) or not values["arms"]:
        raise ParamsError(f"{path}: expected a section `arms` with a line `name: {{parameter: value, …}}` for each")

    def at(*place: str | int) -> str:
        return f"{path}:{lines[place]}" if place in lines else str(path)

    unknown = [key for key in values if key not in ("arms", "contrasts")]
    findings += [f"{at(key)}: {shortened(key)} is neither arms nor contrasts" for key in unknown]
    contrasts = values.get("contrasts") or {}
    if not isinstance(contrasts, dict):
        findings.append(f"{at('contrasts')}: expected lines `name: first - second`")
        contrasts = {}
    arms = []
    for name, overrides in values["arms"].items():
        if not isinstance(overrides, dict):
            findings.append(f"{at('arms', name)}: {name}: expected {{parameter: value, …}}, {{}} for none")
            overrides = {}
        places = {key: at("arms", name, key) for key in overrides}
        arms.append(_Written(f"{at('arms', name)}: {name}", name, overrides, places))
    return arms, {name: (at("contrasts", name), text) for name, text in contrasts.items()}


def _read_text(text: str, findings: list[str]) -> _Written:
    """An arm of the command line."""
    name, colon, rest = (part.strip() for part in text.partition(":"))
    overrides: dict[str, object] = {}
    if not colon:
        findings.append(f"--arm {text!r} is not `name: key=value …`")
    try:
        words = shlex.split(rest)
    except ValueError as error:  # a quotation mark without its other half
        findings.append(f"{name}: {error}")
        words = []
    for word in words:
        try:
            key, value = read_override(word)
        except ParamsError as error:
            findings.append(f"{name}: {error.message}")
            continue
        if key in overrides:
            findings.append(f"{name}: {key}: is set twice")
        overrides[key] = value
    return _Written(name, name, overrides, {})


def _arm(written: _Written, before: Sequence[Arm], params: Params, findings: list[str]) -> list[Arm]:
    """The arm, or nothing where something is wrong with it."""
    wrong: list[str] = []

    def add(key: str, text: str) -> None:
        place = written.places.get(key)
        wrong.append(f"{place}: {written.name}: {text}" if place else f"{written.place}: {text}")

    if not ARM_NAME.fullmatch(written.name):
        wrong.append(f"{written.place}: an arm's name has letters, digits, _, + and -")
    for key in written.overrides:
        if reason := _refusal(key, params):
            add(key, f"{key}: {reason}")
    bright = written.overrides.get("enhancer") == BRIGHT
    values = {key: value for key, value in written.overrides.items() if not (bright and key == "enhancer")}
    changed = params
    try:
        changed = overridden(params, values, name="")
    except ParamsError as error:
        for finding in error.findings:
            keys = [key for key in values if finding.startswith(key)]
            add(max(keys, key=len, default=""), finding)  # `teacher` begins `teacher_clip`, too
    share = changed.prepare.unlabelled_share if UNLABELLED_SHARE in values else 0.0
    arm = Arm(written.name, written.overrides, changed, bright, share)
    for other in before:
        if other.name == arm.name:
            wrong.append(f"{written.place}: an arm has this name already")
        elif not wrong and (other.params, other.bright, other.unlabelled_share) == (changed, bright, share):
            wrong.append(f"{written.place}: has the same parameters as {other.name}")
    findings += wrong
    return [] if wrong else [arm]


def _refusal(key: str, params: Params) -> str | None:
    """Why an arm may not set the parameter, or None; unknown ones are found by the check of all parameters."""
    dial = key.partition(".")[0]
    if dial == "seed":
        return "a study sets the seeds itself (--seeds, --first-seed)"
    if key == UNLABELLED_SHARE:
        taken = params.prepare.unlabelled_share
        return f"the manifest was prepared with {taken:g} already: prepare it with 0" if taken else None
    if dial in Params.model_fields and dial not in USED:
        return "is used before the study begins, or after it"
    return None


def _contrasts(wanted: Mapping[str, tuple[str, object]], arms: set[str], findings: list[str]) -> Iterator[Contrast]:
    for name, (place, text) in wanted.items():
        words: list[Any] = re.split(r"\s+-\s+", text.strip()) if isinstance(text, str) else []
        sides = [SIDE.fullmatch(word) for word in words]
        if len(sides) != 2 or None in sides:
            findings.append(
                f"{place}: {name}: expected `first - second`, each an arm's name, NAME.baseline or NAME.teacher, not "
                f"{shortened(repr(text))}"
            )
            continue
        first, second = (Side(side[1], side[2] or "student") for side in sides if side)
        unknown = [side.arm for side in (first, second) if side.arm not in arms]
        findings += [f"{place}: {name}: there is no arm {each}" for each in dict.fromkeys(unknown)]
        if first == second:
            findings.append(f"{place}: {name}: both are {first}")
        yield Contrast(name, first, second)
