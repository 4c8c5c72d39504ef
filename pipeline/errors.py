"""What can go wrong, as seen by the user: one exception per exit code.

An error names the file, field or row, says what was expected, and gives the command that helps. Checks collect all
of their findings and raise once, so that a user mends everything in one go.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_FINDINGS = 20  # printed ones; more hide the message above them
MAX_CHARS = 300  # of a text that came from a file


def shortened(text: str) -> str:
    """Beginning and end of a text that may be megabytes long, which would hide the message that it is part of."""
    end = MAX_CHARS // 3
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - end]} … {text[-end:]}"


def few(findings: Sequence[str]) -> list[str]:
    """The first findings, and the count of the rest."""
    more = len(findings) - MAX_FINDINGS
    return [*findings[:MAX_FINDINGS], *([f"… and {more} more"] if more > 0 else [])]


class DlkddError(Exception):
    """Base of the errors that a user can cause or mend; anything else is a bug of ours (exit code 1)."""

    exit_code = 1

    def __init__(self, message: str, *, findings: Sequence[str] = (), remedy: str | None = None) -> None:
        self.message = message
        self.findings = tuple(findings)
        self.remedy = remedy
        lines = [message, *(f"  - {finding}" for finding in self.findings)]
        if remedy:
            lines.append(f"help: {remedy}")
        super().__init__("\n".join(lines))


class ParamsError(DlkddError):
    """A parameter or an option is unknown, of the wrong type or out of range (exit code 2)."""

    exit_code = 2


class DataError(DlkddError):
    """Videos, annotation lists or a manifest are missing, broken or contradictory (exit code 3)."""

    exit_code = 3


class EnvironmentProblem(DlkddError):
    """The machine lacks something: a package, a device, disk space, or a lock that another run holds (exit code 4)."""

    exit_code = 4


class StaleArtifactError(DlkddError):
    """An artifact does not fit the others, or is damaged: its digest, classes, geometry or format (exit code 5)."""

    exit_code = 5


class Interrupted(DlkddError):
    """A signal stopped the run after its progress was saved (exit code 128 + signal number: 130 or 143)."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("interrupted; the progress is saved, and the same command goes on from here")
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
