"""The light of a video is that of its frames, and comes back from its table."""

from __future__ import annotations

import numpy as np
import pytest
from builders import noise_video, write_frames

from pipeline.core.errors import StaleArtifactError
from pipeline.data.frames import encoded
from pipeline.evaluate.light import video_luma
from pipeline.evaluate.tables import read_light, write_light


def flat(levels):
    """Grey frames of these levels: the luma of a frame is its level."""
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 16, 18, 3)).copy()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    videos = {
        "a/long": flat(range(0, 200, 2)),
        "a/short": flat([10, 20, 60]),
        "b/noise": noise_video("noise", (5, 16, 18), high=90),
    }
    return write_frames(tmp_path_factory.mktemp("frames"), videos)


def test_it_is_the_mean_of_eight_frames_from_the_first_to_the_last(store):
    places = [0, 14, 28, 42, 57, 71, 85, 99]
    assert video_luma(store, ["a/long"]) == {"a/long": 2 * np.mean(places)}


def test_it_is_the_mean_of_all_frames_where_there_are_fewer(store):
    found = video_luma(store, store.video_ids)
    assert list(found) == ["a/long", "a/short", "b/noise"]
    assert found["a/short"] == 30
    weighted = store.read("b/noise", range(5)) @ np.array([0.299, 0.587, 0.114])
    assert found["b/noise"] == pytest.approx(weighted.mean(), abs=0.1)


def test_light_is_that_of_the_values_and_not_of_their_codes(tmp_path):
    levels = [0.3, 3.0, 40.0]
    codes = encoded(np.array(levels)[:, None, None, None] * np.ones((3, 16, 18, 3)), "companded")
    store = write_frames(tmp_path, {"a": codes}, levels="companded")
    assert video_luma(store, ["a"])["a"] == pytest.approx(np.mean(levels), abs=0.15)


def test_a_video_that_the_store_lacks_is_an_error(store):
    with pytest.raises(StaleArtifactError, match="has no video 'c'"):
        video_luma(store, ["c"])


def test_a_table_comes_back(tmp_path):
    luma = {'a,"b"/1': 0.0, "c/2": 12.345, "d": 255.0}
    write_light(tmp_path / "light.csv", luma)
    assert read_light(tmp_path / "light.csv") == luma


def test_the_stage_writes_the_light_of_every_video(call, store, tmp_path):
    code, out, err = call("measure-light", "--dark", store.path, "--out", tmp_path / "light.csv")
    assert (code, out) == (0, "")
    assert "3 videos ->" in err
    assert read_light(tmp_path / "light.csv") == video_luma(store, store.video_ids)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: empty"),
        ("video_id,luma\n", "line 1: its columns are video_id,luma, expected video_id,mean_luma"),
        ("video_id,mean_luma\na,dark\n", "line 2: "),
        ("video_id,mean_luma\na,1\nb,256\n", "line 3: mean_luma: expected a number from 0 to 255, not 256"),
        ("video_id,mean_luma\na,nan\n", "line 2: mean_luma: expected a number, not 'nan'"),
        ("video_id,mean_luma\na\n", "line 2: "),
        ("video_id,mean_luma\na,1,2\n", "line 2: "),
        ('video_id,mean_luma\n"a,1\n', "line 2: "),
        ("video_id,mean_luma\na,1\na,2\n", "line 3: a occurs twice"),
    ],
)
def test_what_is_no_table_of_light_is_refused_with_its_line(tmp_path, text, words):
    path = tmp_path / "light.csv"
    path.write_text(text)
    with pytest.raises(StaleArtifactError) as caught:
        read_light(path)
    assert str(caught.value).startswith(f"{path}: not a table of mean lumas: {words}")


def test_a_missing_table_says_how_to_make_it(tmp_path):
    with pytest.raises(StaleArtifactError, match="dvc repro measure_light"):
        read_light(tmp_path / "light.csv")
