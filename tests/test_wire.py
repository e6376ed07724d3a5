"""Frames over real sockets: what arrives whole, what is refused, and that nothing leaks."""

import array
import contextlib
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestd.wire import (
    HEADER_BYTES,
    MAX_DESCRIPTORS,
    MAX_PAYLOAD_BYTES,
    Credentials,
    Frame,
    FrameReader,
    Kind,
    WireError,
    close_all,
    decode_fields,
    decode_header,
    encode_fields,
    encode_frame,
    send_frame,
)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    left.settimeout(10)
    right.settimeout(10)
    with left, right:
        yield left, right


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def received(reader: FrameReader) -> Frame:
    frame = reader.receive()
    assert frame is not None
    return frame


def send_rights(sock: socket.socket, data: bytes, count: int) -> None:
    """Sends descriptors as nobody who keeps the limits would."""
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        rights = array.array("i", [null] * count)
        sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    finally:
        os.close(null)


def test_the_bytes_of_a_frame() -> None:
    assert encode_frame(b"R", b"abc") == b"R\x00\x00\x00\x03abc"
    assert encode_fields([b"", b"xy"]) == b"\x00\x00\x00\x00\x00\x00\x00\x02xy"
    assert decode_header(b"X\x00\x00\x01\x00") == (b"X", 256)


def test_each_kind_has_its_own_byte() -> None:
    kinds = [value for name, value in vars(Kind).items() if name.isupper()]
    assert len(set(kinds)) == len(kinds) == 23
    assert all(len(kind) == 1 for kind in kinds)


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_fields_come_back(fields: list[bytes]) -> None:
    assert decode_fields(encode_fields(fields), 20) == fields


@given(st.binary(max_size=64), st.integers(0, 8))
def test_no_bytes_break_the_field_parser(data: bytes, most: int) -> None:
    try:
        fields = decode_fields(data, most)
    except WireError:
        return
    assert len(fields) <= most
    assert encode_fields(fields) == data


def test_more_fields_than_expected_are_refused() -> None:
    with pytest.raises(WireError, match="more than 1 fields"):
        decode_fields(encode_fields([b"a", b"b"]), 1)


@pytest.mark.parametrize(
    "header", [b"", b"R", b"R\x00\x00\x00", b"R" + (MAX_PAYLOAD_BYTES + 1).to_bytes(4, "big")]
)
def test_a_bad_header_is_refused(header: bytes) -> None:
    with pytest.raises(WireError):
        decode_header(header)


def test_too_long_a_payload_is_not_sent() -> None:
    with pytest.raises(WireError, match="the limit is"):
        encode_frame(b"R", bytes(MAX_PAYLOAD_BYTES + 1))


def test_a_frame_with_descriptors_arrives_whole(pair: Pair) -> None:
    reader, writer = os.pipe()
    try:
        send_frame(pair[0], b"R", b"payload", [reader, writer])
        send_frame(pair[0], b"g")
        frames = FrameReader(pair[1])
        frame = received(frames)
        assert (frame.kind, frame.payload, len(frame.descriptors)) == (b"R", b"payload", 2)
        assert not any(os.get_inheritable(number) for number in frame.descriptors)
        os.write(frame.descriptors[1], b"through")
        assert os.read(frame.descriptors[0], 10) == b"through"
        frame.close()
        assert frame.descriptors == []
        # The next frame was not read ahead, and has none of the first one's descriptors.
        second = received(frames)
        assert (second.kind, second.payload, second.descriptors, second.sender) == (b"g", b"", [], None)
    finally:
        close_all([reader, writer])


def test_descriptors_stay_with_their_frame(pair: Pair) -> None:
    """Frames that wait together in the socket: the descriptors of the second never show with the first."""
    null = os.open("/dev/null", os.O_RDONLY)
    send_frame(pair[0], b"a", b"first")
    send_frame(pair[0], b"b", b"second", [null])
    send_frame(pair[0], b"c", b"third", [null, null])
    os.close(null)
    frames = FrameReader(pair[1])
    counts = []
    for _ in range(3):
        frame = received(frames)
        counts.append((frame.kind, len(frame.descriptors)))
        frame.close()
    assert counts == [(b"a", 0), (b"b", 1), (b"c", 2)]


def test_the_largest_frame_and_the_most_descriptors(pair: Pair) -> None:
    left, right = pair
    left.setblocking(False)
    frames = FrameReader(right)
    right.setblocking(False)
    data = encode_frame(b"R", bytes(range(256)) * (MAX_PAYLOAD_BYTES // 256))
    null = os.open("/dev/null", os.O_RDONLY)
    rights = array.array("i", [null] * MAX_DESCRIPTORS)
    sent = left.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    os.close(null)
    frame = None
    while frame is None:
        with contextlib.suppress(BlockingIOError):
            sent += left.send(data[sent:]) if sent < len(data) else 0
        frame = frames.receive()
    assert frame.payload == data[HEADER_BYTES:]
    assert len(frame.descriptors) == MAX_DESCRIPTORS
    frame.close()


def test_half_a_frame_waits_without_blocking(pair: Pair) -> None:
    pair[1].setblocking(False)
    frames = FrameReader(pair[1])
    for piece in (b"R\x00", b"\x00\x00\x04ab", b"c"):
        assert frames.receive() is None
        pair[0].send(piece)
        assert frames.receive() is None
    pair[0].send(b"d")
    assert received(frames).payload == b"abcd"


@pytest.mark.parametrize("count", [MAX_DESCRIPTORS + 1, 100])
def test_too_many_descriptors_are_refused_and_closed(pair: Pair, count: int) -> None:
    before = open_descriptors()
    send_rights(pair[0], b"R\x00\x00\x00\x00", count)
    with pytest.raises(WireError, match="descriptors"):
        FrameReader(pair[1]).receive()
    assert open_descriptors() == before


def test_descriptors_within_a_frame_are_refused_and_closed(pair: Pair) -> None:
    before = open_descriptors()
    pair[0].send(b"R\x00\x00\x00\x04ab")
    send_rights(pair[0], b"cd", 1)
    with pytest.raises(WireError, match="middle of a frame"):
        FrameReader(pair[1]).receive()
    assert open_descriptors() == before


def test_more_descriptors_than_a_frame_may_have_are_not_sent(pair: Pair) -> None:
    with pytest.raises(WireError, match="the limit is 16"):
        send_frame(pair[0], b"R", b"", [0] * 17)


def test_the_end_between_frames_and_within_one(pair: Pair) -> None:
    before = open_descriptors()
    frames = FrameReader(pair[1])
    send_frame(pair[0], b"g")
    send_rights(pair[0], b"R\x00\x00\x00\x09half", 2)
    pair[0].shutdown(socket.SHUT_WR)
    assert received(frames).kind == b"g"
    with pytest.raises(WireError, match="middle of a frame"):
        frames.receive()
    assert open_descriptors() == before
    with pytest.raises(EOFError):
        FrameReader(pair[1]).receive()


def test_closing_a_reader_closes_what_half_arrived(pair: Pair) -> None:
    before = open_descriptors()
    pair[1].setblocking(False)
    frames = FrameReader(pair[1])
    send_rights(pair[0], b"R\x00\x00\x00\x09half", 3)
    assert frames.receive() is None
    assert open_descriptors() == before + 3
    frames.close()
    assert open_descriptors() == before


def test_an_announcement_over_the_limit_is_refused_before_anything_is_read(pair: Pair) -> None:
    pair[0].send(b"R\xff\xff\xff\xff")
    with pytest.raises(WireError, match="announces 4294967295 bytes"):
        FrameReader(pair[1]).receive()


def test_the_kernel_names_the_sender(pair: Pair) -> None:
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    send_frame(pair[0], b"g")
    assert received(FrameReader(pair[1])).sender == Credentials(os.getpid(), os.getuid(), os.getgid())


def test_one_frame_from_two_processes_is_refused(pair: Pair) -> None:
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    pair[0].send(b"g\x00\x00")
    child = os.fork()
    if child == 0:
        pair[0].send(b"\x00\x00")
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(WireError, match="two senders"):
        FrameReader(pair[1]).receive()


def test_credentials_compare_as_values() -> None:
    assert Credentials(1, 2, 3) == Credentials(1, 2, 3)
    assert hash(Credentials(1, 2, 3)) == hash(Credentials(1, 2, 3))
    assert Credentials(1, 2, 3) != Credentials(1, 2, 4)
    assert Credentials(1, 2, 3) != (1, 2, 3)


def test_closing_goes_on_after_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    close_all([reader, writer])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer)
