"""What can go wrong, as seen by the user: one exception per exit code.

An error names the file, field or row, says what was expected, and gives the command that helps. Checks collect all
of their findings and raise once, so that a user fixes everything in one go.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

SHOWN_FINDINGS = 20  # more hide the message above them
_ALLOCATION = "DefaultCPUAllocator: can't allocate memory"  # in PyTorch's RuntimeError
MAX_CHARS = 300  # of a text that came from a file


def shortened(text: str) -> str:
    """Beginning and end of a text that may be megabytes long, which would hide the message that it is part of."""
    end = MAX_CHARS // 3
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - end]} … {text[-end:]}"


class DlkddError(Exception):
    """Base of the errors that a user can cause or fix; anything else is a bug of ours (exit code 1).

    findings: all of them; the text has the first ones, and how many more there are.
    """

    exit_code = 1

    def __init__(self, message: str, *, findings: Sequence[str] = (), remedy: str | None = None) -> None:
        self.message = message
        self.findings = tuple(findings)
        self.remedy = remedy
        more = len(self.findings) - SHOWN_FINDINGS
        shown = [*self.findings[:SHOWN_FINDINGS], *([f"… and {more} more"] if more > 0 else [])]
        lines = [message, *(f"  - {finding}" for finding in shown)]
        if remedy:
            lines.append(f"help: {remedy}")
        super().__init__("\n".join(lines))


class ParamsError(DlkddError):
    """A parameter or an option is unknown, of the wrong type or out of range (exit code 2)."""

    exit_code = 2


class DataError(DlkddError):
    """Videos, annotation lists or a manifest are missing, broken or contradictory (exit code 3)."""

    exit_code = 3


class BrokenVideoError(DataError):
    """One video cannot be used; the message is the reason, without the path."""


class LostDecoderError(BrokenVideoError):
    """The process that decoded one video was lost, or is no longer to be trusted."""


class EnvironmentProblem(DlkddError):
    """The machine lacks something: a package, a device, disk space, or a lock that another run holds (exit code 4)."""

    exit_code = 4


def in_one_line(error: DataError) -> str:
    """An error of one video, as the reason for which it is left out."""
    return " ".join(str(error).split())


def out_of_memory(error: BaseException, what: str = "") -> EnvironmentProblem | None:
    """The problem to report where an error says that memory ran out, Python's or PyTorch's, here or on a device.

    `what` is what the memory was for, where known.
    """
    message = str(error).partition("\n")[0]
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's, not imported here
    known = known or (isinstance(error, OSError) and error.errno == errno.ENOMEM) or _ALLOCATION in message
    if not known:
        return None
    return EnvironmentProblem(
        f"{what + ': ' if what else ''}memory ran out: {message or type(error).__name__}",
        remedy="a smaller batch_size, a larger accumulate, checkpoint_activations, or fewer --workers and num_workers "
        "need less; then run the same command again: it goes on",
    )


class StaleArtifactError(DlkddError):
    """An artifact does not fit the others, or is damaged: its digest, classes, geometry or format (exit code 5)."""

    exit_code = 5


class Interrupted(DlkddError):
    """A signal stopped the run after its progress was saved (exit code 128 + signal number: 130, 143 or 129)."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("interrupted; the progress is saved, and the same command goes on from here")
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
