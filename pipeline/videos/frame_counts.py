"""How many frames a container promises, and whether what was read keeps the promise: decided here and nowhere else.

FFmpeg drops in silence what it cannot place. What was lost is told from what is rightly left out by the counts,
durations and edit lists of the container, and by packets that say themselves that they give no frame. PyAV's values
come from pipeline/videos/reader.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from typing_extensions import Buffer

from pipeline.core.errors import BrokenVideoError
from pipeline.videos.containers import Edits, edits_of, fragment_samples, matroska_frames

DURATION_SLACK_SECONDS = 0.2  # how much earlier than stated the last packet may end: rounding, unknown last durations
MAX_REORDERED = 16  # pictures that HEVC and H.264 let a decoder hold back; others fewer
MOST_BEYOND = 3  # frames that FFmpeg may show beyond an edit list, where their order of decoding is another
HIDING = ("vp8", "vp9", "av1")  # a bit of a packet hides its frame; nothing is left out at the start

# ISO/IEC 14496-2, 6.2.5: type of the picture (2 bits), whole seconds (1…0), marker, the time within the second, whose
# width another header states, marker, vop_coded = 0, stuffing (01…); then nothing, or fill bytes
NOT_CODED = re.compile("[01]{2}1*01[01]{1,16}1001*(0{8}|1{8}|01{7})*")
VOP_START = b"\0\0\1\xb6"
MAX_NOT_CODED_BYTES = 19  # more than any such packet has (FFmpeg's MAX_NVOP_SIZE)


def is_not_coded(packet: bytes) -> bool:
    """Whether an MPEG-4 part 2 packet says "repeat the last frame", for which FFmpeg gives none.

    Xvid writes those where nothing moves, DivX to fill up a packed stream.
    """
    if len(packet) > MAX_NOT_CODED_BYTES:
        return False
    _, start, header = packet.rpartition(VOP_START)
    if not start:
        return len(packet) == 1  # as DivX skips a frame
    return NOT_CODED.fullmatch("".join(f"{byte:08b}" for byte in header)) is not None


def is_hidden(packet: bytes) -> bool:
    """Whether a VP8 packet is for reference only, not shown (RFC 6386, 9.1: show_frame)."""
    return not packet[0] & 0x10


@dataclass
class PacketTally:
    """What was read: a stream's packets, how many of them give no frame, the time they fill; and the frames they gave.

    codec: FFmpeg's name. key_first: whether the container states that the first packet is a key frame; None where it
    states nothing, False where it has no beginning. start_seconds, end_seconds: of all packets, of any stream. sources:
    for each frame the number of its packet, from 0 in the order of decoding. hide_times: those of packets that say
    themselves that they are hidden. Times are seconds.
    """

    codec: str
    key_first: bool | None = None
    interlaced: bool = False
    complained: bool = False  # the decoder told of an error before the second frame
    start_seconds: float = 0.0
    end_seconds: float = 0.0
    num_packets: int = 0
    num_not_coded: int = 0
    num_packed: int = 0  # frames in a packet with another one, as DivX packs those that are shown before it
    first_key: int | None = None
    shown_end: float = 0.0
    shown_seconds: float = 0.0
    sources: list[int] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)  # numbers of the packets that no edit list hides
    hidden: list[tuple[float, float]] = field(default_factory=list)  # times of the others
    times: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)  # of the same packets
    hide_times: list[float] = field(default_factory=list)

    def add_time(self, start: float, duration: float) -> None:
        """Take the time of a packet of any stream into account."""
        self.start_seconds = min(self.start_seconds, start)
        self.end_seconds = max(self.end_seconds, start + duration)

    def add(self, packet: Buffer, start: float, duration: float, *, key: bool, discarded: bool) -> None:
        """Take a packet with data into account. `discarded`: an edit list hides it."""
        number = self.num_packets
        self.num_packets += 1
        if key and self.first_key is None:
            self.first_key = number
        if discarded:
            self.hidden.append((start, start + duration))
            return
        self.shown.append(number)
        self.shown_seconds += duration
        self.shown_end = max(self.shown_end, start + duration)
        self.times.append(start)
        self.durations.append(duration)
        if self.codec == "mpeg4":
            self.num_not_coded += is_not_coded(bytes(packet))
            self.num_packed += max(bytes(packet).count(VOP_START) - 1, 0)
        if self.codec == "vp8" and is_hidden(bytes(packet)):
            self.hide_times.append(start)

    @property
    def num_frames(self) -> int:
        """Frames that were decoded."""
        return len(self.sources)

    @property
    def num_shown(self) -> int:
        """Packets that no edit list hides."""
        return len(self.shown)

    @property
    def frame_seconds(self) -> float:
        """Time between two frames, on average."""
        return (max(self.times, default=0.0) - min(self.times, default=0.0)) / max(self.num_shown - 1, 1)

    @property
    def may_fail(self) -> bool:
        """Whether errors do not matter yet: as a player does, a decoder leaves out what comes before a key frame."""
        return self.key_first is False and self.first_key is None

    @property
    def num_leading(self) -> int:
        """Packets without a frame where the stream begins in the midst of another.

        Those before the first key frame, and those that are decoded after it but refer to what came before: they
        would be shown before the first frame, and are decoded before the second.
        """
        if self.key_first and self.first_key != 0:
            limit = 0
        elif self.codec in HIDING or self.complained:
            limit = self.first_key or 0
        else:
            limit = min(self.sources[0] + MAX_REORDERED, self.sources[:2][-1])
        return len({number for number in self.shown if number < limit} - set(self.sources))

    @property
    def num_silent(self) -> int:
        """Packets that rightly give no frame.

        A hidden one takes no time: its time stamp is that of a neighbour, or nearly. Otherwise a damaged bit hides it.
        """
        near = self.frame_seconds / 2
        close = sum(sum(abs(time - other) < near for other in self.times) > 1 for time in self.hide_times)
        return self.num_not_coded + close + self.num_leading

    @property
    def num_expected(self) -> int:
        """Frames that the packets should give: a packed one comes in place of one that is not coded."""
        return self.num_shown - self.num_silent + min(self.num_packed, self.num_not_coded)

    def expect_from(self, seconds: float) -> None:
        """Take it that every packet gives a frame but those that are shown before a time, as where none is decoded."""
        self.sources = [number for number, time in zip(self.shown, self.times, strict=True) if time >= seconds]

    def fills(self, edits: Edits) -> bool:
        """Whether the shown frames reach from the start to the end of an edit list, which may lie within frames.

        FFmpeg moves the first frame that it shows to the edit's start: what the hidden one before it showed there is
        lost. Frames may be missing between the last ones that are shown, as whoever cuts in the order of decoding
        leaves them, but not where there are hidden ones instead, and not before.
        """
        first = min(self.times, default=0.0)
        span = self.shown_end - first
        before = [end for start, end in self.hidden if start < first]
        after = any(start >= self.shown_end for start, _ in self.hidden)
        longest = max((end - start for start, end in self.hidden), default=0.0)
        lost = longest * (edits.number - 1 + (self.num_leading > 0))
        if before:
            lost += max(longest - first + max(before), 0.0)
        return (
            not self._lacks_early()
            and edits.seconds - lost - edits.rounding <= (self.shown_seconds if after else span)
            and span <= edits.seconds + MOST_BEYOND * self.frame_seconds + edits.rounding
        )

    def _lacks_early(self) -> bool:
        """Whether frames that last equally long leave a gap, though decoders have shown all that they held back."""
        if self.codec not in ("h264", "hevc"):  # MPEG-1 and -2 give times to some packets alone, or to fields
            return False
        early = sorted(self.times)[:-MAX_REORDERED]
        step = max(self.durations, default=0.0)
        is_steady = step - min(self.durations, default=0.0) < step / 100
        return is_steady and len(early) > 1 and early[-1] - early[0] > (len(early) - 0.5) * step


class IndexEntry(Protocol):
    """A packet in FFmpeg's index of a stream."""

    timestamp: int
    is_discard: bool  # an edit list hides it
    is_keyframe: bool


@dataclass(frozen=True)
class Promise:
    """What a container promises of a video stream.

    container: FFmpeg's names of the format. track: FFmpeg's id of the stream; of Matroska its place among the video
    tracks. num_samples: packets that its header states, of a fragmented MP4 those before the fragments; 0 where it
    states none. num_frames: None where no count can be relied on. seconds: duration of the whole container, None where
    it states none. key_first: see PacketTally.
    """

    path: Path
    container: str
    track: int
    num_samples: int
    num_frames: int | None
    seconds: float | None
    key_first: bool | None

    @staticmethod
    def of(
        path: Path, container: str, track: int, num_samples: int, index: Sequence[IndexEntry], seconds: float | None
    ) -> Promise:
        """Call it before packets are read, since some indexes grow; raises BrokenVideoError on damaged boxes."""
        num_frames = None
        if num_samples and "mp4" in container:  # the sample table lacks the samples of fragments
            if fragment_samples(path, track) is None:
                num_frames = sum(not entry.is_discard for entry in index)
        elif num_samples and container == "avi":
            # The stream header, less its empty chunks ("show the last frame again"), of which there are many where its
            # clock is faster than the frames: FFmpeg leaves them out of the index, where the numbers then have gaps
            times = [entry.timestamp for entry in index]
            step = max((after - before for before, after in pairwise(times)), default=1)
            covered = len(times) > 0 and times[-1] < num_samples <= times[-1] + step
            num_frames = len(index) if covered else num_samples
        key_first = None
        if "mpeg" in container:
            key_first = False
        elif len(index) > 0 and (num_frames is not None or not index[0].is_keyframe):
            key_first = index[0].is_keyframe
        return Promise(path, container, track, num_samples, num_frames, seconds, key_first)

    def check(self, tally: PacketTally) -> None:
        """Raise BrokenVideoError where what was read to the end is not what was promised."""
        if not tally.num_frames:
            raise BrokenVideoError("no frame can be decoded")
        held = self.num_samples
        if self.num_frames is None:
            held = self._check_without_count(tally)
        elif not -tally.num_silent <= tally.num_frames - self.num_frames <= tally.num_packets - tally.num_shown:
            raise BrokenVideoError(
                f"{tally.num_frames} frames can be decoded, but the container states {self.num_frames}"
            )
        if "mp4" in self.container and tally.num_shown < held:
            # hidden frames must be an edit list's doing, which states how long the others last
            edits = edits_of(self.path, self.track)
            if edits is None or not tally.fills(edits):
                raise BrokenVideoError(
                    f"{tally.num_shown} of its frames are shown, which do not last as long as its edit list states"
                )

    def _check_without_count(self, tally: PacketTally) -> int:
        """Packets reach the stated duration, all are found, and each gives a frame or a field; returns their number."""
        # some containers state when it ends, others how long it lasts from its start, which may lie before 0
        seconds = tally.end_seconds - tally.start_seconds
        slack = max(DURATION_SLACK_SECONDS, 2 * tally.frame_seconds)
        if self.seconds is not None and seconds < self.seconds - slack:
            raise BrokenVideoError(f"it ends after {seconds:.2f} s, but the container states {self.seconds:.2f} s")
        held = self._held_packets()
        if tally.num_packets < held:
            raise BrokenVideoError(f"{tally.num_packets} packets can be read, but the container holds {held}")
        wanted = tally.num_shown - tally.num_silent
        if tally.num_frames * (2 if tally.interlaced else 1) < wanted:
            raise BrokenVideoError(f"{tally.num_frames} frames can be decoded, but there are packets for {wanted}")
        return held

    def _held_packets(self) -> int:
        """Packets that the structure of a container without a count holds; else those that its header states."""
        if "mp4" in self.container:
            in_fragments = fragment_samples(self.path, self.track)
            if in_fragments is None:
                raise BrokenVideoError("it has neither a table of frames nor a list of what its fragments hold")
            return self.num_samples + in_fragments
        return matroska_frames(self.path, self.track) if "matroska" in self.container else self.num_samples
