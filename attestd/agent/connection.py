"""One client's connection in the agent: frames in and out, without blocking the loop."""

import asyncio
import socket
import struct
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


class Connection:
    """Frames over a connected, non-blocking Unix socket.

    Attributes:
        peer: Who connected, from the kernel (`SO_PEERCRED`).
    """

    def __init__(self, sock: socket.socket) -> None:
        """Takes over a connected socket; `close` closes it."""
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock = sock
        self._reader = FrameReader(sock)
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
                await self._ready(write=False)
        if frame.sender is not None and frame.sender.uid != self.peer.uid:
            frame.close()
            raise WireError(f"connected by uid {self.peer.uid}, sent by uid {frame.sender.uid}")
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
