"""The clips of streamed frames are the views of the same frames kept whole, and no frame is held longer than needed."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
from builders import noise_video
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.params import ClipParams
from pipeline.data.views import read_view, uniform_view
from pipeline.tools.predict.windows import Window, endless_windows, read_clips, windows_in_time, windows_of


@dataclass(frozen=True)
class WholeVideo:
    """A frame store of one video, in memory."""

    frames_THWC: np.ndarray

    def shape(self, _video_id):
        return self.frames_THWC.shape[:3]

    def read(self, _video_id, frames, *, top, left, height, width):
        return self.frames_THWC[frames, top : top + height, left : left + width]


def views_of(frames_THWC, clip, num_clips, num_crops=1):
    """The clips that score takes of a video, by the code that it takes them with."""
    whole = WholeVideo(frames_THWC)
    views = [
        uniform_view(whole.shape(""), clip, index=index, num_clips=num_clips, crop=crop, num_crops=num_crops)
        for index in range(num_clips)
        for crop in range(num_crops)
    ]
    return [read_view(whole, "", view, clip) for view in views]


def streamed(frames_THWC, windows, clip, num_clips, num_crops=1):
    """The clips of each window, those that stand for several as often."""
    found = {}
    for item in read_clips(iter(frames_THWC), windows, clip, num_clips=num_clips, num_crops=num_crops):
        found.setdefault(item.window, []).extend([item.clip_THWC] * item.weight)
    return found


@given(num_frames=st.integers(1, 400), length=st.integers(1, 90), hop=st.integers(1, 90))
def test_windows_reach_from_the_first_frame_to_the_last(num_frames, length, hop):
    windows = list(windows_of(num_frames, length=length, hop=hop))
    assert {window.num_frames for window in windows} == {min(length, num_frames)}
    assert windows[0].first_frame == 0
    assert windows[-1].end == num_frames
    steps = np.diff([window.first_frame for window in windows])
    assert (steps[:-1] == hop).all()
    assert ((steps > 0) & (steps <= hop)).all()


@given(steps=st.lists(st.floats(0.002, 5), min_size=1, max_size=50), length=st.floats(0.1, 10), hop=st.floats(0.05, 10))
def test_windows_in_time_have_the_frames_that_are_shown_in_them(steps, length, hop):
    times = np.cumsum([7.0, *steps]).tolist()
    end = times[-1] - times[0]
    windows = list(windows_in_time(times, length=length, hop=hop))
    starts, stops = np.array([window.seconds for window in windows]).T
    assert starts[0] <= 0.001
    assert stops[-1] == pytest.approx(end)
    np.testing.assert_allclose(stops - starts, min(length, end))
    np.testing.assert_allclose(np.diff(starts)[:-1], hop)
    assert (np.diff(starts) <= hop + 0.001).all()
    for window, start, stop in zip(windows, starts, stops, strict=True):
        first, behind = times[window.first_frame] - times[0], times[window.end] - times[0]
        assert first <= start + 0.002 < behind + 0.004
        assert behind >= stop - 0.002
        assert times[window.end - 1] - times[0] < stop or window.num_frames == 1


def test_windows_in_time_of_a_steady_video_are_those_of_its_frames():
    times = [number / 25 for number in range(101)]
    assert [(window.first_frame, window.num_frames) for window in windows_in_time(times, length=1, hop=0.6)] == [
        (window.first_frame, window.num_frames) for window in windows_of(100, length=25, hop=15)
    ]


def test_windows_without_end_go_on_at_the_same_distance():
    windows = list(islice(endless_windows(length=5, hop=3), 4))
    assert windows == [Window(0, 5), Window(3, 5), Window(6, 5), Window(9, 5)]


@given(
    num_frames=st.integers(1, 40),
    length=st.integers(1, 50),
    hop=st.integers(1, 20),
    clip=st.builds(ClipParams, num_frames=st.integers(1, 6), frame_stride=st.integers(1, 5), size=st.just(16)),
    num_clips=st.integers(1, 4),
    num_crops=st.sampled_from([1, 3]),
)
def test_a_windows_clips_are_those_of_a_video_of_its_frames(num_frames, length, hop, clip, num_clips, num_crops):
    frames_THWC = noise_video("a", (num_frames, 18, 21))
    found = streamed(frames_THWC, windows_of(num_frames, length=length, hop=hop), clip, num_clips, num_crops)
    assert list(found) == list(windows_of(num_frames, length=length, hop=hop))
    for window, clips in found.items():
        expected = views_of(frames_THWC[window.first_frame : window.end], clip, num_clips, num_crops)
        # a view that stands for several comes as often, but all at once
        assert sorted(one.numpy().tobytes() for one in clips) == sorted(one.numpy().tobytes() for one in expected)


def test_a_window_is_there_with_its_last_clip_and_not_with_the_last_frame():
    clip = ClipParams(num_frames=2, frame_stride=1, size=16)
    given_frames = []

    def frames():
        for number, frame in enumerate(noise_video("a", (30, 16, 16))):
            given_frames.append(number)
            yield frame

    found = [
        (item.window.first_frame, len(given_frames))
        for item in read_clips(frames(), endless_windows(length=10, hop=10), clip, num_clips=1, num_crops=1)
    ]
    # one clip in the middle of ten frames: frames 4 and 5
    assert found == [(0, 6), (10, 16), (20, 26)]


def test_what_the_frames_do_not_reach_is_left_out():
    clip = ClipParams(num_frames=2, frame_stride=2, size=16)
    found = streamed(noise_video("a", (12, 16, 16)), endless_windows(length=5, hop=5), clip, 1)
    assert list(found) == [Window(0, 5), Window(5, 5)]


@pytest.mark.parametrize(("length", "hop", "most"), [(600, 600, 4), (20, 20, 4), (20, 5, 12)])
def test_frames_are_held_for_as_long_as_a_clip_waits_for_them(length, hop, most):
    clip = ClipParams(num_frames=4, frame_stride=3, size=16)
    shape = (100, 100, 3)
    tracemalloc.start()
    frames = (np.zeros(shape, np.uint8) for _ in range(600))
    for _ in read_clips(frames, windows_of(600, length=length, hop=hop), clip, num_clips=1, num_crops=1):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # the frames of a clip once more, while they become one array, the new frame, and the rest
    assert peak / np.prod(shape) < most + 4 + 3
