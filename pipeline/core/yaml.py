"""YAML 1.2, as DVC writes and reads it: values, and the line of each. The only module that imports ruamel.yaml.

A parameter file comes from anybody and is read by others too: numbers that readers disagree about are refused, and so
is what could make a small text large. Nothing is imported or called by a name in it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from pipeline.core.errors import ParamsError, shortened

MAX_BYTES = 100_000  # a recipe has 9,000; reading this many takes two seconds
MAX_DEPTH = 20
TAG = "tag:yaml.org,2002:"
# Others have leading zeros, a base or underscores (010 is 8 to YAML 1.1 and 10 to 1.2), or too many digits
PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
# A value names something: it has no lines, no escape sequences and no halves of characters
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Place = tuple[str | int, ...]


class _Composer(Composer):
    """Refuses tags, depth and other versions of YAML before anything is made of them."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False
        self.level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _at(event, "tags (!) are not read")
        if self.resolver.processing_version != (1, 2):
            raise _at(event, "only YAML 1.2 is read")
        if self.level == MAX_DEPTH:
            raise _at(event, f"more than {MAX_DEPTH} brackets or sections are nested")
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


def read_text(path: Path) -> str:
    """The text of a parameter file or of dvc.yaml; raises ParamsError where it is missing, too long, or not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8")
    except FileNotFoundError:
        raise ParamsError(
            f"{path}: no such parameter file", remedy="run from the project's root, or name the file with --params"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read as UTF-8 text: {_unread(error)}") from None
    if len(data) > MAX_BYTES:
        raise ParamsError(f"{path}: has more than {MAX_BYTES:,} bytes, which no parameter file has")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_yaml(text: str, name: str) -> tuple[Any, dict[Place, int]]:
    """Values and the line of each; `name` is what an error calls the text.

    Raises ParamsError, with lines, where it is not plain YAML, and where a key is set twice: YAML would let the last
    one win in silence.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Composer
    reading = _Reading()
    try:
        values = reading.value(yaml.compose(text), ())
    except YAMLError as error:
        raise ParamsError(f"{name}: not YAML", findings=[_reason(error, text)]) from None
    if reading.odd:
        raise ParamsError(f"{name}: not plain YAML, which all readers read alike", findings=reading.odd)
    if reading.duplicates:
        raise ParamsError(f"{name}: keys set twice", findings=reading.duplicates, remedy="keep one line of each")
    return values, reading.lines


def yaml_text(values: object) -> str:
    """The values as a text that `read_yaml` reads."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 10**6  # no text is folded
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # None in its constructor
    file = io.StringIO()
    yaml.dump(values, file)
    return file.getvalue()


def dotted(place: Place) -> str:
    """A place as a user writes it: section.key."""
    return ".".join(map(str, place))


class _Reading:
    """Makes values of nodes; collects the line of each, keys that are set twice, and what is not plain."""

    def __init__(self) -> None:
        self.lines: dict[Place, int] = {}
        self.duplicates: list[str] = []
        self.odd: list[str] = []
        self.num_values = 0

    def value(self, node: Node | None, place: Place) -> Any:
        self.num_values += 1
        if self.num_values > MAX_BYTES or len(place) >= MAX_DEPTH:  # never without aliases
            raise _at(node, "aliases (*) stand for too much: write the values out")
        if isinstance(node, MappingNode):
            return {key.value: self.value(value, inner) for key, value, inner in self.items(node, place)}
        if isinstance(node, SequenceNode):
            self.lines.update({(*place, index): _line(item) for index, item in enumerate(node.value)})
            return [self.value(item, (*place, index)) for index, item in enumerate(node.value)]
        if node is None:
            return None
        try:
            return _scalar(node.value, str(node.tag))
        except ValueError as error:
            where = f"line {_line(node)}: {shortened(dotted(place)) or 'the value'}"
            self.odd.append(f"{where}: {error}, not {shortened(node.value)}")

    def items(self, node: MappingNode, place: Place) -> Iterator[tuple[ScalarNode, Node, Place]]:
        """Key, value and place of each whose key is a text."""
        for key, value in node.value:
            if not isinstance(key, ScalarNode) or str(key.tag) != f"{TAG}str":
                found = shortened(key.value) if isinstance(key, ScalarNode) else "a list or a section"
                self.odd.append(f"line {_line(key)}: a key is a text, not {found or 'nothing'}")
                continue
            inner = (*place, key.value)
            if inner in self.lines:
                again = f"{shortened(dotted(inner))} is set again (first in line {self.lines[inner]})"
                self.duplicates.append(f"line {_line(key)}: {again}")
            self.lines.setdefault(inner, _line(key))
            yield key, value, inner


def _scalar(text: str, tag: str) -> Any:
    """The value of a scalar; ValueError says what it should have been where readers disagree or it names nothing."""
    if CONTROL.search(text):
        raise ValueError("a text is one line without control characters")
    match tag.removeprefix(TAG):
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" if PLAIN_INT.fullmatch(text):
            return int(text)
        case "float" if "_" not in text:
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    raise ValueError("a number has at most 18 decimal digits and no zero before them; a text or a date needs quotes")


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _at(where: Any, problem: str) -> YAMLError:
    return MarkedYAMLError(None, None, problem, where.start_mark)


def _reason(error: YAMLError, text: str) -> str:
    """What is wrong, and the line with its text."""
    if isinstance(error, ReaderError):
        line, problem = text.count("\n", 0, error.position), f"the character {chr(error.character)!r}"
    else:
        assert isinstance(error, MarkedYAMLError)
        line = (error.problem_mark or error.context_mark).line
        problem = ", ".join(filter(None, (error.context, error.problem)))
    found = text.split("\n")[line : line + 1]
    return f"line {line + 1}: {shortened(problem)}" + (f": {shortened(found[0].strip())}" if found else "")


def _unread(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    line = error.object.count(b"\n", 0, error.start) + 1
    return f"line {line} has the byte {error.object[error.start]:#04x}"
