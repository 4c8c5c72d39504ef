"""Frame store: what raw and JPEG frames cost, on dark frames and on the same frames after a gamma of 2.2.

    python -m benchmarks.frame_store

Prints ratios to the raw store of the same run, of CPU time: other work on the machine disturbs that least. The material
is the built-in demo, darkened and coded as H.264 like the real videos, 128×171. A clip is 16 frames at a stride of 4.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import simplejpeg

from benchmarks.in_memory import enhance_frames
from benchmarks.material import best_seconds, render_videos
from pipeline.data.frame_shard import Codec, write_shard
from pipeline.data.frame_store import FrameStore, shard_path, write_index
from pipeline.data.frames import Frames
from pipeline.enhance.classical import Gamma
from pipeline.videos.reader import read_frames

LIFT = partial(enhance_frames, Gamma(2.2))
CLIP_FRAMES, CLIP_STRIDE = 16, 4
QUALITIES = (90, 95, 98)


def dark_videos(folder: Path, count: int) -> dict[str, Frames]:
    """Dark demo videos, once through H.264."""
    paths = render_videos(folder, count, width=228, height=170, num_frames=64)
    return {path.stem: np.stack(list(read_frames(path, short_side=128))) for path in paths}


def drawn_clip(rng: np.random.Generator, videos: dict[str, Frames]) -> tuple[str, range]:
    """A video and the numbers of a clip's frames in it."""
    name = list(videos)[int(rng.integers(len(videos)))]
    first = int(rng.integers(len(videos[name]) - CLIP_FRAMES * CLIP_STRIDE + 1))
    return name, range(first, first + CLIP_FRAMES * CLIP_STRIDE, CLIP_STRIDE)


def build(folder: Path, videos: dict[str, Frames], codec: Codec, quality: int) -> tuple[FrameStore, float, int]:
    """The store, CPU seconds to write it, bytes of its shard."""

    def write() -> None:
        members = [(name, lambda frames=frames: iter(frames)) for name, frames in videos.items()]
        result = write_shard(shard_path(folder, 0), members, shard=0, codec=codec, jpeg_quality=quality)
        write_index(folder, result.rows, codec=codec, jpeg_quality=quality, origin={})

    seconds = best_seconds(write, number=1)
    return FrameStore(folder), seconds, shard_path(folder, 0).stat().st_size


def errors(original: Iterable[Frames], decoded: Iterable[Frames]) -> tuple[float, float]:
    """PSNR in dB and mean absolute error in levels, over all videos."""
    pairs = list(zip(original, decoded, strict=True))
    differences = np.concatenate([(a.astype(np.int16) - b).ravel() for a, b in pairs]).astype(np.float32)
    return float(10 * np.log10(255**2 / np.mean(differences**2))), float(np.abs(differences).mean())


def compare_codecs(folder: Path, material: str, videos: dict[str, Frames]) -> None:
    rng = np.random.default_rng(0)
    raw, raw_write, raw_size = build(folder / material / "raw", videos, "raw", 0)
    raw_read = best_seconds(lambda: raw.read(*drawn_clip(rng, videos)), number=100)
    print(f"\n{material}: median level {np.median(np.concatenate([v.ravel() for v in videos.values()])):.0f}")
    print("codec     size   write time   read time    PSNR    error   PSNR lifted   error lifted")
    print("raw      1.000         1.00        1.00     inf     0.00           inf           0.00")
    for quality in QUALITIES:
        store, write, size = build(folder / material / str(quality), videos, "jpeg", quality)
        read = best_seconds(lambda store=store: store.read(*drawn_clip(rng, videos)), number=100)
        decoded = [store.read(name, range(len(frames))) for name, frames in videos.items()]
        psnr, error = errors(videos.values(), decoded)
        lifted_psnr, lifted_error = errors(map(LIFT, videos.values()), map(LIFT, decoded))
        print(
            f"q{quality}     {size / raw_size:6.3f} {write / raw_write:12.2f} {read / raw_read:11.1f} {psnr:7.1f} "
            f"{error:8.2f} {lifted_psnr:13.1f} {lifted_error:14.2f}"
        )


def compare_chroma(material: str, videos: dict[str, Frames]) -> None:
    print(f"\n{material}: 4:2:0 against 4:4:4 chroma: size, and PSNR after the lift")
    for quality in QUALITIES:
        sizes, psnrs = [], []
        for chroma in ("420", "444"):
            coded = [
                [simplejpeg.encode_jpeg(f, quality=quality, colorsubsampling=chroma) for f in np.ascontiguousarray(v)]
                for v in videos.values()
            ]
            decoded = (np.stack([simplejpeg.decode_jpeg(content) for content in frames]) for frames in coded)
            sizes.append(sum(len(content) for frames in coded for content in frames))
            psnrs.append(errors(map(LIFT, videos.values()), map(LIFT, decoded))[0])
        print(f"q{quality}  size {sizes[0] / sizes[1]:.2f}   PSNR {psnrs[0]:.1f} against {psnrs[1]:.1f} dB")


def compare_layouts(folder: Path, videos: dict[str, Frames]) -> None:
    """Why frames are read by position: the same clips through HDF5's own selections."""
    store, _, _ = build(folder / "layout", videos, "raw", 0)
    rng = np.random.default_rng(1)
    ours = best_seconds(lambda: store.read(*drawn_clip(rng, videos)), number=100)
    print("\na clip through HDF5's selections, relative to our read by position with checksums")
    for layout in ("contiguous", "chunked"):
        path = folder / f"{layout}.h5"
        with h5py.File(path, "w", libver=("v110", "v110")) as file:
            for name, frames in videos.items():
                chunks = {"chunks": (1, *frames.shape[1:]), "fletcher32": True} if layout == "chunked" else {}
                file.create_dataset(name, data=frames, **chunks)
        with h5py.File(path, "r") as file:
            datasets = {name: file[name] for name in videos}

            def strided(datasets: dict[str, h5py.Dataset] = datasets) -> Frames:
                name, numbers = drawn_clip(rng, videos)
                return datasets[name][numbers.start : numbers.stop : numbers.step]

            def single(datasets: dict[str, h5py.Dataset] = datasets) -> Frames:
                name, numbers = drawn_clip(rng, videos)
                return np.stack([datasets[name][number] for number in numbers])

            times = [best_seconds(strided, number=3) / ours, best_seconds(single, number=100) / ours]
        print(f"{layout:10}  strided slice {times[0]:7.1f}   frame by frame {times[1]:7.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=16, help="how many videos of 64 frames (default: 16)")
    count = parser.parse_args().videos
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dark = dark_videos(folder, count)
        lifted = {name: LIFT(frames) for name, frames in dark.items()}
        for material, videos in (("dark", dark), ("lifted", lifted)):
            compare_codecs(folder, material, videos)
            compare_chroma(material, videos)
        compare_layouts(folder, dark)


if __name__ == "__main__":
    main()
