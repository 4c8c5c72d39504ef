"""The built-in demo: generated dark videos of eleven actions in ARID's own layout.

Each (class, group) is a performer with a body and style of its own, so that no performer is in two splits. Clothes,
camera and one of a few places are drawn for each clip: when they were the performer's, a network told the class by the
wallpaper (LOG.md). `nuisance` scales how much all of this varies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field, model_validator

from pipeline.core.files import publish, write_text_whole, written_whole
from pipeline.core.params import Count, NotNegative, Positive, Section
from pipeline.core.progress import Advance, MapTasks, interruptible
from pipeline.core.work_folder import work_folder
from pipeline.data.camera import ARID_LIKE, at_exposure, draw_shot, video_stream
from pipeline.data.frames import Frame
from pipeline.tools.demo.backdrops import PLACES, paint
from pipeline.tools.demo.figures import ACTIONS, Array, Body, Motion, Prop, Style
from pipeline.tools.demo.scenes import SUPERSAMPLING, Backdrop, Lens, Look, draw, dressed
from pipeline.videos.decoder import read_frames
from pipeline.videos.reader import write_video

FORMAT_VERSION = 1  # raised when the same parameters make other videos
LISTS = Path("list_cvt")
SHEET_ROW, SHEET_COLUMNS = 72, 6  # pixels, frames

EvenCount = Annotated[int, Field(ge=32, multiple_of=2)]
ActionName = Literal["Drink", "Jump", "Pick", "Pour", "Push", "Run", "Sit", "Stand", "Turn", "Walk", "Wave"]


class DemoVideosParams(Section):
    """What is rendered. `exposure`: stops from the calibrated camera; `nuisance`: 0 is one view and style for all."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    classes: Annotated[list[ActionName], Field(min_length=2)]
    num_groups: Annotated[int, Field(ge=2)]
    num_test_groups: Count
    clips_per_group: Count
    num_places: Count
    backdrop: Annotated[float, Field(gt=0, le=1)]
    width: EvenCount
    height: EvenCount
    min_frames: Annotated[int, Field(ge=8)]
    max_frames: Annotated[int, Field(ge=8)]
    fps: Positive
    dark: bool
    exposure: Annotated[float, Field(ge=-10, le=10)]
    nuisance: Annotated[NotNegative, Field(le=2)]
    crf: Annotated[int, Field(ge=0, le=51)]

    @model_validator(mode="after")
    def _fits(self) -> DemoVideosParams:
        if list(self.classes) != sorted(set(self.classes)):
            raise ValueError("classes must be in alphabetical order, each once: their places are the labels")
        if self.num_test_groups >= self.num_groups:
            raise ValueError(f"num_test_groups ({self.num_test_groups}) must be below num_groups ({self.num_groups})")
        if self.min_frames > self.max_frames:
            raise ValueError(f"min_frames ({self.min_frames}) must not be above max_frames ({self.max_frames})")
        return self


@dataclass(frozen=True)
class DemoVideo:
    """One video of the demo, by its name's parts."""

    class_name: str
    group: int
    number: int

    @property
    def performer(self) -> str:
        """Name of the (class, group)."""
        return f"{self.class_name}_{self.group}"

    @property
    def stem(self) -> str:
        """Path without suffix, as ARID names its files."""
        return f"{self.class_name}/{self.performer}_{self.number}"


def list_videos(params: DemoVideosParams) -> list[DemoVideo]:
    """All videos, in the order of classes, groups and numbers, which count from 1 as ARID's do."""
    return [
        DemoVideo(name, group, number)
        for name in params.classes
        for group in range(1, params.num_groups + 1)
        for number in range(1, params.clips_per_group + 1)
    ]


def film(params: DemoVideosParams, video: DemoVideo) -> Iterator[Frame]:
    """Frames (H, W, 3) of one video, in daylight or through the low-light camera as `params.dark` says."""
    daylight = render(params, video)
    if not params.dark:
        yield from daylight
        return
    rng = video_stream(params.seed, "camera", video.stem)
    shot = draw_shot(at_exposure(ARID_LIKE, params.exposure), rng)
    for frame in daylight:
        yield shot.expose(frame, rng)


def render(params: DemoVideosParams, video: DemoVideo) -> Iterator[Frame]:
    """Daylight frames (H, W, 3) of one video."""
    cast_rng = video_stream(params.seed, "performer", video.performer)
    clip_rng = video_stream(params.seed, "clip", video.stem)
    set_rng = video_stream(params.seed, "set", video.stem)
    strength = params.nuisance
    num_frames = int(clip_rng.integers(params.min_frames, params.max_frames + 1))
    seconds = np.arange(num_frames) / params.fps
    body, look = _draw_body(cast_rng), _draw_look(set_rng)
    style = _draw_style(cast_rng, clip_rng, strength, seconds[-1])
    lens = _draw_lens(set_rng, clip_rng, strength, seconds)
    backdrop = _draw_backdrop(set_rng, clip_rng, lens, params, num_frames)
    motion = _with_clutter(ACTIONS[video.class_name](seconds, style), set_rng, strength)
    mirrored = clip_rng.random() < 0.5
    for frame in draw(dressed(body, look, motion), motion.root, lens, backdrop, params.height, params.width):
        yield np.ascontiguousarray(frame[:, ::-1]) if mirrored else frame


def _draw_body(rng: np.random.Generator) -> Body:
    return Body(
        height=float(rng.uniform(1.55, 1.9)),
        leg_share=float(rng.uniform(0.47, 0.505)),
        bulk=float(rng.uniform(0.85, 1.25)),
    )


def _draw_look(rng: np.random.Generator) -> Look:
    def colour(low: float, high: float, spread: float) -> tuple[float, float, float]:
        red, green, blue = np.clip(rng.uniform(low, high) + rng.uniform(-spread, spread, 3), 15, 250)
        return float(red), float(green), float(blue)

    complexion = rng.uniform(0.45, 1.0)
    return Look(
        shirt=colour(60, 215, 70),
        trousers=colour(35, 130, 35),
        skin=(232 * complexion, 188 * complexion, 158 * complexion),
        hair=colour(25, 110, 18),
        shoes=colour(25, 200, 15),
        long_sleeves=bool(rng.random() < 0.5),
        long_hair=bool(rng.random() < 0.4),
        prop=colour(70, 210, 70),
    )


def _draw_style(
    cast_rng: np.random.Generator, clip_rng: np.random.Generator, strength: float, duration: float
) -> Style:
    tempo = float(np.exp(0.22 * strength * cast_rng.uniform(-1, 1) + 0.12 * strength * clip_rng.uniform(-1, 1)))
    length = float(min(clip_rng.uniform(1.1, 1.6), 0.5 * duration))
    return Style(
        tempo=tempo,
        amplitude=float(1 + 0.25 * strength * cast_rng.uniform(-1, 1) + 0.12 * strength * clip_rng.uniform(-1, 1)),
        phase=float(clip_rng.random()),
        hunch=float(0.02 + 0.1 * strength * cast_rng.uniform(-0.5, 1)),
        variant=float(np.clip(0.5 + strength * cast_rng.uniform(-0.5, 0.5), 0, 1)),
        start=float(clip_rng.uniform(0.1, 0.9) * (duration - length)),
        length=length,
        sway=float(0.01 + 0.03 * strength * cast_rng.random()),
    )


def _draw_lens(set_rng: np.random.Generator, clip_rng: np.random.Generator, strength: float, seconds: Array) -> Lens:
    def wobble(scale: float) -> Array:
        hertz, phase = clip_rng.uniform(0.3, 2.2, (3, 2)), clip_rng.uniform(0, 2 * np.pi, (3, 2))
        return np.asarray(scale * np.sin(2 * np.pi * seconds[:, None, None] * hertz + phase).mean(axis=1))

    share = 0.86 - 0.34 * strength * set_rng.random()
    azimuth = 0.55 + strength * (1.3 * set_rng.uniform(-1, 1) + 0.35 * clip_rng.uniform(-1, 1))
    return Lens(
        azimuth=float(azimuth),
        tilt=float(0.08 + strength * (0.3 * set_rng.random() + 0.08 * clip_rng.random())),
        distance=float(set_rng.uniform(3.2, 6.5)),
        figure_share=float(share * (1 + 0.12 * strength * clip_rng.uniform(-1, 1))),
        shift=strength * clip_rng.uniform(-1, 1, 2) * np.array([0.12, 0.05]),
        shake=wobble(0.02 * strength) + np.array([0, 0.01]),
        follow=float(set_rng.uniform(0.75, 1.0)),
    )


def _draw_backdrop(
    set_rng: np.random.Generator,
    clip_rng: np.random.Generator,
    lens: Lens,
    params: DemoVideosParams,
    num_frames: int,
) -> Backdrop:
    height, width = SUPERSAMPLING * params.height, SUPERSAMPLING * params.width
    place = int(set_rng.integers(params.num_places))
    place_rng = video_stream(params.seed, "place", str(place))
    distance, margin = float(place_rng.uniform(0.8, 3.0)), height // 8
    behind = np.array([np.sin(lens.azimuth), 0, np.cos(lens.azimuth)]) * -distance
    still = replace(lens, shake=0 * lens.shake[:1])
    foot, _, _ = still.project(behind[None, None], np.zeros((1, 3)), height, width)
    period = 2 * width
    kind = sorted(PLACES)[place % len(PLACES)]
    wall = paint(kind, place_rng, height + 2 * margin, period, int(foot[0, 0, 1]) + margin)
    wall = np.rint(params.backdrop * wall).astype(np.uint8)
    wall = np.roll(wall, int(clip_rng.integers(-width // 4, width // 4 + 1)), axis=1)
    passer = pillar = None
    if clip_rng.random() < 0.45 * params.nuisance:
        way = np.linspace(-0.2, 1.2, num_frames)[:: 1 if clip_rng.random() < 0.5 else -1]
        way = way * clip_rng.uniform(0.4, 1.2) + clip_rng.uniform(-0.2, 0.2)
        passer = np.stack([way, np.full(num_frames, foot[0, 0, 1] / height - 0.1)], axis=1)
    if set_rng.random() < 0.35 * params.nuisance:
        side = set_rng.uniform(0.0, 0.28) if set_rng.random() < 0.5 else set_rng.uniform(0.62, 0.9)
        grey = float(set_rng.uniform(40, 150))
        pillar = (float(side), float(set_rng.uniform(0.06, 0.14)), float(set_rng.uniform(-0.2, 0.6)), (grey,) * 3)
    joined = np.concatenate([wall, wall[:, :width]], axis=1)
    return Backdrop(np.ascontiguousarray(joined), margin, distance, passer, pillar)


def _with_clutter(motion: Motion, rng: np.random.Generator, strength: float) -> Motion:
    """Chairs and boxes stand in other actions' rooms too, so that furniture alone does not give the class away."""
    if rng.random() >= 0.5 * strength:
        return motion
    kind = str(rng.choice(["box", "chair"]))
    place = np.array([rng.choice([-1, 1]) * rng.uniform(0.8, 1.3), 0, rng.uniform(-1.2, -0.4)])
    return replace(motion, props=(*motion.props, Prop(kind, place=np.tile(place, (len(motion.yaw), 1)))))


def write_demo(params: DemoVideosParams, out: Path, *, run: MapTasks, advance: Advance) -> None:
    """Write the videos and lists of ARID's layout to the folder `out`, replacing it; a killed run resumes.

    `advance(count, note)` is called for every video. Files end in .mp4 and lists say .avi, as in the copies of ARID in
    circulation, so that the loader is tested with it.
    """
    with (
        interruptible() as stop,
        work_folder(
            "demo_videos", params=params.model_dump(), inputs={}, format_version=FORMAT_VERSION, outs=[out], stop=stop
        ) as work,
    ):
        root = work.path / "videos"
        videos = list_videos(params)
        todo = [_Task(params, video, root) for video in videos if not _path(root, video).exists()]  # written whole
        advance(len(videos) - len(todo), "", earlier=True)
        run(_write_one, todo, name=str, done=lambda task, _: advance(1, str(task)), stop=stop)
        write_lists(params, root)
        publish(root, out)
        work.finish()


@dataclass(frozen=True)
class _Task:
    params: DemoVideosParams
    video: DemoVideo
    root: Path

    def __str__(self) -> str:
        return self.video.stem


def _write_one(task: _Task) -> None:
    frames, params = film(task.params, task.video), task.params
    write_video(_path(task.root, task.video), frames, fps=params.fps, crf=params.crf)


def _path(root: Path, video: DemoVideo) -> Path:
    return root / f"{video.stem}.mp4"


def write_lists(params: DemoVideosParams, root: Path) -> None:
    """Write train and test list of split 1 and the class table, as ARID has them: tab-separated, without header."""
    test_groups: dict[str, set[int]] = {
        name: set(video_stream(params.seed, "split", name).permutation(params.num_groups)[: params.num_test_groups] + 1)
        for name in params.classes
    }
    labels: dict[str, int] = {name: label for label, name in enumerate(params.classes)}
    rows: dict[str, list[str]] = {"train": [], "test": []}
    for video in list_videos(params):
        split = rows["test" if video.group in test_groups[video.class_name] else "train"]
        split.append(f"{len(split)}\t{labels[video.class_name]}\t{video.stem}.avi\n")
    for name, lines in rows.items():
        write_text_whole(root / LISTS / f"ARID_split1_{name}.txt", "".join(lines))
    table = "".join(f"{label}\t{name}\n" for label, name in enumerate(params.classes))
    write_text_whole(root / LISTS / "mapping_table.txt", table)


def contact_sheet(params: DemoVideosParams, path: Path) -> None:
    """Write a small PNG with a row for each class: frames of its first video, in time.

    They are what the codec leaves of them, as the networks get them.
    """
    width = round(SHEET_ROW * params.width / params.height)
    rows = []
    for name in params.classes:
        with TemporaryDirectory() as folder:
            stored = Path(folder) / "video.mp4"
            write_video(stored, film(params, DemoVideo(name, 1, 1)), fps=params.fps, crf=params.crf)
            frames = list(read_frames(stored))
        chosen = [frames[round(index)] for index in np.linspace(0.04, 0.96, SHEET_COLUMNS) * (len(frames) - 1)]
        row = np.concatenate(
            [cv2.resize(frame, (width, SHEET_ROW), interpolation=cv2.INTER_AREA) for frame in chosen], 1
        )
        row &= 0xF8  # five bits a channel: half of the bytes
        cv2.putText(row, name, (2, 9), cv2.FONT_HERSHEY_SIMPLEX, 0.32, (255, 255, 255), 1, cv2.LINE_AA)
        rows.append(row)
    with written_whole(path) as partial:
        encoded, data = cv2.imencode(".png", np.concatenate(rows)[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
        assert encoded
        partial.write_bytes(data.tobytes())
