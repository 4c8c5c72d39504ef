"""Gather the pages of the site: those of docs/ and of the repository's root, with links that lead from one to another.

python docs/make_site.py FOLDER [ADDRESS]: ADDRESS is where the repository's files are shown, as https://…/blob/main.
Links to files that are no pages lead there; without it they are text.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# in the repository: on the site
NAMES = {"README.md": "index.md", "docs/README.md": "pages.md", "docs/notebook.ipynb": "notebook.md"}
NAMES |= {f"{name}.md": f"{name.lower()}.md" for name in ("CHANGELOG", "CONTRIBUTING", "LOG", "SECURITY")}
NAMES |= {f"docs/{path.name}": path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"}
NAMES |= {str(path.relative_to(ROOT)): str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/images/**/*.*")}

FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?P<sign>!?)\[(?P<text>[^\]]*)\]\((?!\w+:)(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def page_of(name: str, address: str | None = None) -> str:
    """A page's text with its links as they are on the site; `name` is its path in the repository."""

    def linked(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), found["target"]))
        anchor = found["anchor"] or ""
        if path in NAMES:
            target = posixpath.relpath(NAMES[path], posixpath.dirname(NAMES[name]) or ".")
        elif address is None:
            return found["text"]
        else:
            target = f"{address}/{path}"
        return f"{found['sign']}[{found['text']}]({target}{anchor})"

    text = (ROOT / name).read_text(encoding="utf-8")
    pieces = FENCE.split(markdown_of(json.loads(text)) if name.endswith(".ipynb") else text)
    return "".join(piece if piece.startswith("```") else LINK.sub(linked, piece) for piece in pieces)


def markdown_of(notebook: dict[str, Any]) -> str:
    """A notebook as a page: its code, and below each cell what it showed."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            shown = output.get("data", {"text/plain": output.get("text")})
            text = "".join(shown["text/plain"]).rstrip("\n")
            if "image/svg+xml" in shown:
                picture = base64.b64encode("".join(shown["image/svg+xml"]).encode()).decode()
                parts.append(f"![{text}](data:image/svg+xml;base64,{picture})")
            else:
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def make_site(folder: Path, address: str | None = None) -> None:
    """Write all pages and pictures into a folder, which is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, on_site in NAMES.items():
        path = folder / on_site
        path.parent.mkdir(parents=True, exist_ok=True)
        if on_site.endswith(".md"):
            path.write_text(page_of(name, address), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / name, path)


if __name__ == "__main__":
    make_site(Path(sys.argv[1]), *sys.argv[2:3])
