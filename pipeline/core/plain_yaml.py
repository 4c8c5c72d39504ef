"""Plain YAML: values as they are written, and the line of each key. The only module that imports yaml.

A parameter file comes from anybody and is read by others too (DVC): what readers disagree about is refused, and so is
what could make a small text large. Nothing is imported or called by a name in it.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from pipeline.core.errors import ParamsError, shortened

MAX_BYTES = 100_000  # a recipe has 9,000; reading this many takes a second
MAX_DEPTH = 20
TAG = "tag:yaml.org,2002:"
# Others have leading zeros, a base, underscores or colons (010 is 8, 1:30 is 90 to YAML 1.1, and texts to YAML 1.2),
# or more digits than any number here
PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
PLAIN_FLOAT = re.compile(r"[-+]?([0-9]*\.[0-9]*(e[-+][0-9]+)?|\.inf|\.nan)", re.IGNORECASE)

# A value names something: it has no lines, no escape sequences and no halves of characters
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Place = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Refuses anchors, aliases, tags and depth before anything is made of them."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # its stub has no types
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _at(event.start_mark, "anchors (&) and aliases (*) are not read: write the values out")
        if event.tag is not None:
            raise _at(event.start_mark, "tags (!) are not read")
        if self.depth == MAX_DEPTH:
            raise _at(event.start_mark, f"more than {MAX_DEPTH} brackets or sections are nested")
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # 2024-13-45
            raise _at(node.start_mark, str(error)) from None


def read_yaml(text: str, name: str) -> tuple[Any, dict[Place, int]]:
    """Values and the line of each key; `name` is what an error calls the text.

    Raises ParamsError, with lines, where it is not plain YAML, and where a key is set twice: YAML would let the last
    one win in silence.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines, duplicates, odd = _looked_through(node)
            if not odd:
                values = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ParamsError(f"{name}: not YAML", findings=[_reason(error, text)]) from None
    if odd:
        raise ParamsError(f"{name}: not plain YAML, which all readers read alike", findings=odd)
    if duplicates:
        raise ParamsError(f"{name}: keys set twice", findings=duplicates, remedy="keep one line of each")
    return values, lines


def yaml_text(values: object) -> str:
    """The values as a text that `read_yaml` reads."""
    text: str = yaml.safe_dump(values, sort_keys=False)
    return text


def dotted(place: Place) -> str:
    """A place as a user writes it: section.key."""
    return ".".join(map(str, place))


def _looked_through(root: yaml.Node | None) -> tuple[dict[Place, int], list[str], list[str]]:
    """The line of each key; findings of keys that are set twice, and of keys and numbers that are not plain."""
    lines: dict[Place, int] = {}
    duplicates: list[str] = []
    odd: list[str] = []

    def walk_key(key: yaml.Node, place: Place) -> None:
        line = key.start_mark.line + 1
        if key.tag != f"{TAG}str":
            found = shortened(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a section"
            odd.append(f"line {line}: a key is a text, not {found or 'nothing'}")
        elif place in lines:
            where = shortened(dotted(place))
            duplicates.append(f"line {line}: {where} is set again (first in line {lines[place]})")
        lines.setdefault(place, line)

    def walk(node: yaml.Node | None, place: Place) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*place, str(key.value))
                walk_key(key, inner)
                walk(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                walk(item, place)
        elif isinstance(node, yaml.ScalarNode) and (wanted := _unlike_a_value(node)):
            where = f"line {node.start_mark.line + 1}: {shortened(dotted(place)) or 'the value'}"
            odd.append(f"{where}: {wanted}, not {shortened(node.value)}")

    walk(root, ())
    return lines, duplicates, odd


def _unlike_a_value(scalar: yaml.ScalarNode) -> str | None:
    """What a scalar should have been, where readers of YAML disagree about it or it names nothing; else None."""
    if CONTROL.search(scalar.value):
        return "a text is one line without control characters"
    plain = {f"{TAG}int": PLAIN_INT, f"{TAG}float": PLAIN_FLOAT}.get(scalar.tag)
    if plain is not None and not plain.fullmatch(scalar.value):
        return "a number has at most 18 decimal digits and no zero before them, a text like it needs quotes"
    return None


def _at(mark: yaml.Mark, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, mark)


def _reason(error: yaml.YAMLError, text: str) -> str:
    """What is wrong, and the line with its text."""
    if isinstance(error, yaml.reader.ReaderError):
        line, problem = text.count("\n", 0, error.position), f"the character {chr(error.character)!r}"
    else:
        assert isinstance(error, yaml.MarkedYAMLError)
        mark = error.problem_mark or error.context_mark
        assert mark is not None
        line, problem = mark.line, ", ".join(filter(None, (error.context, error.problem)))
    found = text.split("\n")[line : line + 1]
    return f"line {line + 1}: {shortened(problem)}" + (f": {shortened(found[0].strip())}" if found else "")
