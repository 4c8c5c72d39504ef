"""Videos decoded in a process that can be lost: pipeline/videos/reader.py, behind a pipe.

A decoder is a large C program that is fed strangers' files. Where it crashes, hangs, asks for too much memory or raises
what nobody foresaw, its process is ended, and the video is broken with that as the reason; the stage goes on. The
process may do what decoding needs: it writes no file, takes bounded memory and bounded time for each frame, and ends
with the process that started it, however that ends. That limits accidents, and is no sandbox: it may read files.

A process serves one open iterator at a time and many videos one after the other, and works ahead by what a pipe holds.
On the pipe: requests as lines of JSON, answers as a header and a payload, which is a frame's bytes or JSON.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.core.errors import BrokenVideoError, DataError, EnvironmentProblem, LostDecoderError, shortened
from pipeline.core.text import printable
from pipeline.data.frames import Frame, Levels
from pipeline.videos import reader
from pipeline.videos.images import MAX_PIXELS
from pipeline.videos.reader import VideoInfo

MEMORY_BYTES = 4 * 2**30  # that a video may take, beyond what the process holds when it begins
CPU_SECONDS = 60  # of work for a frame: the kernel ends a decoder that takes more
WAIT_SECONDS = 120  # for a frame, whatever the decoder waits for
OPEN_FILES = 32
PIPE_BYTES = 2**20  # as much as Linux gives to anyone; the decoder works ahead by that

SERVING = "from pipeline.videos.decoder import serve; serve({memory_bytes}, {cpu_seconds})"
HEADER = struct.Struct("=cIIQ")  # kind, height and width of a frame, bytes of the payload
READY, FRAME, TIME, END, INFO, BROKEN, DATA, FILE, MEMORY, FAILED = (bytes([letter]) for letter in b"rfteibdomx")
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP")


def probe(path: Path, *, images: str | None = None, take_damaged: bool = False) -> VideoInfo:
    """Read what a video states, and decode its first frame: `pipeline.videos.reader.probe` in another process.

    Raises BrokenVideoError where there is no video stream or no frame, DataError where the file cannot be opened.
    """
    (info,) = _ask(path, {"what": "probe", "images": images, "take_damaged": take_damaged})
    return cast(VideoInfo, info)


def read_frames(
    path: Path, *, short_side: int | None = None, images: str | None = None, levels: Levels = "linear"
) -> Iterator[Frame]:
    """Yield every frame once, in display order: `pipeline.videos.reader.read_frames` in another process.

    Frames and errors are the same. It also raises LostDecoderError when the decoder crashes, hangs, needs too much
    memory or fails in a way that nobody foresaw, and EnvironmentProblem when its process is killed from outside.
    Closing the iterator early ends the process.
    """
    request = {"what": "frames", "short_side": short_side, "images": images, "levels": levels}
    return cast(Iterator[Frame], _ask(path, request))


class Windows:
    """Windows of one video, read one after the other by a single pass over its frames; `read` opens it."""

    def __init__(self, read: Callable[[], Iterator[Frame]]) -> None:
        self._read = read
        self._frames: Iterator[Frame] = iter(())
        self._next = -1  # number of the frame that comes next; -1 before the first pass
        self._error: BrokenVideoError | None = None  # what ended the pass

    def frames(self, first: int, count: int) -> Iterator[Frame]:
        """Yield `count` frames from `first` on; a window before the last one read takes another pass.

        Raises what `read_frames` raises, and BrokenVideoError where the video ends too early.
        """
        if not 0 <= self._next <= first:
            self._frames, self._next, self._error = self._read(), 0, None
        if self._error is not None:
            raise self._error
        try:
            for frame in self._frames:
                self._next += 1
                if self._next > first:
                    yield frame
                if self._next == first + count:
                    return
            raise BrokenVideoError(f"it ends before frame {first + count}, which its packets promise")
        except BrokenVideoError as error:
            self._error = error
            raise


def read_times(path: Path) -> Iterator[float]:
    """Yield when each frame is shown, and the last one's end: `pipeline.videos.reader.read_times` in another process.

    Raises what `read_frames` raises.
    """
    return cast(Iterator[float], _ask(path, {"what": "times"}))


def end_idle() -> None:
    """End the decoders of this process that wait for a next video."""
    for decoder in _idle.pop(os.getpid(), []):
        decoder.end()


class _Decoder:
    """The process, seen from here."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        serving = SERVING.format(memory_bytes=MEMORY_BYTES, cpu_seconds=CPU_SECONDS)
        try:
            # A plain process, since dask's workers may have no multiprocessing children. A process group of its own:
            # Ctrl-C is for the parent. -P: no module of the current folder is imported.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", serving],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=environment,
                process_group=0,
            )
        except OSError as error:
            raise EnvironmentProblem(
                f"no process for decoding videos can be started: {error.strerror}",
                remedy="end other programs, or use fewer --workers, and run the same command again: it goes on",
            ) from error
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, self.process.stdout
        with suppress(OSError):  # the user's pipes have reached their limit
            fcntl.fcntl(self._answers, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)

    def send(self, request: dict[str, Any]) -> None:
        """Send a request; if the process is gone, `receive` tells."""
        with suppress(BrokenPipeError):
            self._requests.write(json.dumps(request).encode() + b"\n")

    def receive(self) -> tuple[bytes, Any]:
        """Kind and value of the next answer. Raises EOFError where the process is gone, TimeoutError on silence."""
        header = bytearray(HEADER.size)
        self._fill(memoryview(header))
        kind, height, width, num_bytes = HEADER.unpack(header)
        if num_bytes > 3 * MAX_PIXELS or (kind == FRAME and num_bytes != height * width * 3):
            raise RuntimeError("the decoder's process violates the protocol")
        if kind == FRAME:
            frame = np.empty((height, width, 3), np.uint8)
            self._fill(frame.reshape(-1).data)
            return kind, frame
        text = bytearray(num_bytes)
        self._fill(memoryview(text))
        return kind, json.loads(text)

    def _fill(self, rest: memoryview) -> None:
        while rest:
            self._wait()
            count = self._answers.readinto(rest)  # type: ignore[attr-defined]  # it is raw, as bufsize is 0
            if not count:
                raise EOFError
            rest = rest[count:]

    def _wait(self) -> None:
        # In steps of a second: of the time that the machine sleeps or both processes are frozen, one second counts
        for _ in range(WAIT_SECONDS):
            if self._poll.poll(1000):
                return
        raise TimeoutError

    def end(self) -> None:
        """Kill the process, and wait until nothing is left of it."""
        self.process.kill()
        self.process.wait()
        self._requests.close()
        self._answers.close()


_idle: defaultdict[int, list[_Decoder]] = defaultdict(list)  # by process id: a fork must not share its parent's pipes
atexit.register(end_idle)


def _idle_or_new() -> _Decoder:
    """An idle process, or a new one."""
    while True:
        try:
            decoder = _idle[os.getpid()].pop()
        except IndexError:
            break
        if decoder.process.poll() is None:
            return decoder
        decoder.end()
    decoder = _Decoder()
    kind = None
    try:
        kind, _ = decoder.receive()
    except (EOFError, TimeoutError):
        raise EnvironmentProblem(
            "the process for decoding videos does not start",
            remedy="its own message may be above; `dlkdd check` looks at the installed packages",
        ) from None
    finally:
        if kind != READY:
            decoder.end()
    return decoder


def _ask(path: Path, request: dict[str, Any]) -> Iterator[Frame | VideoInfo | float]:
    """Yield what the answers hold, and raise what they tell; a process that is still sound waits for the next video."""
    decoder = _idle_or_new()
    is_sound = False
    try:
        # So that relative paths, also those in messages, mean there what they mean here
        decoder.send({**request, "path": str(path), "folder": os.getcwd()})  # noqa: PTH109 - a string
        try:
            kind, value = decoder.receive()
            while kind in (FRAME, TIME):
                yield value
                kind, value = decoder.receive()
        except EOFError:
            raise _end_of(path, decoder.process.wait()) from None
        except TimeoutError:
            raise LostDecoderError(f"its decoder gave no frame for {WAIT_SECONDS} s") from None
        is_sound = kind in (END, INFO, BROKEN, DATA, FILE)
    finally:
        if is_sound:
            _idle[os.getpid()].append(decoder)
        else:
            decoder.end()
    if kind == INFO:
        yield VideoInfo(**value)
    elif kind != END:
        raise _error_of(kind, value)


def _error_of(kind: bytes, value: Any) -> Exception:
    """The error that an answer tells of; its text may quote names that are no UTF-8, and goes into tables."""
    if kind == FILE:
        return OSError(*value)
    if kind == MEMORY:
        return LostDecoderError(f"its decoder needs more than {MEMORY_BYTES / 2**30:g} GiB of memory")
    return {BROKEN: BrokenVideoError, FAILED: LostDecoderError, DATA: DataError}[kind](printable(value))


def _end_of(path: Path, code: int) -> Exception:
    """What it says about the video, or about the machine, that the process ended in the middle of a video."""
    if code >= 0:
        return RuntimeError(f"{path}: the decoder's process ended with {code}")
    name = signal.Signals(-code).name
    if name == "SIGXCPU":
        return LostDecoderError(f"its decoder worked on one frame for more than {CPU_SECONDS} s")
    if name in CRASHES:
        return LostDecoderError(f"its decoder crashed ({name})")
    return EnvironmentProblem(
        f"{path}: its decoder was killed from outside ({name})",
        remedy="memory is the usual reason: look for out-of-memory kills, then run the same command again with fewer "
        "--workers: it goes on",
    )


# in the other process


def serve(memory_bytes: int, cpu_seconds: int) -> None:
    """Answer requests from stdin on stdout, until the parent is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # also a batch system's to all processes: the parent decides
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints must not be taken for an answer
    for limit, most in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, OPEN_FILES)):
        resource.setrlimit(limit, (most, most))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _answer(out, READY)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit(resource.RLIMIT_AS, _address_space() + memory_bytes)
        try:
            os.chdir(request["folder"])
            path = Path(request["path"])
            _more_time(cpu_seconds)
            if request["what"] == "probe":
                info = reader.probe(path, images=request["images"], take_damaged=request["take_damaged"])
                _answer(out, INFO, asdict(info))
                continue
            if request["what"] == "times":
                for seconds in reader.read_times(path):
                    _answer(out, TIME, seconds)
                    _more_time(cpu_seconds)
                _answer(out, END)
                continue
            how = {name: request[name] for name in ("short_side", "images", "levels")}
            for frame in reader.read_frames(path, **how):
                _answer_frame(out, frame)
                _more_time(cpu_seconds)
            _answer(out, END)
        except MemoryError:
            _answer(out, MEMORY)
        except BrokenVideoError as error:
            _answer(out, BROKEN, str(error))
        except DataError as error:
            _answer(out, DATA, str(error))
        except OSError as error:
            _answer(out, FILE, [error.errno, error.strerror, error.filename and str(error.filename)])
        except Exception as error:
            _answer(out, FAILED, f"its decoder failed: {type(error).__name__}: {shortened(str(error))}")


def _end_with_parent() -> None:
    """Wait until nobody can send requests any more, which a busy or waiting decoder would not notice."""
    requests = select.poll()
    requests.register(0, 0)  # only for their end
    requests.poll()
    os._exit(0)


def _answer(out: int, kind: bytes, value: Any = None) -> None:
    payload = json.dumps(value).encode()
    _write(out, HEADER.pack(kind, 0, 0, len(payload)) + payload)


def _answer_frame(out: int, frame: Frame) -> None:
    height, width = frame.shape[:2]
    _write(out, HEADER.pack(FRAME, height, width, frame.nbytes))
    _write(out, np.ascontiguousarray(frame).reshape(-1).data)


def _write(out: int, content: bytes | memoryview) -> None:
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[os.write(out, rest) :]
    except BrokenPipeError:
        os._exit(0)  # nobody reads


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def _more_time(seconds: int) -> None:
    _limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + seconds)


def _limit(kind: int, most: int) -> None:
    """Set a limit that can be raised again."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
