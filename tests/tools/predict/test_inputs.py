"""What a user names stands for the videos that are meant, each once, and nothing named is passed over; or a camera."""

from __future__ import annotations

import os
from itertools import islice

import numpy as np
import pytest
from camera_frames import FakeCapture

from pipeline.core.errors import DataError, EnvironmentProblem
from pipeline.tools.predict import inputs
from pipeline.tools.predict.inputs import find_videos, opened_webcam, webcam_number


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Videos at several depths, folders of frames, and what is neither; empty files, since only names count."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "films/b.mp4", "films/a.AVI", "films/notes.txt", "films/deep/er/c.mkv", "films/.hidden/d.mp4", "films/.e.mp4",
        "films/cover.jpg", "films/frames/img_00001.jpg", "films/frames/img_00002.jpg", "odd.bin", "[1].mp4",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(*named):
    return [video.name for video in find_videos(named)]


IN_FILMS = ["a.AVI", "b.mp4", "frames", "deep/er/c.mkv"]


def test_a_folder_stands_for_videos_and_folders_of_frames_at_any_depth(tree):
    assert names("films") == IN_FILMS
    assert [video.path.as_posix() for video in find_videos(["films"])] == [f"films/{name}" for name in IN_FILMS]
    assert names(str(tree / "films")) == IN_FILMS


def test_a_file_is_a_video_whatever_its_suffix_and_a_folder_of_frames_is_one(tree):
    assert names("odd.bin", "films/frames", "films/frames/img_00001.jpg") == ["odd.bin", "frames", "img_00001.jpg"]


def test_a_pattern_is_what_does_not_exist(tree):
    assert names("films/*.mp4") == ["b.mp4"]
    assert names("films/**/*.mkv") == ["c.mkv"]
    assert names("fil*") == IN_FILMS
    assert names("[1].mp4") == ["[1].mp4"]


def test_each_video_is_there_once_in_the_order_of_the_inputs(tree):
    assert names("films/b.mp4", "films", str(tree / "films/b.mp4")) == ["b.mp4", "a.AVI", "frames", "deep/er/c.mkv"]


def test_whatever_stands_for_no_video_is_named(tree):
    (tree / "empty").mkdir()
    (tree / "loop").symlink_to("loop")
    with pytest.raises(DataError, match="no video to predict") as caught:
        find_videos(["films", "empty", "gone.mp4", "*.mov", "loop"])
    assert caught.value.findings == (
        "empty: no video in it",
        "gone.mp4: no such file or folder",
        "*.mov: no such file or folder",
        "loop: no video in it",
    )


def test_a_folder_that_cannot_be_read_is_named(tree, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="films: films: Permission denied"):
        find_videos(["films"])


def test_links_are_followed_but_not_those_that_lead_round_in_circles(tree):
    (tree / "films/again").symlink_to(tree / "films")
    (tree / "films/deep/up").symlink_to("..")
    assert names("films") == IN_FILMS
    (tree / "disk/x").mkdir(parents=True)
    (tree / "disk/x/y.mp4").touch()
    (tree / "films/more").symlink_to(tree / "disk")
    (tree / "films/one.mp4").symlink_to(tree / "disk/x/y.mp4")
    assert names("films") == ["a.AVI", "b.mp4", "one.mp4", "frames", "deep/er/c.mkv", "more/x/y.mp4"]


def test_what_systems_leave_in_folders_is_no_video(tree):
    for name in ("films/._b.mp4", "films/@eaDir/b.mp4", "films/frames/.DS_Store", "films/frames/Thumbs.db"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    (tree / "films/frames/@eaDir").mkdir()
    assert names("films") == IN_FILMS


@pytest.mark.parametrize(
    ("text", "number"),
    [("webcam", 0), ("webcam:0", 0), ("webcam:12", 12), ("webcam:", None), ("./webcam", None), ("webcam:x", None)],
)
def test_a_camera_is_named_by_its_number(text, number):
    assert webcam_number(text) == number


# a camera; here it is a fake one


@pytest.fixture
def plug(monkeypatch):
    """Attach a fake camera, as number 2."""

    def attach(*arguments, **options):
        capture = FakeCapture(*arguments, **options)
        monkeypatch.setattr(inputs.cv2, "VideoCapture", {2: capture}.__getitem__)
        return capture

    return attach


def test_frames_are_rgb_with_rising_times(plug):
    blue_green_red = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    plug([blue_green_red] * 3)
    with opened_webcam(2) as camera:
        found = list(islice(camera.frames(), 3))
    for frame, _ in found:
        np.testing.assert_array_equal(frame, blue_green_red[..., ::-1])
    times = [seconds for _, seconds in found]
    assert times == sorted(times)


@pytest.mark.parametrize(("stated", "fps"), [(30.0, 30.0), (0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0)])
def test_a_rate_that_is_none_counts_as_not_stated(plug, stated, fps):
    plug([], fps=stated)
    with opened_webcam(2) as camera:
        assert camera.fps == fps


def test_a_camera_that_is_unplugged_says_so_and_is_released(plug):
    capture = plug([np.zeros((4, 4, 3), np.uint8)] * 2)
    with (
        pytest.raises(EnvironmentProblem, match="webcam:2: it gave no more frames after 2"),
        opened_webcam(2) as camera,
    ):
        list(camera.frames())
    assert capture.released


def test_a_camera_that_does_not_open_says_so(plug):
    capture = plug([], opened=False)
    with pytest.raises(EnvironmentProblem, match="webcam:2: there is no such camera"), opened_webcam(2):
        pass
    assert capture.released


def test_opencv_does_not_print_about_a_camera_that_is_not_there(capfd):
    with pytest.raises(EnvironmentProblem), opened_webcam(199):
        pass
    assert capfd.readouterr().err == ""
