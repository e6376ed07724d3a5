"""Frames between client, agent and runner on Unix stream sockets.

A frame is one type byte, a four-byte big-endian length, and that many bytes. Descriptors travel with the first byte
of their frame (`SCM_RIGHTS`). Reads never go past the end of a frame: so descriptors and sender credentials that
arrive can only belong to the frame being read.

The client imports this module, and its start-up is most of a request's latency: nothing is imported here but
built-in modules that cost next to nothing (`socket` or `struct` would double it; a test holds the list).
"""

import posix
import sys
from _socket import (
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    SCM_CREDENTIALS,
    SCM_RIGHTS,
    SOL_SOCKET,
    socket,
)

__all__ = [
    "HEADER_BYTES",
    "MAX_DESCRIPTORS",
    "MAX_PAYLOAD_BYTES",
    "Credentials",
    "Frame",
    "FrameReader",
    "Kind",
    "WireError",
    "close_all",
    "decode_fields",
    "decode_header",
    "encode_fields",
    "encode_frame",
    "send_frame",
]

HEADER_BYTES = 5
MAX_PAYLOAD_BYTES = 2 * 1024 * 1024
MAX_DESCRIPTORS = 16

_MAX_READ_BYTES = 256 * 1024  # a buffer of this size is made for each read, however little arrives
_INT_BYTES = 4
_CREDENTIAL_BYTES = 3 * _INT_BYTES
# One descriptor more than allowed: the kernel then shows the excess instead of dropping it unseen.
_ANCILLARY_BYTES = CMSG_SPACE((MAX_DESCRIPTORS + 1) * _INT_BYTES) + CMSG_SPACE(_CREDENTIAL_BYTES)


class WireError(ValueError):
    """The other side does not speak the protocol: bad header, over limits, bad fields, stray descriptors."""


class Kind:
    """The type byte of each frame, by direction."""

    # client -> agent
    REQUEST = b"R"
    HERE = b"H"
    JSON_REQUEST = b"J"
    # agent -> client
    NEED = b"N"
    DECISION = b"D"
    JSON_RESPONSE = b"j"
    # runner -> client
    READY = b"G"
    STARTED = b"S"
    EXITED = b"X"
    REFUSED = b"V"
    # client -> runner
    GO = b"g"
    SIGNAL = b"K"
    # agent -> runner, and its answers
    EXECUTE = b"E"
    ACCEPTED = b"a"
    REJECTED = b"r"
    FORFEIT = b"F"
    FORFEITED = b"f"
    SPOOL = b"P"
    SPOOLED = b"p"
    ACKNOWLEDGE = b"A"
    ACKNOWLEDGED = b"k"
    INFO = b"I"
    INFORMED = b"i"


class Credentials:
    """Who sent a frame (`SCM_CREDENTIALS`): the kernel's word, as seen from this process's namespaces."""

    __slots__ = ("gid", "pid", "uid")

    def __init__(self, pid: int, uid: int, gid: int) -> None:
        self.pid, self.uid, self.gid = pid, uid, gid

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Credentials):
            return NotImplemented
        return (self.pid, self.uid, self.gid) == (other.pid, other.uid, other.gid)

    def __hash__(self) -> int:
        return hash((self.pid, self.uid, self.gid))


class Frame:
    """One received frame. Whoever holds it owns its descriptors and must close them.

    Attributes:
        kind: The type byte.
        payload: The bytes after the header.
        descriptors: What came with it, close-on-exec.
        sender: Who sent it; None unless the receiving socket has SO_PASSCRED.
    """

    __slots__ = ("descriptors", "kind", "payload", "sender")

    def __init__(
        self, kind: bytes, payload: bytes, descriptors: list[int], sender: Credentials | None
    ) -> None:
        self.kind = kind
        self.payload = payload
        self.descriptors = descriptors
        self.sender = sender

    def fields(self, max_fields: int) -> list[bytes]:
        """The payload's fields.

        Raises:
            WireError: The payload is not a sequence of at most `max_fields` fields.
        """
        return decode_fields(self.payload, max_fields)

    def close(self) -> None:
        """Closes the descriptors that are still listed; taking one over means removing it from the list."""
        close_all(self.descriptors)
        self.descriptors = []


def close_all(descriptors: list[int]) -> None:
    """Closes each descriptor, whatever the others do."""
    for descriptor in descriptors:
        try:
            posix.close(descriptor)
        except OSError:  # EIO on one must not leak the rest
            continue


def encode_frame(kind: bytes, payload: bytes = b"") -> bytes:
    """The bytes of a frame.

    Raises:
        WireError: The payload is over the limit.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise WireError(f"frame {kind!r}: {len(payload)} bytes, the limit is {MAX_PAYLOAD_BYTES}")
    return kind + len(payload).to_bytes(4, "big") + payload


def decode_header(header: bytes) -> tuple[bytes, int]:
    """Type byte and payload length from the five bytes of a header.

    Raises:
        WireError: Not five bytes, or a length over the limit.
    """
    if len(header) != HEADER_BYTES:
        raise WireError(f"frame header: {len(header)} bytes, expected {HEADER_BYTES}")
    length = int.from_bytes(header[1:], "big")
    if length > MAX_PAYLOAD_BYTES:
        raise WireError(f"frame {header[:1]!r}: announces {length} bytes, the limit is {MAX_PAYLOAD_BYTES}")
    return header[:1], length


def encode_fields(fields: list[bytes]) -> bytes:
    """A payload of fields: each a four-byte big-endian length and its bytes."""
    parts: list[bytes] = []
    for field in fields:
        parts += (len(field).to_bytes(4, "big"), field)
    return b"".join(parts)


def decode_fields(payload: bytes, max_fields: int) -> list[bytes]:
    """The fields of a payload.

    Raises:
        WireError: More than `max_fields`, or the last one is cut short.
    """
    fields: list[bytes] = []
    position = 0
    while position < len(payload):
        if len(fields) == max_fields:
            raise WireError(f"more than {max_fields} fields")
        start = position + 4
        end = start + int.from_bytes(payload[position:start], "big")
        if start > len(payload) or end > len(payload):
            raise WireError(f"field {len(fields)} is cut short")
        fields.append(payload[start:end])
        position = end
    return fields


def send_frame(sock: socket, kind: bytes, payload: bytes = b"", descriptors: list[int] | None = None) -> None:
    """Sends one frame whole; the descriptors remain the caller's.

    Raises:
        WireError: Over the limits.
        OSError: As `sendmsg`; BlockingIOError (with part of the frame possibly sent: the connection is then of no
            use any more) if the socket is non-blocking and full.
    """
    data = encode_frame(kind, payload)
    sent = 0
    if descriptors:
        if len(descriptors) > MAX_DESCRIPTORS:
            raise WireError(f"frame {kind!r}: {len(descriptors)} descriptors, the limit is {MAX_DESCRIPTORS}")
        rights = b"".join([number.to_bytes(_INT_BYTES, sys.byteorder) for number in descriptors])
        sent = sock.sendmsg([data], [(SOL_SOCKET, SCM_RIGHTS, rights)])
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:] if sent else data)


class FrameReader:
    """Reads frames from a connected socket, blocking or not.

    With a non-blocking socket the state of a half-read frame is kept between calls. After an error the reader (and
    the connection) must not be used again; `close` closes the descriptors of a half-read frame.
    """

    __slots__ = ("_buffer", "_descriptors", "_length", "_sender", "_sock")

    def __init__(self, sock: socket) -> None:
        self._sock = sock
        self._reset()

    def _reset(self) -> None:
        self._buffer = bytearray()
        self._length = -1
        self._descriptors: list[int] = []
        self._sender: Credentials | None = None

    @property
    def announced(self) -> int:
        """How long the payload of a half-read frame will be; 0 while its header is not there."""
        return max(self._length, 0)

    def receive(self) -> Frame | None:
        """The next frame.

        Returns:
            The frame, or None if a non-blocking socket has no whole frame yet.

        Raises:
            EOFError: The other side closed the connection between two frames.
            WireError: Protocol error, including the end of the stream within a frame.
            OSError: As `recvmsg`.
        """
        try:
            while True:
                if self._length < 0 and len(self._buffer) == HEADER_BYTES:
                    self._length = decode_header(bytes(self._buffer))[1]
                missing = HEADER_BYTES + max(self._length, 0) - len(self._buffer)
                if self._length >= 0 and not missing:
                    return self._take()
                self._read(missing)
        except BlockingIOError:
            return None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the descriptors of a half-read frame."""
        close_all(self._descriptors)
        self._reset()

    def _take(self) -> Frame:
        data = bytes(self._buffer)
        frame = Frame(data[:1], data[HEADER_BYTES:], self._descriptors, self._sender)
        self._reset()
        return frame

    def _read(self, size: int) -> None:
        data, ancillary, flags, _ = self._sock.recvmsg(
            min(size, _MAX_READ_BYTES), _ANCILLARY_BYTES, MSG_CMSG_CLOEXEC
        )
        first = not self._buffer
        sender = self._sender
        received = 0
        for level, kind, value in ancillary:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                numbers = _unpack_ints(value)
                self._descriptors += numbers  # ours to close from here on, whatever is found wrong below
                received += len(numbers)
            elif level == SOL_SOCKET and kind == SCM_CREDENTIALS:
                sender = Credentials(*_unpack_ints(value)[:3])
        if flags & MSG_CTRUNC or len(self._descriptors) > MAX_DESCRIPTORS:
            raise WireError(f"more than {MAX_DESCRIPTORS} descriptors in one frame, or no room left for them")
        if received and not first:
            raise WireError("descriptors in the middle of a frame")
        if not data:
            if first and self._length < 0:
                raise EOFError("connection closed")
            raise WireError("connection closed in the middle of a frame")
        if not first and sender != self._sender:
            raise WireError("one frame from two senders")
        self._sender = sender
        self._buffer += data


def _unpack_ints(data: bytes) -> list[int]:
    # A truncated control message can end within a number; the kernel installs none that is not whole.
    whole = len(data) - len(data) % _INT_BYTES
    return [int.from_bytes(data[i : i + _INT_BYTES], sys.byteorder) for i in range(0, whole, _INT_BYTES)]
