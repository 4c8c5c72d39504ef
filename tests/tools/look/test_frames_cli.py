"""`dlkdd frames` as a user calls it: output, exit codes and JSON."""

from __future__ import annotations

import json

import pytest
from builders import tiny_data
from typer.testing import CliRunner

from pipeline.core.errors import DlkddError
from pipeline.data.frame_store import shard_path
from pipeline.videos.reader import probe
from stages import frames


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tiny_data(tmp_path, num_train=3, num_val=1, num_test=0)[1]


def run(*arguments):
    return CliRunner().invoke(frames.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def call(*arguments):
    """Standard output of a command; raises its error."""
    done = run(*arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_inspect(store):
    text = call("inspect", store.path)
    for words in (store.digest, "4 videos, 24 frames, in 2 shards", "22×18: 4 videos", "raw", "mean luma"):
        assert words in text
    values = json.loads(call("inspect", store.path, "--json", "--sample", 2))
    assert (values["num_videos"], values["digest"], values["luma"]["num_videos"]) == (4, store.digest, 2)


def test_verify_says_whole_or_ends_with_5(store):
    assert "whole: 4 videos, 24 frames" in call("verify", store.path)
    assert json.loads(call("verify", store.path, "--json"))["whole"] is True
    shard_path(store.path, store.rows[0].shard).unlink()
    with pytest.raises(DlkddError, match="is not whole") as caught:
        call("verify", store.path)
    assert caught.value.exit_code == 5
    done = run("verify", store.path, "--json")
    values = json.loads(done.stdout)
    assert values["whole"] is False
    assert tuple(values["findings"]) == caught.value.findings
    assert done.exception.exit_code == 5


def test_what_is_no_store_is_5(store, tmp_path):
    with pytest.raises(DlkddError, match="no whole frame store") as caught:
        call("verify", tmp_path / "none")
    assert caught.value.exit_code == 5


def test_export_takes_rates_from_the_manifest(store, tmp_path):
    text = call("export", store.path, "look", "--beside", store.path, "--manifest", "manifest.csv", "--fps", 5)
    assert "look: 4 videos, 24 frames" in text
    found = probe(tmp_path / "look" / f"{store.video_ids[0]}.mp4")
    assert (found.num_frames, found.width, found.height, found.fps) == (6, 44, 18, 25.0)
    values = json.loads(call("export", store.path, "look", store.video_ids[1], "--force", "--json"))
    assert values["files"] == [f"look/{store.video_ids[1]}.mp4"]
    assert (values["num_videos"], values["num_frames"]) == (1, 6)


def test_export_refuses_with_2_and_leaves_files_alone(store, tmp_path):
    call("export", store.path, "look", "--limit", 1)
    before = (tmp_path / "look" / f"{store.video_ids[0]}.mp4").read_bytes()
    with pytest.raises(DlkddError, match="paths in the way: 1") as caught:
        call("export", store.path, "look", "--crf", 50)
    assert caught.value.exit_code == 2
    assert [path.read_bytes() for path in (tmp_path / "look").rglob("*.mp4")] == [before]
