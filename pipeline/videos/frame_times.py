"""When frames are shown: at which rate a video's come, and whether that is steady.

A header's rate is nominal: recorders of screens, OBS and phones give a frame when there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

JUMPY = ("mpegts", "mpeg")  # containers whose clock may start over, or go on elsewhere, in the middle
SLACK_FRAMES = 1.1  # a frame that a cut lost, and rounded times
JUMP_SECONDS = 10  # as in ffmpeg's -dts_delta_threshold


def is_steady(times: Sequence[float], fps: float) -> bool:
    """Whether frames that are shown at these times, in order, come at that rate, to within a frame."""
    return all(abs((time - times[0]) * fps - number) < SLACK_FRAMES for number, time in enumerate(times))


@dataclass
class PacketClock:
    """The times of a stream's packets that are shown. container: FFmpeg's names of the format."""

    container: str
    stated_fps: float
    shown: list[float] = field(default_factory=list)
    decoded: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    is_known: bool = True

    def add(self, pts: int | None, dts: int | None, duration: int | None, time_base: Fraction | None) -> None:
        """Take a packet into account; times are in units of the time base."""
        # AVI has no times of showing: those of decoding have the same first and last, to within a delay
        time = dts if pts is None else pts
        if time is None or not time_base:
            self.is_known = False
            return
        self.shown.append(float(time * time_base))
        self.decoded.append(float((time if dts is None else dts) * time_base))
        self.durations.append(float((duration or 0) * time_base))

    def is_too_fast(self, num_packets: int) -> bool:
        """Whether packets come so much faster than frames that they may be fields, two of which are a frame."""
        return not self.is_known or num_packets > 1.5 * ((max(self.shown) - min(self.shown)) * self.stated_fps + 1)

    def rate(self, num_frames: int) -> tuple[float, bool]:
        """Frames a second, and whether they are steady: the stated rate where it fits to within a frame."""
        fps = self.stated_fps
        if not self.is_known or num_frames < 2 or self._jumps():
            return fps, True
        times = sorted(self.shown)
        span = times[-1] - times[0]
        last = self.durations[self.shown.index(times[-1])] or span / (num_frames - 1)
        if span <= 0:
            return fps, True
        if abs(num_frames - (span + last) * fps) > SLACK_FRAMES:
            fps = num_frames / (span + last)
        return fps, len(times) == num_frames and is_steady(times, fps)

    def _jumps(self) -> bool:
        steps = (after - before for before, after in pairwise(self.decoded))
        return self.container in JUMPY and any(not 0 <= step <= JUMP_SECONDS for step in steps)
