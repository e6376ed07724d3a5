"""Frames in the agent's loop, over real sockets."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from attestd.agent.connection import Connection
from attestd.wire import (
    MAX_DESCRIPTORS,
    MAX_PAYLOAD_BYTES,
    FrameReader,
    Kind,
    WireError,
    encode_frame,
    send_frame,
)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    connection = Connection(ours)
    try:
        yield connection, theirs
    finally:
        connection.close()
        theirs.close()


def looped(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@looped
async def test_peer_is_who_connected() -> None:
    async with pair() as (connection, _):
        assert (connection.peer.pid, connection.peer.uid) == (os.getpid(), os.geteuid())


@looped
async def test_frame_in_pieces() -> None:
    async with pair() as (connection, theirs):
        task = asyncio.create_task(connection.receive(timeout_s=5))
        for byte in encode_frame(Kind.REQUEST, b"abc"):
            theirs.send(bytes([byte]))
            await asyncio.sleep(0)
        frame = await task
        assert (frame.kind, frame.payload) == (Kind.REQUEST, b"abc")


@looped
async def test_silence_is_a_timeout_and_the_end_is_the_end() -> None:
    async with pair() as (connection, theirs):
        with pytest.raises(TimeoutError):
            await connection.receive(timeout_s=0.05)
        theirs.send(b"R\0")
        with pytest.raises(TimeoutError):
            await connection.receive(timeout_s=0.05)
        theirs.close()
        with pytest.raises(WireError):
            await connection.receive(timeout_s=5)
    async with pair() as (connection, theirs):
        theirs.close()
        with pytest.raises(EOFError):
            await connection.receive(timeout_s=5)


@looped
async def test_descriptors_of_a_frame_that_never_ends_are_closed() -> None:
    before = set(os.listdir("/proc/self/fd"))
    async with pair() as (connection, theirs):
        socket.send_fds(theirs, [b"R\0"], [0, 0, 0])
        with pytest.raises(TimeoutError):
            await connection.receive(timeout_s=0.05)
        assert len(set(os.listdir("/proc/self/fd")) - before) >= 3 + 2
    assert set(os.listdir("/proc/self/fd")) == before


@looped
async def test_large_frame_with_descriptors_to_a_slow_reader() -> None:
    async with pair() as (connection, theirs):
        payload = os.urandom(MAX_PAYLOAD_BYTES)
        task = asyncio.create_task(connection.send(Kind.DECISION, payload, [0, 1]))
        await asyncio.sleep(0.05)
        assert not task.done()
        frame = await asyncio.to_thread(FrameReader(theirs).receive)
        await task
        assert frame is not None
        assert (frame.payload == payload, len(frame.descriptors)) == (True, 2)
        frame.close()


@looped
async def test_limits_when_sending() -> None:
    async with pair() as (connection, theirs):
        with pytest.raises(WireError):
            await connection.send(Kind.DECISION, b"", [0] * (MAX_DESCRIPTORS + 1))
        with pytest.raises(WireError):
            await connection.send(Kind.DECISION, bytes(MAX_PAYLOAD_BYTES + 1))
        theirs.close()
        with pytest.raises(OSError, match="Broken pipe"):
            await connection.send(Kind.DECISION)


@looped
async def test_both_directions_at_once() -> None:
    async with pair() as (connection, theirs):
        send_frame(theirs, Kind.REQUEST, b"in")
        frame, _ = await asyncio.gather(connection.receive(timeout_s=5), connection.send(Kind.NEED, b"out"))
        assert frame.payload == b"in"
        answer = FrameReader(theirs).receive()
        assert answer is not None
        assert answer.payload == b"out"
