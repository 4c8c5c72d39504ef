"""What `dlkdd frames inspect` and `verify` find is what the frames themselves say."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from builders import noise_video, write_frames

from pipeline.core.errors import StaleArtifactError
from pipeline.data.frame_store import FrameStore, shard_path
from pipeline.tools.look.frame_summary import check_frames, summarise_frames

SHAPES = {"a/1": (3, 8, 10), "a/2": (6, 8, 10), "b/1": (4, 8, 10), "b/2": (9, 12, 8)}


def videos():
    return {name: noise_video(name, shape, high=40 * (k + 1)) for k, (name, shape) in enumerate(SHAPES.items())}


@pytest.fixture
def store(tmp_path):
    return write_frames(tmp_path / "store", videos(), num_shards=2, origin={"dark": "0f"})


def luma_by_hand(name):
    return np.mean([cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb)[..., 0].mean() for frame in videos()[name]])


def test_a_summary_counts_what_was_written(store):
    found = summarise_frames(store, num_sampled=10)
    assert found.items() >= {"num_videos": 4, "num_frames": 22, "codec": "raw", "origin": {"dark": "0f"}}.items()
    assert found["frames_per_video"] == {"least": 3, "median": 5, "most": 9}
    assert found["sizes"] == [
        {"height": 8, "width": 10, "num_videos": 3},
        {"height": 12, "width": 8, "num_videos": 1},
    ]
    assert found["num_shards"] == len(list(store.path.glob("*.h5")))
    assert found["bytes_on_disk"] == sum(path.stat().st_size for path in store.path.iterdir())
    assert found["digest"] == store.digest
    luma = [luma_by_hand(name) for name in SHAPES]
    np.testing.assert_allclose(found["luma"]["quartiles"], np.quantile(luma, (0.25, 0.5, 0.75)), atol=0.6)
    assert json.loads(json.dumps(found)) == found


def test_light_is_measured_of_videos_spread_over_the_ids(store):
    found = summarise_frames(store, num_sampled=2)["luma"]
    assert found["num_videos"] == 2
    assert found["quartiles"][1] == pytest.approx((luma_by_hand("a/1") + luma_by_hand("b/2")) / 2, abs=0.6)


def test_a_store_without_videos_has_nothing_to_measure(tmp_path):
    found = summarise_frames(write_frames(tmp_path / "none", {}), num_sampled=10)
    assert found.items() >= {"num_videos": 0, "frames_per_video": None, "luma": None, "sizes": []}.items()


def damage(store, names):
    for name in names:
        row = next(row for row in store.rows if row.video_id == name)
        path = shard_path(store.path, row.shard)
        content = path.read_bytes()
        frame = videos()[name][1].tobytes()
        path.write_bytes(content.replace(frame, frame[::-1]))


def test_a_whole_store_has_no_findings(store):
    found = check_frames(store.path)
    assert found == {
        "location": str(store.path),
        "digest": store.digest,
        "num_videos": 4,
        "num_frames": 22,
        "findings": [],
        "whole": True,
    }


def test_every_damaged_video_is_named(store):
    damage(store, ["a/2", "b/2"])
    found = check_frames(store.path)
    assert [finding.partition(":")[0] for finding in found["findings"]] == ["a/2", "b/2"]
    assert found["whole"] is False


def test_the_videos_of_a_missing_shard_are_named(store):
    row = store.rows[0]
    shard_path(store.path, row.shard).unlink()
    expected = [other.video_id for other in store.rows if other.shard == row.shard]
    assert [finding.partition(":")[0] for finding in check_frames(store.path)["findings"]] == expected


def test_a_folder_that_is_no_store_has_one_finding(tmp_path):
    found = check_frames(tmp_path)
    (finding,) = found["findings"]
    assert (found["digest"], "no whole frame store" in finding) == (None, True)


def test_progress_counts_every_video_also_the_damaged_ones(store):
    damage(store, ["a/1"])
    seen = []
    with pytest.raises(StaleArtifactError):
        FrameStore(store.path).verify(lambda count, name: seen.append((count, name)))
    assert seen == [(1, name) for name in SHAPES]
