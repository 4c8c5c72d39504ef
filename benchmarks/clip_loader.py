"""Clips a second of our loader over those of loaders that decode the video for every clip.

    python -m benchmarks.clip_loader

All loaders give the random views of training, of the same videos, in batches of the same size from as many workers:
clips of 16 frames at a stride of 2, resized to 112×112. Ours reads a frame store of 128 pixels on the short side.
"PyAV" decodes a file from its start as far as the clip's last frame, converts the frames that it needs, and goes on as
ours: its pixels are the same, which is checked. It does not seek: these files have a key frame or two.
"pytorchvideo" is its LabeledVideoDataset with its PyAV decoder, followed by one crop and resize: its own transforms
do not import beside today's torchvision.

The loaders take turns, first without workers, then with them; a ratio is the median over the rounds of the ratio within
a round. CPU time is that of all processes, and other work on the machine disturbs it least. Every file is in the page
cache: what disks and networks add is not measured.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader

import pipeline.models.torchvision_compat  # noqa: F401 - before pytorchvideo, which imports torchvision
from benchmarks.material import best_seconds, render_videos, used_cpu_seconds, write_store
from pipeline.core.params import ClipParams, ViewsParams, load_params
from pipeline.data.dataset import BANK, ClipDataset, DrawnViews, EpochPlan, Sample, load_batches
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import Frames
from pipeline.data.views import draw_view, read_view
from pipeline.videos.reader import SCALING

# isort: split
from pytorchvideo.data import LabeledVideoDataset, make_clip_sampler

PARAMS = load_params(Path(__file__).parent.parent / "params.yaml")
FPS = 30


@dataclass(frozen=True)
class Setting:
    """Videos, the clips that are taken from them, and how many of a loader that reads and of one that decodes."""

    num_videos: int
    video_frames: int
    video_size: tuple[int, int]  # width, height
    short_side: int
    clip: ClipParams
    batch_size: int
    num_read: int
    num_decoded: int
    rounds: int


FULL = Setting(16, 150, (320, 240), 128, ClipParams(num_frames=16, frame_stride=2, size=112), 16, 2048, 128, 3)
TINY = Setting(2, 40, (80, 60), 32, ClipParams(num_frames=8, frame_stride=2, size=28), 2, 8, 4, 1)


@dataclass(frozen=True)
class Speed:
    """What one clip took: seconds by the clock, and CPU seconds of all processes."""

    seconds: float
    cpu_seconds: float


class DecodedFrames:
    """Stands in for a frame store, and decodes the video for every clip, as far as the clip's last frame."""

    def __init__(self, paths: Mapping[str, Path], store: FrameStore) -> None:
        self.paths = paths
        self.shapes = {video_id: store.shape(video_id) for video_id in paths}

    def shape(self, video_id: str) -> tuple[int, int, int]:
        return self.shapes[video_id]

    def read(self, video_id: str, frames: NDArray[np.int64], *, top: int, left: int, height: int, width: int) -> Frames:
        """As FrameStore.read."""
        _, full_height, full_width = self.shapes[video_id]
        numbers = frames.tolist()
        last, wanted = max(numbers), set(numbers)
        boxes = {}
        reformatter = VideoReformatter()
        with av.open(str(self.paths[video_id])) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for number, frame in enumerate(itertools.islice(container.decode(stream), last + 1)):
                if number in wanted:
                    image = reformatter.reformat(
                        frame, width=full_width, height=full_height, format="rgb24", interpolation=SCALING,
                        dst_color_range=ColorRange.JPEG, threads=1,
                    ).to_ndarray()  # fmt: skip
                    boxes[number] = image[top : top + height, left : left + width]
        return np.stack([boxes[number] for number in numbers])


@dataclass(frozen=True)
class Pytorchvideo:
    """What pytorchvideo's users write as a transform, with views drawn as ours."""

    clip: ClipParams
    views: ViewsParams

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        clip_CTHW = sample["video"][:, :: self.clip.frame_stride][:, : self.clip.num_frames]
        number = int(torch.randint(2**31, ()))
        view = draw_view(
            tuple(clip_CTHW.shape[1:]), self.clip, self.views, seed=0, purpose=BANK,
            video_id=sample["video_name"], number=number,
        )  # fmt: skip
        box_CTHW = clip_CTHW[..., view.top : view.top + view.height, view.left : view.left + view.width]
        # without antialias, as pytorchvideo's own functions: it takes less time
        clip_CTHW = interpolate(box_CTHW, size=(self.clip.size, self.clip.size), mode="bilinear")
        return {"video": clip_CTHW.flip(-1) if view.flip else clip_CTHW, "label": sample["label"]}


class Loaders:
    """The loaders over one set of videos; each gives the clips of its batches."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.setting = setting
        width, height = setting.video_size
        paths = render_videos(folder, setting.num_videos, width=width, height=height, num_frames=setting.video_frames)
        self.paths = {path.stem: path for path in paths}
        self.raw = write_store(paths, folder / "raw", num_shards=4, short_side=setting.short_side)
        quality = PARAMS.prepare.jpeg_quality
        self.jpeg = write_store(
            paths, folder / "jpeg", num_shards=4, short_side=setting.short_side, codec="jpeg", jpeg_quality=quality
        )
        self.decoded = DecodedFrames(self.paths, self.raw)
        self.samples = [Sample(video_id, 0) for video_id in self.raw.video_ids]
        self.views = DrawnViews(self.raw, setting.clip, PARAMS.views, seed=0, purpose=BANK)

    def ours(self, frames: FrameStore | DecodedFrames, num_clips: int, num_workers: int) -> Iterator[Tensor]:
        dataset = ClipDataset(frames, self.samples, self.views, self.setting.clip)
        plan = EpochPlan(len(self.samples), self.setting.batch_size, seed=0)
        batches = plan.batches_from(0, num_epochs=-(-num_clips // len(self.samples)))
        return (batch.clip_BTHWC for batch in load_batches(dataset, batches, num_workers=num_workers))

    def pytorchvideo(self, num_clips: int, num_workers: int) -> Iterator[Tensor]:
        clip, num_epochs = self.setting.clip, -(-num_clips // len(self.paths))
        dataset = LabeledVideoDataset(
            [(str(path), {"label": 0}) for path in self.paths.values()] * num_epochs,
            make_clip_sampler("random", Fraction((clip.num_frames - 1) * clip.frame_stride + 1, FPS)),
            transform=Pytorchvideo(clip, PARAMS.views),
            decode_audio=False,
        )
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=self.setting.batch_size,
            num_workers=num_workers,
            worker_init_fn=lambda _worker: torch.set_num_threads(1),
        )
        return (batch["video"] for batch in loader)

    def check(self) -> None:
        """That decoding for every clip gives the very pixels of the raw store."""
        stored, decoded = (self.ours(frames, self.setting.num_decoded, 0) for frames in (self.raw, self.decoded))
        assert all(torch.equal(a, b) for a, b in zip(stored, decoded, strict=True))


def measure(batches: Iterable[Tensor]) -> Speed:
    """Load everything; the workers have ended, and count, when it is through."""
    before, start = used_cpu_seconds(), time.perf_counter()
    num_clips = sum(len(clips) for clips in batches)
    return Speed((time.perf_counter() - start) / num_clips, (used_cpu_seconds() - before) / num_clips)


def compare(loaders: Loaders, num_workers: int) -> dict[str, float]:
    """Clips a second of all loaders, and ours over those that decode; returns the CPU seconds of a clip."""
    setting = loaders.setting
    kinds: dict[str, Callable[[], Iterator[Tensor]]] = {
        "ours, raw": lambda: loaders.ours(loaders.raw, setting.num_read, num_workers),
        "ours, jpeg": lambda: loaders.ours(loaders.jpeg, setting.num_read, num_workers),
        "PyAV": lambda: loaders.ours(loaders.decoded, setting.num_decoded, num_workers),
        "pytorchvideo": lambda: loaders.pytorchvideo(setting.num_decoded, num_workers),
    }
    rounds = [{name: measure(open_loader()) for name, open_loader in kinds.items()} for _ in range(setting.rounds)]
    cpu = {name: statistics.median(speeds[name].cpu_seconds for speeds in rounds) for name in kinds}
    print(f"\n{f'{num_workers} workers':41}raw store over it    jpeg store over it")
    print("loader         clips/s   CPU ms a clip   clips/s   CPU time   clips/s   CPU time")
    for name in kinds:
        rate = statistics.median(1 / speeds[name].seconds for speeds in rounds)
        print(f"{name:14} {rate:7.0f} {cpu[name] * 1e3:15.2f}", end="")
        for ours in ("ours, raw", "ours, jpeg") if not name.startswith("ours") else ():
            ratio = statistics.median(speeds[name].seconds / speeds[ours].seconds for speeds in rounds)
            cpu_ratio = statistics.median(speeds[name].cpu_seconds / speeds[ours].cpu_seconds for speeds in rounds)
            print(f"{ratio:11.1f} {cpu_ratio:10.1f}", end="")
        print(flush=True)
    return cpu


def show_parts(loaders: Loaders, num_views: int, with_workers: dict[str, float]) -> None:
    """Where our time goes; what a clip takes more with workers than without is its way between processes."""
    clip, views = loaders.setting.clip, loaders.views
    keys = [(sample.video_id, number) for number in range(num_views) for sample in loaders.samples]
    drawn = [(video_id, views.lookup(video_id, number)[0]) for video_id, number in keys]

    def milliseconds(work: Callable[[], object]) -> float:
        return best_seconds(work, number=1) / len(keys) * 1e3

    def read(frames: FrameStore) -> None:
        for video_id, view in drawn:
            numbers = view.first_frame + view.frame_stride * np.arange(clip.num_frames)
            frames.read(video_id, numbers, top=view.top, left=view.left, height=view.height, width=view.width)

    def apply(frames: FrameStore) -> None:
        for video_id, view in drawn:
            read_view(frames, video_id, view, clip)

    drawing = milliseconds(lambda: [views.lookup(*key) for key in keys])
    print("\nour CPU ms a clip   draw the view   read, decode   resize, flip   into a batch   between processes")
    for name, frames in (("raw", loaders.raw), ("jpeg", loaders.jpeg)):
        reading, applying = milliseconds(lambda f=frames: read(f)), milliseconds(lambda f=frames: apply(f))
        whole = milliseconds(lambda f=frames: sum(map(len, loaders.ours(f, len(keys), 0))))
        transfer = with_workers[f"ours, {name}"] * 1e3 - whole
        print(
            f"{name:17} {drawing:15.2f} {reading:14.2f} {applying - reading:14.2f} {whole - drawing - applying:14.2f}"
            f"{transfer:20.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a few small clips: to see that the script works")
    options = parser.parse_args()
    setting = TINY if options.tiny else FULL
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        loaders = Loaders(Path(folder), setting)
        loaders.check()
        clip, (width, height) = setting.clip, setting.video_size
        print(
            f"{setting.num_videos} videos of {setting.video_frames} frames, {width}×{height}; clips of "
            f"{clip.num_frames}×{clip.size}×{clip.size}; batches of {setting.batch_size}; {os.cpu_count()} CPUs"
        )
        compare(loaders, num_workers=0)
        show_parts(loaders, setting.num_read // 128 or 1, compare(loaders, options.num_workers))


if __name__ == "__main__":
    main()
