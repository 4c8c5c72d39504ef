"""Videos that are links, as DVC, git-annex and full disks make them: the demo itself runs on such a cache."""

import pytest
from clones import clone, run

from pipeline.data.manifest import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_demo_runs_with_a_cache_of_links(tmp_path):
    clone(tmp_path)
    run(tmp_path, "dvc", "config", "--local", "cache.type", "symlink")
    done = run(tmp_path, "dvc", "repro", "prepare")
    videos = list((tmp_path / "data/smoke").rglob("*.mp4"))
    assert len(videos) == 32
    assert all(path.is_symlink() for path in videos)
    assert "32 of 32 videos lie outside of data/smoke, by links" in done.stdout + done.stderr
    assert len(read_manifest(tmp_path / "data/manifest.csv").rows) == 32
    assert "Running stage" not in run(tmp_path, "dvc", "repro", "prepare").stdout


def test_videos_below_a_linked_folder_are_those_that_were_copied(tmp_path):
    """The same rows, digests and frames; and DVC takes a link to a file for the file."""
    clone(tmp_path)
    run(tmp_path, "dvc", "repro", "prepare")
    before = [(tmp_path / "data" / name).read_bytes() for name in ("manifest.csv", "dark/index.csv")]
    folder = tmp_path / "data/smoke/Jump"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/smoke/Wave/Wave_1_1.mp4").rename(tmp_path / "one.mp4")
    (tmp_path / "data/smoke/Wave/Wave_1_1.mp4").symlink_to(tmp_path / "one.mp4")
    run(tmp_path, "dvc", "repro", "--single-item", "--force", "prepare")
    assert [(tmp_path / "data" / name).read_bytes() for name in ("manifest.csv", "dark/index.csv")] == before
