"""The documentation as data: its pages, their blocks of commands, links and what a command line in them calls."""

import re
import shlex
from dataclasses import dataclass

from paths import ROOT

PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A block of commands; `mark` is the comment on the line before it."""

    page: str
    mark: str | None
    text: str

    def __str__(self):
        return f"{self.page}: {self.text.partition(chr(10))[0]}"


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page):
    found = [fence for fence in FENCE.finditer(text_of(page)) if fence["language"] == "sh"]
    return [Block(page, fence["mark"], fence["text"]) for fence in found]


def prose_of(page):
    return FENCE.sub("", text_of(page))


def calls_in(text):
    """The command lines in a piece of shell, as lists of words; `…` and what stands after a # is left out."""
    calls = [[]]
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="();&|<>\n")
        words.whitespace_split = True
        for word in words:
            if set(word) <= set("();&|<>"):
                calls.append([])
            elif word != "…":
                calls[-1].append(word)
        calls.append([])
    return [call for call in calls if call]


def arguments_of_dlkdd(call):
    """The words after `dlkdd` or `-m stages`, wherever they stand in a command line; None where they do not."""
    if "dlkdd" in call:
        return call[call.index("dlkdd") + 1 :]
    for place in range(1, len(call)):
        if call[place - 1 : place + 1] == ["-m", "stages"]:
            return call[place + 1 :]
    return None


def anchors_of(page):
    """Names of a page's headings, as they are linked to."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
