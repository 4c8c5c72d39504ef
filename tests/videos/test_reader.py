"""Every frame once, upright, in its own colours; or a reason why the video cannot be used."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from video_files import (
    CORNERS,
    HEIGHT,
    WIDTH,
    Frame,
    encode,
    encode_sound,
    image_folder,
    make_avi_chunk_empty,
    number_of,
    patched,
    picture,
    reason,
)

from pipeline.core.errors import BrokenVideoError, DataError
from pipeline.data.frames import expanded, shown
from pipeline.videos.reader import probe, read_frames, resize_frames, write_video

# --- every frame, once, in order ---


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("v.mp4", "libx264"),
        ("v.mkv", "libx264"),
        ("v.avi", "mpeg4"),
        ("v.mov", "mpeg4"),
        ("v.webm", "libvpx"),  # hidden frames are packets of their own
        ("v.ts", "libx264"),
        ("v.mpg", "mpeg1video"),
        ("v.wmv", "wmv2"),
    ],
)
def test_containers_give_every_frame_in_display_order(tmp_path: Path, name: str, codec: str):
    options = {"libvpx": {"b": "400k", "auto-alt-ref": "1", "lag-in-frames": "16"}, "libx264": {"bf": "3"}}.get(
        codec, {}
    )
    path = encode(tmp_path / name, codec=codec, options=options)
    info = probe(path)
    assert (info.num_frames, info.fps, info.width, info.height) == (30, 25.0, WIDTH, HEIGHT)
    assert [number_of(frame) for frame in read_frames(path)] == list(range(30))


def test_one_frame(tmp_path: Path):
    assert len(list(read_frames(encode(tmp_path / "v.mp4", frames=1)))) == 1


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_variable_frame_rate_neither_repeats_nor_drops_frames(tmp_path: Path, name: str):
    path = encode(tmp_path / name, pts=lambda number: number * (number + 1) // 2)
    assert [number_of(frame) for frame in read_frames(path)] == list(range(30))


def test_fragmented_mp4_states_no_count_and_gives_every_frame(tmp_path: Path):
    path = encode(tmp_path / "v.mp4", container={"movflags": "frag_keyframe+empty_moov"}, options={"g": "8"})
    assert probe(path).num_frames == 30
    assert len(list(read_frames(path))) == 30


def test_frames_before_an_edit_list_are_neither_read_nor_counted(tmp_path: Path):
    path = encode(
        tmp_path / "v.mp4",
        pts=lambda number: number - 10,
        container={"avoid_negative_ts": "disabled", "use_editlist": "1"},
    )
    assert probe(path).num_frames == 20
    assert [number_of(frame) for frame in read_frames(path)] == list(range(10, 30))


def test_empty_avi_chunks_are_no_missing_frames(tmp_path: Path):
    path = encode(tmp_path / "v.avi", codec="mpeg4", options={"g": "1"})
    make_avi_chunk_empty(path, 7)
    assert probe(path).num_frames == 29
    assert [number_of(frame) for frame in read_frames(path)] == [n for n in range(30) if n != 7]


def test_mpeg4_frames_that_are_not_coded_are_no_missing_frames(tmp_path: Path):
    """Xvid writes "not coded" where nothing moves, which is common in dark videos; FFmpeg gives no frame for it."""
    path = encode(tmp_path / "v.avi", codec="mpeg4", options={"g": "1"})
    # start code, type P (01), no whole second (0), marker, 5 bits of time for 25 fps, marker, vop_coded 0, stuffing
    make_avi_chunk_empty(path, 7, keep=b"\x00\x00\x01\xb6" + int("0101001111001111", 2).to_bytes(2))
    assert [number_of(frame) for frame in read_frames(path)] == [n for n in range(30) if n != 7]


# --- shape ---


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi"])
def test_sample_aspect_ratio_is_applied(tmp_path: Path, name: str):
    path = encode(tmp_path / name, codec="mpeg4", aspect=Fraction(4, 3))
    assert (probe(path).width, probe(path).height) == (85, 48)
    assert next(read_frames(path)).shape == (48, 85, 3)
    assert next(read_frames(path, short_side=24)).shape == (24, 43, 3)  # 24 · 64 · 4/3 / 48 = 42.67


# set_display_rotation turns counter-clockwise; where do the quarters first, right, below, across end?
@pytest.mark.parametrize(
    ("rotation", "quarters"),
    [
        (0, "first right below across"),
        (90, "right across first below"),
        (180, "across below right first"),
        (-90, "below first across right"),
    ],
)
def test_rotation_is_applied(tmp_path: Path, rotation: int, quarters: str):
    path = encode(tmp_path / "v.mp4", rotation=rotation, frames=2)
    frame = next(read_frames(path))
    width, height = (WIDTH, HEIGHT) if rotation % 180 == 0 else (HEIGHT, WIDTH)
    assert frame.shape == (height, width, 3)
    assert (probe(path).width, probe(path).height) == (width, height)
    corners = [frame[4, 4], frame[4, -5], frame[-5, 4], frame[-5, -5]]
    for corner, name in zip(corners, quarters.split(), strict=True):
        assert np.abs(corner.astype(int) - CORNERS[name]).max() < 12
    other = cv2.VideoCapture(str(path)).read()[1][..., ::-1].astype(int)  # OpenCV turns frames too
    assert np.abs(frame - other).mean() < 4


def test_an_angle_that_is_no_quarter_turn_is_refused(tmp_path: Path):
    assert "90 degrees" in reason(encode(tmp_path / "v.mp4", rotation=45))


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [((64, 48), 24, (24, 32)), ((48, 64), 24, (32, 24)), ((64, 48), 96, (96, 128)), ((320, 240), 72, (72, 96))],
)
def test_short_side(tmp_path: Path, size: tuple[int, int], short_side: int, expected: tuple[int, int]):
    path = encode(tmp_path / "v.mp4", size=size, frames=2)
    assert next(read_frames(path, short_side=short_side)).shape[:2] == expected


# --- colour ---

MATRICES = {  # AVColorSpace: red and blue weights, from ITU-R BT.601, BT.709, BT.2020; 2 is unspecified
    1: (0.2126, 0.0722),
    2: (0.299, 0.114),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    9: (0.2627, 0.0593),
}


def rgb_by_formula(yuv: tuple[int, int, int], red: float, blue: float, *, full: bool) -> NDArray[np.float64]:
    luma = yuv[0] / 255 if full else (yuv[0] - 16) / 219
    u, v = ((value - 128) / (255 if full else 224) for value in yuv[1:])
    r, b = luma + 2 * (1 - red) * v, luma + 2 * (1 - blue) * u
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.array([r, g, b]) * 255, 0, 255)


@pytest.mark.parametrize("color_range", [0, 1, 2])  # unspecified (limited), limited, full
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p"])
def test_matrix_and_range_are_honoured(tmp_path: Path, matrix: int, color_range: int, pix_fmt: str):
    colours = [(100, 90, 180), (16, 128, 128), (235, 128, 128), (40, 140, 120), (20, 127, 130)]
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)  # lossless
        stream.width, stream.height, stream.pix_fmt = 32, 16, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        for number, colour in enumerate(colours):
            frame = av.VideoFrame(32, 16, pix_fmt)
            for plane, value in zip(frame.planes, colour, strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.colorspace, frame.color_range, frame.pts = matrix, color_range, number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    for short_side, levels in ((None, "linear"), (8, "linear"), (8, "companded")):
        found = read_frames(path, short_side=short_side, levels=levels)
        for frame, colour in zip(found, colours, strict=True):
            expected = rgb_by_formula(colour, *MATRICES[matrix], full=color_range == 2)
            assert np.abs(expanded(frame, levels) - expected).max() <= 1.01


@pytest.mark.parametrize("codec", ["ffv1", "libx265"])
def test_gray_video_gives_three_equal_channels_of_full_range(tmp_path: Path, codec: str):
    path = tmp_path / "v.mkv"
    limited = codec != "ffv1"
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "gray"
        stream.codec_context.color_range = 1 if limited else 2
        stream.codec_context.options = {"x265-params": "lossless=1:log-level=none"} if limited else {}
        for number, value in enumerate((16, 126, 235)):
            frame = av.VideoFrame(64, 64, "gray")
            frame.planes[0].update(bytes([value]) * frame.planes[0].buffer_size)
            frame.color_range, frame.pts = 1 if limited else 2, number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    for levels in ("linear", "companded"):
        expected = (0, 128, 255) if limited else (16, 126, 235)
        for frame, value in zip(read_frames(path, levels=levels), expected, strict=True):
            assert np.abs(expanded(frame, levels) - value).max() <= 1


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "gray"])
def test_what_is_shrunk_keeps_the_values_between_whole_ones(tmp_path: Path, pix_fmt: str):
    """Two dark levels, ever more of the brighter one to the right: the means lie between them; 8 bits round these."""
    path, deep = tmp_path / "v.mkv", pix_fmt.endswith("10le")
    luma_HW = np.where(np.random.default_rng(0).random((64, 64)) < np.arange(64) / 63, 18, 17).astype(np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pix_fmt
        stream.codec_context.color_range = 1
        frame = av.VideoFrame(64, 64, pix_fmt)
        for number, plane in enumerate(frame.planes):
            values = luma_HW if number == 0 else np.full((plane.height, plane.width), 128, np.uint8)
            plane.update((values.astype(np.uint16) * 4 if deep else values).tobytes())
        frame.color_range, frame.pts = 1, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    wanted_W = ((17 + (np.arange(8) * 8 + 3.5) / 63) - 16) * 255 / 219
    (linear,) = read_frames(path, short_side=8)
    (companded,) = read_frames(path, short_side=8, levels="companded")
    off, fine_off = (np.abs(one.mean(axis=(0, 2)) - wanted_W) for one in (linear, expanded(companded, "companded")))
    assert fine_off.max() < 0.12
    assert off.max() > 0.3


def test_images_are_shrunk_without_rounding_too(tmp_path: Path):
    dark = np.where(np.random.default_rng(1).random((64, 64, 1)) < 0.3, 2, 1).astype(np.uint8).repeat(3, axis=2)
    (companded,) = resize_frames([dark], short_side=8, levels="companded")
    values = expanded(companded, "companded")
    assert values.mean() == pytest.approx(dark.mean(), abs=0.05)
    assert np.abs(values - np.rint(values)).max() > 0.2
    (as_it_is,) = resize_frames([dark], short_side=64, levels="companded")
    np.testing.assert_array_equal(shown(as_it_is, "companded"), dark)


# --- videos that cannot be used ---


def test_truncated_mp4(tmp_path: Path):
    for name, container in (("a.mp4", {}), ("b.mp4", {"movflags": "faststart"})):
        path = encode(tmp_path / name, container=container)
        data = path.read_bytes()
        for share in (0.1, 0.5, 0.9):
            path.write_bytes(data[: int(share * len(data))])
            assert reason(path)


@pytest.mark.parametrize("name", ["v.mkv", "v.avi"])
def test_truncated_file_without_an_index_or_a_count(tmp_path: Path, name: str):
    path = encode(tmp_path / name, codec="mpeg4", frames=60)
    data = path.read_bytes()
    for share in (0.3, 0.6, 0.8):
        path.write_bytes(data[: int(share * len(data))])
        assert reason(path)


def test_matroska_that_ends_early_says_so(tmp_path: Path):
    path = encode(tmp_path / "v.mkv", codec="ffv1", frames=60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert "but the container states 2.40 s" in reason(path)


def test_avi_with_fewer_frames_than_its_header_states(tmp_path: Path):
    path = patched(encode(tmp_path / "v.avi", codec="mpeg4"), (b"strh", 40, struct.pack("<I", 35)))
    assert reason(path) == "30 frames can be decoded, but the container states 35"
    with pytest.raises(BrokenVideoError, match="the container states 35"):
        probe(path)


def test_damaged_data_is_refused(tmp_path: Path):
    path = encode(tmp_path / "v.mp4", options={"crf": "5"})
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    assert reason(path)


def test_a_size_that_changes_on_the_way(tmp_path: Path):
    first = encode(tmp_path / "1.ts", frames=5).read_bytes()
    second = encode(tmp_path / "2.ts", frames=5, size=(96, 64)).read_bytes()
    path = tmp_path / "v.ts"
    path.write_bytes(first + second)
    assert reason(path) == "its size changes from 64x48 to 96x64 at frame 5"


def test_what_is_no_video(tmp_path: Path):
    empty, text, picture_file = tmp_path / "e.mp4", tmp_path / "t.mp4", tmp_path / "p.mp4"
    empty.touch()
    text.write_text("nothing to see\n" * 100, encoding="utf-8")
    picture_file.write_bytes(simplejpeg.encode_jpeg(picture(0)))
    assert reason(empty) == "the file is empty"
    assert "Invalid data" in reason(text)
    assert reason(picture_file)
    for path in (empty, text, picture_file):
        with pytest.raises(BrokenVideoError):
            probe(path)


def test_sound_without_video(tmp_path: Path):
    encode_sound(tmp_path / "v.mp4")
    assert reason(tmp_path / "v.mp4") == "there is no video stream"


def test_a_file_that_is_not_there_is_no_broken_video(tmp_path: Path):
    for read in (probe, lambda path: next(read_frames(path))):
        with pytest.raises(DataError) as error:
            read(tmp_path / "v.mp4")
        assert not isinstance(error.value, BrokenVideoError)


def test_playlists_open_nothing(tmp_path: Path):
    encode(tmp_path / "secret.ts")
    for text in ("#EXTM3U\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile secret.ts\n"):
        path = tmp_path / "v.mp4"
        path.write_text(text, encoding="utf-8")
        assert "Invalid" in reason(path)


@pytest.mark.parametrize(
    "name", ["-i.mp4", "a b.mp4", "new\nline.mp4", "%03d%s.mp4", "http:x.mp4", "concat:a|b.mp4", "ü#?.mp4"]
)
def test_any_name_is_a_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    assert write_video(Path(name), [picture(0)] * 3, fps=25) == 3
    assert probe(Path(name)).num_frames == 3
    assert len(list(read_frames(Path(name)))) == 3


def test_tags_in_another_encoding_do_not_matter(tmp_path: Path):
    path = patched(encode(tmp_path / "v.mkv"), (b"Lavf", 0, b"\xe9\xff"))
    assert len(list(read_frames(path))) == 30


# --- frame folders ---


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_frame_folder(tmp_path: Path, suffix: str):
    folder = image_folder(tmp_path / "f", range(1, 13), suffix)
    assert probe(folder).num_frames == 12
    frames = list(read_frames(folder))
    assert [number_of(frame) for frame in frames] == list(range(1, 13))
    assert np.abs(frames[0].astype(int) - picture(1)).mean() < (0.01 if suffix == ".png" else 3)
    assert {frame.shape for frame in read_frames(folder, short_side=24)} == {(24, 32, 3)}


def test_frame_folder_orders_by_number_not_by_name(tmp_path: Path):
    folder = tmp_path / "f"
    folder.mkdir()
    for number in range(1, 13):
        (folder / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(picture(number)))
    assert [number_of(frame) for frame in read_frames(folder)] == list(range(1, 13))


def test_frame_folder_that_cannot_be_used(tmp_path: Path):
    def folder(name: str) -> Path:
        return image_folder(tmp_path / name, range(1, 6))

    empty = tmp_path / "empty"
    empty.mkdir()
    assert reason(empty) == "the folder has no images"
    gap = folder("gap")
    (gap / "img_00003.jpg").unlink()
    assert reason(gap) == "1 frame(s) are missing, the first is number 3"
    late = image_folder(tmp_path / "late", range(3, 6))
    assert reason(late) == "2 frame(s) are missing, the first is number 1"
    stamped = image_folder(tmp_path / "stamped", [1, 20261127235959000000])
    assert reason(stamped) == "20261127235958999998 frame(s) are missing, the first is number 2"
    mixed = folder("mixed")
    (mixed / "flow_00006.jpg").write_bytes(simplejpeg.encode_jpeg(picture(0)))
    assert "different names" in reason(mixed)
    linked = folder("linked")
    (linked / "img_00005.jpg").unlink()
    (linked / "img_00005.jpg").symlink_to("../.git/annex/objects/x")
    assert reason(linked) == "img_00005.jpg is a link to ../.git/annex/objects/x, which is not there"
    sizes = folder("sizes")
    (sizes / "img_00006.jpg").write_bytes(simplejpeg.encode_jpeg(picture(0, 32, 32)))
    assert "its size changes from 64x48 to 32x32" in reason(sizes)
    for suffix in (".jpg", ".png"):
        cut = image_folder(tmp_path / f"cut{suffix}", range(1, 6), suffix)
        image = cut / f"img_00004{suffix}"
        image.write_bytes(image.read_bytes()[:-100])
        assert "img_00004" in reason(cut)


def test_an_image_that_goes_while_its_folder_is_read(tmp_path: Path):
    folder = image_folder(tmp_path / "f", range(1, 6))
    frames = read_frames(folder)
    next(frames)
    (folder / "img_00005.jpg").unlink()
    with pytest.raises(BrokenVideoError, match=r"img_00005\.jpg: No such file"):
        list(frames)


# --- writing ---


def test_same_frames_give_the_same_bytes_and_keep_their_colours(tmp_path: Path):
    one, two = tmp_path / "1.mp4", tmp_path / "2.mp4"
    assert write_video(one, (picture(number) for number in range(20)), fps=30) == 20
    write_video(two, [picture(number) for number in range(20)], fps=30)
    assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.mp4", "2.mp4"]
    assert (probe(one).num_frames, probe(one).fps) == (20, 30.0)
    for number, frame in enumerate(read_frames(one)):
        assert np.abs(frame.astype(int) - picture(number)).mean() < 3
    with av.open(str(one)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.pix_fmt, codec.color_range, codec.colorspace) == ("yuv420p", 1, 1)
        assert (codec.color_primaries, codec.color_trc) == (1, 1)


def test_frame_rates_stay_exact(tmp_path: Path):
    for fps in (30000 / 1001, 12.5, 24):
        write_video(tmp_path / "v.mp4", [picture(0)] * 24, fps=fps)
        assert probe(tmp_path / "v.mp4").fps == pytest.approx(fps, rel=1e-6)


@pytest.mark.parametrize(
    ("frames", "fps", "words"),
    [
        ([], 30, "at least one frame"),
        ([picture(0, 63, 48)], 30, "even width and height"),
        ([picture(0, 64, 47)], 30, "even width and height"),
        ([picture(0), picture(0, 32, 32)], 30, "frame 1 is 32x32"),
        ([picture(0).astype(np.float32)], 30, "uint8"),
        ([picture(0)[..., 0]], 30, "uint8"),
        ([picture(0)], 0, "fps"),
        ([picture(0)], float("nan"), "fps"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, frames: list[Frame], fps: float, words: str):
    with pytest.raises(ValueError, match=words):
        write_video(tmp_path / "v.mp4", frames, fps=fps)
    assert list(tmp_path.iterdir()) == []
