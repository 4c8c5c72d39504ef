"""A camera gives RGB frames with the time at which each came, or says what is wrong; here it is a fake one."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from camera_frames import FakeCapture

from pipeline.core.errors import EnvironmentProblem
from pipeline.tools.predict import webcam
from pipeline.tools.predict.webcam import opened_webcam


@pytest.fixture
def plug(monkeypatch):
    """Attach a fake camera, as number 2."""

    def attach(*arguments, **options):
        capture = FakeCapture(*arguments, **options)
        monkeypatch.setattr(webcam.cv2, "VideoCapture", {2: capture}.__getitem__)
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
