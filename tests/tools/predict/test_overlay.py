"""An overlay shows every frame, and the newest window's classes with bars of their length; other files stay."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from camera_frames import smooth

from benchmarks.in_memory import enhance_frames
from pipeline.core.errors import Interrupted, ParamsError
from pipeline.enhance.classical import Clahe, Equalize, Gamma, GammaAuto
from pipeline.tools.predict import overlay
from pipeline.tools.predict.inference import VideoPrediction, WindowPrediction
from pipeline.tools.predict.inputs import VideoInput
from pipeline.tools.predict.overlay import FIRST, OTHER, TRACK, StreamedVideo, plan_overlays, write_overlay
from pipeline.tools.predict.windows import windows_of
from pipeline.videos.reader import probe, read_frames, write_video

CLASSES = ("Drink", "Jump", "Wave", "Run")
NUM_FRAMES = 24


def predicted(path, probs, *, length=NUM_FRAMES, num_frames=NUM_FRAMES):
    """Predictions of windows of that length, with those probabilities."""
    windows = tuple(
        WindowPrediction(window, window.first_frame / 10, window.end / 10, np.array(probs_K))
        for window, probs_K in zip(windows_of(num_frames, length=length, hop=length), probs, strict=True)
    )
    return VideoPrediction(path, num_frames, 10.0, windows)


@pytest.fixture
def video(tmp_path):
    write_video(tmp_path / "in.mp4", smooth(NUM_FRAMES, 240, 400), fps=10)
    return tmp_path / "in.mp4"


def overlaid(prediction, out, *, top_k=4, beside=None, watch=lambda path, number: None):
    write_overlay(prediction, out, class_names=CLASSES, top_k=top_k, beside=beside, watch=watch)
    return np.stack(list(read_frames(out)))


def pixels_near(frame_HWC, colour):
    return np.abs(frame_HWC.astype(int) - colour).max(axis=-1) < 12


def longest_row(mask_HW):
    return int(mask_HW.sum(axis=1).max())


def test_every_frame_is_there_and_above_the_panel_as_it_was(video, tmp_path):
    shown = overlaid(predicted(video, [[0.6, 0.3, 0.1, 0.0]]), tmp_path / "out.mp4")
    frames = np.stack(list(read_frames(video)))
    assert shown.shape == frames.shape
    assert probe(tmp_path / "out.mp4").fps == 10
    assert np.abs(shown[:, :150].astype(int) - frames[:, :150]).mean() < 3
    assert np.abs(shown[:, 180:].astype(int) - frames[:, 180:]).mean() > 10


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.6, 1.0])
def test_the_bar_is_as_long_as_the_probability(video, tmp_path, probability):
    rest = (1 - probability) / 3
    shown = overlaid(predicted(video, [[rest, probability, rest, rest]]), tmp_path / "out.mp4")[5]
    leads = probability >= rest
    filled = longest_row(pixels_near(shown, FIRST if leads else OTHER))
    whole = max(longest_row(pixels_near(shown, c) | pixels_near(shown, TRACK)) for c in (FIRST, OTHER))
    expected = probability if leads else rest
    assert filled == pytest.approx(expected * whole, abs=8)


@pytest.mark.parametrize(("top_k", "num_bars"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_so_many_classes_are_shown_at_most_three(video, tmp_path, top_k, num_bars):
    shown = overlaid(predicted(video, [[0.25] * 4]), tmp_path / "out.mp4", top_k=top_k)[0]
    column = pixels_near(shown[:, 110], FIRST) | pixels_near(shown[:, 110], OTHER)
    assert np.count_nonzero(np.diff(column.astype(int)) == 1) == num_bars


def test_a_frame_shows_the_newest_window_that_has_begun(video, tmp_path):
    probs = [[0.9, 0.1, 0, 0], [0.2, 0.8, 0, 0], [0.5, 0.5, 0, 0]]
    shown = overlaid(predicted(video, probs, length=10), tmp_path / "out.mp4", top_k=1)
    lengths = [longest_row(pixels_near(frame, FIRST)) for frame in shown]
    first, second, third = lengths[0], lengths[10], lengths[20]
    assert first > second > third
    # windows of 10 frames at 0 and 10; the last one ends with the video, so that it begins at 14
    expected = [first] * 10 + [second] * 4 + [third] * 10
    assert np.abs(np.array(lengths) - expected).max() <= 6


def test_the_enhanced_view_stands_to_the_right(video, tmp_path):
    beside = Gamma(3.0)
    shown = overlaid(predicted(video, [[0.6, 0.3, 0.1, 0.0]]), tmp_path / "out.mp4", beside=beside)
    frames = np.stack(list(read_frames(video)))
    assert shown.shape == (NUM_FRAMES, 240, 800, 3)
    rows = slice(30, 150)  # between the halves' names and the classes
    assert np.abs(shown[:, rows, :396].astype(int) - frames[:, rows, :396]).mean() < 3
    enhanced = enhance_frames(beside, frames)
    assert np.abs(shown[:, rows, 404:].astype(int) - enhanced[:, rows, 4:]).mean() < 3


@pytest.mark.parametrize(
    "enhancer",
    [Clahe(2.0, 8), GammaAuto(0.35, "video", 1), Equalize("frame", 7), GammaAuto(0.35, "frame", 15)],
    ids=str,
)
def test_a_streamed_video_is_enhanced_as_one_in_memory(tmp_path, enhancer):
    frames_THWC = smooth(70, 48, 64)
    write_video(tmp_path / "in.mp4", frames_THWC, fps=10)
    prediction = predicted(tmp_path / "in.mp4", [[0.7, 0.1, 0.1, 0.1]], length=70, num_frames=70)
    pictures = np.stack(list(overlay._pictures(prediction, enhancer)))
    decoded = np.stack(list(read_frames(tmp_path / "in.mp4")))
    expected = enhance_frames(enhancer, decoded).repeat(5, axis=1).repeat(5, axis=2)
    np.testing.assert_array_equal(pictures[:, :, 320:], expected)


def test_a_streamed_video_reads_the_file_in_one_go_where_frames_rise(tmp_path, monkeypatch):
    write_video(tmp_path / "in.mp4", smooth(40, 32, 32), fps=10)
    started = []
    monkeypatch.setattr(overlay, "read_frames", lambda path: started.append(path) or read_frames(path))
    video = StreamedVideo(tmp_path / "in.mp4", 40, kept=3)
    assert video.shape == (40, 32, 32)
    decoded = np.stack(list(read_frames(tmp_path / "in.mp4")))
    for numbers in ([0, 1], [1, 2, 3, 30], [29, 31]):
        np.testing.assert_array_equal(video.read(numbers), decoded[numbers])
    assert len(started) == 1
    np.testing.assert_array_equal(video.read([5]), decoded[[5]])
    assert len(started) == 2


def test_small_frames_are_enlarged_and_odd_ones_made_even(tmp_path):
    write_video(tmp_path / "small.mp4", smooth(4, 30, 62), fps=10)
    shown = overlaid(predicted(tmp_path / "small.mp4", [[1, 0, 0, 0]], length=4, num_frames=4), tmp_path / "out.mp4")
    assert shown.shape == (4, 180, 372, 3)
    assert overlay._enlarged(np.zeros((33, 401, 3), np.uint8)).shape == (34, 402, 3)


def test_names_of_any_length_and_script_are_drawn(video, tmp_path):
    names = ("ein sehr langer Name " * 20, "日本語 \x1b[31m", "", "x")
    out = tmp_path / "out.mp4"
    prediction = predicted(video, [[0.4, 0.3, 0.2, 0.1]])
    write_overlay(prediction, out, class_names=names, top_k=3, beside=None, watch=lambda path, number: None)
    shown = next(read_frames(out))
    assert longest_row(pixels_near(shown, FIRST)) > 60  # the names leave the bars room


def test_an_interrupted_overlay_leaves_no_file(video, tmp_path):
    def watch(path, number):
        assert path == video
        if number == 5:
            raise Interrupted(2)

    with pytest.raises(Interrupted):
        overlaid(predicted(video, [[1, 0, 0, 0]]), tmp_path / "out.mp4", watch=watch)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_memory_does_not_grow_with_the_video(tmp_path):
    peaks = []
    for num_frames in (64, 192):
        path = tmp_path / f"{num_frames}.mp4"
        write_video(path, (np.full((90, 320, 3), t % 50, np.uint8) for t in range(num_frames)), fps=10)
        prediction = predicted(path, [[1, 0, 0, 0]], length=num_frames, num_frames=num_frames)
        tracemalloc.start()
        write_overlay(
            prediction, tmp_path / "out.mp4", class_names=CLASSES, top_k=1,
            beside=Equalize("frame", 5), watch=lambda path, number: None,
        )  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


# which file an overlay is written to


def inputs(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [VideoInput(folder / name, name) for name in names]


def test_one_video_has_a_file_and_several_a_folder(tmp_path):
    videos = inputs(tmp_path / "in", "a.avi", "deep/b.mkv", "frames.v2")
    out = tmp_path / "out"
    assert plan_overlays(videos[:1], tmp_path / "x.mp4", force=False) == {videos[0].path: tmp_path / "x.mp4"}
    assert plan_overlays(videos[:1], out, force=False) == {videos[0].path: out / "a.mp4"}
    found = plan_overlays(videos, out, force=False)
    assert list(found.values()) == [out / "a.mp4", out / "deep/b.mp4", out / "frames.v2.mp4"]
    with pytest.raises(ParamsError, match="3 videos need a folder"):
        plan_overlays(videos, tmp_path / "x.mp4", force=False)


def test_a_folder_may_be_named_as_a_file_is(tmp_path):
    videos = inputs(tmp_path / "in", "a.avi", "b.avi")
    (tmp_path / "x.mp4").mkdir()
    for chosen in (videos[:1], videos):
        found = plan_overlays(chosen, tmp_path / "x.mp4", force=False)
        assert list(found.values()) == [tmp_path / f"x.mp4/{name}.mp4" for name in ("a", "b")[: len(chosen)]]


def test_videos_that_differ_in_their_suffix_alone_keep_it(tmp_path):
    found = plan_overlays(inputs(tmp_path, "a.avi", "a.mp4", "b.mp4"), tmp_path / "out", force=False)
    assert [path.name for path in found.values()] == ["a.avi.mp4", "a.mp4.mp4", "b.mp4"]


@pytest.mark.parametrize("force", [False, True])
def test_no_video_is_replaced_by_its_overlay(tmp_path, force):
    videos = inputs(tmp_path, "a.mp4", "b.avi")
    with pytest.raises(ParamsError, match=r"a\.mp4: is itself to be predicted"):
        plan_overlays(videos, tmp_path, force=force)
    with pytest.raises(ParamsError, match=r"a\.mp4: is itself to be predicted"):
        plan_overlays(videos[:1], tmp_path / "a.mp4", force=force)


def test_files_that_are_there_stay_unless_by_force(tmp_path):
    videos = inputs(tmp_path / "in", "a.mp4", "b.mp4")
    inputs(tmp_path / "out", "b.mp4")
    with pytest.raises(ParamsError, match=r"out/b\.mp4: already exists") as caught:
        plan_overlays(videos, tmp_path / "out", force=False)
    assert len(caught.value.findings) == 1
    assert plan_overlays(videos, tmp_path / "out", force=True)[videos[1].path] == tmp_path / "out/b.mp4"


def test_videos_of_one_name_from_two_folders_are_refused(tmp_path):
    videos = [replace(video, name="a.mp4") for video in inputs(tmp_path, "one/a.mp4", "two/a.mp4")]
    with pytest.raises(ParamsError, match="and of another video"):
        plan_overlays(videos, tmp_path / "out", force=False)
