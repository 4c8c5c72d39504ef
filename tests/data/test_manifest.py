"""A manifest reads back as it was written, or says by line what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DataError, DlkddError, StaleArtifactError
from pipeline.data.manifest import (
    ManifestRow,
    QuarantineRow,
    read_manifest,
    read_quarantine,
    video_id,
    write_manifest,
    write_quarantine,
)

DIGEST = "0123456789abcdef" * 2


def row(name: str, label: int = 5, class_name: str = "Run", split: str = "train", **more: object) -> ManifestRow:
    base = ManifestRow(video_id(name), name, label, class_name, "Run_1", split, 40, 30000 / 1001, 320, 240, DIGEST)
    return replace(base, **more)


ROWS = [row("Sit/b.mp4", 6, "Sit", "val"), row("Run/a.avi"), row("Wave/c", 10, "Wave", "test"), row("Run/d.avi")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifest.csv"


def refused(action: Callable[[], object], error: type[DlkddError] = DataError) -> str:
    with pytest.raises(error) as raised:
        action()
    return str(raised.value)


def test_reads_back_sorted_and_with_the_digest_of_the_bytes(path: Path):
    written = write_manifest(path, ROWS)
    first = path.read_bytes()
    assert read_manifest(path) == written
    assert [one.video_id for one in written.rows] == ["Run/a", "Run/d", "Sit/b", "Wave/c"]
    assert write_manifest(path, reversed(ROWS)).digest == written.digest
    assert path.read_bytes() == first
    assert b"\r" not in first
    assert first.startswith(b"video_id,path,label,class_name,group,split,num_frames,fps,width,height,digest\nRun/a,")
    assert write_manifest(path, [*ROWS[1:], replace(ROWS[0], num_frames=41)]).digest != written.digest


def test_classes_are_indexed_without_gaps_in_the_order_of_their_labels(path: Path):
    manifest = write_manifest(path, ROWS)
    assert manifest.labels == (5, 6, 10)
    assert manifest.class_names == ("Run", "Sit", "Wave")
    assert [manifest.class_index(one) for one in manifest.rows] == [0, 0, 1, 2]
    assert [one.video_id for one in manifest.rows_of("train")] == ["Run/a", "Run/d"]
    assert manifest.by_id["Sit/b"].split == "val"


def test_only_suffixes_of_videos_are_left_out_of_ids():
    assert video_id("Run/Run_1_2.AVI") == "Run/Run_1_2"
    assert video_id("clips_v1.5/x") == "clips_v1.5/x"


names = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Cn", "Co", "Cf", "Zs")), min_size=1).filter(
    lambda name: not {"/", "\\", ":"} & set(name) and name not in (".", "..")
)


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(names, names, names, st.floats(0, 1e6), st.integers(1, 10**9)), min_size=1, unique_by=lambda t: t[0]
    )
)
def test_whatever_can_be_written_reads_back(path: Path, values: list[tuple[str, str, str, float, int]]):
    class_name = values[0][1]
    written = write_manifest(
        path,
        [
            row(f"x/{name}.mkv", 3, class_name, group=group, fps=fps, num_frames=frames)
            for name, _, group, fps, frames in values
        ],
    )
    assert read_manifest(path) == written
    assert len(written.rows) == len(values)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row("Run/a.mp4"), "have the same video_id 'Run/a'"),
        (row("Run/e.mp4", 5, "Jog"), "class 5 is 'Jog' here, but 'Run' above"),
        (row("Run/e.mp4", 7, "Run"), "class 'Run' is 7 here, but 5 above"),
        (row("Run/e.mp4", split="dev"), "split is train, val, test, unlabelled, not 'dev'"),
        (row("Run/e.mp4", video_id="e"), "video_id of Run/e.mp4 is 'Run/e', not 'e'"),
        (row("../e.mp4"), "may lead out of the root"),
        (row("Run/e.mp4", num_frames=0), "num_frames is 1 or more, not 0"),
        (row("Run/e.mp4", fps=float("nan")), "fps is a number of 0 or more, not nan"),
        (row("Run/e.mp4", width=-1), "width is 1 or more, not -1"),
        (row("Run/e.mp4", digest="xyz"), "digest is 32 hexadecimal digits, not 'xyz'"),
        (row("Run/e.mp4", label=-1, class_name="x"), "label is 0 or more, not -1"),
        (row("Run/e.mp4", group=""), "class_name or group is empty"),
        (row("Run/e.mp4", label=-1, class_name="", split="train"), "label is 0 or more, not -1"),
        (row("Run/e.mp4", split="unlabelled"), "unlabelled, but with the label"),
        (row("Run/e.mp4", label=-1, class_name="", group="", split="unlabelled"), "class_name or group is empty"),
        (row("Run/e\n.mp4"), "no control characters"),
    ],
)
def test_contradictions_are_never_written(path: Path, bad: ManifestRow, words: str):
    message = refused(lambda: write_manifest(path, [*ROWS, bad]))
    assert words in message
    assert bad.path in message
    assert not path.exists()


def test_no_videos(path: Path):
    assert "no videos" in refused(lambda: write_manifest(path, []))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (",40,", ",forty,", ":2: num_frames: expected a whole number, not 'forty'"),
        (",40,", ",-4,", ":2: num_frames: expected a whole number, not '-4'"),
        (",40,", ",٤,", ":2: num_frames: expected a whole number"),
        ("29.97002997002997", "fast", ":2: fps: expected a number, not 'fast'"),
        (",train,", ",", ":2: 10 fields, expected 11"),
        ("Run/a,", "Run/z,", ":2: video_id of Run/a.avi is 'Run/a', not 'Run/z'"),
        ("Run/d,Run/d.avi", "Run/a,Run/a.mp4", ":3: Run/a.mp4 and Run/a.avi have the same video_id"),
        ("Run/a,Run/a.avi", "Run/x,Run/x.avi", "not sorted"),
        ("Run/a", '"Run/a', "damaged"),
    ],
)
def test_edited_manifests_are_refused_with_the_line(path: Path, before: str, after: str, words: str):
    write_manifest(path, ROWS)
    path.write_text(
        path.read_text(encoding="utf-8").replace(before, after, 1 if "," in words else -1), encoding="utf-8"
    )
    assert words in refused(lambda: read_manifest(path))


def test_all_findings_come_at_once(path: Path):
    write_manifest(path, ROWS)
    path.write_text(path.read_text(encoding="utf-8").replace(",40,", ",x,"), encoding="utf-8")
    message = refused(lambda: read_manifest(path))
    assert "4 problems" in message
    assert "dvc repro prepare" in message


def test_another_versions_columns_are_stale(path: Path):
    write_manifest(path, ROWS)
    path.write_text(path.read_text(encoding="utf-8").replace("digest\n", "hash\n", 1), encoding="utf-8")
    assert "expected video_id,path" in refused(lambda: read_manifest(path), StaleArtifactError)


def test_missing_and_binary_files(path: Path):
    assert "dvc repro prepare" in refused(lambda: read_manifest(path))
    path.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused(lambda: read_manifest(path))


def test_quarantine_reads_back_and_may_be_empty(tmp_path: Path):
    path = tmp_path / "quarantine.csv"
    rows = [
        QuarantineRow("b", "b.mp4", "train", 'the file is "empty", says FFmpeg'),
        QuarantineRow("a", "a.avi", "test", "x"),
    ]
    write_quarantine(path, rows)
    assert read_quarantine(path) == (rows[1], rows[0])
    write_quarantine(path, [])
    assert read_quarantine(path) == ()
    assert path.read_bytes() == b"video_id,path,split,reason\n"
