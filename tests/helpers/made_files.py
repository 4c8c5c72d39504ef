"""Files as users make them: videos that are cut, remuxed, segmented and re-timed without being encoded anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from subprocess import CalledProcessError

import av
from av.error import FFmpegError
from ffmpeg import ffmpeg

X265 = "log-level=none:keyint=25:min-keyint=25:pools=none:frame-threads=1"
# name: the encoder and its options; each makes four seconds at 25 frames a second
SOURCES = {
    "x264.mp4": "libx264 -g 30 -bf 2",
    "x264_one_group.mp4": "libx264 -g 250",
    "x264_pyramid.mkv": "libx264 -g 25 -bf 5 -b_strategy 0 -x264-params b-pyramid=normal:ref=6",
    "x264_open.mkv": "libx264 -x264-params open-gop=1:keyint=25:min-keyint=25:bframes=3:scenecut=0",
    "x264_refresh.ts": "libx264 -g 25 -bf 0 -x264-params intra-refresh=1",
    "x264_no_b.mov": "libx264 -g 20 -bf 0",
    "x264_interlaced.ts": "libx264 -g 24 -bf 2 -flags +ildct+ilme -vf setfield=tff",
    "x264_sound.mp4": "libx264 -g 30 -bf 2",
    "x265.mkv": f"libx265 -x265-params {X265}",
    "x265_closed.mp4": f"libx265 -tag:v hvc1 -x265-params {X265}:open-gop=0",
    "mpeg4.avi": "mpeg4 -g 25 -bf 0 -q:v 4",
    "mpeg4_b.mp4": "mpeg4 -g 25 -bf 2 -q:v 4",
    "xvid.avi": "libxvid -g 25 -bf 2 -q:v 4 -vtag xvid",
    "mpeg2.ts": "mpeg2video -g 12 -bf 2 -q:v 4",
    "mpeg2_interlaced.mpg": "mpeg2video -g 12 -bf 2 -q:v 4 -flags +ildct+ilme -vf setfield=tff",
    "mpeg1.mpg": "mpeg1video -g 12 -bf 2 -q:v 4",
    "vp8.webm": "libvpx -g 25 -deadline realtime -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 16 -b:v 300k",
    "vp9.webm": "libvpx-vp9 -g 25 -deadline good -cpu-used 5 -auto-alt-ref 1 -lag-in-frames 16 -b:v 300k",
    "av1.mkv": "libsvtav1 -preset 10 -g 25 -svtav1-params lp=1",
    "mjpeg.avi": "mjpeg -q:v 5 -pix_fmt yuvj420p",
    "ffv1.mkv": "ffv1 -g 1",
    "wmv2.wmv": "wmv2 -g 25 -q:v 4",
    "h263.3gp": "h263 -g 25 -q:v 4 -s 176x144",
}
SUFFIXES = ("mp4", "mov", "mkv", "ts", "avi", "webm", "mpg", "wmv")
# name: options before the input, and behind it
CHANGES = {
    "cut_a": ("-ss 0.51 -t 1.5", ""),
    "cut_b": ("-ss 1.234 -t 1.001", ""),
    "cut_c": ("-ss 2.3333 -to 3.1", ""),
    "cut_behind": ("", "-ss 0.7 -t 2.02"),
    "cut_between": ("", "-ss 0.7 -t 2 -copyinkf"),
    "end": ("", "-t 1.77"),
    "tail": ("-sseof -1.3", ""),
    "frames": ("-ss 0.4", "-frames:v 31"),
    "whole": ("", ""),
    "no_edits": ("-ss 0.51", "-use_editlist 0"),
    "early": ("-itsoffset -0.77", "-avoid_negative_ts disabled"),
    "late": ("", "-output_ts_offset 3600.1"),
    "wraps": ("", "-output_ts_offset 95441.7"),
    "slow": ("-itsscale 2.37", ""),
    "fast": ("-itsscale 0.31", ""),
    "copied_times": ("-copyts -ss 1.1", "-t 1.5"),
}
MP4_FLAGS = {
    "faststart": "faststart",
    "fragments": "frag_keyframe+empty_moov",
    "fragments_default": "frag_keyframe",
    "cmaf": "cmaf+frag_keyframe",
    "dash": "dash+frag_keyframe",
    "delay": "frag_keyframe+empty_moov+delay_moov",
    "negative": "negative_cts_offsets",
    "every_frame": "frag_every_frame+empty_moov",
}


def made_files(folder: Path, real: list[Path]) -> Iterator[Path]:
    """Make the sources and everything of them, one after the other; what a container cannot hold is not made."""
    for name, encoder in SOURCES.items():
        path = folder / name
        sound = ["-f", "lavfi", "-i", "sine=d=4.1"] if "sound" in name else []
        picture = ["-f", "lavfi", "-i", "testsrc2=s=128x96:r=25:d=4"]
        ffmpeg(*picture, *sound, "-pix_fmt", "yuv420p", "-c:v", *encoder.split(), "-threads", "1", path)
        yield path
        yield from changed_files(path, folder)
    for source in real:
        yield from changed_files(source, folder)


def changed_files(source: Path, folder: Path) -> Iterator[Path]:
    """What is made of one video; each change in one or two containers, in turn, so that all meet."""
    turn = sum(source.stem.encode())
    for number, (name, (before, behind)) in enumerate(CHANGES.items()):
        suffixes = SUFFIXES if name == "whole" else (SUFFIXES[(turn + number) % 4], SUFFIXES[(turn + number) // 4 % 8])
        for suffix in dict.fromkeys(suffixes):
            path = folder / f"{source.stem}_{name}.{suffix}"
            copy = ["-map", "0:v:0", "-map", "0:a:0?", "-c", "copy"]
            yield from _made(path, *before.split(), "-i", source, *copy, *behind.split(), path)
    for number, (name, flags) in enumerate(MP4_FLAGS.items()):
        if (turn + number) % 3 == 0:
            path = folder / f"{source.stem}_{name}.mp4"
            cut = ["-ss", "0.51"] if number % 2 else []
            yield from _made(path, *cut, "-i", source, "-map", "0:v:0", "-c", "copy", "-movflags", flags, path)
    for number, suffix in enumerate(("mkv", "ts", "mp4")):
        pattern = f"{source.stem}_piece%d.{suffix}"
        options = ["-segment_time", "1", "-reset_timestamps", str((turn + number) % 2)]
        copy = ["-map", "0:v:0", "-c", "copy", "-f", "segment"]
        for _ in _made(folder, "-i", source, *copy, *options, folder / pattern):
            yield from sorted(folder.glob(pattern.replace("%d", "*")))[:3]
    for number, suffix in enumerate(("mp4", "mkv", "ts", "avi")):
        path = folder / f"{source.stem}_pyav{number}.{suffix}"
        try:
            remux_with_pyav(source, path, first=(0, 7, 0, 40)[(turn + number) % 4])
        except (FFmpegError, ValueError):
            continue
        yield path


def _made(path: Path, *arguments: str | Path) -> Iterator[Path]:
    try:
        ffmpeg(*arguments)
    except CalledProcessError:  # the container cannot hold the codec or the times
        return
    yield path


def remux_with_pyav(source: Path, path: Path, *, first: int) -> None:
    """Copy a video's packets from number `first` on."""
    with av.open(str(source)) as container, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(container.demux(container.streams.video[0])):
            if packet.size and number >= first and packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
