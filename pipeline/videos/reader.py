"""Videos: a file or a folder of images → RGB frames, each once, in order; and frames → an H.264 file.

The only module that imports `av`. Others read through pipeline/videos/decoder.py, which calls the two readers here in a
process that may be lost. Decoding is sequential and on one thread: seeking is off by frames on real files, and the
workers are processes. A decode without an error proves little, so the frames are counted against what the container
states; a video that cannot be trusted raises BrokenVideoError, whose message is the reason that the quarantine records.
"""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
import simplejpeg
from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from pipeline.core.errors import BrokenVideoError as BrokenVideoError
from pipeline.core.errors import DataError
from pipeline.core.files import written_whole
from pipeline.data.frames import Frame
from pipeline.data.listing import VIDEO_SUFFIXES as VIDEO_SUFFIXES
from pipeline.videos.containers import edited_seconds, fragment_samples, matroska_frames
from pipeline.videos.frame_counts import PacketTally

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")

# Nothing but these demuxers and plain files: a playlist that calls itself .mp4 could open other files, or hosts
FORMATS = "avi,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,asf"
MAX_PIXELS = 2**26  # of a frame, as coded and as it is to be resized: 8K has half of it
# max_pixels: for the search for streams, which decodes; more are refused before memory is taken
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": str(MAX_PIXELS)}
# Accurate and the same on every CPU; bilinear in swscale averages over the source's area where it shrinks
SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT

# explode: an error where a slice is damaged; else FFmpeg conceals it in silence
DECODER_OPTIONS = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}

GRAY_TO_FULL_RANGE = np.clip((np.arange(256) - 16) * 255 / 219 + 0.5, 0, 255).astype(np.uint8)

MAX_SAMPLE_ASPECT = 4  # the standards' widest sample is 32:11; beyond this the header is damaged
DURATION_SLACK_SECONDS = 0.2  # how much earlier than stated the last packet may end: rounding, unknown last durations


@dataclass(frozen=True)
class VideoInfo:
    """What a container states.

    num_frames: None where it states none (Matroska, MPEG streams, fragmented MP4). fps: frames a second on average,
    0.0 where none is stated (frame folders). width, height: pixels as displayed, after sample aspect ratio and
    rotation.
    """

    num_frames: int | None
    fps: float
    width: int
    height: int


def probe(path: Path) -> VideoInfo:
    """Read what a video states, and decode its first frame.

    Raises BrokenVideoError where there is no video stream or no frame, DataError where the file cannot be opened.
    """
    if path.is_dir():
        images = _list_images(path)
        height, width = _read_image(images[0]).shape[:2]
        return VideoInfo(len(images), 0.0, width, height)
    with _opened(path) as (container, stream):
        for frame in container.decode(stream):
            layout = _Layout.of(frame, stream, None)
            rate = stream.average_rate or stream.guessed_rate
            return VideoInfo(_stated_frames(path, container, stream), float(rate or 0), *layout.displayed)
        raise BrokenVideoError("no frame can be decoded")


def read_frames(path: Path, *, short_side: int | None = None) -> Iterator[Frame]:
    """Yield every frame once, in display order: RGB uint8 (H, W, 3), square pixels, upright.

    short_side: pixels to which the shorter side is resized (the other keeps the displayed aspect ratio); None keeps
    the displayed size. Frames that an edit list hides are not part of the video. BT.601, BT.709 and BT.2020 matrices,
    limited and full range are converted as tagged; an untagged matrix is BT.601, as FFmpeg and OpenCV take it.
    Interlaced frames are not deinterlaced, HDR is not tone-mapped.

    Raises BrokenVideoError, possibly after some frames, when there is no video stream or frame, on a decoding error,
    when the size changes on the way, and when there are fewer or more frames than the container states.
    """
    frames = _read_images(path, short_side) if path.is_dir() else _read_stream(path, short_side)
    yield from frames


def write_video(path: Path, frames: Iterable[Frame], *, fps: float, crf: int = 18) -> int:
    """Write RGB uint8 frames (H, W, 3) as an H.264 MP4 (yuv420p, limited range, BT.709) and return their number.

    The same frames give the same bytes (one encoding thread, no times in the file). Raises ValueError on no frames, on
    frames of another shape or type, on a changed size, on fps of 0, and on odd sizes: yuv420p halves the colour planes,
    and whether to crop, pad or resize is the caller's choice.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is a positive number, not {fps}")
    rate = Fraction(fps).limit_denominator(1001)  # 30000/1001 and its kin stay exact
    num_frames = 0
    size: tuple[int, int] | None = None
    reformatter = VideoReformatter()
    options = {"fflags": "bitexact"}
    with written_whole(path) as partial, av.open(_url(partial), "w", format="mp4", options=options) as out:
        stream = out.add_stream("libx264", rate=rate)
        for frame in frames:
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                raise ValueError(f"a frame is uint8 of shape (height, width, 3), not {frame.dtype} of {frame.shape}")
            height, width = frame.shape[:2]
            if size is None:
                size = (width, height)
                _set_encoder(stream, size, crf)
            if (width, height) != size:
                raise ValueError(f"frame {num_frames} is {width}x{height}, the ones before it {size[0]}x{size[1]}")
            yuv = reformatter.reformat(
                VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"),
                format="yuv420p",
                interpolation=SCALING,
                src_color_range=ColorRange.JPEG,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                threads=1,
            )
            yuv.pts = num_frames
            yuv.time_base = 1 / rate
            out.mux(stream.encode(yuv))
            num_frames += 1
        if not num_frames:
            raise ValueError(f"{path}: a video needs at least one frame")
        out.mux(stream.encode(None))
    return num_frames


def _set_encoder(stream: VideoStream, size: tuple[int, int], crf: int) -> None:
    width, height = size
    if width % 2 or height % 2:
        raise ValueError(
            f"{width}x{height}: H.264 in yuv420p needs an even width and height; crop, pad or resize the frames first"
        )
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    codec = stream.codec_context
    codec.thread_count = 1
    codec.color_range, codec.colorspace = ColorRange.MPEG, 1  # 1 is BT.709 in all three tables of ITU-T H.273
    codec.color_primaries, codec.color_trc = 1, 1
    # With macroblock-tree rate control x264 gives other bytes for the same frames now and then (tests/tools/demo)
    codec.options = {"crf": str(crf), "preset": "veryfast", "x264-params": "threads=1:no-mbtree=1"}


@dataclass(frozen=True)
class _Layout:
    """How decoded frames become upright ones of square pixels."""

    coded: tuple[int, int]  # width, height of a decoded frame
    scaled: tuple[int, int]  # width, height to resize to, before the turn
    transpose: bool
    flip_rows: bool
    flip_columns: bool

    @staticmethod
    def of(frame: VideoFrame, stream: VideoStream, short_side: int | None) -> _Layout:
        """Layout from the first frame's size and display matrix and the stream's sample aspect ratio."""
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if not Fraction(1, MAX_SAMPLE_ASPECT) <= aspect <= MAX_SAMPLE_ASPECT:
            raise BrokenVideoError(f"its sample aspect ratio of {aspect} is not plausible")
        scaled = _fit(Fraction(frame.width) * aspect, Fraction(frame.height), short_side)
        _check_pixels(*scaled)
        side_data = cast(SideDataContainer, frame.side_data)
        if SideDataType.DISPLAYMATRIX not in side_data:
            return _Layout((frame.width, frame.height), scaled, False, False, False)
        # x' = a·x + c·y, y' = b·x + d·y; a scale in it is already part of the sample aspect ratio
        a, b, _, c, d = np.frombuffer(bytes(side_data[SideDataType.DISPLAYMATRIX]), np.int32)[:5].tolist()
        if a and d and not b and not c:
            return _Layout((frame.width, frame.height), scaled, False, d < 0, a < 0)
        if b and c and not a and not d:
            return _Layout((frame.width, frame.height), scaled, True, b < 0, c < 0)
        raise BrokenVideoError("it is rotated by an angle that is no multiple of 90 degrees")

    @property
    def displayed(self) -> tuple[int, int]:
        """Width and height of what `upright` returns."""
        return self.scaled[::-1] if self.transpose else self.scaled

    def upright(self, image: Frame) -> Frame:
        """Turn and mirror an image as the display matrix says."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        image = image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return np.ascontiguousarray(image)


def _fit(width: Fraction, height: Fraction, short_side: int | None) -> tuple[int, int]:
    """Whole width and height, at least 1, with the shorter side at `short_side` pixels."""
    factor = Fraction(1) if short_side is None else short_side / min(width, height)
    return max(1, math.floor(width * factor + Fraction(1, 2))), max(1, math.floor(height * factor + Fraction(1, 2)))


def _check_pixels(width: int, height: int) -> None:
    """Refuse what a header states before memory is taken for it."""
    if width * height > MAX_PIXELS:
        raise BrokenVideoError(f"frames of {width}x{height} are larger than the {MAX_PIXELS} pixels that are taken")


def _url(path: Path) -> str:
    """A path that FFmpeg takes for a file whatever characters it has."""
    return f"file:{path.absolute()}"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file's first video stream; FFmpeg's errors, also later ones, leave as BrokenVideoError."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from error
    if empty:
        raise BrokenVideoError("the file is empty")
    try:
        with av.open(_url(path), options=OPEN_OPTIONS, metadata_errors="replace") as container:
            # a cover picture is a video stream to FFmpeg, but not a video
            streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
            if not streams:
                raise BrokenVideoError("there is no video stream")
            stream = streams[0]
            if stream.codec_context is None:
                raise BrokenVideoError("FFmpeg has no decoder for its video stream")
            stream.codec_context.thread_count = 1
            stream.codec_context.options = DECODER_OPTIONS
            _check_pixels(stream.codec_context.width, stream.codec_context.height)
            yield container, stream
    except FFmpegError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from error
        raise BrokenVideoError(f"FFmpeg: {error.strerror or type(error).__name__}") from error


def _stated_frames(path: Path, container: InputContainer, stream: VideoStream) -> int | None:
    """Number of frames that the container states; read before its packets are, since some indexes grow."""
    if stream.frames == 0:
        return None
    if _is_mp4(container):  # the sample table, less what an edit list hides; it has not the samples of fragments
        if fragment_samples(path, stream.id) is not None:
            return None
        return sum(not entry.is_discard for entry in stream.index_entries)
    if container.format.name == "avi":  # the stream header, less its empty chunks ("show the last frame again"):
        index = stream.index_entries  # FFmpeg leaves them out of the index, where the frames' numbers then have gaps
        covered = len(index) > 0 and index[-1].timestamp + 1 == stream.frames
        return len(index) if covered else stream.frames
    return None


def _held_packets(path: Path, container: InputContainer, stream: VideoStream, num_samples: int) -> int:
    """Number of packets that a container without a count holds, where its structure says so; else what its header does.

    num_samples: as the header states, of a fragmented MP4 those before the fragments.
    """
    if _is_mp4(container):
        in_fragments = fragment_samples(path, stream.id)
        if in_fragments is None:
            raise BrokenVideoError("it has neither a table of frames nor a list of what its fragments hold")
        return num_samples + in_fragments
    return matroska_frames(path) if "matroska" in container.format.name else num_samples


def _is_mp4(container: InputContainer) -> bool:
    return "mp4" in container.format.name


def _read_stream(path: Path, short_side: int | None) -> Iterator[Frame]:
    with _opened(path) as (container, stream):
        stated, num_samples = _stated_frames(path, container, stream), stream.frames
        reformatter = VideoReformatter()
        layout: _Layout | None = None
        tally = PacketTally(stream.codec_context.name)
        num_frames = 0
        end_seconds = 0.0
        interlaced = False
        for packet in container.demux():
            start, duration = (float((time or 0) * (packet.time_base or 0)) for time in (packet.pts, packet.duration))
            end_seconds = max(end_seconds, start + duration)
            if packet.stream is not stream:  # not by index: the packets that flush a decoder all have index 0
                continue
            if packet.size:
                tally.add(packet, start, duration, discarded=packet.is_discard)
            for frame in stream.decode(packet):
                if frame.is_corrupt:
                    raise BrokenVideoError(f"frame {num_frames} is damaged")
                layout = layout or _Layout.of(frame, stream, short_side)
                if (frame.width, frame.height) != layout.coded:
                    raise BrokenVideoError(
                        f"its size changes from {layout.coded[0]}x{layout.coded[1]} to {frame.width}x{frame.height} "
                        f"at frame {num_frames}"
                    )
                interlaced |= frame.interlaced_frame
                yield layout.upright(_to_rgb(frame, layout.scaled, reformatter))
                num_frames += 1
        if not num_frames:
            raise BrokenVideoError("no frame can be decoded")
        if stated is None:
            _check_duration(container, end_seconds)
            num_samples = _held_packets(path, container, stream, num_samples)
            _check_packets(tally, num_samples, num_frames, interlaced=interlaced)
        elif not stated - tally.num_not_coded <= num_frames <= stated:
            raise BrokenVideoError(f"{num_frames} frames can be decoded, but the container states {stated}")
        if _is_mp4(container) and tally.num_shown < num_samples:
            _check_hidden(path, stream, tally)


def _check_duration(container: InputContainer, end_seconds: float) -> None:
    """What a container without a count can be held to: that its packets reach the duration that it states."""
    if container.duration is None:
        return
    stated_seconds = container.duration / av.time_base
    if end_seconds < stated_seconds - DURATION_SLACK_SECONDS:
        raise BrokenVideoError(f"it ends after {end_seconds:.2f} s, but the container states {stated_seconds:.2f} s")


def _check_packets(tally: PacketTally, held: int, num_frames: int, *, interlaced: bool) -> None:
    """And that all its packets are found, each of which gives a frame, or one of its two fields."""
    if tally.num_packets < held:
        raise BrokenVideoError(f"{tally.num_packets} packets can be read, but the container holds {held}")
    wanted = tally.num_shown - tally.num_silent
    if num_frames * (2 if interlaced else 1) < wanted:
        raise BrokenVideoError(f"{num_frames} frames can be decoded, but there are packets for {wanted}")


def _check_hidden(path: Path, stream: VideoStream, tally: PacketTally) -> None:
    """Frames that are not shown must be an edit list's doing, which states how long the others last."""
    edited = edited_seconds(path, stream.id)
    if edited is None or not tally.fills(*edited):
        raise BrokenVideoError(
            f"{tally.num_shown} of its frames are shown, which do not last as long as its edit list states"
        )


def _to_rgb(frame: VideoFrame, size: tuple[int, int], reformatter: VideoReformatter) -> Frame:
    """Resize and convert one frame with its own colour matrix and range to full-range RGB."""
    rgb = reformatter.reformat(
        frame,
        width=size[0],
        height=size[1],
        format="rgb24",
        interpolation=SCALING,
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )
    image = cast(Frame, rgb.to_ndarray())
    if frame.format.name.startswith("gray") and frame.color_range == ColorRange.MPEG:
        image = GRAY_TO_FULL_RANGE[image]  # swscale takes every gray format for full range
    return image


def _list_images(folder: Path) -> list[Path]:
    """Images of a frame folder in the order of their numbers. Raises BrokenVideoError on gaps and mixed names."""
    numbered: dict[int, Path] = {}
    stems: set[tuple[str, str]] = set()
    for image in sorted(folder.iterdir()):
        if image.suffix.lower() not in IMAGE_SUFFIXES or image.name.startswith("."):
            continue
        match = re.fullmatch(r"(.*?)([0-9]+)", image.stem)
        if match is None:
            raise BrokenVideoError(f"{image.name} has no frame number")
        number = int(match[2])
        if number in numbered:
            raise BrokenVideoError(f"{numbered[number].name} and {image.name} have the same frame number")
        numbered[number] = image
        stems.add((match[1], image.suffix))
    if not numbered:
        raise BrokenVideoError("the folder has no images")
    if len(stems) > 1:
        names = ", ".join(f"{prefix}*{suffix}" for prefix, suffix in sorted(stems))
        raise BrokenVideoError(f"the folder mixes images of different names: {names}")
    first = min(numbered)
    missing = sorted(set(range(min(first, 1), max(numbered) + 1)) - set(numbered))
    if missing:
        raise BrokenVideoError(f"{len(missing)} frame(s) are missing, the first is number {missing[0]}")
    return [numbered[number] for number in sorted(numbered)]


def _read_image(path: Path) -> Frame:
    """Decode one JPEG or PNG to RGB; an EXIF orientation is not applied, as extracted frames have none."""
    data = path.read_bytes()
    if path.suffix.lower() != ".png":
        try:
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
            _check_pixels(width, height)
            jpeg: Frame = simplejpeg.decode_jpeg(data, colorspace="RGB")
        except ValueError as error:
            raise BrokenVideoError(f"{path.name}: {error}") from error
        return jpeg
    if data[12:16] == b"IHDR":
        _check_pixels(int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))
    # OpenCV fills what a truncated PNG lacks with black
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if b"IEND" in data[-12:] else None
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise BrokenVideoError(f"{path.name}: OpenCV: {error.err}") from error
    if decoded is None:
        raise BrokenVideoError(f"{path.name} is not a whole PNG image")
    return cast(Frame, decoded)


def _read_images(folder: Path, short_side: int | None) -> Iterator[Frame]:
    reformatter = VideoReformatter()
    size: tuple[int, int] | None = None
    for path in _list_images(folder):
        image = _read_image(path)
        height, width = image.shape[:2]
        size = size or (width, height)
        if (width, height) != size:
            raise BrokenVideoError(f"its size changes from {size[0]}x{size[1]} to {width}x{height} at {path.name}")
        yield _resized(image, short_side, reformatter)


def resize_frames(frames: Iterable[Frame], *, short_side: int) -> Iterator[Frame]:
    """RGB uint8 frames (H, W, 3) of square pixels from elsewhere, a camera's, resized as `read_frames` resizes."""
    reformatter = VideoReformatter()
    for frame in frames:
        yield _resized(frame, short_side, reformatter)


def _resized(image: Frame, short_side: int | None, reformatter: VideoReformatter) -> Frame:
    height, width = image.shape[:2]
    scaled = _fit(Fraction(width), Fraction(height), short_side)
    _check_pixels(*scaled)
    if scaled == (width, height):
        return image
    return _to_rgb(VideoFrame.from_ndarray(image, format="rgb24"), scaled, reformatter)
