"""Videos: a file or a folder of images → RGB frames, each once, in order; and frames → an H.264 file.

The only module that imports `av`. Others read through pipeline/videos/decoder.py, which calls the two readers here in a
process that may be lost. Decoding is sequential and on one thread: seeking is off by frames on real files, and the
workers are processes. A decode without an error proves little, so the frames are counted against what the container
promises (pipeline/videos/frame_counts.py); a video that cannot be trusted raises BrokenVideoError, whose message is the
reason that the quarantine records.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import av.logging
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
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
from pipeline.videos.frame_counts import PacketTally, Promise
from pipeline.videos.images import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from pipeline.videos.images import MAX_PIXELS, check_pixels, list_images, read_image, read_images

# Only these demuxers and plain files: a playlist named .mp4 could open other files, or hosts
FORMATS = "avi,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,asf"
# max_pixels: while FFmpeg looks for streams, which decodes; larger frames are refused before memory is allocated
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": str(MAX_PIXELS)}
# Accurate and the same on every CPU; bilinear in swscale averages over the source's area where it shrinks
SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT

# explode: an error where a slice is damaged; else FFmpeg conceals it in silence
DECODER_OPTIONS = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}

# Units of supplemental information, by codec: an error there is none of the picture, but `explode` makes one of it
SEI_UNITS = {"h264": "6", "hevc": "39-40"}


def _unknown_side_data(_: type[SideDataType], value: int) -> SideDataType:
    """A member for a type of side data that FFmpeg knows and PyAV's enumeration lacks: PyAV looks up each by number."""
    member = object.__new__(SideDataType)
    member._name_, member._value_ = f"UNKNOWN_{value}", value  # type: ignore[assignment]
    return member


SideDataType._missing_ = classmethod(_unknown_side_data)  # type: ignore[assignment,method-assign]
av.logging.set_skip_repeated(False)  # or what is said of one video is not said of the next

GRAY_TO_FULL_RANGE = np.clip((np.arange(256) - 16) * 255 / 219 + 0.5, 0, 255).astype(np.uint8)

MAX_SAMPLE_ASPECT = 4  # the standards' widest sample is 32:11; beyond this the header is damaged


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
        images = list_images(path)
        height, width = read_image(images[0]).shape[:2]
        return VideoInfo(len(images), 0.0, width, height)
    with _opened(path) as (container, stream):
        for frame in container.decode(stream):
            layout = _Layout.of(frame, stream, None)
            rate = stream.average_rate or stream.guessed_rate
            return VideoInfo(_promise(path, container, stream).num_frames, float(rate or 0), *layout.displayed)
        raise BrokenVideoError("no frame can be decoded")


def read_frames(path: Path, *, short_side: int | None = None) -> Iterator[Frame]:
    """Yield every frame once, in display order: RGB uint8 (H, W, 3), square pixels, upright.

    short_side: pixels to which the shorter side is resized (the other keeps the displayed aspect ratio); None keeps
    the displayed size. Frames that an edit list hides are not part of the video. BT.601, BT.709 and BT.2020 matrices,
    limited and full range are converted as tagged; an untagged matrix is BT.601, as FFmpeg and OpenCV take it.
    Interlaced frames are not deinterlaced, HDR is not tone-mapped.

    Raises BrokenVideoError, possibly after some frames, when there is no video stream or frame, on a decoding error,
    when the size changes midway, and when there are fewer or more frames than the container states.
    """
    if path.is_dir():
        return resize_frames(read_images(path), short_side=short_side)
    return _read_stream(path, short_side)


def write_video(path: Path, frames: Iterable[Frame], *, fps: float, crf: int = 18) -> int:
    """Write RGB uint8 frames (H, W, 3) as an H.264 MP4 (yuv420p, limited range, BT.709) and return their number.

    The same frames give the same bytes (one encoding thread, no dates in the file). Raises ValueError on no frames, on
    frames of another shape or type, on a changed size, on an fps of 0, and on odd sizes: yuv420p halves the colour
    planes, and whether to crop, pad or resize is the caller's choice.
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
        check_pixels(*scaled)
        side_data = cast(SideDataContainer, frame.side_data)
        if SideDataType.DISPLAYMATRIX not in side_data:
            return _Layout((frame.width, frame.height), scaled, False, False, False)
        # x' = a·x + c·y, y' = b·x + d·y; a scale in it is already part of the sample aspect ratio
        a, b, _, c, d = np.frombuffer(bytes(side_data[SideDataType.DISPLAYMATRIX]), np.int32)[:5].tolist()
        if a and d and not b and not c:
            return _Layout((frame.width, frame.height), scaled, False, d < 0, a < 0)
        if b and c and not a and not d:
            return _Layout((frame.width, frame.height), scaled, True, b < 0, c < 0)
        raise BrokenVideoError("it is rotated by an angle that is not a multiple of 90 degrees")

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


def _url(path: Path) -> str:
    """A path that FFmpeg takes for a file whatever characters it has."""
    return f"file:{path.absolute()}"


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file's video stream; errors of PyAV in the block, too, become what they mean."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from error
    if empty:
        raise BrokenVideoError("the file is empty")
    try:
        with av.open(_url(path), options=OPEN_OPTIONS, metadata_errors="replace") as container:
            yield container, _video_stream(container)
    except FFmpegError as error:
        raise _meaning(error) from error


def _meaning(error: FFmpegError) -> Exception:
    """What an error of PyAV says: which of them mean a broken video is decided here and nowhere else."""
    if error.errno == errno.ENOMEM:
        return MemoryError()
    return BrokenVideoError(f"FFmpeg: {error.strerror or type(error).__name__}")


def _video_stream(container: InputContainer) -> VideoStream:
    """The first video stream, ready to decode. Raises BrokenVideoError where there is none that can be decoded."""
    # a cover picture is a video stream to FFmpeg, but not a video
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        raise BrokenVideoError("there is no video stream")
    codec = streams[0].codec_context
    if codec is None:
        raise BrokenVideoError("FFmpeg has no decoder for its video stream")
    codec.thread_count = 1
    codec.options = DECODER_OPTIONS
    codec.copy_opaque = True  # a frame knows its packet
    check_pixels(codec.width, codec.height)
    return streams[0]


def _promise(path: Path, container: InputContainer, stream: VideoStream) -> Promise:
    seconds = None if container.duration is None else container.duration / av.time_base
    return Promise.of(path, container.format.name, stream.id, stream.frames, list(stream.index_entries), seconds)


def _read_stream(path: Path, short_side: int | None) -> Iterator[Frame]:
    with _opened(path) as (container, stream):
        promise = _promise(path, container, stream)
        tally = PacketTally(stream.codec_context.name, promise.key_first)
        reformatter = VideoReformatter()
        layout: _Layout | None = None
        for packet in container.demux():
            start, duration = (float((time or 0) * (packet.time_base or 0)) for time in (packet.pts, packet.duration))
            tally.add_time(start, duration)
            if packet.stream is not stream:  # not by index: the packets that flush a decoder all have index 0
                continue
            if packet.size:
                packet.opaque = tally.num_packets
                tally.add(packet, start, duration, key=packet.is_keyframe, discarded=packet.is_discard)
            for frame in _decoded(stream, packet, tally):
                if frame.is_corrupt:
                    raise BrokenVideoError(f"frame {tally.num_frames} is damaged")
                layout = layout or _Layout.of(frame, stream, short_side)
                if (frame.width, frame.height) != layout.coded:
                    raise BrokenVideoError(
                        f"its size changes from {layout.coded[0]}x{layout.coded[1]} to {frame.width}x{frame.height} "
                        f"at frame {tally.num_frames}"
                    )
                yield layout.upright(_to_rgb(frame, layout.scaled, reformatter))
                tally.sources.append(tally.num_packets if frame.opaque is None else cast(int, frame.opaque))
                tally.interlaced |= frame.interlaced_frame
        promise.check(tally)


def _decoded(stream: VideoStream, packet: Packet[Any], tally: PacketTally) -> list[VideoFrame]:
    """The frames that come out of the decoder for a packet."""
    units, size = SEI_UNITS.get(stream.codec_context.name), packet.size
    try:
        with _errors_told(tally):
            return stream.decode(packet)
    except FFmpegError:
        if tally.may_fail:
            return []
        if units is None or not size:
            raise
        rest = BitStreamFilterContext(f"filter_units=remove_types={units}", stream).filter(packet)
        if not 0 < sum(part.size for part in rest) < size:
            raise
        with _errors_told(tally):
            return [frame for part in rest for frame in stream.decode(part)]


@contextmanager
def _errors_told(tally: PacketTally) -> Iterator[None]:
    """Note what the decoder says while it has not given two frames: without a word it may leave out others."""
    if tally.num_frames > 1 or tally.may_fail:
        yield
        return
    av.logging.set_level(av.logging.ERROR)
    with av.logging.Capture() as said:
        try:
            yield
        finally:
            av.logging.set_level(None)
            tally.complained |= bool(said)


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


def resize_frames(frames: Iterable[Frame], *, short_side: int | None) -> Iterator[Frame]:
    """RGB uint8 frames (H, W, 3) of square pixels from elsewhere, such as a camera, resized as `read_frames` does."""
    reformatter = VideoReformatter()
    for frame in frames:
        height, width = frame.shape[:2]
        scaled = _fit(Fraction(width), Fraction(height), short_side)
        check_pixels(*scaled)
        if scaled == (width, height):
            yield frame
        else:
            yield _to_rgb(VideoFrame.from_ndarray(frame, format="rgb24"), scaled, reformatter)
