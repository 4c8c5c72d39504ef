"""What `dlkdd frames inspect` and `verify` find is what the frames themselves say."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from builders import noise_video, write_frames

from pipeline.core.errors import StaleArtifactError
from pipeline.data.frame_store import FrameStore, shard_path
from pipeline.tools.look.frame_summary import Size, check_frames, sampled_luma, summarise_frames

SHAPES = {"a/1": (3, 8, 10), "a/2": (6, 8, 10), "b/1": (4, 8, 10), "b/2": (9, 12, 8)}


def videos():
    return {name: noise_video(name, shape, high=40 * (k + 1)) for k, (name, shape) in enumerate(SHAPES.items())}


@pytest.fixture
def store(tmp_path):
    return write_frames(tmp_path / "store", videos(), num_shards=2, origin={"dark": "0f"})


def luma_by_hand(name):
    middle = videos()[name][SHAPES[name][0] // 2]
    return cv2.cvtColor(middle, cv2.COLOR_RGB2YCrCb)[..., 0].mean()


def test_a_summary_counts_what_was_written(store):
    found = summarise_frames(store, num_sampled=10)
    assert (found.num_videos, found.num_frames, found.codec, found.origin) == (4, 22, "raw", {"dark": "0f"})
    assert (found.frames_per_video.least, found.frames_per_video.median, found.frames_per_video.most) == (3, 5, 9)
    assert found.sizes == (Size(8, 10, 3), Size(12, 8, 1))
    assert found.num_shards == len(list(store.path.glob("*.h5")))
    assert found.bytes_on_disk == sum(path.stat().st_size for path in store.path.iterdir())
    assert found.digest == store.digest
    np.testing.assert_allclose(
        found.luma.quartiles, np.quantile([luma_by_hand(name) for name in SHAPES], (0.25, 0.5, 0.75)), atol=0.01
    )
    assert json.loads(json.dumps(found.to_dict()))["sizes"][1] == {"height": 12, "width": 8, "num_videos": 1}


def test_luma_is_that_of_the_middle_frames_of_videos_spread_over_the_ids(store):
    assert sampled_luma(store, store.video_ids, num_sampled=99) == pytest.approx(
        {name: luma_by_hand(name) for name in SHAPES}
    )
    assert list(sampled_luma(store, store.video_ids, num_sampled=2)) == ["a/1", "b/2"]
    assert list(sampled_luma(store, ["b/1"], num_sampled=2)) == ["b/1"]


def test_a_store_without_videos_has_nothing_to_measure(tmp_path):
    found = summarise_frames(write_frames(tmp_path / "none", {}), num_sampled=10)
    assert (found.num_videos, found.frames_per_video, found.luma, found.sizes) == (0, None, None, ())


def damage(store, names):
    for name in names:
        row = next(row for row in store.rows if row.video_id == name)
        path = shard_path(store.path, row.shard)
        content = path.read_bytes()
        frame = videos()[name][1].tobytes()
        path.write_bytes(content.replace(frame, frame[::-1]))


def test_a_whole_store_has_no_findings(store):
    verdict = check_frames(store.path)
    assert (verdict.digest, verdict.num_videos, verdict.num_frames, verdict.findings) == (store.digest, 4, 22, ())
    assert verdict.to_dict()["whole"] is True


def test_every_damaged_video_is_named(store):
    damage(store, ["a/2", "b/2"])
    verdict = check_frames(store.path)
    assert [finding.partition(":")[0] for finding in verdict.findings] == ["a/2", "b/2"]
    assert verdict.to_dict()["whole"] is False


def test_the_videos_of_a_missing_shard_are_named(store):
    row = store.rows[0]
    shard_path(store.path, row.shard).unlink()
    expected = [other.video_id for other in store.rows if other.shard == row.shard]
    assert [finding.partition(":")[0] for finding in check_frames(store.path).findings] == expected


def test_a_folder_that_is_no_store_has_one_finding(tmp_path):
    verdict = check_frames(tmp_path)
    assert (verdict.digest, len(verdict.findings)) == (None, 1)
    assert "no whole frame store" in verdict.findings[0]


def test_progress_counts_every_video_also_the_damaged_ones(store):
    damage(store, ["a/1"])
    seen = []
    with pytest.raises(StaleArtifactError):
        FrameStore(store.path).verify(lambda count, name: seen.append((count, name)))
    assert seen == [(1, name) for name in SHAPES]
