"""Say what videos, folders or a camera show, with one model file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.device import choose_device
from pipeline.core.errors import DataError, EnvironmentProblem, Interrupted, ParamsError
from pipeline.core.params import load_params
from pipeline.core.progress import interruptible
from pipeline.enhance.file import CLASSICAL, Classical, classical_from_params
from pipeline.models.recognizer import ModelFile, load_model
from pipeline.tools.export.card import role_of
from pipeline.tools.predict.inference import BrokenVideo, Sampling, VideoPrediction, predict_live, predict_videos
from pipeline.tools.predict.inputs import VideoInput, find_videos, opened_webcam, webcam_number
from pipeline.tools.predict.overlay import plan_overlays, write_overlay
from pipeline.videos.prepare import track_notes
from stages._model_file import ModelFileOption
from stages._predictions import Task, csv_table, print_table, print_window, video_values, window_values
from stages._shell import PARAMS_PATH, DeviceOption, ParamsOption, print_json, progress, say

ENHANCERS = tuple(name for name in CLASSICAL if name != "none")


def main(
    *,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO...", help="Videos, folders, folders of frames, patterns in quotes; or webcam, webcam:N."
        ),
    ],
    model_path: ModelFileOption,
    window: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Length of the windows to predict; else the whole video.")
    ] = None,
    hop: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="From the start of one window to the next; else its length.")
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option(min=1, help="Clips of a video or window, to be averaged.", show_default="as params"),
    ] = None,
    crops: Annotated[
        int | None, typer.Option(min=1, help="Crops of each clip, 1 or 3.", show_default="as params")
    ] = None,
    short_side: Annotated[
        int | None,
        typer.Option(min=16, help="Frames' short side when the model was trained.", show_default="as params"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Clips that the model sees at once.", show_default="as params")
    ] = None,
    fps: Annotated[float, typer.Option(help="Frames a second of inputs that state none, as folders.")] = 25.0,
    top_k: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: one document, or for a camera a line for each window.")
    ] = False,
    csv_path: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Also write the probabilities of all classes there."),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(metavar="OUT.mp4", help="Draw the predictions on the frames; a folder for several videos."),
    ] = None,
    enhancer: Annotated[
        str | None,
        typer.Option(
            "--enhanced-beside",
            metavar="NAME",
            help=f"With --overlay: also show the frames under {', '.join(ENHANCERS)}.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing overlays.")] = False,
    params_path: ParamsOption = PARAMS_PATH,
    device: DeviceOption = "auto",
) -> None:
    """Say what videos, folders or a camera show, with one model file.

    Frames are resized as `prepare` did for training and cut into clips as `score-student` does, so that the same video
    gets the same probabilities. These numbers are not in the model file; they come from --params or from options.

    A broken video stops no other; it is reported, and the exit code is 3.

    Example: dlkdd predict night.mp4 --model models/student.safetensors --window 2 --overlay out.mp4
    """
    _check_seconds(window, hop, fps)
    camera = _camera(inputs, {"--overlay": overlay, "--enhanced-beside": enhancer, "--batch-size": batch_size})
    model = load_model(model_path)
    at_once = 1 if camera is not None else batch_size
    given = {"--short-side": short_side, "--clips": clips, "--crops": crops, "--batch-size": at_once}
    side, num_clips, num_crops, at_once = _numbers(given, params_path, model)
    task = Task(
        model,
        Sampling(side, num_clips, num_crops, window, hop, fps),
        top_k,
        at_once,
        choose_device(device),
        as_json,
        csv_path,
    )
    if role_of(model.trained_on) == "teacher":
        say("predict: this is a teacher: it learnt from enhanced frames, and sees these as they are")
    if camera is not None:
        _predict_camera(task, camera)
        return
    videos = find_videos(inputs)
    if enhancer is not None and overlay is None:
        raise ParamsError("--enhanced-beside is a view of the overlay", remedy="name its file with --overlay")
    files = {} if overlay is None else plan_overlays(videos, overlay, force=force)
    _predict_files(task, videos, files, None if enhancer is None else _beside(enhancer, params_path))


def _check_seconds(window: float | None, hop: float | None, fps: float) -> None:
    for name, value in (("--window", window), ("--hop", hop), ("--fps", fps)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ParamsError(f"{name} is a number above 0, not {value}")
    if hop is not None and window is None:
        raise ParamsError("--hop is from one window to the next", remedy="give the windows' length with --window")


def _camera(inputs: Sequence[str], options: Mapping[str, object]) -> int | None:
    """The number of the camera, if one is named; raises ParamsError for inputs and options that do not go with it."""
    cameras = [text for text in inputs if webcam_number(text) is not None]
    if not cameras:
        return None
    if len(inputs) > 1:
        raise ParamsError(f"{cameras[0]} has no end: it stands alone", remedy="name a file of that name ./webcam")
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ParamsError(
            f"{cameras[0]} does not take {' and '.join(given)}", remedy="record a video, and predict the file"
        )
    return webcam_number(cameras[0])


def _numbers(given: Mapping[str, int | None], params_path: Path, model: ModelFile) -> list[int]:
    """The given numbers, and from the parameters those that are None.

    Raises ParamsError where there are no parameters, or those of other clips than the model's.
    """
    missing = [name for name, value in given.items() if value is None]
    if not missing:
        return [value for value in given.values() if value is not None]
    options = ", ".join(missing)
    if not params_path.is_file():
        raise ParamsError(
            f"{params_path}: no such parameter file, and the model file does not know {options}",
            remedy=f"give {options}, or name the parameters of its training with --params",
        )
    params = load_params(params_path)
    clip = model.recognizer.architecture.clip
    if clip not in params.clips().values():
        raise ParamsError(
            f"{params_path}: has parameters of another training, so that {options} would be wrong",
            findings=[
                *(f"its clip of {name}: {each}" for name, each in params.clips().items()),
                f"the model's clip: {clip}",
            ],
            remedy=f"name the parameters of its training with --params, or give {options}",
        )
    stated = {"--short-side": params.prepare.short_side, "--clips": params.score.num_clips}
    stated["--crops"], stated["--batch-size"] = params.score.num_crops, params.score.batch_size
    return [stated[name] if value is None else value for name, value in given.items()]


def _beside(name: str, params_path: Path) -> Classical:
    if name not in ENHANCERS:
        raise ParamsError(f"--enhanced-beside {name}: expected one of {', '.join(ENHANCERS)}")
    params = load_params(params_path)
    return classical_from_params(name, params.fit_enhancer)


def _predict_files(
    task: Task, videos: Sequence[VideoInput], overlays: Mapping[Path, Path], beside: Classical | None
) -> None:
    """Print what the model says about files. overlays: the file to write for each video, by the video's path."""
    results: list[VideoPrediction | BrokenVideo] = []
    try:
        with (
            interruptible() as stop,
            csv_table(task) as add_row,
            progress("predict", len(videos), "videos") as advance,
        ):

            def watch(path: Path, number: int) -> None:
                stop()
                advance(0, f"{path.name}, frame {number:,}")

            found = predict_videos(
                task.model.recognizer,
                [video.path for video in videos],
                task.sampling,
                batch_size=task.batch_size,
                device=task.device,
                watch=watch,
            )
            for result in found:
                if isinstance(result, BrokenVideo):
                    add_row(result, str(result.path))
                else:
                    for window in result.windows:
                        add_row(window, str(result.path))
                    if result.path in overlays:
                        write_overlay(
                            result,
                            overlays[result.path],
                            class_names=task.model.class_names,
                            top_k=task.top_k,
                            beside=beside,
                            watch=watch,
                        )
                    for note in track_notes({str(result.path): result.info}):
                        say(f"predict: {note}")
                results.append(result)
                advance(1, result.path.name)
    except Interrupted as error:
        say(f"predict: interrupted after {len(results)} of {len(videos)} videos; only finished overlays are kept")
        raise typer.Exit(error.exit_code) from None
    _show(task, results)


def _show(task: Task, results: Sequence[VideoPrediction | BrokenVideo]) -> None:
    """Print the predictions; raises DataError with the broken videos."""
    videos = [result for result in results if isinstance(result, VideoPrediction)]
    broken = [result for result in results if isinstance(result, BrokenVideo)]
    if task.as_json:
        protocol = {**asdict(task.sampling), "clip": task.model.recognizer.architecture.clip.model_dump()}
        values = {
            "model": {"digest": task.model.digest, "architecture": task.model.recognizer.architecture.name},
            "class_names": list(task.model.class_names),
            "sampling": protocol,
            "videos": [video_values(task, video) for video in videos],
            "broken": [{"path": str(video.path), "reason": video.reason} for video in broken],
        }
        print_json(values)
    elif videos:
        print_table(task, videos)
    if broken:
        raise DataError(
            f"{len(broken)} of {len(results)} videos are broken",
            findings=[f"{video.path}: {video.reason}" for video in broken],
        )


def _predict_camera(task: Task, number: int) -> None:
    """Print each window of a camera until a signal, the normal end, or until the camera gives no more frames."""
    with (
        csv_table(task) as add_row,
        interruptible() as stop,
        opened_webcam(number) as camera,
    ):
        found = predict_live(
            task.model.recognizer,
            camera.frames(),
            task.sampling,
            fps=camera.fps or task.sampling.unstated_fps,
            device=task.device,
            stop=stop,
        )
        lost: EnvironmentProblem | None = None
        try:
            for window in found:
                add_row(window, f"webcam:{number}")
                if task.as_json:
                    print_json(window_values(task, window), indent=None)
                else:
                    print_window(task, window)
        except Interrupted:
            say("predict: stopped")
        except EnvironmentProblem as error:
            lost = error  # the table is kept
    if lost is not None:
        raise lost
