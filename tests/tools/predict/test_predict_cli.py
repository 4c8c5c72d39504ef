"""`dlkdd predict` as a user calls it: table, JSON, CSV, overlays, exit codes, and what is refused before work."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders import CLASSES, CLIP, one_thread, tiny_recognizer  # noqa: F401
from camera_frames import FakeCapture, smooth
from ffmpeg import ffmpeg
from paths import ROOT

from pipeline.core.params import ClipParams
from pipeline.models.recognizer import save_model
from pipeline.tools.predict import inputs
from pipeline.videos.reader import probe, write_video


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a model, the parameters of its training, and two good videos beside a broken one."""
    monkeypatch.chdir(tmp_path)
    save_model(Path("model.safetensors"), tiny_recognizer(), class_names=CLASSES, trained_on={"stage": "train_student"})
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["clip"] = CLIP.model_dump()
    values["prepare"]["short_side"] = 20
    Path("params.yaml").write_text(yaml.safe_dump(values))
    write_video(Path("night/a.mp4"), smooth(25, 36, 48), fps=10)
    write_video(Path("night/deep/b.mp4"), smooth(12, 36, 48), fps=10)
    Path("night/bad.mp4").write_bytes(b"no video")
    return tmp_path


@pytest.fixture
def predict(project, call):
    def run(*arguments):
        return call("predict", "--model", "model.safetensors", *arguments)

    return run


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_of_the_highest_classes(predict):
    code, out, _ = predict("night/a.mp4", "--top-k", 2)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["video", "class"]
    assert lines[1].split()[0] == "night/a.mp4"
    assert "25 frames, 0:02.5" in lines[2]
    assert sum(name in out for name in CLASSES) == 2
    assert "%" in lines[1]


def test_windows_are_the_timeline_of_the_table(predict):
    _, out, _ = predict("night/a.mp4", "--top-k", 1, "--window", 1)
    spans = [line.strip().split("  ")[0] for line in out.splitlines() if " to " in line]
    assert spans == ["0:00.0 to 0:01.0", "0:01.0 to 0:02.0", "0:01.5 to 0:02.5"]


def test_a_second_video_track_is_told_of(predict, project):
    inputs = [("-f", "lavfi", "-i", f"testsrc=s={size}:r=10:d=1") for size in ("48x36", "96x72")]
    ffmpeg(*(word for words in inputs for word in words), "-map", "0", "-map", "1", project / "two.ts")
    code, _, err = predict("two.ts")
    assert code == 0
    assert (
        "predict: of several video tracks the one that ffmpeg chooses is read, of the size given: two.ts (96x72)" in err
    )


def test_json_is_one_document_with_the_broken_videos_in_it(predict):
    code, out, err = predict("night", "--json", "--top-k", 2)
    found = json.loads(out)
    assert code == 3
    assert [video["path"] for video in found["videos"]] == ["night/a.mp4", "night/deep/b.mp4"]
    assert [video["path"] for video in found["broken"]] == ["night/bad.mp4"]
    assert found["broken"][0]["reason"]
    assert err.splitlines()[-2:] == [
        "error: 1 of 3 videos are broken",
        f"  - night/bad.mp4: {found['broken'][0]['reason']}",
    ]
    video = found["videos"][0]
    assert (video["num_frames"], video["fps"], video["seconds"]) == (25, 10, 2.5)
    assert "windows" not in video
    top = [entry["probability"] for entry in video["top"]]
    assert len(top) == 2
    assert top == sorted(top, reverse=True)
    assert found["class_names"] == list(CLASSES)
    assert found["sampling"]["short_side"] == 20
    assert len(found["model"]["digest"]) == 32


def test_json_has_the_windows(predict):
    _, out, _ = predict("night/a.mp4", "--json", "--window", 1, "--hop", 0.5)
    (video,) = json.loads(out)["videos"]
    assert [(w["start_seconds"], w["end_seconds"]) for w in video["windows"]] == [
        (0, 1),
        (0.5, 1.5),
        (1, 2),
        (1.5, 2.5),
    ]
    means = {}
    for window in video["windows"]:
        for entry in window["top"]:
            means[entry["class"]] = means.get(entry["class"], 0) + entry["probability"] / 4
    assert {entry["class"]: entry["probability"] for entry in video["top"]} == pytest.approx(means, abs=2e-6)


def test_csv_has_every_class_of_every_window_and_the_broken(predict, project):
    code, out, _ = predict("night", "--csv", "all.csv", "--json", "--window", 1)
    assert code == 3
    found = rows(project / "all.csv")
    assert [row["path"] for row in found] == ["night/a.mp4"] * 3 + ["night/bad.mp4"] + ["night/deep/b.mp4"] * 2
    good = [row for row in found if not row["broken"]]
    windows = [window for video in json.loads(out)["videos"] for window in video["windows"]]
    for row, window in zip(good, windows, strict=True):
        assert row["predicted"] == window["top"][0]["class"]
        assert float(row[f"p:{row['predicted']}"]) == window["top"][0]["probability"]
        assert sum(float(row[f"p:{name}"]) for name in CLASSES) == pytest.approx(1, abs=2e-6)
    (bad,) = [row for row in found if row["broken"]]
    assert bad["predicted"] == bad["p:drink"] == ""


def test_all_broken_is_3_with_nothing_but_the_reasons(predict):
    code, out, err = predict("night/bad.mp4")
    assert (code, out) == (3, "")
    assert "1 of 1 videos are broken" in err


def test_an_overlay_of_one_video_is_a_file_and_of_several_a_folder(predict, project):
    assert predict("night/a.mp4", "--overlay", "look.mp4", "--window", 1)[0] == 0
    assert (probe(project / "look.mp4").num_frames, probe(project / "look.mp4").fps) == (25, 10)
    options = ["--overlay", "look", "--enhanced-beside", "clahe"]
    assert predict("night", *options)[0] == 3
    assert sorted(path.relative_to("look").as_posix() for path in Path("look").rglob("*.mp4")) == [
        "a.mp4",
        "deep/b.mp4",
    ]
    assert probe(project / "look/a.mp4").width == 2 * probe(project / "look.mp4").width
    code, _, err = predict("night", *options)
    assert code == 2
    assert "already exists; --force replaces it" in err
    assert predict("night", *options, "--force")[0] == 3


def test_names_cannot_speak_to_the_terminal(predict, project):
    name = "night/\x1b[31mred\udcff.mp4"
    (project / "night/a.mp4").rename(project / name)
    (project / "night/bad.mp4").rename(project / "night/\x1b[31mbad.mp4")
    code, out, err = predict("night", "--csv", "all.csv")
    assert code == 3
    assert "\x1b[31m" not in out + err
    assert "\N{REPLACEMENT CHARACTER}[31mred" in out
    _, out, _ = predict("night", "--json")
    assert json.loads(out)["videos"][0]["path"] == name
    assert "\x1b" not in out
    assert os.fsencode(name) in (project / "all.csv").read_bytes()


# the numbers that the model file does not know


def test_options_stand_in_for_the_parameters(predict, project):
    with_params = json.loads(predict("night/a.mp4", "--json")[1])
    (project / "params.yaml").unlink()
    code, _, err = predict("night/a.mp4", "--json", "--clips", 3)
    assert code == 2
    assert "the model file does not know --short-side, --crops, --batch-size" in err
    options = ["--short-side", 20, "--clips", 3, "--crops", 1, "--batch-size", 32]
    assert json.loads(predict("night/a.mp4", "--json", *options)[1]) == with_params
    other = json.loads(predict("night/a.mp4", "--json", *options[2:], "--short-side", 30)[1])
    assert other["videos"][0]["top"] != with_params["videos"][0]["top"]


def test_parameters_of_another_training_are_refused(predict, project):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["clip"]["num_frames"] += 1
    Path("params.yaml").write_text(yaml.safe_dump(values))
    code, out, err = predict("night/a.mp4")
    assert (code, out) == (2, "")
    assert "parameters of another training" in err
    assert predict("night/a.mp4", "--short-side", 20, "--clips", 3, "--crops", 1, "--batch-size", 32)[0] == 0


def test_a_teacher_of_its_own_clip_is_of_the_same_training(predict):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["teacher_clip"] = {**values["clip"], "size": values["clip"]["size"] + 8}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    teacher = tiny_recognizer(clip=ClipParams(**values["teacher_clip"]))
    save_model(Path("model.safetensors"), teacher, class_names=CLASSES, trained_on={"stage": "train_teacher"})
    code, out, err = predict("night/a.mp4")
    assert code == 0, err
    assert "night/a.mp4" in out


@pytest.mark.parametrize("stage", ["train_teacher", "train_more_teacher", "train_teacher_folds"])
def test_a_teacher_is_not_stopped_but_said_to_be_one(predict, stage):
    save_model(Path("model.safetensors"), tiny_recognizer(), class_names=CLASSES, trained_on={"stage": stage})
    code, _, err = predict("night/a.mp4")
    assert code == 0
    assert "this is a teacher" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["night", "--hop", 1], 2, "--hop is from one window to the next"),
        (["night", "--window", 0], 2, "--window is a number above 0"),
        (["night", "--window", "nan"], 2, "--window is a number above 0"),
        (["night", "--fps", "inf"], 2, "--fps is a number above 0"),
        (["night", "--enhanced-beside", "clahe"], 2, "a view of the overlay"),
        (["night", "--overlay", "out", "--enhanced-beside", "none"], 2, "expected one of gamma, gamma_auto"),
        (["night", "--overlay", "out", "--enhanced-beside", "sci"], 2, "expected one of gamma, gamma_auto"),
        (["night", "--overlay", "out.mp4"], 2, "3 videos need a folder"),
        (["night", "gone.mp4"], 3, "gone.mp4: no such file or folder"),
        (["night", "webcam"], 2, "webcam has no end: it stands alone"),
        (["webcam", "--overlay", "x.mp4"], 2, "webcam does not take --overlay"),
        (["webcam", "--batch-size", 3], 2, "webcam does not take --batch-size"),
        (["webcam:199"], 4, "webcam:199: there is no such camera"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_before_work(predict, project, arguments, code, words):
    found, out, err = predict(*arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert {path.name for path in project.iterdir()} == {"model.safetensors", "params.yaml", "night"}


def test_a_file_that_is_no_model_is_5(predict):
    Path("model.safetensors").write_bytes(b"nothing")
    assert predict("night/a.mp4")[0] == 5


def test_an_interrupted_run_prints_no_result(predict, monkeypatch, project):
    def read(path, **_options):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from smooth(25, 20, 26)

    monkeypatch.setattr("pipeline.tools.predict.inference.read_frames", read)
    code, out, err = predict("night", "--json", "--csv", "all.csv")
    assert (code, out) == (143, "")
    assert "interrupted after 0 of 3 videos" in err
    assert not (project / "all.csv").exists()


# a camera


@pytest.fixture
def camera(monkeypatch):
    """A fake camera of 25 frames, which then is unplugged, or else sends this process Ctrl-C and goes on."""

    def attach(*, interrupted):
        def frames():
            yield from np.zeros((25, 36, 48, 3), np.uint8)
            while interrupted:
                os.kill(os.getpid(), signal.SIGINT)
                yield np.zeros((36, 48, 3), np.uint8)

        monkeypatch.setattr(inputs.cv2, "VideoCapture", lambda number: FakeCapture(frames(), fps=10.0))

    return attach


def test_a_camera_is_a_line_of_json_for_each_window_until_ctrl_c(predict, camera, project):
    camera(interrupted=True)
    code, out, err = predict("webcam", "--json", "--window", 1, "--top-k", 1, "--csv", "live.csv")
    assert code == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == 2
    assert all(len(window["top"]) == 1 and window["start_seconds"] <= window["end_seconds"] for window in found)
    assert err == "predict: stopped\n"
    assert [row["path"] for row in rows(project / "live.csv")] == ["webcam:0"] * 2


def test_a_camera_that_is_unplugged_leaves_what_it_showed(predict, camera, project):
    camera(interrupted=False)
    code, out, err = predict("webcam:1", "--window", 1, "--csv", "live.csv")
    assert code == 4
    assert "webcam:1: it gave no more frames after 25" in err
    assert len(out.splitlines()) == 2
    assert all(name in out for name in CLASSES)
    assert len(rows(project / "live.csv")) == 2
