"""Peers that send too much, too slowly, half of something, or what two servers could read in two ways."""

import contextlib
import re
import time
from collections.abc import Iterator

import pytest

from attestd.controller.http import endpoint
from attestd.controller.http.endpoint import BODY_S
from attestd.controller.http.limits import Room
from attestd.controller.http.protocol import MAX_HEADERS, Bounds
from tests.controller.running import read_all
from tests.controller.serving import Served, served
from tests.controller.test_http import until

QUICK = Bounds(headers_s=0.5)


@pytest.fixture(scope="module")
def app() -> Iterator[Served]:
    with served() as running:
        yield running


@pytest.fixture(scope="module")
def quick() -> Iterator[Served]:
    """For peers that are to be cut off: another, on a busy machine, would be too slow for it as well."""
    with served(bounds=QUICK) as running:
        yield running


def statuses(said: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", said)]


POST = b"POST /echo HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"\0\0\0\0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
        b"get /show/x HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /show/x HTTP/1.1\nhost: x\r\n\r\n" + b"\0" * 10,
        b"GET /show/x HTTP/1.1\r\nhost : x\r\n\r\n",
        b"GET /show/x HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n",
        b"GET /show/x HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n",
        b"GET /show/x HTTP/1.1\r\nhost: x\r\nx y: z\r\n\r\n",
        b"GET /show/\xc3\xa9 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /show/x HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        b"GET /show/x HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        # What is smuggled past one server, by what the next one reads otherwise (RFC 9112 §6.1, §6.3, §11.2).
        POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        POST + b"content-length: 1\r\ncontent-length: 1\r\n\r\na",
        POST + b"content-length: 1, 1\r\n\r\na",
        POST + b"content-length: +1\r\n\r\na",
        POST + b"content-length: -1\r\n\r\na",
        POST + b"content-length: 0x1\r\n\r\na",
        POST + b"content-length: 1 1\r\n\r\na",
        POST + b"content-length: \xc2\xb9\r\n\r\na",
        POST + b"content-length: 99999999999999999999999\r\n\r\na",
        POST + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_one_refusal_and_the_end(app: Served, request_: bytes) -> None:
    said = app.say(request_ + b"GET /show/smuggled HTTP/1.1\r\nhost: x\r\n\r\n")
    found = statuses(said)
    assert len(found) <= 1, said
    assert not found or 400 <= found[0] < 600, said
    assert b"smuggled" not in said.rpartition(b"\r\n\r\n")[2]
    if found:
        assert b"content-type: application/problem+json" in said
        assert b"connection: close" in said


def test_that_the_test_above_would_see_a_second_request(app: Served) -> None:
    said = app.say(
        POST
        + b"content-length: 1\r\n\r\na"
        + b"GET /show/second HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    assert statuses(said) == [200, 200]
    assert said.endswith(b"second")


def test_bodies_in_pieces(app: Served) -> None:
    chunked = b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    assert app.say(POST + chunked).endswith(b"abcde")


def test_a_body_that_is_announced_too_large_is_refused_unread(app: Served) -> None:
    began = time.monotonic()
    said = app.say(POST + b"content-length: 1048577\r\n\r\n")
    assert statuses(said) == [413]
    assert b"connection: close" in said
    # As much as 2^63 is only a number.
    assert statuses(app.say(POST + b"content-length: 9223372036854775807\r\n\r\n")) == [413]
    # Who asks before sending is told before sending.
    assert statuses(app.say(POST + b"content-length: 1048577\r\nexpect: 100-continue\r\n\r\n")) == [413]
    assert time.monotonic() - began < BODY_S, "nobody waits for a body"


def test_bodies_that_are_larger_together_than_there_is_room() -> None:
    """What many peers send slowly stays within bounds; small bodies come through all the while."""
    room = Room(4 << 20)
    with served(room=room) as app, contextlib.ExitStack() as stack:
        part = POST + b"content-length: 1000000\r\n\r\n" + b"x" * 900_000
        slow = [stack.enter_context(app.open(source=f"127.0.0.{number}")) for number in range(2, 6)]
        for count, sock in enumerate(slow, 1):
            # Of one peer there is no more, whatever is left: others come through.
            assert app.post("/echo", b"x" * 1_000_000).status == 200
            sock.sendall(part)
            until(lambda count=count: room.left < (4 << 20) - count * 834_000)
            with app.open(source=f"127.0.0.{count + 1}") as again:
                again.sendall(part)
                assert statuses(read_all(again)) == [503]
        with app.open() as other:
            other.sendall(part + b"x" * 90_000)
            assert statuses(read_all(other)) == [503]
        assert app.post("/echo", b"x" * 50_000).status == 200
        for sock in slow:
            sock.sendall(b"x" * 100_000)
            assert sock.recv(12) == b"HTTP/1.1 200"
            sock.close()
        until(lambda: room.left == 4 << 20)
        assert not room.of
        assert app.post("/echo", b"x" * 1_000_000).status == 200


def test_a_body_that_does_not_say_its_length_is_cut_off(app: Served) -> None:
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with app.open() as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(POST + b"transfer-encoding: chunked\r\n\r\n")
            for _ in range(200):
                sock.sendall(piece)
        with contextlib.suppress(ConnectionError):
            assert statuses(read_all(sock)) in ([413], [])
    # What can be sent is taken whole.
    assert statuses(
        app.say(POST + b"connection: close\r\ncontent-length: 1048576\r\n\r\n", b"x" * (1 << 20))
    ) == [200]


def test_headers_without_end(app: Served) -> None:
    for head in (b"x: " + b"y" * 20_000, b"x" * 20_000 + b": y"):
        said = app.say(b"GET /show/x HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n\r\n")
        assert statuses(said) in ([431], []), said
    said = app.say(b"GET /show/" + b"x" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert statuses(said) in ([431], [])
    many = b"".join(b"x%d: y\r\n" % number for number in range(MAX_HEADERS + 1))
    assert statuses(app.say(b"GET /show/x HTTP/1.1\r\nhost: x\r\n" + many + b"\r\n")) == [431]
    trailers = b"".join(b"x%d: %s\r\n" % (number, b"y" * 400) for number in range(MAX_HEADERS * 2))
    said = app.say(POST + b"transfer-encoding: chunked\r\n\r\n0\r\n" + trailers + b"\r\n")
    assert len(statuses(said)) <= 1


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"G",
        b"GET /show/x HTTP/1.1\r\n",
        b"GET /show/x HTTP/1.1\r\nhost: x\r\nx: y",
        b"\r\n",
        b"\r\n\r\n\r\n",
    ],
)
def test_half_a_request_is_cut_off(quick: Served, begun: bytes) -> None:
    with quick.open() as sock, contextlib.suppress(ConnectionError):
        sock.sendall(begun)
        assert read_all(sock) == b""


def test_a_header_byte_by_byte_is_cut_off_all_the_same(quick: Served) -> None:
    drip(quick, b"GET /show/x HTTP/1.1\r\nx: ", b"y")
    assert "slow headers" in quick.metrics.format()


def test_empty_lines_for_ever_are_cut_off(quick: Served) -> None:
    drip(quick, b"", b"\r\n")


def drip(app: Served, begun: bytes, piece: bytes) -> None:
    """Sends it again and again, until it is cut off."""
    began = time.monotonic()
    with app.open() as sock, contextlib.suppress(ConnectionError):
        sock.sendall(begun)
        while time.monotonic() - began < 60:
            sock.sendall(piece)
            time.sleep(0.02)
    assert time.monotonic() - began < 60


def test_a_connection_between_requests_is_ended() -> None:
    with served(bounds=Bounds(idle_s=0.4)) as app, app.open() as sock:
        began = time.monotonic()
        sock.sendall(b"GET /show/x HTTP/1.1\r\nhost: x\r\n\r\n")
        assert statuses(read_all(sock)) == [200]
        assert time.monotonic() - began > 0.2


def test_a_body_that_does_not_come(app: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BODY_S", 0.3)
    with app.open() as sock:
        sock.sendall(POST + b"content-length: 10\r\n\r\nabc")
        said = read_all(sock)
    assert statuses(said) == [408]
    assert b"connection: close" in said


def test_who_goes_away_in_the_middle(app: Served) -> None:
    def gone() -> int:
        found = re.search(r'refused_total\{why="gone"\} (\d+)', app.metrics.format())
        return int(found[1]) if found else 0

    before = gone()
    with app.open() as sock:
        sock.sendall(POST + b"content-length: 10\r\n\r\nabc")
    until(lambda: gone() > before)


def test_who_does_not_read_the_answer_is_cut_off() -> None:
    with served(bounds=Bounds(write_s=0.5)) as app, app.open() as sock:
        sock.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
        until(lambda: "slow reading" in app.metrics.format())
        assert len(read_all(sock)) < 32 << 20


def test_too_many_connections_of_a_peer() -> None:
    with served(connections=3) as app, contextlib.ExitStack() as stack:
        held = [stack.enter_context(app.open()) for _ in range(3)]
        with app.open() as sock:
            assert read_all(sock) == b""
        assert app.counted('attestd_controller_refused_total{why="connections"} 1')
        held[0].close()
        until(lambda: app.counted("attestd_controller_connections 2"))
        assert app.get("/show/x").status == 200


def test_pipelined_requests_are_answered_in_order(app: Served) -> None:
    one = b"GET /show/%d HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /show/last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    said = app.say(b"".join(one % number for number in range(20)) + last)
    assert statuses(said) == [200] * 21
    assert re.findall(rb"\r\n\r\n(\d+|last)", said) == [*(b"%d" % number for number in range(20)), b"last"]
    # What comes after the end is not looked at.
    assert statuses(app.say(last + b"garbage\0\r\n\r\n")) == [200]
