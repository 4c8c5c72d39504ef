"""Soft-target store: what its checks cost over bare numpy, bytes of a view, and memory with millions of rows.

    python -m benchmarks.soft_target_store

Prints ratios from one run; logits are simulated. Times are CPU seconds, the best of some repeats, of files that the
system has in memory: what is compared is the work of the store, not the disk. Peaks of memory are measured in a process
of their own each, after all imports.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.material import best_seconds, peak_mib
from pipeline.core.digest import DIGEST_BYTES, digest_bytes, digest_json
from pipeline.distill.store.codecs import LogitCodec, bytes_per_view, codec_of
from pipeline.distill.store.rows import Rows
from pipeline.distill.store.store import SHARD_ROWS, SoftTargetStore, write_store
from pipeline.distill.student.cached_targets import CachedTargets, load_targets

NUM_VIEWS, NUM_CLASSES = 2, 400
BUDGET = 2**33


def simulated(codec: LogitCodec, num_rows: int, num_views: int, num_teachers: int) -> Iterator[Rows]:
    """Rows shard by shard: normal logits of spread 3, the same ones in each shard, with ids and views of their own."""
    rng = np.random.default_rng(0)
    shape = (min(SHARD_ROWS, num_rows), num_views, num_teachers, codec.num_classes)
    packed = codec.pack(rng.normal(scale=3, size=shape).astype(np.float32))
    for start in range(0, num_rows, SHARD_ROWS):
        length = min(SHARD_ROWS, num_rows - start)
        boxes_NVX = rng.integers(1, 100, size=(length, num_views, 6), dtype=np.int32)
        flip_NVX = rng.integers(0, 2, size=(length, num_views, 1), dtype=np.int32)
        arrays = {
            "views": np.concatenate([boxes_NVX, flip_NVX], axis=2),
            "dark_shape": np.full((length, 3), (250, 128, 171), dtype=np.int32),
            "pixel_digest": rng.integers(0, 2**63, size=(length, num_views, num_teachers), dtype=np.uint64),
            "frame_shape": np.full((length, num_teachers, 3), (250, 128, 171), dtype=np.int32),
            "frames_digest": rng.integers(0, 256, size=(length, num_teachers, DIGEST_BYTES), dtype=np.uint8),
            "fold": np.full((length, num_teachers), -1, dtype="<i2"),
            **{name: array[:length] for name, array in packed.items()},
        }
        yield Rows(tuple(f"class/video_{row:09d}" for row in range(start, start + length)), arrays)


def write(path: Path, codec: LogitCodec, num_rows: int, *, num_views: int = NUM_VIEWS, num_teachers: int = 1) -> None:
    """A store of these rows; what it says that it was made from is made up."""
    names = [f"class {number}" for number in range(codec.num_classes)]
    policy = {"num_views": num_views, "seed": 0, "version": 1}
    clip, zero = {"num_frames": 16, "frame_stride": 2, "size": 112}, "0" * 2 * DIGEST_BYTES
    seen = {"light": "gamma", "enhancer": zero, "frames": zero, "clip": clip, "top1_on_views": 0.0}
    made_from = {"manifest": zero, "dark": zero}
    attributes = {
        "class_names": names,
        "clip": clip,
        "view_policy": policy,
        "batch_size": 16,
        "teachers": [{"name": "simulated", "digest": digest_bytes(bytes([n])), **seen} for n in range(num_teachers)],
        "digests": {**made_from, "class_names": digest_json(names), "view_policy": digest_json(policy)},
        "codec_error": {"top1_agreement": 1.0, "mean_kl": {}, "max_kl": {}},
    }
    sizes = {"num_rows": num_rows, "num_views": num_views, "num_teachers": num_teachers}
    write_store(path, simulated(codec, **sizes), codec=codec, attributes=attributes, **sizes)


def load(path: Path, video_ids: list[str], *, memory_bytes: int, folder: Path) -> CachedTargets:
    store = SoftTargetStore(path)
    return load_targets(store, video_ids, memory_bytes=memory_bytes, folder=folder, teachers="mean", seed=0)


def compare_loading(folder: Path, num_rows: int) -> None:
    """Opening, checking and loading a whole store, and one row of it, over numpy with files of the same bytes."""
    path = folder / "store.zarr"
    write(path, codec_of({"name": "float16"}, NUM_CLASSES), num_rows)
    store = SoftTargetStore(path)
    parts = [store.read_shard(shard) for shard in range(store.num_shards)]
    video_ids = [video_id for part in parts for video_id in part.video_ids]
    for name in parts[0].arrays:
        np.save(folder / f"{name}.npy", np.concatenate([part.arrays[name] for part in parts]))
    np.save(folder / "video_id.npy", np.array(video_ids))
    names = ["video_id", *parts[0].arrays]
    del parts

    def with_numpy() -> list[NDArray[np.generic]]:
        return [np.load(folder / f"{name}.npy") for name in names]

    num_bytes = sum((folder / f"{name}.npy").stat().st_size for name in names)
    numpy_seconds = best_seconds(with_numpy, number=3)
    print(f"\n{num_rows} × {NUM_VIEWS} × {NUM_CLASSES}, float16: {num_bytes / 2**20:.0f} MiB of arrays, CPU time")
    print(f"np.load of every array                      1.0   ({numpy_seconds:.3f} s)")

    def show(what: str, seconds: float) -> None:
        print(f"{what:42} {seconds / numpy_seconds:5.1f}   ({seconds:.3f} s)")

    show("open the store", best_seconds(lambda: SoftTargetStore(path), number=1))
    in_memory = folder / "unused"
    show("open, check all, load into memory", best_seconds(
        lambda: load(path, video_ids, memory_bytes=BUDGET, folder=in_memory), number=1
    ))  # fmt: skip
    mapped = folder / "mapped"
    load(path, video_ids, memory_bytes=0, folder=mapped)
    show("open, check and map the files made before", best_seconds(
        lambda: load(path, video_ids, memory_bytes=0, folder=mapped), number=1
    ))  # fmt: skip
    compare_rows(folder, video_ids, load(path, video_ids, memory_bytes=BUDGET, folder=in_memory),
                 load(path, video_ids, memory_bytes=0, folder=mapped))  # fmt: skip


def compare_rows(folder: Path, video_ids: list[str], in_memory: CachedTargets, mapped: CachedTargets) -> None:
    """A view and its logits by the video's name, over numpy's memmap by number."""
    logits = np.load(folder / "logits.npy", mmap_mode="r")
    views = np.load(folder / "views.npy", mmap_mode="r")
    rng = np.random.default_rng(0)

    def each(read: Callable[[int, int], object]) -> float:
        rows = rng.integers(len(video_ids), size=2000).tolist()
        return best_seconds(lambda: [read(row, row % NUM_VIEWS) for row in rows], number=1) / len(rows)

    memmap_seconds = each(lambda row, view: (np.array(views[row, view]), logits[row, view].astype(np.float32)))
    print(f"\na random row: np.memmap by number takes 1.0 ({memmap_seconds * 1e6:.0f} µs of CPU)")
    for name, targets in (("in memory", in_memory), ("mapped", mapped)):
        seconds = each(lambda row, view, targets=targets: targets.lookup(video_ids[row], view))
        print(f"by the video's name, {name:10} {seconds / memmap_seconds:4.1f}")


def compare_sizes(folder: Path) -> None:
    """Bytes of a view, of the logits alone and of the whole store on disk."""
    num_rows = 2000
    print("\nbytes a view: the packed logits; the whole store on disk (ids, views and digests too); over dense float16")
    for num_classes in (11, 48, 400, 700):
        for attributes in ({"name": "float16"}, {"name": "topk", "k": 5}, {"name": "topk", "k": 10}):
            codec = codec_of(attributes, num_classes)
            path = folder / f"{'-'.join(map(str, attributes.values()))}-{num_classes}.zarr"
            write(path, codec, num_rows)
            on_disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            packed, name = bytes_per_view(codec), " ".join(map(str, attributes.values()))
            print(
                f"{num_classes:4} classes  {name:8} {packed:5} {on_disk / num_rows / NUM_VIEWS:8.0f} "
                f"{packed / (2 * num_classes):6.2f}"
            )


def compare_memory(folder: Path, rows: list[int]) -> None:
    """Peak memory while a store is made and while all of it is read, against the number of rows."""
    print(f"\npeak MiB over that of the imports (top 5 of {NUM_CLASSES} classes × {NUM_VIEWS} views)")
    print("      rows     size on disk   made   read and checked")
    for num_rows in rows:
        path = folder / f"rows-{num_rows}.zarr"
        peaks = [
            subprocess.run(
                [sys.executable, "-m", "benchmarks.soft_target_store", "--measure", what, str(path), str(num_rows)],
                check=True, capture_output=True, text=True,
            ).stdout
            for what in ("write", "read")
        ]  # fmt: skip
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"{num_rows:10} {size / 2**20:12.0f} MiB {float(peaks[0]):6.0f} {float(peaks[1]):10.0f}", flush=True)


def measure(what: str, path: Path, num_rows: int) -> None:
    """Write or read a store, and print by how many MiB the peak of memory rose."""
    before = peak_mib()
    if what == "write":
        write(path, codec_of({"name": "topk", "k": 5}, NUM_CLASSES), num_rows)
    else:
        store = SoftTargetStore(path)
        for shard in range(store.num_shards):
            store.read_shard(shard)
    print(peak_mib() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the store that is loaded (default: 100000)")
    parser.add_argument("--most-rows", type=int, default=10_000_000, help="rows to measure memory with, at most")
    parser.add_argument("--measure", nargs=3, metavar=("WHAT", "PATH", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, path, num_rows = options.measure
        measure(what, Path(path), int(num_rows))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        compare_sizes(folder)
        compare_loading(folder, options.rows)
        compare_memory(folder, [options.most_rows // 100, options.most_rows // 10, options.most_rows])


if __name__ == "__main__":
    main()
