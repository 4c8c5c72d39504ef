"""The boxes of an MP4 and the elements of a Matroska file, as far as they show what FFmpeg drops in silence; and what
to say of containers that are not read.

FFmpeg skips what it does not know, and resumes behind what is damaged at the next thing that it does: frames are then
missing without an error. Here nothing is skipped.
"""

from __future__ import annotations

import shlex
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import BrokenVideoError

# --- MP4 (ISO/IEC 14496-12) ---

# All boxes that may lie between a fragmented file and its samples, level by level
FILE_BOXES = frozenset(
    b"ftyp styp moov moof mdat free skip wide sidx ssix mfra meta uuid udta prft emsg pdin junk".split()
)
FRAGMENT_BOXES = frozenset(b"mfhd traf meta pssh free skip uuid".split())
PART_BOXES = frozenset(b"tfhd tfdt trun tfxd tfrf sdtp sbgp sgpd subs saiz saio senc meta udta free skip uuid".split())


@dataclass(frozen=True)
class Box:
    """A box: its type, and where its content begins and ends."""

    kind: bytes
    start: int
    stop: int


def _boxes(file: BinaryIO, start: int, stop: int, *, known: frozenset[bytes] | None = None) -> Iterator[Box]:
    """The boxes between two offsets, up to bytes that are none; with `known`, their types, such bytes are an error."""
    while start < stop:
        file.seek(start)
        header = file.read(min(16, stop - start)).ljust(16, b"\0")
        size, kind, large_size = struct.unpack(">I4sQ", header)
        content = start + (16 if size == 1 else 8)
        end = stop if size == 0 else start + (large_size if size == 1 else size)
        if not content <= end <= stop or (known is not None and kind not in known):
            if known is None:
                return
            raise BrokenVideoError(f"the box at byte {start} is damaged or cut off")
        yield Box(kind, content, end)
        start = end


def _inside(file: BinaryIO, box: Box, *kinds: bytes) -> Iterator[Box]:
    """The boxes at a path of types below a box."""
    for inner in _boxes(file, box.start, box.stop):
        if inner.kind == kinds[0]:
            if len(kinds) == 1:
                yield inner
            else:
                yield from _inside(file, inner, *kinds[1:])


def _numbers(file: BinaryIO, box: Box | None, layout: str, offset: int = 0, *, times: int = 1) -> tuple[int, ...]:
    """Numbers of a box's content, in a layout of struct that is repeated `times` times."""
    size = struct.calcsize(">" + layout) * times
    if box is None or box.start + offset + size > box.stop:
        raise BrokenVideoError("a box of its header is missing or too short")
    file.seek(box.start + offset)
    return struct.unpack(">" + layout * times, file.read(size))


def fragment_samples(path: Path, track: int) -> int | None:
    """Number of samples that the fragments of an MP4 hold for one track; None where it is not fragmented.

    Raises BrokenVideoError where boxes of a fragmented one do not fill their parent or the file, lack what they count,
    or are of an unknown type or track.
    """
    with path.open("rb") as file:
        whole = Box(b"", 0, file.seek(0, 2))
        tracks = {_numbers(file, trex, "II")[1] for trex in _inside(file, whole, b"moov", b"mvex", b"trex")}
        if not tracks:
            return None
        return sum(
            _part_samples(file, part, tracks, track)
            for fragment in _boxes(file, whole.start, whole.stop, known=FILE_BOXES)
            if fragment.kind == b"moof"
            for part in _boxes(file, fragment.start, fragment.stop, known=FRAGMENT_BOXES)
            if part.kind == b"traf"
        )


def _part_samples(file: BinaryIO, part: Box, tracks: set[int], track: int) -> int:
    """Number of samples in a fragment's part, if it belongs to the track; else 0."""
    owners: list[int] = []
    count = 0
    for box in _boxes(file, part.start, part.stop, known=PART_BOXES):
        if box.kind == b"tfhd":
            owners.append(_numbers(file, box, "II")[1])
        if box.kind == b"trun":
            flags, samples = _numbers(file, box, "II")
            optional = (flags & 0x1) + (flags >> 2 & 0x1)  # data offset, first sample's flags
            each = sum(flags >> bit & 0x1 for bit in (8, 9, 10, 11))  # duration, size, flags, composition time
            if box.stop - box.start != 8 + 4 * (optional + samples * each):
                raise BrokenVideoError(f"the table of samples at byte {box.start} is damaged")
            count += samples
    if len(owners) != 1 or owners[0] not in tracks:
        raise BrokenVideoError(f"the fragment at byte {part.start} is of no track that the header announces")
    return count if owners[0] == track else 0


@dataclass(frozen=True)
class Edits:
    """An edit list: the number of its edits that show something, how long, and by how much its times are rounded."""

    number: int
    seconds: float
    rounding: float


def edits_of(path: Path, track: int) -> Edits | None:
    """The edit list of an MP4's track; None where there is none.

    Raises BrokenVideoError where it contradicts the duration in the track's header by more than both are rounded.
    """
    with path.open("rb") as file:
        whole = Box(b"", 0, file.seek(0, 2))
        for trak in _inside(file, whole, b"moov", b"trak"):
            header = next(_inside(file, trak, b"tkhd"), None)
            long = _numbers(file, header, "B")[0]  # its times, the first two fields, have 8 bytes instead of 4
            number, stated = _numbers(file, header, "I4xQ" if long else "I4xI", 20 if long else 12)
            edits = next(_inside(file, trak, b"edts", b"elst"), None)
            if number != track or edits is None:
                continue
            movie = next(_inside(file, whole, b"moov", b"mvhd"), None)
            (timescale,) = _numbers(file, movie, "I", 20 if _numbers(file, movie, "B")[0] else 12)
            long, count = _numbers(file, edits, "B3xI")
            values = _numbers(file, edits, "Qqi" if long else "Iii", 8, times=count)
            spans = list(zip(values[::3], values[1::3], strict=True))
            clock = next(_inside(file, trak, b"mdia", b"mdhd"), None)  # FFmpeg invents one where it is missing
            rounded = count + 1  # each span and the sum, by less than a tick
            differs = abs(sum(span for span, _ in spans) - stated) > rounded
            if differs or not timescale or not _numbers(file, clock, "B3x"):
                raise BrokenVideoError("its edit list and its header state different durations")
            shown = [span for span, time in spans if time != -1]
            return Edits(len(shown), sum(shown) / timescale, rounded / timescale)
    return None


# --- Matroska and WebM (RFC 8794, RFC 9559) ---

SEGMENT, TRACKS, TRACK_ENTRY, CLUSTER, BLOCK_GROUP = 0x18538067, 0x1654AE6B, 0xAE, 0x1F43B675, 0xA0
SIMPLE_BLOCK, BLOCK, TRACK_NUMBER, TRACK_TYPE = 0xA3, 0xA1, 0xD7, 0x83
ANYWHERE = frozenset({0xEC, 0xBF})  # Void, CRC-32
SHORT = frozenset({0xE7, 0xA7, 0xAB})  # numbers of a cluster: its time, place, and the size of the one before it
ROOT = 0
# All elements that may lie between the file and its frames, by their parents; None: FFmpeg reads it and must know them
CHILDREN: dict[int, frozenset[int] | None] = {
    ROOT: frozenset({0x1A45DFA3, SEGMENT}),
    SEGMENT: frozenset({0x114D9B74, 0x1549A966, TRACKS, CLUSTER, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367}),
    CLUSTER: frozenset({*SHORT, 0x5854, SIMPLE_BLOCK, BLOCK_GROUP}),
    BLOCK_GROUP: frozenset({BLOCK, 0x75A1, 0x9B, 0xFA, 0xFB, 0xA4, 0x75A2, 0x8E}),
    TRACKS: frozenset({TRACK_ENTRY}),
    TRACK_ENTRY: None,
}


def matroska_frames(path: Path, place: int) -> int:
    """Number of frames in the blocks of a Matroska file's video track at a place among them, from 0.

    Raises BrokenVideoError where elements do not lie end to end, or an unknown one lies among frames.
    """
    frames: Counter[int] = Counter()
    numbers: list[int] = []
    types: list[int] = []
    with path.open("rb") as file:
        for kind, start, stop in _elements(file, file.seek(0, 2)):
            file.seek(start)
            content = file.read(min(stop - start, 16))
            if kind in (SIMPLE_BLOCK, BLOCK):
                track, length = _number(content)
                header = content[length : length + 4]  # time (2 bytes), flags, and with lacing the number of frames - 1
                if len(header) < 3:
                    raise BrokenVideoError(f"the block at byte {start} is too short")
                frames[track] += header[3] + 1 if header[2] & 0x06 and len(header) == 4 else 1
            elif kind == TRACK_NUMBER:
                numbers.append(int.from_bytes(content))
            elif kind == TRACK_TYPE:
                types.append(int.from_bytes(content))
    if len(numbers) != len(types) or set(frames) - set(numbers):
        raise BrokenVideoError("it has blocks of a track that its header does not announce")
    videos = [number for number, kind in zip(numbers, types, strict=True) if kind == 1]
    return frames[videos[place]] if place < len(videos) else 0


def _elements(file: BinaryIO, size: int) -> Iterator[tuple[int, int, int]]:
    """Id, and start and end of the content, of all elements down to the blocks, up to the end of the segment."""
    parents = [(ROOT, size, False)]
    place = 0
    while parents:
        parent, stop, open_ended = parents[-1]
        if place == stop:
            parents.pop()
            if parent == SEGMENT:
                return
            continue
        file.seek(place)
        header = file.read(min(12, stop - place))
        kind, kind_length = _number(header, longest=4, keep_marker=True)
        length, length_length = _number(header[kind_length:])
        known = CHILDREN[parent]
        if known is not None and kind not in known | ANYWHERE:
            if not open_ended:
                raise BrokenVideoError(f"the element at byte {place} is damaged")
            parents.pop()
            continue
        content = place + kind_length + length_length
        endless = length == (1 << 7 * length_length) - 1  # of unknown size: until something that cannot be in it
        end = stop if endless else content + length
        if end > stop or (endless and kind not in (SEGMENT, CLUSTER)) or (kind in SHORT and length > 8):
            raise BrokenVideoError(f"the element at byte {place} is damaged or cut off")
        if kind in CHILDREN:
            parents.append((kind, end, endless))
            place = content
        else:
            yield kind, content, end
            place = end


def _number(data: bytes, *, longest: int = 8, keep_marker: bool = False) -> tuple[int, int]:
    """The variable-length number at the start of the data, and its length; its first 1 is the marker."""
    length = 9 - data[0].bit_length() if data else 9
    if length > longest or length > len(data):
        raise BrokenVideoError("a number is damaged or cut off")
    value = int.from_bytes(data[:length])
    return value if keep_marker else value & ((1 << 7 * length) - 1), length


# --- containers that are not read ---

# By their first bytes: FFmpeg would have to open a file to say what it is. A raw stream has no time stamps, and ffmpeg
# loses frames when it copies one; what it decodes and packs without loss has them all.
COPY, PACK = "-c copy", "-c:v ffv1"
STREAM_STARTS = (b"\0\0\1", b"\0\0\0\1")
CONTAINERS = {
    b"GIF8": ("a GIF image", PACK),
    b"\x89PNG": ("a PNG image", PACK),
    b"\xff\xd8\xff": ("a JPEG image, or raw MJPEG", PACK),
    b"YUV4MPEG2": ("YUV4MPEG", PACK),
    b".RMF": ("RealMedia", PACK),
    b"\x1f\x07\0": ("raw DV", COPY),
    b"DKIF": ("IVF", COPY),
    b"nut/": ("NUT", COPY),
    b"DHAV": ("Dahua's DHAV", COPY),
    b"\xb7\xd8\0\x20": ("Windows TV", COPY),
}


def unread_container(path: Path) -> str | None:
    """Why a file is not read, with the way out; None where its beginning is none of those known here."""
    with path.open("rb") as file:
        start = file.read(16)
    found = next((value for magic, value in CONTAINERS.items() if start.startswith(magic)), None)
    if found is None and start.startswith(STREAM_STARTS) and not start.startswith(b"\0\0\1\xba"):
        found = ("a raw stream", PACK)
    if found is None:
        return None
    name, how = found
    command = f"ffmpeg -i {shlex.quote(path.name)} {how} {shlex.quote(path.stem + '.mkv')}"
    return f"{name} is not read; `{command}` makes a video of it"
