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
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.core.errors import BrokenVideoError, DataError
from pipeline.core.files import written_whole
from pipeline.data.frames import FINE, Frame, Levels, bytes_of_fine, encoded
from pipeline.videos.containers import unread_container
from pipeline.videos.frame_counts import PacketTally, Promise
from pipeline.videos.frame_times import PacketClock
from pipeline.videos.images import MAX_PIXELS, check_pixels, list_images, read_image, read_images

# Only these demuxers and plain files: a playlist named .mp4 could open other files, or hosts
FORMATS = "avi,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,asf,flv,ogg,mxf"
# max_pixels: while FFmpeg looks for streams, which decodes; larger frames are refused before memory is allocated
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": str(MAX_PIXELS)}
# Texts of a video that are no UTF-8 are no reason to refuse it; from PyAV 19 on it takes them by itself
METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
# Accurate and the same on every CPU; bilinear in swscale averages over the source's area where it shrinks
SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT

# explode: an error where a slice is damaged; else FFmpeg conceals it in silence
DECODER_OPTIONS = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}

GRAY_TO_FULL_RANGE = np.clip((np.arange(256) - 16) * 255 / 219 + 0.5, 0, 255).astype(np.uint8)
FINE_GRAY_TO_FULL_RANGE = np.clip((np.arange(65536) / FINE - 16) * 255 / 219, 0, 255)

MAX_SAMPLE_ASPECT = 4  # the standards' widest sample is 32:11; beyond this the header is damaged


def _unnamed_type(cls: type[SideDataType], value: int) -> SideDataType:
    member: Any = object.__new__(cls)
    member._name_, member._value_ = f"TYPE_{value}", value
    return cast(SideDataType, member)


# PyAV names side data up to FFmpeg 7's, and raises for all of a frame's where one is newer, as EXIF and the view of a
# spatial video are; only the display matrix is looked at here
SideDataType._missing_ = classmethod(_unnamed_type)  # type: ignore[assignment]

# Units of supplemental information, by codec: an error there is none of the picture, but `explode` makes one of it
SEI_UNITS = {"h264": "6", "hevc": "39-40"}
av.logging.set_skip_repeated(False)  # or what is said of one video is not said of the next


@dataclass(frozen=True)
class VideoInfo:
    """What a video's packets and its first frame tell.

    num_frames: as many as its packets should give; None where packets seem to be half frames, as some of interlaced
    streams are. fps: frames over the time they last, 0.0 where that is unknown (frame folders). is_steady: whether
    they come at that rate from first to last. num_tracks: video tracks, of which the one that ffmpeg chooses is read.
    width, height: pixels as displayed, after sample aspect ratio and rotation. damage: why the file is not whole; empty
    where it is, or as far as is known.
    """

    num_frames: int | None
    fps: float
    is_steady: bool
    num_tracks: int
    width: int
    height: int
    damage: str = ""


def probe(path: Path, *, images: str | None = None, take_damaged: bool = False) -> VideoInfo:
    """Read a video's packets, and decode its first frame alone. images: which of a folder's are its frames (`img_*`).

    Raises BrokenVideoError where there is no video stream or no frame, or, unless `take_damaged`, where the packets are
    not what the container promises; DataError where the file cannot be opened.
    """
    if path.is_dir():
        listed = list_images(path, images)
        height, width = read_image(listed[0]).shape[:2]
        return VideoInfo(len(listed), 0.0, True, 1, width, height)
    with _opened(path) as (container, stream):
        promise = _promise(path, container, stream)
        tally = PacketTally(stream.codec_context.name, promise.key_first)
        clock = PacketClock(container.format.name, float(stream.average_rate or stream.guessed_rate or 0))
        first: VideoFrame | None = None
        damage = ""
        try:
            for packet in _packets(container, stream, tally):
                if first is None:
                    first = next(iter(_frames_of(stream, packet, tally)), None)
                if packet.size and not packet.is_discard:
                    clock.add(packet.pts, packet.dts, packet.duration, packet.time_base)
            if first is None:
                raise BrokenVideoError("no frame can be decoded")
            tally.expect_from(first.time or 0.0)
            promise.check(tally)
        except (BrokenVideoError, FFmpegError) as error:
            meaning = _meaning(error) if isinstance(error, FFmpegError) else error
            if first is None or not take_damaged or not isinstance(meaning, BrokenVideoError):
                raise
            damage = meaning.message
        num_expected = tally.num_expected
        is_half = first.interlaced_frame and promise.num_frames is None and clock.is_too_fast(num_expected)
        rate = (clock.stated_fps, True) if is_half else clock.rate(num_expected)
        layout = _Layout.of(first, stream, None)
        num_frames, num_tracks = None if is_half else num_expected, len(_video_tracks(container))
        return VideoInfo(num_frames, *rate, num_tracks, *layout.displayed, damage)


def read_frames(
    path: Path, *, short_side: int | None = None, images: str | None = None, levels: Levels = "linear"
) -> Iterator[Frame]:
    """Yield every frame once, in display order: RGB uint8 (H, W, 3), square pixels, upright.

    short_side: pixels to which the shorter side is resized (the other keeps the displayed aspect ratio); None keeps
    the displayed size. images: as `probe` takes it. levels: what the bytes mean (pipeline/data/frames.py); companded
    ones are made from 16 bits a value, so that what is shrunk is rounded once. Frames that an edit list hides are not
    part of the video. BT.601, BT.709 and BT.2020 matrices, limited and full range are converted as tagged; an untagged
    matrix is BT.601, as FFmpeg and OpenCV take it. Interlaced frames are not deinterlaced, HDR is not tone-mapped.

    Raises BrokenVideoError, possibly after some frames, when there is no video stream or frame, on a decoding error,
    when the size changes midway, and when there are fewer or more frames than the container states.
    """
    if path.is_dir():
        return resize_frames(read_images(path, images), short_side=short_side, levels=levels)
    return _read_stream(path, short_side, levels)


def read_times(path: Path) -> Iterator[float]:
    """Decode a video, and yield when each of its frames is shown, and last when that of the last one ends, in seconds.

    nan stands for a time that the file does not tell. Raises what `read_frames` raises; a folder has no times.
    """
    time = end = math.nan
    for frame, _ in _decoded(path, None):
        before, time = time, math.nan if frame.time is None else frame.time
        end = time + (float(frame.duration * (frame.time_base or 0)) or time - before)
        yield time
    yield end


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
        with av.open(_url(path), options=OPEN_OPTIONS, **METADATA) as container:
            yield container, _video_stream(container)
    except FFmpegError as error:
        if error.errno == errno.EINVAL and (reason := unread_container(path)):
            raise BrokenVideoError(reason) from error
        raise _meaning(error) from error


def _meaning(error: FFmpegError) -> Exception:
    """What an error of PyAV says: which of them mean a broken video is decided here and nowhere else."""
    if error.errno == errno.ENOMEM:
        return MemoryError()
    return BrokenVideoError(f"FFmpeg: {error.strerror or type(error).__name__}")


def _video_tracks(container: InputContainer) -> list[VideoStream]:
    """A cover picture is a video stream to FFmpeg, but not a video."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def _rank(stream: VideoStream) -> int:
    """By which the ffmpeg program chooses a video stream (map_auto_video): the largest, but rather a default one."""
    codec = stream.codec_context
    return (codec.width * codec.height if codec else 0) + 5_000_000 * bool(stream.disposition & Disposition.default)


def _video_stream(container: InputContainer) -> VideoStream:
    """The video stream that ffmpeg would choose, ready to decode; of equals the first.

    Raises BrokenVideoError where there is none that can be decoded.
    """
    streams = _video_tracks(container)
    if not streams:
        raise BrokenVideoError("there is no video stream")
    stream = max(streams, key=_rank)
    codec = stream.codec_context
    if codec is None:
        raise BrokenVideoError("FFmpeg has no decoder for its video stream")
    codec.thread_count = 1
    codec.options = DECODER_OPTIONS
    codec.copy_opaque = True  # a frame knows its packet
    check_pixels(codec.width, codec.height)
    return stream


def _promise(path: Path, container: InputContainer, stream: VideoStream) -> Promise:
    seconds = None if container.duration is None else container.duration / av.time_base
    name = container.format.name
    track = container.streams.video.index(stream) if "matroska" in name else stream.id
    return Promise.of(path, name, track, stream.frames, list(stream.index_entries), seconds)


def _packets(container: InputContainer, stream: VideoStream, tally: PacketTally) -> Iterator[Packet[Any]]:
    """The stream's packets, taken into account, up to the one without data that flushes its decoder."""
    for packet in container.demux():
        start, duration = (float((time or 0) * (packet.time_base or 0)) for time in (packet.pts, packet.duration))
        tally.add_time(start, duration)
        if packet.stream is not stream:  # not by index: the packets that flush a decoder all have index 0
            continue
        if packet.size:
            packet.opaque = tally.num_packets
            tally.add(packet, start, duration, key=packet.is_keyframe, discarded=packet.is_discard)
        yield packet


def _read_stream(path: Path, short_side: int | None, levels: Levels) -> Iterator[Frame]:
    reformatter = VideoReformatter()
    for frame, layout in _decoded(path, short_side):
        yield layout.upright(_to_rgb(frame, layout.scaled, reformatter, levels))


def _decoded(path: Path, short_side: int | None) -> Iterator[tuple[VideoFrame, _Layout]]:
    with _opened(path) as (container, stream):
        promise = _promise(path, container, stream)
        tally = PacketTally(stream.codec_context.name, promise.key_first)
        layout: _Layout | None = None
        for packet in _packets(container, stream, tally):
            for frame in _frames_of(stream, packet, tally):
                if frame.is_corrupt:
                    raise BrokenVideoError(f"frame {tally.num_frames} is damaged")
                layout = layout or _Layout.of(frame, stream, short_side)
                if (frame.width, frame.height) != layout.coded:
                    raise BrokenVideoError(
                        f"its size changes from {layout.coded[0]}x{layout.coded[1]} to {frame.width}x{frame.height} "
                        f"at frame {tally.num_frames}"
                    )
                yield frame, layout
                tally.sources.append(tally.num_packets if frame.opaque is None else cast(int, frame.opaque))
                tally.interlaced |= frame.interlaced_frame
        promise.check(tally)


def _frames_of(stream: VideoStream, packet: Packet[Any], tally: PacketTally) -> list[VideoFrame]:
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


def _to_rgb(frame: VideoFrame, size: tuple[int, int], reformatter: VideoReformatter, levels: Levels) -> Frame:
    """Resize and convert one frame with its own colour matrix and range to full-range RGB."""
    is_limited_gray = frame.format.name.startswith("gray") and frame.color_range == ColorRange.MPEG
    rgb = reformatter.reformat(
        frame,
        width=size[0],
        height=size[1],
        format="rgb24" if levels == "linear" else "rgb48le",  # of 16 bits swscale rounds nothing to 8 on the way
        interpolation=SCALING,
        dst_color_range=ColorRange.JPEG,
        threads=1,
    )
    image = rgb.to_ndarray()
    if levels == "linear":  # swscale takes every gray format for full range
        return cast(Frame, GRAY_TO_FULL_RANGE[image] if is_limited_gray else image)
    if is_limited_gray:
        return encoded(FINE_GRAY_TO_FULL_RANGE[image], levels)
    return bytes_of_fine(levels).take(cast(NDArray[np.uint16], image))


def resize_frames(frames: Iterable[Frame], *, short_side: int | None, levels: Levels = "linear") -> Iterator[Frame]:
    """RGB uint8 frames (H, W, 3) of square pixels from elsewhere, as a camera, made into those of `read_frames`."""
    reformatter = VideoReformatter()
    for frame in frames:
        height, width = frame.shape[:2]
        scaled = _fit(Fraction(width), Fraction(height), short_side)
        check_pixels(*scaled)
        if scaled == (width, height):
            yield frame if levels == "linear" else encoded(frame.astype(np.float32), levels)
        else:
            yield _to_rgb(VideoFrame.from_ndarray(frame, format="rgb24"), scaled, reformatter, levels)
