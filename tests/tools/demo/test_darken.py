from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from video_files import encode

from pipeline.core.digest import digest_file
from pipeline.core.errors import DataError
from pipeline.core.progress import Advance
from pipeline.data.camera import ARID_LIKE, at_exposure
from pipeline.tools.demo.darken import LEDGER, DarkCopy, Darkening, darken_folder
from pipeline.videos.reader import probe, read_frames, write_video
from stages._cluster import map_tasks

HOW = Darkening(ARID_LIKE, seed=0, crf=25)


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    root = tmp_path / "bright"
    for index, name in enumerate(("Wave/Wave_1_1", "Wave/Wave_1_2", "Jump/Jump_2_1")):
        rng = np.random.default_rng(index)
        frames = rng.integers(100, 255, (6, 32, 48, 3), dtype=np.uint8)
        write_video(root / f"{name}.mp4", frames, fps=25)
    (root / "Jump/Jump_2_1.mp4").rename(root / "Jump/Jump_2_1.MOV")
    (root / "list_cvt").mkdir()
    (root / "list_cvt/train.txt").write_bytes(b"0\t0\tWave/Wave_1_1.avi\r\n")
    return root


def run(source: Path, target: Path, how: Darkening = HOW, *, copy_others: bool = True, stop_at: int = -1) -> DarkCopy:
    @contextmanager
    def progress(_description: str, _total: int, _unit: str) -> Iterator[Advance]:
        seen = 0

        def advance(count: int, _note: str, *, earlier: bool = False) -> None:
            nonlocal seen
            seen += count
            if seen == stop_at:
                raise KeyboardInterrupt

        yield advance

    return darken_folder(
        source, target, how, copy_others=copy_others, run=partial(map_tasks, num_workers=1), progress=progress
    )


def digests(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): digest_file(path) for path in root.rglob("*") if path.is_file()}


def test_a_video_of_variable_rate_keeps_its_frames_and_its_duration(bright: Path, tmp_path: Path):
    # 25 frames in the first second, then one a second
    encode(bright / "uneven.mkv", frames=33, pts=lambda number: number if number < 25 else 25 * (number - 23))
    run(bright, tmp_path / "dark")
    dark = probe(tmp_path / "dark/uneven.mp4")
    assert dark.num_frames == 33
    assert 33 / dark.fps == pytest.approx(9.5, abs=0.6)


def test_a_copy_has_the_same_names_frames_and_lists_in_the_dark(bright: Path, tmp_path: Path):
    dark = tmp_path / "dark"
    assert run(bright, dark) == DarkCopy(written=3, kept=0, copied=1, images=0)
    assert sorted(digests(dark)) == sorted(
        ["Jump/Jump_2_1.mp4", "Wave/Wave_1_1.mp4", "Wave/Wave_1_2.mp4", LEDGER, "list_cvt/train.txt"]
    )
    assert (dark / "list_cvt/train.txt").read_bytes() == (bright / "list_cvt/train.txt").read_bytes()
    before, after = bright / "Wave/Wave_1_1.mp4", dark / "Wave/Wave_1_1.mp4"
    assert probe(after) == probe(before)
    frames, darker = (np.stack(list(read_frames(path))) for path in (before, after))
    assert darker.shape == frames.shape
    assert darker.mean() < 0.5 * frames.mean()


def test_lists_can_be_left_out(bright: Path, tmp_path: Path):
    assert run(bright, tmp_path / "dark", copy_others=False).copied == 0
    assert not (tmp_path / "dark/list_cvt").exists()


def test_a_videos_darkness_depends_on_its_name_not_on_its_neighbours(bright: Path, tmp_path: Path):
    run(bright, tmp_path / "all")
    shutil.rmtree(bright / "Jump")
    run(bright, tmp_path / "fewer")
    name = "Wave/Wave_1_2.mp4"
    assert digest_file(tmp_path / "all" / name) == digest_file(tmp_path / "fewer" / name)


def test_an_interrupted_copy_goes_on_to_the_same_bytes(bright: Path, tmp_path: Path):
    run(bright, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(bright, tmp_path / "dark", stop_at=2)
    with (tmp_path / "dark" / LEDGER).open("ab") as ledger:
        ledger.write(b'{"video_id": "Wave/Wa')  # a line cut off by a kill
    assert run(bright, tmp_path / "dark") == DarkCopy(written=1, kept=2, copied=1, images=0)
    assert digests(tmp_path / "dark") == digests(tmp_path / "whole")


def test_a_changed_source_and_a_damaged_copy_are_made_again(bright: Path, tmp_path: Path):
    dark = tmp_path / "dark"
    run(bright, dark)
    first = digests(dark)
    write_video(bright / "Wave/Wave_1_1.mp4", np.full((4, 32, 48, 3), 200, np.uint8), fps=25)
    (dark / "Wave/Wave_1_2.mp4").write_bytes(b"damaged")
    assert run(bright, dark) == DarkCopy(written=2, kept=1, copied=1, images=0)
    changed = {name for name, digest in digests(dark).items() if first[name] != digest}
    assert changed == {"Wave/Wave_1_1.mp4", LEDGER}
    assert run(bright, dark).kept == 3


def test_broken_videos_are_all_reported_and_the_others_done(bright: Path, tmp_path: Path):
    for name in ("Wave/broken.mp4", "Jump/empty.avi"):
        (bright / name).write_bytes(b"nothing of a video" * name.startswith("Wave"))
    with pytest.raises(DataError, match="2 of 5 videos") as caught:
        run(bright, tmp_path / "dark")
    assert caught.value.exit_code == 3
    assert len(caught.value.findings) == 2
    assert len(list((tmp_path / "dark").rglob("*.mp4"))) == 3
    assert (tmp_path / "dark/list_cvt/train.txt").exists()
    for name in ("Wave/broken.mp4", "Jump/empty.avi"):
        (bright / name).unlink()
    assert run(bright, tmp_path / "dark").kept == 3


def test_odd_sizes_lose_their_last_row_and_column(tmp_path: Path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "bright/frames"
    write_video(folder / "even.mp4", rng.integers(0, 255, (3, 32, 32, 3), dtype=np.uint8), fps=10)
    run(tmp_path / "bright", tmp_path / "dark")
    info = probe(tmp_path / "dark/frames/even.mp4")
    assert (info.width, info.height) == (32, 32)


def test_images_are_counted_not_copied(bright: Path, tmp_path: Path):
    (bright / "preview.jpg").write_bytes(b"a bright picture")
    assert run(bright, tmp_path / "dark").images == 1
    assert not (tmp_path / "dark/preview.jpg").exists()


def test_what_systems_leave_in_folders_is_neither_darkened_nor_copied(bright: Path, tmp_path: Path):
    for name in ("Wave/._Wave_1_1.mp4", "Wave/.DS_Store", "Thumbs.db", "@eaDir/Wave_1_1.mp4"):
        (bright / name).parent.mkdir(exist_ok=True)
        (bright / name).write_bytes(b"\0\5\26\7")
    assert run(bright, tmp_path / "dark") == DarkCopy(written=3, kept=0, copied=1, images=0)


def test_links_to_videos_and_to_folders_are_darkened(bright: Path, tmp_path: Path):
    (bright / "Wave").rename(tmp_path / "disk")
    (bright / "Wave").symlink_to(tmp_path / "disk")
    (bright / "Jump/again").symlink_to("..")
    assert run(bright, tmp_path / "dark") == DarkCopy(written=3, kept=0, copied=1, images=0)
    assert not (tmp_path / "dark/Wave").is_symlink()


def test_a_video_that_cannot_be_read_is_told_of_and_not_copied_as_it_is(bright: Path, tmp_path: Path):
    (bright / "Wave/x.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match="a GIF image is not read; `ffmpeg -i x"):
        run(bright, tmp_path / "dark")
    assert not (tmp_path / "dark/Wave/x.gif").exists()


@pytest.mark.parametrize("inside", ["", "dark", ".."])
def test_the_copy_may_not_overlap_its_source(bright: Path, inside: str):
    with pytest.raises(DataError, match="outside"):
        run(bright, bright / inside)


def test_a_foreign_folder_is_left_alone(bright: Path, tmp_path: Path):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("no copy of it")
    with pytest.raises(DataError, match="no dark copy"):
        run(bright, target)
    assert digests(target).keys() == {"thesis.txt"}


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Darkening(ARID_LIKE, seed=1, crf=25), "seed: 0, not 1"),
        (Darkening(at_exposure(ARID_LIKE, 1.0), seed=0, crf=25), "camera"),
        (Darkening(ARID_LIKE, seed=0, crf=30), "crf: 25, not 30"),
    ],
)
def test_another_copy_is_not_mixed_into_one(bright: Path, tmp_path: Path, other: Darkening, named: str):
    run(bright, tmp_path / "dark")
    with pytest.raises(DataError, match=named):
        run(bright, tmp_path / "dark", other)


def test_videos_of_one_stem_are_refused_before_anything_is_written(bright: Path, tmp_path: Path):
    shutil.copy(bright / "Wave/Wave_1_1.mp4", bright / "Wave/Wave_1_1.avi")
    with pytest.raises(DataError, match="differ only in their suffix"):
        run(bright, tmp_path / "dark")
    assert not (tmp_path / "dark").exists()


def test_a_source_without_videos_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="no such folder"):
        run(tmp_path / "nowhere", tmp_path / "dark")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no videos"):
        run(tmp_path / "empty", tmp_path / "dark")


def test_the_ledger_lock_is_released_at_the_end(bright: Path, tmp_path: Path):
    run(bright, tmp_path / "dark")
    with (tmp_path / "dark" / LEDGER).open("ab") as ledger:
        fcntl.lockf(ledger, fcntl.LOCK_EX | fcntl.LOCK_NB)
