"""The manifest and the quarantine, whatever became of their bytes: named with row and column, or another digest."""

from __future__ import annotations

import pytest
from builders import manifest_row
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DataError, StaleArtifactError
from pipeline.data.manifest import QuarantineRow, read_manifest, read_quarantine, write_manifest, write_quarantine

ROWS = [
    manifest_row(f"{name}/{split}", label, split, (8, 36, 48), class_name=name)
    for label, name in enumerate(("Run, é", "Sit"))
    for split in ("train", "val", "test")
]
BROKEN = [
    QuarantineRow("Sit/x", "Sit/x.mp4", "train", 'it says "no", and ends'),
    QuarantineRow("y", "y.avi", "test", "é"),
]
ADDED = st.sampled_from([b'"', b"\r", b"\n", b",", b"\0", b"\xff", b"", b"9" * 30, b"-", b".", b"e"])
# where (a share of the content), how many bytes are taken away, what comes in their place
EDITS = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 3), ADDED | st.binary(max_size=3))


def read(path, content, reader):
    """What is read and no error, or the message that a user sees."""
    path.write_bytes(content)
    try:
        return reader(path), ""
    except (DataError, StaleArtifactError) as error:
        return None, str(error)


@pytest.mark.fault("Lists", "bytes of the manifest or the quarantine changed (hypothesis)", "E")
@pytest.mark.parametrize("table", ["manifest", "quarantine"])
def test_a_damaged_table_is_refused_or_not_taken_for_the_old_one(tmp_path, scale, cases, table):
    path, number, refused = tmp_path / f"{table}.csv", scale(60, 500), 0
    if table == "manifest":
        reader, written = read_manifest, write_manifest(path, ROWS)
    else:
        write_quarantine(path, BROKEN)
        reader, written = read_quarantine, None
    content = path.read_bytes()

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
    )
    @given(st.lists(EDITS, min_size=1, max_size=2))
    def each(edits):
        nonlocal refused
        damaged = content
        for place, lost, added in edits:
            start = int(place * len(damaged))
            damaged = damaged[:start] + added + damaged[start + lost :]
        found, error = read(path, damaged, reader)
        refused += bool(error)
        if error:
            assert str(path) in error
            assert len(error) < 10_000
        elif written is not None and damaged != content:
            assert found.digest != written.digest  # by which every artifact names the manifest it is made from

    each()
    assert refused > number / 4
    cases(number)


WRONG = {
    "a field beyond the limit of csv": (",0,", f",{'0' * 200_000},", ":2: field larger than field limit"),
    "a quote that is not closed": ("Sit/test,", '"Sit/test,', "damaged"),
    "a number of 5,000 digits": (",8,", f",{'8' * 5000},", ":2: num_frames: expected a whole number"),
    "more frames than can be": (",8,", f",{'8' * 19},", ":2: num_frames: expected a whole number"),
    "NUL": (",Sit,", ",S\0it,", "'\\x00'"),
    "a lone CR in a row": (",8,", ",8\r,", ":2: "),
    "a row that lacks a field": (",Sit", "", ": 10 fields, expected 11"),
    "a column that is not there": (",fps,", ",", "its columns are"),
    "no end of the frame rate": (",25.0,", ",inf,", ":2: fps: expected a number, not 'inf'"),
}


@pytest.mark.fault("Lists", "a wrong field, row or column of the manifest", "E")
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_manifest_is_named_with_row_and_column(tmp_path, name):
    before, after, words = WRONG[name]
    path = tmp_path / "manifest.csv"
    write_manifest(path, ROWS)
    text = path.read_text(encoding="utf-8")
    assert before in text
    found, error = read(path, text.replace(before, after, 1).encode(), read_manifest)
    assert found is None
    assert str(path) in error
    assert words in error
    assert len(error) < 5_000
