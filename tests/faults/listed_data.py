"""A small data set in each layout, as tables that a test edits before they are written as lists."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.listing import Listing
from pipeline.data.names import without_suffix
from pipeline.videos.annotations import LAYOUTS

LISTED = ("arid_v1", "arid_v1_5", "arid_ug2", "dark48", "frame_folders", "csv")
CLASS_FOLDERS = ("arid_v1", "arid_v1_5", "arid_ug2", "dark48")  # whose paths say the class, too
Row = dict[str, str]


@dataclass(frozen=True)
class Style:
    """What a list may look like without saying anything else."""

    newline: str = "\n"
    bom: bool = False
    header: bool = False
    last_newline: bool = True
    blank_lines: bool = False
    trailing: str = ""
    seed: int | None = None  # of the order of the lines; None: as they are


@dataclass
class Table:
    """One list: `text` joins what `rows` say in the order of `columns`."""

    path: str
    columns: tuple[str, ...]
    separator: str
    rows: list[Row]
    split: str | None = None
    needs_header: bool = False

    def line(self, values: Sequence[str]) -> str:
        """One line without its end."""
        if self.separator != ",":
            return self.separator.join(values)
        file = io.StringIO()
        csv.writer(file, lineterminator="").writerow(values)
        return file.getvalue()

    def lines(self) -> list[str]:
        """The rows as lines."""
        return [self.line([row[name] for name in self.columns]) for row in self.rows]

    def text(self, style: Style = Style()) -> str:
        """The list."""
        lines = self.lines()
        if style.seed is not None:
            random.Random(style.seed).shuffle(lines)
        if self.needs_header or style.header:
            lines.insert(0, self.line(self.columns))
        if style.blank_lines:
            lines = [each for line in lines for each in (line, "", "  ")]
        text = "".join(line + style.trailing + style.newline for line in lines)
        if not style.last_newline:
            text = text.rstrip("\r\n")
        return "\ufeff" * style.bom + text


@dataclass
class Data:
    """A data set: its lists, its class list (None in csv), the videos' files, and the rows that a reader should give.

    expected: path on disk → label, class name, group, split, number of frames.
    """

    layout: str
    root: Path
    tables: list[Table]
    classes: Table | None
    expected: dict[str, tuple[int, str, str, str | None, int | None]]
    number_of: Mapping[str, int] = field(default_factory=dict)

    def write(self, style: Style = Style()) -> None:
        """The lists and empty videos, or folders of frames."""
        for table in self.all_tables():
            self.put(table, table.text(style))
        for path in self.expected:
            file = self.root / path
            if self.layout == "frame_folders":
                file.mkdir(parents=True, exist_ok=True)
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()

    def all_tables(self) -> list[Table]:
        return [*self.tables, *([self.classes] if self.classes else [])]

    def put(self, table: Table, content: str | bytes) -> Path:
        """Write one list as it is given."""
        file = self.root / table.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def read(self) -> Listing:
        return LAYOUTS[self.layout](self.root, None, 1)

    def rows(self) -> dict:
        """What the reader gives, as `expected` has it."""
        listing = self.read()
        found = {
            video.path: (video.label, video.class_name, video.group, video.split, video.num_frames)
            for video in listing.videos
        }
        assert len(found) == len(listing.videos)
        return found

    def table(self, split: str) -> Table:
        """The list of a split, or the one that has all."""
        return next(table for table in self.tables if table.split in (split, None))

    def rows_of(self, split: str) -> list[int]:
        """Which rows of that list are of the split."""
        rows = self.table(split).rows
        return [index for index, row in enumerate(rows) if row.get("split", split) == split]


def make(layout: str, root: Path, classes: Mapping[int, str], sources: Sequence[str], *, numbers: bool = True) -> Data:
    """Every class in train and in test, `sources` (names) in each, with two clips of a source.

    numbers: of csv, whether labels are numbers beside a class_name.
    """
    maker = {
        "arid_v1": _arid("list_cvt/ARID_split1_{}.txt", ""),
        "arid_v1_5": _arid("list_cvt/split_1/split1_{}.txt", "clips_v1.5/"),
        "arid_ug2": _ug2,
        "dark48": _dark48,
        "frame_folders": _frame_folders,
        "csv": _csv if numbers else _csv_of_names,
    }[layout]
    return maker(root, dict(classes), list(sources))


def _groups(sources: Sequence[str], split: str) -> list[tuple[str, int]]:
    return [(f"{source}{split[:2]}", clip) for source in sources for clip in (1, 2)]


def _class_list(path: str, classes: Mapping[int, str], separator: str) -> Table:
    rows = [{"id": str(label), "name": name} for label, name in classes.items()]
    return Table(path, ("id", "name"), separator, rows)


def _arid(pattern: str, below: str):
    def make_it(root, classes, sources):
        layout = "arid_v1" if not below else "arid_v1_5"
        data = Data(layout, root, [], _class_list("list_cvt/mapping_table.txt", classes, "\t"), {})
        for split in ("train", "test"):
            table = Table(pattern.format(split), ("id", "label", "path"), "\t", [], split)
            for label, name in classes.items():
                for source, clip in _groups(sources, split):
                    path = f"{name}/{name}_{source}_{clip}.avi"
                    table.rows.append({"id": str(len(table.rows)), "label": str(label), "path": path})
                    data.expected[below + path] = (label, name, f"{name}_{source}", split, None)
            data.tables.append(table)
        return data

    return make_it


def _ug2(root, classes, sources):
    data = Data("arid_ug2", root, [], _class_list("list_cvt/mapping_table_t1.txt", classes, "\t"), {})
    columns = ("VideoID", "Video", "ClassID")
    for split, name_of in (("train", "train_pub"), ("test", "test_gt")):
        table = Table(f"list_cvt/ARID1.1_t1_{name_of}.csv", columns, ",", [], split, needs_header=True)
        for label, name in classes.items():
            for source, clip in _groups(sources, split):
                number = len(table.rows)
                path = f"{name}/{name}_{source}_{clip}.mp4" if split == "train" else f"{number}.mp4"
                group = f"{name}_{source}" if split == "train" else str(number)
                table.rows.append({"VideoID": str(number), "Video": path, "ClassID": str(label)})
                data.expected[f"{split}_data/{path}"] = (label, name, group, split, None)
        data.tables.append(table)
    return data


def _dark48(root, classes, sources):
    data = Data("dark48", root, [], _class_list("annotations/classInd.txt", classes, " "), {})
    for split in ("train", "test"):
        table = Table(f"annotations/{split}_split1.txt", ("path", "label"), " ", [], split)
        for label, name in classes.items():
            for source, clip in _groups(sources, split):
                path = f"{name}/{source}_{clip}.mp4"
                table.rows.append({"path": path, "label": str(label)})
                data.expected[path] = (label, name, source, split, None)
        data.tables.append(table)
    return data


def _frame_folders(root, classes, sources):
    data = Data("frame_folders", root, [], _class_list("classInd.txt", classes, " "), {})
    for split in ("train", "test"):
        table = Table(f"{split}.txt", ("path", "num_frames", "label"), " ", [], split)
        for label, name in classes.items():
            for source, clip in _groups(sources, split):
                path = f"frames/{label} {source}/{clip}"
                table.rows.append({"path": path, "num_frames": str(8 + clip), "label": str(label)})
                data.expected[path] = (label, name, path, split, 8 + clip)
        data.tables.append(table)
    return data


def _csv(root, classes, sources, *, numbers=True):
    columns = ("path", "label", *(("class_name",) if numbers else ()), "group", "split")
    table = Table("videos.csv", columns, ",", [], needs_header=True)
    data = Data("csv", root, [table], None, {})
    number_of = {name: label for label, name in classes.items()}
    if not numbers:
        number_of = {name: label for label, name in enumerate(sorted(number_of))}
    for split in ("train", "test"):
        for name, label in number_of.items():
            for source, clip in _groups(sources, split):
                path = f"night/{name} {source} {clip}.mkv"
                row = {"path": path, "label": name, "group": source, "split": split}
                table.rows.append(row | ({"label": str(label), "class_name": name} if numbers else {}))
                data.expected[path] = (label, name, source, split, None)
    return data


def _csv_of_names(root, classes, sources):
    return _csv(root, classes, sources, numbers=False)


def label_column(table: Table) -> str:
    return "ClassID" if "ClassID" in table.columns else "label"


def path_column(table: Table) -> str:
    return "Video" if "Video" in table.columns else "path"


def class_folders(root: Path, classes: Sequence[str], sources: Sequence[str]) -> Data:
    """The layout without lists, with folders of splits."""
    data = Data("class_folders", root, [], None, {})
    for split in ("train", "test"):
        for label, name in enumerate(sorted(classes)):
            for source, clip in _groups(sources, split):
                path = f"{split}/{name}/{source} {clip}.webm"
                data.expected[path] = (label, name, without_suffix(path), split, None)
    return data
