"""One client's connection in the agent: frames in and out, without blocking the loop."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from attestd.wire import (
    MAX_DESCRIPTORS,
    Credentials,
    Frame,
    FrameReader,
    WireError,
    encode_frame,
)

__all__ = ["Connection"]

_UCRED: Final = struct.Struct("=iii")
_SEND_CHUNK: Final = 256 * 1024
LARGE_BYTES: Final = 64 * 1024


class Connection:
    """Frames over a connected, non-blocking Unix socket.

    Attributes:
        peer: Who connected, from the kernel (`SO_PEERCRED`).
        on_large: Awaited once, before most of the first large frame is read.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Takes over a connected socket; `close` closes it."""
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock = sock
        self._reader = FrameReader(sock)
        self.on_large: Callable[[], Awaitable[None]] | None = None
        self.peer = Credentials(
            *_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        )

    @property
    def socket(self) -> socket.socket:
        """The socket itself, to be handed to the runner."""
        return self._sock

    def close(self) -> None:
        """Closes the connection and descriptors of a half-read frame."""
        self._reader.close()
        self._sock.close()

    async def receive(self, *, timeout_s: float | None) -> Frame:
        """The next frame, from the user who connected.

        The sender of each message is compared with who connected: a descriptor that was passed on, or inherited by
        a set-user-id program, speaks for nobody.

        Raises:
            EOFError: The other side closed the connection.
            TimeoutError: No whole frame within the time.
            WireError: Protocol error, or another user's process sent it.
            OSError: The connection broke.
        """
        async with asyncio.timeout(timeout_s):
            while (frame := self._reader.receive()) is None:
                if self.on_large is not None and self._reader.announced > LARGE_BYTES:
                    on_large, self.on_large = self.on_large, None
                    await on_large()
                await self._ready(write=False)
        if frame.sender is None or frame.sender.uid != self.peer.uid:
            frame.close()
            sender = "nobody" if frame.sender is None else f"uid {frame.sender.uid}"
            raise WireError(f"connected by uid {self.peer.uid}, sent by {sender}")
        return frame

    async def send(self, kind: bytes, payload: bytes = b"", descriptors: list[int] | None = None) -> None:
        """Sends one frame; the descriptors remain the caller's.

        Raises:
            WireError: Over the limits.
            OSError: The connection broke.
        """
        view = memoryview(encode_frame(kind, payload))
        if descriptors and len(descriptors) > MAX_DESCRIPTORS:
            raise WireError(f"{len(descriptors)} descriptors, the limit is {MAX_DESCRIPTORS}")
        while view:
            try:
                if descriptors:
                    sent = socket.send_fds(self._sock, [view[:_SEND_CHUNK]], descriptors)
                    descriptors = None
                else:
                    sent = self._sock.send(view[:_SEND_CHUNK])
            except BlockingIOError:
                await self._ready(write=True)
                continue
            view = view[sent:]

    async def _ready(self, *, write: bool) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        add, remove = (
            (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
        )
        add(self._sock, lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            remove(self._sock)
