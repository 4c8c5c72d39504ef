"""How many frames a container promises, and whether what was read keeps the promise: decided here and nowhere else.

FFmpeg drops in silence what it cannot place. What was lost is told from what is rightly left out by the counts,
durations and edit lists of the container, and by packets that say themselves that they give no frame. PyAV's values
come from pipeline/videos/reader.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from typing_extensions import Buffer

from pipeline.core.errors import BrokenVideoError
from pipeline.videos.containers import edited_seconds, fragment_samples, matroska_frames

DURATION_SLACK_SECONDS = 0.2  # how much earlier than stated the last packet may end: rounding, unknown last durations

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

    codec: FFmpeg's name. end_seconds: end of the last packet, of any stream. hide_times: those of packets that say
    themselves that they are hidden. Times are seconds.
    """

    codec: str
    num_frames: int = 0
    interlaced: bool = False
    end_seconds: float = 0.0
    num_packets: int = 0
    num_shown: int = 0  # not hidden by an edit list
    num_not_coded: int = 0
    num_packed: int = 0  # frames in a packet with another one, as DivX packs those that are shown before it
    shown_seconds: float = 0.0
    longest_hidden: float = 0.0
    times: list[float] = field(default_factory=list)
    hide_times: list[float] = field(default_factory=list)

    def add(self, packet: Buffer, start: float, duration: float, *, discarded: bool) -> None:
        """Take a packet with data into account. `discarded`: an edit list hides it."""
        self.num_packets += 1
        if discarded:
            self.longest_hidden = max(self.longest_hidden, duration)
            return
        self.num_shown += 1
        self.shown_seconds += duration
        self.times.append(start)
        if self.codec == "mpeg4":
            self.num_not_coded += is_not_coded(bytes(packet))
            self.num_packed += max(bytes(packet).count(VOP_START) - 1, 0)
        if self.codec == "vp8" and is_hidden(bytes(packet)):
            self.hide_times.append(start)

    @property
    def num_silent(self) -> int:
        """Packets that rightly give no frame.

        A hidden one takes no time: its time stamp is that of a neighbour, or nearly. Otherwise a damaged bit hides it.
        """
        near = (max(self.times, default=0.0) - min(self.times, default=0.0)) / max(self.num_shown, 1) / 2
        close = sum(sum(abs(time - other) < near for other in self.times) > 1 for time in self.hide_times)
        return self.num_not_coded + close

    @property
    def num_expected(self) -> int:
        """Frames that the packets should give: a packed one comes in place of one that is not coded."""
        return self.num_shown - self.num_silent + min(self.num_packed, self.num_not_coded)

    def fills(self, start: float, duration: float) -> bool:
        """Whether the shown frames fill a time to within half a frame; a hidden one may reach into it."""
        frame = self.shown_seconds / max(self.num_shown, 1)
        late = min(max(min(self.times, default=0.0) - start, 0.0), self.longest_hidden)
        return duration - frame / 2 < late + self.shown_seconds < duration + 2 * min(frame, duration)


class IndexEntry(Protocol):
    """A packet in FFmpeg's index of a stream."""

    timestamp: int
    is_discard: bool  # an edit list hides it


@dataclass(frozen=True)
class Promise:
    """What a container promises of a video stream.

    container: FFmpeg's names of the format. track: FFmpeg's id of the stream; of Matroska its place among the video
    tracks. num_samples: packets that its header states, of a fragmented MP4 those before the fragments; 0 where it
    states none. num_frames: None where no count can be relied on. seconds: duration of the whole container, None where
    it states none.
    """

    path: Path
    container: str
    track: int
    num_samples: int
    num_frames: int | None
    seconds: float | None

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
            # The stream header, less its empty chunks ("show the last frame again"): FFmpeg leaves them out of the
            # index, where the frames' numbers then have gaps
            covered = len(index) > 0 and index[-1].timestamp + 1 == num_samples
            num_frames = len(index) if covered else num_samples
        return Promise(path, container, track, num_samples, num_frames, seconds)

    def check(self, tally: PacketTally) -> None:
        """Raise BrokenVideoError where what was read to the end is not what was promised."""
        if not tally.num_frames:
            raise BrokenVideoError("no frame can be decoded")
        held = self.num_samples
        if self.num_frames is None:
            held = self._check_without_count(tally)
        elif not self.num_frames - tally.num_not_coded <= tally.num_frames <= self.num_frames:
            raise BrokenVideoError(
                f"{tally.num_frames} frames can be decoded, but the container states {self.num_frames}"
            )
        if "mp4" in self.container and tally.num_shown < held:
            # hidden frames must be an edit list's doing, which states how long the others last
            edited = edited_seconds(self.path, self.track)
            if edited is None or not tally.fills(*edited):
                raise BrokenVideoError(
                    f"{tally.num_shown} of its frames are shown, which do not last as long as its edit list states"
                )

    def _check_without_count(self, tally: PacketTally) -> int:
        """Packets reach the stated duration, all are found, and each gives a frame or a field; returns their number."""
        if self.seconds is not None and tally.end_seconds < self.seconds - DURATION_SLACK_SECONDS:
            raise BrokenVideoError(
                f"it ends after {tally.end_seconds:.2f} s, but the container states {self.seconds:.2f} s"
            )
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
