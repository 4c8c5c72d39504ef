"""What the bytes of a video say about its number of frames, where the container's own count is missing or too large.

FFmpeg leaves out in silence what it cannot place. These readers of packets and boxes tell what was meant to be left out
from what was lost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from typing_extensions import Buffer

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
    """Whether a VP8 packet is one to refer to and not to show (RFC 6386, 9.1: show_frame)."""
    return not packet[0] & 0x10


@dataclass
class PacketTally:
    """What the packets of a stream say: how many there are, how many of them give no frame, and the time they fill.

    codec: FFmpeg's name. hide_times: those of packets that say so themselves. Times are seconds.
    """

    codec: str
    num_packets: int = 0
    num_shown: int = 0  # not hidden by an edit list
    num_not_coded: int = 0
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
        if self.codec == "vp8" and is_hidden(bytes(packet)):
            self.hide_times.append(start)

    @property
    def num_silent(self) -> int:
        """Packets that rightly give no frame.

        A hidden one takes no time: it has that of a neighbour, or nearly. Else a damaged bit hides it.
        """
        near = (max(self.times, default=0.0) - min(self.times, default=0.0)) / max(self.num_shown, 1) / 2
        close = sum(sum(abs(time - other) < near for other in self.times) > 1 for time in self.hide_times)
        return self.num_not_coded + close

    def fills(self, start: float, duration: float) -> bool:
        """Whether the shown frames fill a time, but for less than half a frame; a hidden one may reach into it."""
        frame = self.shown_seconds / max(self.num_shown, 1)
        late = min(max(min(self.times, default=0.0) - start, 0.0), self.longest_hidden)
        return duration - frame / 2 < late + self.shown_seconds < duration + 2 * min(frame, duration)
