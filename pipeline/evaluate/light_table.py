"""How dark each video is, as a table: its mean luma, Y of ITU-R BT.601 from 0 to 255 of full-range RGB."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.errors import StaleArtifactError
from pipeline.core.files import read_text_whole, written_whole

COLUMNS = ["video_id", "mean_luma"]


def write_light(path: Path, luma: Mapping[str, float]) -> None:
    """CSV with a row for every video, in the order of `luma`."""
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(luma.items())


def read_light(path: Path) -> dict[str, float]:
    """Mean luma by video id; raises StaleArtifactError with the line where the file is not what `write_light` wrote."""
    luma: dict[str, float] = {}
    try:
        reader = csv.reader(io.StringIO(read_text_whole(path), newline=""), strict=True)
        try:
            if next(reader, []) != COLUMNS:
                raise ValueError(f"expected the columns {', '.join(COLUMNS)}")
            for row in reader:
                if len(row) != len(COLUMNS):
                    raise ValueError(f"{len(row)} fields, expected {len(COLUMNS)}")
                video_id, value = row
                if video_id in luma:
                    raise ValueError(f"{video_id} is there twice")
                luma[video_id] = float(value)
                if not 0 <= luma[video_id] <= 255:
                    raise ValueError(f"mean_luma is between 0 and 255, not {value}")
        except (ValueError, csv.Error) as error:
            raise ValueError(f"line {max(reader.line_num, 1)}: {error}") from None
    except (OSError, ValueError) as error:
        raise StaleArtifactError(
            f"{path}: not a table of mean lumas: {error}", remedy="`dvc repro measure_light` makes it again"
        ) from None
    return luma
