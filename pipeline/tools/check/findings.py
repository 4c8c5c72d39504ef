"""What a check finds: facts, and findings with their remedies, in groups; the checks themselves are elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from pipeline.core.errors import DataError, DlkddError, EnvironmentProblem, ParamsError

GroupName = Literal["parameters", "data", "disk", "environment", "dvc"]
Level = Literal["problem", "warning"]

# In the order in which they are shown; the code of the first group with a problem is the command's
EXIT_CODES: dict[GroupName, int] = {
    "parameters": ParamsError.exit_code,
    "data": DataError.exit_code,
    "disk": EnvironmentProblem.exit_code,
    "environment": EnvironmentProblem.exit_code,
    "dvc": EnvironmentProblem.exit_code,
}
MAX_DETAILS = 20  # of one finding; more hide the others


@dataclass(frozen=True)
class Finding:
    """A problem, which must be fixed before a run, or a warning; what to do about it; and its cases one by one."""

    level: Level
    message: str
    remedy: str | None
    details: tuple[str, ...] = ()


@dataclass
class Group:
    """What was found about one subject, in the order in which it was looked at; `facts` are what is in order."""

    name: GroupName
    facts: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def fact(self, text: str) -> None:
        """Note what was looked at and is in order."""
        self.facts.append(text)

    def problem(self, message: str, *, remedy: str | None, details: Sequence[str] = ()) -> None:
        """Note what will fail."""
        self._add("problem", message, remedy, details)

    def warning(self, message: str, *, remedy: str | None, details: Sequence[str] = ()) -> None:
        """Note what will work, but perhaps not as intended."""
        self._add("warning", message, remedy, details)

    @contextmanager
    def catching(self, about: str = "") -> Iterator[None]:
        """Turn an error that a stage would end with into a problem, which begins with what it is `about`."""
        try:
            yield
        except DlkddError as error:
            message = f"{about}: {error.message}" if about else error.message
            self.problem(message, remedy=error.remedy, details=error.findings)

    @property
    def num_problems(self) -> int:
        """How many of the findings are problems."""
        return sum(finding.level == "problem" for finding in self.findings)

    def _add(self, level: Level, message: str, remedy: str | None, details: Sequence[str]) -> None:
        shown = tuple(details[:MAX_DETAILS])
        if len(details) > MAX_DETAILS:
            shown += (f"… and {len(details) - MAX_DETAILS} more",)
        finding = Finding(level, message, remedy, shown)
        if finding not in self.findings:  # two models may lack the same
            self.findings.append(finding)


def exit_code(groups: Sequence[Group]) -> int:
    """0 without problems; else the code of the first group, in the order of EXIT_CODES, with one."""
    wrong = {group.name for group in groups if group.num_problems}
    return next((code for name, code in EXIT_CODES.items() if name in wrong), 0)


def size_text(num_bytes: float) -> str:
    """A size for a person, such as 3.4 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" or num_bytes >= 100 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def age_text(seconds: float) -> str:
    """An age for a person, such as 3 h."""
    hours = seconds / 3600
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
