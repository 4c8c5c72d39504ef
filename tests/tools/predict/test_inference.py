"""A video from outside gets the probabilities that the scoring stages give it, whatever comes beside it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg
import torch
from builders import CLASSES, STATISTICS, one_thread, tiny_recognizer, write_frames  # noqa: F401
from video_files import encode

from pipeline.core.errors import Interrupted, StaleArtifactError
from pipeline.core.params import ClipParams, PrepareParams
from pipeline.data.dataset import Sample
from pipeline.data.frame_store import FrameStore
from pipeline.evaluate.score.scoring import score
from pipeline.tools.predict import inference
from pipeline.tools.predict.inference import (
    BrokenVideo,
    Sampling,
    VideoPrediction,
    predict_live,
    predict_videos,
    ranking,
)
from pipeline.tools.predict.windows import Window
from pipeline.videos.prepare import prepare
from pipeline.videos.reader import probe, read_frames, write_video

CPU = torch.device("cpu")
CLIP = ClipParams(num_frames=4, frame_stride=3, size=20)
WHOLE = Sampling(short_side=24, num_clips=3, num_crops=1, window_seconds=None, hop_seconds=None, unstated_fps=25.0)


def moving(num_frames, height, width, phase):
    t, y, x = np.mgrid[:num_frames, :height, :width]
    return np.stack([(5 * t + 3 * x + phase * y * channel) % 200 for channel in (1, 2, 3)], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """One class folder with what comes in the wild: sizes, containers, videos that are shorter than a clip."""
    folder = tmp_path_factory.mktemp("videos") / "drink"
    write_video(folder / "a_wide.mp4", moving(40, 36, 64, 1), fps=30)
    write_video(folder / "b_high.mp4", moving(31, 50, 38, 2), fps=12.5)
    write_video(folder / "c_short.mp4", moving(3, 36, 64, 3), fps=25)
    write_video(folder / "d_small.mp4", moving(20, 16, 20, 4), fps=25)
    write_video(folder / "g_tight.mp4", moving(11, 36, 36, 5), fps=25)  # two of its three clips are alike
    encode(folder / "e_uncounted.mkv", frames=22)
    encode(folder / "f_old.avi", codec="mpeg4", frames=25)
    return folder


def files(folder):
    return sorted(folder.iterdir())


@pytest.fixture(scope="module", params=STATISTICS)
def recognizer(request):
    return made_recognizer("linear", request.param)


def made_recognizer(levels, input_statistics="train"):
    network = tiny_recognizer(clip=CLIP, num_classes=3, levels=levels, input_statistics=input_statistics)
    # a fresh one says nearly the same about everything
    torch.manual_seed(1)
    for parameter in network.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=5.0)
    return network


def no_watch(_path, _number):
    pass


def predict(recognizer, paths, sampling=WHOLE, *, batch_size=32, watch=no_watch):
    return list(predict_videos(recognizer, paths, sampling, batch_size=batch_size, device=CPU, watch=watch))


def scored(recognizer, store, *, num_clips=3, num_crops=1, batch_size=32):
    """Probabilities by video id, as the scoring stages work them out."""
    samples = [Sample(name, 0) for name in store.video_ids]
    found = score(
        recognizer,
        store,
        samples,
        class_names=CLASSES,
        num_clips=num_clips,
        num_crops=num_crops,
        batch_size=batch_size,
        device=CPU,
        stop=lambda: None,
        advance=lambda count, note: None,
    )
    return dict(zip(found.video_ids, found.probs_NK, strict=True))


@pytest.fixture(scope="module")
def dark(videos, tmp_path_factory):
    """The store that `prepare` makes of the videos."""
    return prepared(videos, tmp_path_factory.mktemp("prepared"), "linear")


def prepared(videos, folder, levels):
    lines = [f"drink/{path.name},drink,{path.name},test" for path in files(videos)]
    for name in ("drink_train", "drink_val", "jump_train", "jump_val", "jump_test"):
        encode(videos.parent / f"{name}.mp4")
        label, split = name.split("_")
        lines.append(f"{name}.mp4,{label},{name},{split}")
    (videos.parent / "videos.csv").write_text("\n".join(["path,label,group,split", *lines]) + "\n")
    values = {
        "root": str(videos.parent), "layout": "csv", "lists": None, "split": 1, "val_share": 0.25, "test_share": 0.25,
        "unlabelled": None, "unlabelled_share": 0.0, "footage_window": None, "footage_windows": None,
        "max_quarantined": 0.0, "min_frames": 1, "short_side": 24, "codec": "raw", "jpeg_quality": 95, "num_shards": 2,
        "frames": None, "damaged": "quarantine", "levels": levels,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare(
            PrepareParams(**values),
            seed=0,
            manifest_path=folder / "manifest.csv",
            quarantine_path=folder / "quarantine.csv",
            dark_path=folder / "dark",
            run=lambda function, tasks: [function(task) for task in tasks],
        )
    return FrameStore(folder / "dark")


def test_a_network_of_codes_gets_those_that_prepare_stores(videos, dark, tmp_path):
    network, store = made_recognizer("companded"), prepared(videos, tmp_path, "companded")
    expected = scored(network, store, batch_size=1)
    for video in predict(network, files(videos), batch_size=1):
        np.testing.assert_allclose(video.probs_K, expected[f"drink/{video.path.stem}"], rtol=1e-14)
    with pytest.raises(StaleArtifactError, match="its frames have linear levels, the model was trained on companded"):
        scored(network, dark)


@pytest.mark.parametrize("num_crops", [1, 3])
def test_a_video_gets_what_it_is_scored_with_from_the_frame_store(recognizer, videos, dark, num_crops):
    paths = files(videos)
    found = predict(recognizer, paths, sampling=replace(WHOLE, num_crops=num_crops), batch_size=1)
    expected = scored(recognizer, dark, num_crops=num_crops, batch_size=1)
    assert [video.path for video in found] == paths
    for video in found:
        name = f"drink/{video.path.stem}"
        assert video.num_frames == dark.shape(name)[0]
        # clip by clip the same numbers; their mean is taken in another order
        np.testing.assert_allclose(video.probs_K, expected[name], rtol=1e-14)
    spread = np.ptp(list(expected.values()), axis=0)
    assert spread.max() > 0.01, spread  # the network tells them apart


@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_batches_go_across_videos_and_change_nothing(recognizer, videos, dark, batch_size):
    expected = scored(recognizer, dark)
    for video in predict(recognizer, files(videos), batch_size=batch_size):
        np.testing.assert_allclose(video.probs_K, expected[f"drink/{video.path.stem}"], atol=1e-5)


def test_a_folder_of_frames_is_a_video_without_a_rate(recognizer, videos, tmp_path):
    for number, frame in enumerate(read_frames(videos / "a_wide.mp4"), start=1):
        content = simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=95, colorspace="RGB")
        (tmp_path / f"img_{number:05}.jpg").write_bytes(content)
    (found,) = predict(recognizer, [tmp_path], replace(WHOLE, unstated_fps=50.0))
    store = write_frames(tmp_path / "store", {"a": np.stack(list(read_frames(tmp_path, short_side=24)))})
    np.testing.assert_allclose(found.probs_K, scored(recognizer, store)["a"], atol=1e-5)
    assert (found.num_frames, found.fps) == (40, 50.0)


def test_a_window_gets_what_a_video_of_its_frames_is_scored_with(recognizer, videos, tmp_path):
    path = videos / "a_wide.mp4"
    sampling = replace(WHOLE, window_seconds=0.5, hop_seconds=0.3)
    (found,) = predict(recognizer, [path], sampling)
    assert [window.window for window in found.windows] == [Window(0, 15), Window(9, 15), Window(18, 15), Window(25, 15)]
    frames_THWC = np.stack(list(read_frames(path, short_side=24)))
    parts = {f"{w.window.first_frame:02}": frames_THWC[w.window.first_frame : w.window.end] for w in found.windows}
    expected = scored(recognizer, write_frames(tmp_path / "parts", parts))
    for window, name in zip(found.windows, parts, strict=True):
        np.testing.assert_allclose(window.probs_K, expected[name], atol=1e-5)
        assert window.start_seconds == pytest.approx(window.window.first_frame / 30)
        assert window.end_seconds == pytest.approx(window.window.end / 30)
    assert np.ptp(list(expected.values()), axis=0).max() > 1e-3
    mean_K = np.mean(list(expected.values()), axis=0)
    np.testing.assert_allclose(found.probs_K, mean_K, atol=1e-5)


def test_windows_follow_the_times_of_frames_that_come_unevenly(recognizer, tmp_path):
    """As recorders of screens give them: 24 frames in the first second, then one a second up to nine."""
    path = tmp_path / "v.mkv"
    encode(path, frames=33, pts=lambda number: number if number < 25 else 25 * (number - 23))
    (found,) = predict(recognizer, [path], replace(WHOLE, window_seconds=1.0, hop_seconds=1.0))
    spans = [(round(window.start_seconds), round(window.end_seconds)) for window in found.windows]
    assert spans[:9] == [(second, second + 1) for second in range(9)]
    assert [window.window.num_frames for window in found.windows[:9]] == [25, 1, 1, 1, 1, 1, 1, 1, 1]
    assert found.num_frames == 33
    assert found.num_frames / found.fps == pytest.approx(9.5, abs=0.6)


def test_a_broken_video_stops_no_other_and_has_a_reason(recognizer, videos, tmp_path):
    good = videos / "a_wide.mp4"
    junk, cut, gone = tmp_path / "junk.mp4", tmp_path / "cut.mp4", tmp_path / "gone.mp4"
    junk.write_bytes(b"no video")
    # frames come before it breaks: none of its windows may count
    content = encode(tmp_path / "whole.mp4", frames=120, container={"movflags": "faststart"}).read_bytes()
    cut.write_bytes(content[: len(content) * 3 // 4] + bytes(len(content) // 4))
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/img_00002.jpg").write_bytes(b"")
    (tmp_path / "odd/img_00001.jpg").mkdir(parents=True)
    paths = [good, junk, cut, good, tmp_path / "frames", tmp_path / "odd", gone, good]
    for sampling in (WHOLE, replace(WHOLE, window_seconds=0.2)):
        found = predict(recognizer, paths, sampling, batch_size=4)
        assert [video.path for video in found] == paths
        assert [type(video) for video in found] == [VideoPrediction if path == good else BrokenVideo for path in paths]
        assert all(video.reason for video in found if isinstance(video, BrokenVideo))
        probs = [video.probs_K for video in found if isinstance(video, VideoPrediction)]
        np.testing.assert_allclose(probs, [probs[0]] * 3, atol=1e-5)


@pytest.mark.parametrize("stated", [30, 45, 400])
@pytest.mark.parametrize("window_seconds", [None, 0.3])
def test_a_wrong_count_is_noticed_and_the_video_read_again(recognizer, videos, monkeypatch, stated, window_seconds):
    sampling = replace(WHOLE, window_seconds=window_seconds)
    (expected,) = predict(recognizer, [videos / "a_wide.mp4"], sampling)
    monkeypatch.setattr(inference, "probe", lambda path: replace(probe(path), num_frames=stated))
    (found,) = predict(recognizer, [videos / "a_wide.mp4"], sampling)
    assert found.num_frames == 40
    assert [w.window for w in found.windows] == [w.window for w in expected.windows]
    np.testing.assert_allclose(found.probs_K, expected.probs_K, atol=1e-5)


def test_watch_may_stop_it(recognizer, videos):
    def watch(_path, number):
        if number:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        predict(recognizer, files(videos), watch=watch)


def test_results_come_while_later_videos_are_not_read(recognizer, videos):
    opened = []

    def paths():
        for path in itertools.repeat(videos / "d_small.mp4"):
            opened.append(path)
            yield path

    found = predict_videos(recognizer, paths(), WHOLE, batch_size=4, device=CPU, watch=no_watch)
    next(found)
    assert len(opened) <= 3
    found.close()


def test_of_equal_probabilities_the_first_class_leads_as_in_predictions():
    probs_K = np.array([0.2, 0.3999999, 0.4000001, 0.0])
    assert ranking(probs_K, 3) == [1, 2, 0]
    assert ranking(probs_K, 9) == [1, 2, 0, 3]


# a camera


def arriving(frames_THWC, *, start=100.0, seconds=0.5):
    return ((frame, start + number * seconds) for number, frame in enumerate(frames_THWC))


def live(recognizer, frames, sampling, *, fps=30.0, stop=lambda: None):
    return predict_live(recognizer, frames, sampling, fps=fps, device=CPU, stop=stop)


def test_a_camera_gets_what_a_file_of_its_frames_gets(recognizer, videos):
    path = videos / "a_wide.mp4"
    sampling = replace(WHOLE, window_seconds=0.5, hop_seconds=0.3)
    (expected,) = predict(recognizer, [path], replace(sampling, short_side=36))  # its own size: nothing is resized
    found = list(live(recognizer, arriving(read_frames(path)), replace(sampling, short_side=36)))
    # the file's last window is moved to its end; a camera has none
    assert [w.window for w in found] == [w.window for w in expected.windows[:-1]]
    for mine, theirs in zip(found, expected.windows, strict=False):
        np.testing.assert_allclose(mine.probs_K, theirs.probs_K, atol=1e-5)


def test_a_cameras_windows_have_the_times_of_its_frames(recognizer):
    frames = arriving(moving(40, 24, 24, 1))
    found = list(live(recognizer, frames, replace(WHOLE, window_seconds=0.5, hop_seconds=0.3)))
    assert [w.start_seconds for w in found] == [0.0, 4.5, 9.0]
    # a prediction is there with its last clip, which may be before the window's end
    assert all(w.start_seconds < w.end_seconds <= w.start_seconds + 7.0 for w in found)


def test_without_a_window_a_camera_is_asked_clip_by_clip(recognizer):
    frames = arriving(moving(35, 24, 24, 1))
    assert [w.window for w in live(recognizer, frames, WHOLE)] == [Window(0, 10), Window(10, 10), Window(20, 10)]


def test_a_camera_is_stopped_between_frames(recognizer):
    def stop():
        if next(count) == 25:
            raise Interrupted(2)

    count = itertools.count()
    frames = arriving(itertools.repeat(np.zeros((24, 24, 3), np.uint8)))
    found = live(recognizer, frames, WHOLE, stop=stop)
    assert len([next(found), next(found)]) == 2
    with pytest.raises(Interrupted):
        next(found)
