"""Frames that FFmpeg leaves out in silence are missed; those that were never meant to be there are not."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import pytest
from video_files import encode, make_avi_chunk_empty, reason

from pipeline.core.errors import BrokenVideoError
from pipeline.videos.containers import Edits, fragment_samples
from pipeline.videos.frame_counts import PacketTally, is_not_coded
from pipeline.videos.reader import probe, read_frames

FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
NOT_CODED = b"\x00\x00\x01\xb6" + int("0101001111001111", 2).to_bytes(2)  # as in test_video


def count(path: Path) -> int:
    return sum(1 for _ in read_frames(path))


def changed(path: Path, old: bytes, new: bytes, *, last: bool = False) -> Path:
    data = path.read_bytes()
    place = data.rindex(old) if last else data.index(old)
    path.write_bytes(data[:place] + new + data[place + len(old) :])
    return path


# --- MPEG-4 part 2 in AVI ---


@pytest.mark.parametrize("tail", [b"", b"\x7f", b"\xff\xff", bytes(8)])
def test_a_picture_that_is_not_coded_is_all_stuffing(tail: bytes):
    assert is_not_coded(NOT_CODED + tail)
    assert not is_not_coded(NOT_CODED[:-1] + bytes([NOT_CODED[-1] ^ 1]))


@pytest.mark.parametrize("packet", [bytes.fromhex("000001b650f082e18df7df44"), b"", bytes(6), NOT_CODED + bytes(30)])
def test_other_packets_are_coded(packet: bytes):
    assert not is_not_coded(packet)


def test_a_small_damaged_packet_is_no_repeated_frame(tmp_path: Path):
    """FFmpeg gives no frame and no error where a damaged bit says that it is not coded."""
    path = encode(tmp_path / "v.avi", codec="mpeg4", options={"g": "1"})
    make_avi_chunk_empty(path, 7, keep=b"\x00\x00\x01\xb6" + int("0101001111001010", 2).to_bytes(2) + b"\x55" * 8)
    assert reason(path) == "29 frames can be decoded, but the container states 30"


# --- fragmented MP4 ---


@pytest.mark.parametrize(
    "movflags",
    ["frag_keyframe", "frag_keyframe+empty_moov", "dash+frag_keyframe", "frag_every_frame+empty_moov", "cmaf"],
)
def test_fragments_of_any_kind_give_every_frame(tmp_path: Path, movflags: str):
    path = encode(tmp_path / "v.mp4", options={"g": "8", "bf": "2"}, container={"movflags": movflags})
    assert probe(path).num_frames == 30
    assert count(path) == 30


@pytest.mark.parametrize("kind", [b"moof", b"traf", b"trun", b"tfhd"])
def test_a_fragment_whose_box_is_not_known_is_missed(tmp_path: Path, kind: bytes):
    """FFmpeg steps over it."""
    path = encode(tmp_path / "v.mp4", options={"g": "8"}, container=FRAGMENTS)
    assert reason(changed(path, kind, kind[:3] + b"x", last=True))


def test_a_fragment_of_another_track_is_missed(tmp_path: Path):
    path = encode(tmp_path / "v.mp4", options={"g": "8"}, container=FRAGMENTS)
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.rindex(b"tfhd") + 8, 77)
    path.write_bytes(data)
    assert reason(path)
    with pytest.raises(BrokenVideoError, match="no track"):
        fragment_samples(path, 1)


def test_a_cut_behind_whole_fragments_is_seen(tmp_path: Path):
    path = encode(tmp_path / "v.mp4", options={"g": "8"}, container=FRAGMENTS)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"moof") + 3])
    assert reason(path)


# --- edit lists ---


@pytest.mark.parametrize("head", [1, 10, 25])
@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "3"}])
def test_what_an_edit_list_hides_is_believed(tmp_path: Path, head: int, options: dict[str, str]):
    container = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    path = encode(tmp_path / "v.mp4", pts=lambda number: number - head, container=container, options=options)
    assert count(path) == 30 - head


@pytest.mark.parametrize(
    ("box", "offset", "value"),
    [
        (b"elst", 12, 1000),  # how long it shows
        (b"elst", 16, 2048),  # what it begins with
        (b"mdhd", 16, 1),  # the clock of the track
        (b"ctts", 8, 0),  # no shift of the times: some fall before the edit
        (b"stsz", 12, 29),  # one sample fewer
    ],
)
def test_frames_that_a_damaged_table_hides_are_missed(tmp_path: Path, box: bytes, offset: int, value: int):
    path = encode(tmp_path / "v.mp4", options={"bf": "3"})
    assert count(path) == 30
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.index(box) + offset, value)
    path.write_bytes(data)
    assert reason(path)


# --- Matroska and WebM ---


@pytest.mark.parametrize("container", [{}, {"live": "1"}, {"cluster_size_limit": "1000"}, {"cues_to_front": "1"}])
@pytest.mark.parametrize(("name", "codec"), [("v.mkv", "libx264"), ("v.webm", "libvpx-vp9"), ("v.mkv", "mpeg4")])
def test_matroska_of_any_kind_gives_every_frame(tmp_path: Path, name: str, codec: str, container: dict[str, str]):
    assert count(encode(tmp_path / name, codec=codec, container=container)) == 30


def test_a_block_under_another_id_is_missed(tmp_path: Path):
    """FFmpeg steps over elements that it does not know, or has no use for."""
    for wrong in (b"\xa4", b"\xa7", b"\xab", b"\xb3", b"\xaf"):
        path = encode(tmp_path / "v.webm", codec="libvpx")
        data = bytearray(path.read_bytes())
        with av.open(str(path)) as container:
            packet = [bytes(packet) for packet in container.demux() if packet.size][20]
        start = data.index(packet)
        block = max(start - length for length in (6, 7) if data[start - length] == 0xA3)
        data[block : block + 1] = wrong
        path.write_bytes(data)
        assert "damaged" in reason(path)


def _with_hidden(path: Path, to: Path, *, late: float) -> Path:
    """A VP8 file in which frame 10 is hidden, that much of a frame's time behind the frame before it."""
    with av.open(str(path)) as source, av.open(str(to), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux() if packet.size):
            data = bytearray(bytes(packet))
            shift = 0.0
            if number == 10:
                data[0] &= ~0x10
                shift = 1 - late
            other = av.Packet(bytes(data))
            other.pts = other.dts = packet.pts - round(40 * shift)
            other.time_base, other.is_keyframe, other.stream = packet.time_base, packet.is_keyframe, stream
            out.mux(other)
    return to


def test_a_vp8_packet_that_takes_no_time_is_meant_to_be_hidden(tmp_path: Path):
    """As libvpx writes its alternative reference frames."""
    path = encode(tmp_path / "v.webm", codec="libvpx")
    assert count(_with_hidden(path, tmp_path / "hidden.webm", late=0.05)) == 29
    assert reason(_with_hidden(path, tmp_path / "lost.webm", late=1.0)) == (
        "29 frames can be decoded, but there are packets for 30"
    )


def test_what_lies_behind_an_mp4_does_not_matter(tmp_path: Path):
    path = encode(tmp_path / "v.mp4")
    path.write_bytes(path.read_bytes() + bytes(100))
    assert count(path) == 30


@pytest.mark.parametrize(("missing", "fills"), [(5, False), (20, False), (36, True), (None, True)])
def test_frames_may_be_missing_where_a_cut_in_the_order_of_decoding_leaves_gaps(missing, fills):
    tally = PacketTally("h264")
    for number in (-2, -1, *(number for number in range(40) if number != missing)):
        tally.add(b"data", number / 25, 1 / 25, key=False, discarded=number < 0)
    tally.expect_from(0)
    assert tally.fills(Edits(1, 40 / 25, 0.002)) == fills
