"""Shards that are brought up to date: a video with which processes die, and stores that outlive their publishing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.progress import Stopwatch
from pipeline.core.work_folder import work_folder
from pipeline.data.frame_store import FrameStore
from pipeline.data.shards import (
    MAX_DEATHS,
    Record,
    ShardTask,
    link_kept_shards,
    make_shard,
    publish_store,
    read_record,
)

VIDEOS = ("a", "b", "c")


class ProcessDiesError(BaseException):
    """Stands for a signal that ends the process: nothing after it runs, and what is written stays."""


def frames_of(name):
    return iter([np.full((4, 6, 3), VIDEOS.index(name), np.uint8)] * 3)


@dataclass(frozen=True)
class Video:
    video_id: str


def update(work, make, *, run="run", record=None, unchanged=(), notes=None):
    return make_shard(
        ShardTask(0, work, run, tuple(map(Video, VIDEOS))),
        {name: lambda name=name: make(name) for name in VIDEOS},
        record=record or Record(),
        unchanged=unchanged,
        notes=lambda: notes or {},
        codec="raw",
        jpeg_quality=95,
        watch=Stopwatch(),
    )


def dies_with(poison, made):
    def make(name):
        if name == poison:
            raise ProcessDiesError
        made.append(name)
        return frames_of(name)

    return make


def test_a_video_with_which_processes_die_is_left_out_and_named(tmp_path):
    made = []
    for _ in range(MAX_DEATHS):
        with pytest.raises(ProcessDiesError):
            update(tmp_path, dies_with("b", made))
    result = update(tmp_path, dies_with("b", made))
    assert [row.video_id for row in result.rows] == ["a", "c"]
    assert result.broken == (("b", "2 processes died while they worked on it"),)
    assert made == ["a", "a", "a", "c"]


def test_the_next_run_tries_it_again_with_the_others_taken_over(tmp_path):
    """Memory may have been short."""
    for _ in range(MAX_DEATHS):
        with pytest.raises(ProcessDiesError):
            update(tmp_path, dies_with("b", []))
    assert update(tmp_path, dies_with("b", [])).broken
    made, record = [], read_record(tmp_path, 0)
    result = update(tmp_path, dies_with(None, made), run="next", record=record, unchanged=set(VIDEOS))
    assert made == ["b"]
    assert ([row.video_id for row in result.rows], result.broken) == (["a", "b", "c"], ())


def test_deaths_of_other_runs_do_not_count(tmp_path):
    """Whoever kills a run at the same video again and again says nothing about the video."""
    for run in range(5):
        with pytest.raises(ProcessDiesError):
            update(tmp_path, dies_with("b", []), run=str(run))
    assert update(tmp_path, frames_of).broken == ()


def test_deaths_with_one_video_say_nothing_about_the_next(tmp_path):
    for poison in ("a", "b", "c"):
        with pytest.raises(ProcessDiesError):
            update(tmp_path, dies_with(poison, []))
    assert update(tmp_path, frames_of).broken == ()


def test_a_torn_note_is_none(tmp_path):
    with pytest.raises(ProcessDiesError):
        update(tmp_path, dies_with("b", []))
    (note,) = (tmp_path / "records").glob("*.attempt.json")
    note.write_text(note.read_text()[:7])
    assert update(tmp_path, frames_of).broken == ()
    assert not note.exists()


def test_reasons_of_unchanged_videos_are_taken_over(tmp_path):
    def never(name):
        raise AssertionError(name)

    result = update(tmp_path, frames_of, notes={"note": 1})
    assert result.num_frames == 9
    record = read_record(tmp_path, 0)
    assert (record.rows, record.broken, record.notes) == (result.rows, result.broken, {"note": 1})
    again = update(tmp_path, never, record=record, unchanged=set(VIDEOS), notes={"note": 1})
    assert again == replace(result, num_frames=0, seconds={})
    broken = Record(result.rows[:2], (("c", "it is broken"),), {})
    again = update(tmp_path, never, record=broken, unchanged=set(VIDEOS))
    assert ([row.video_id for row in again.rows], again.broken) == (["a", "b"], (("c", "it is broken"),))


def publish(stage, params, rows_of, out):
    with work_folder(stage, params=params, inputs={}, format_version=1, outs=[out]) as work:
        result = update(work.path, rows_of)
        publish_store(work, out, result.rows, codec="raw", jpeg_quality=95, origin={})
    return work.path


def test_a_published_store_stays_in_the_work_folder_without_a_second_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work = publish("stage", {"a": 1}, frames_of, Path("out"))
    FrameStore(Path("out")).verify()
    (shard,) = (work / "frames").glob("*.h5")
    assert shard.samefile(Path("out") / shard.name)
    assert not (work / "built").exists()


@pytest.mark.parametrize("links", ["copy", "symlink"])
def test_kept_shards_become_links_to_what_dvc_put_into_the_stores_place(tmp_path, monkeypatch, links):
    monkeypatch.chdir(tmp_path)
    (kept,) = (publish("stage", {"a": 1}, frames_of, Path("out")) / "frames").glob("*.h5")
    published = Path("out") / kept.name
    shutil.copy(published, "cached")
    published.unlink()
    shutil.copy("cached", published) if links == "copy" else published.symlink_to(Path("cached").absolute())
    link_kept_shards(Path("out"))
    assert kept.samefile(published)
    assert kept.samefile("cached") == (links == "symlink")
    FrameStore(Path("out")).verify()


def test_kept_shards_with_other_bytes_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (kept,) = (publish("stage", {"a": 1}, frames_of, Path("out")) / "frames").glob("*.h5")
    content = kept.read_bytes()
    changed = bytes([content[0] ^ 1, *content[1:]])
    (Path("out") / kept.name).unlink()
    (Path("out") / kept.name).write_bytes(changed)
    link_kept_shards(Path("out"))
    link_kept_shards(Path("never published"))
    assert kept.read_bytes() == content
    assert list(kept.parent.iterdir()) == [kept]


def test_a_shard_that_is_made_again_leaves_the_files_that_are_linked_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work = publish("stage", {"a": 1}, frames_of, Path("out"))
    (published,) = Path("out").glob("*.h5")
    content = published.read_bytes()
    published.chmod(0o444)  # as DVC's cache has it
    update(work, lambda name: reversed([*frames_of(name), np.zeros((4, 6, 3), np.uint8)]))
    assert published.read_bytes() == content


def test_the_newest_store_of_a_stage_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = publish("stage", {"a": 1}, frames_of, Path("out"))
    other_stage = publish("stages", {"a": 1}, frames_of, Path("other"))
    with work_folder("stage", params={"a": 9}, inputs={}, format_version=1) as unfinished:
        pass
    second = publish("stage", {"a": 2}, frames_of, Path("out"))
    assert not first.exists()
    assert second.exists()
    assert other_stage.exists()
    assert unfinished.path.exists()
    with work_folder("stage", params={"a": 2}, inputs={}, format_version=1):  # at work again: not finished
        publish("stage", {"a": 3}, frames_of, Path("out"))
    assert second.exists()
