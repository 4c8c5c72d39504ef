"""Help of the commands; a stage's example is its command in dvc.yaml.

It is not in the stage's own module, which is a dependency in dvc.yaml: an edit of it would train again.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_DVC_YAML = (_ROOT / "dvc.yaml", _ROOT / "teachers/dvc.yaml")  # the first one's commands are the examples of both
_SPACE = "\N{NO-BREAK SPACE}"  # between an option and its value


def help_of(name: str, text: str) -> str:
    """A command's help from its docstring: paragraphs filled to the terminal's width, the stage's example below."""
    paragraphs = text.rstrip().split("\n\n")
    if "Example:" not in text and (example := _example(name)):
        paragraphs.append(f"Example:\n{example}")
    return "\n\n".join(part if "\\\n" in part else part.replace("\n", " ") for part in paragraphs)


def _example(name: str) -> str | None:
    """The command of a stage as a user types it; None where there is no such stage, or no dvc.yaml."""
    text = "".join(path.read_text(encoding="utf-8") for path in _DVC_YAML if path.is_file()).replace("${key}", "NAME")
    found = re.search(rf"python -m stages {name}((?:\s+--\S+\s+\S+)+)", text)
    if found is None:
        return None
    pairs = [_SPACE.join(pair.split()) for pair in re.findall(r"--\S+\s+\S+", found[1])]
    command = " ".join(["dlkdd", name.replace("_", "-"), *pairs])
    lines = textwrap.wrap(command, 76, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return " \\\n".join(lines).replace(_SPACE, " ")
