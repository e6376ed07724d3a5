"""`attestd exec` inside the test's process: the same frames, without the start of an interpreter."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attestd.wire import FrameReader, Kind, close_all, encode_fields, send_frame

WAIT_S = 60.0


@dataclass
class Told:
    """What a client was told until its connection ended: each is None if it never heard of it.

    Attributes:
        leaf: The id of the decision that allows.
        status: The command's exit status.
        code: Why it was denied or refused.
    """

    leaf: str | None = None
    status: int | None = None
    code: str | None = None


def execute(
    agent_socket: Path, argv: Sequence[str], *, cwd: Path, artifact: bytes, timeout_s: float = WAIT_S
) -> Told:
    """Asks for an execution, gives the go, waits for the end; or for the connection to break."""
    told = Told()
    null = os.open("/dev/null", os.O_RDWR)
    opened = [null, os.open(cwd, os.O_RDONLY | os.O_DIRECTORY), os.open(argv[0], os.O_RDONLY)]
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(agent_socket))
            words, descriptors = [word.encode() for word in argv], [null, null, null, *opened[1:]]
            fields = [b"exec", b"", artifact, b"", *words]
            send_frame(sock, Kind.REQUEST, encode_fields(fields), descriptors)
            _follow(sock, told, words, descriptors)
    except (OSError, EOFError):
        pass  # what it was told until then is what counts
    finally:
        close_all(opened)
    return told


def _follow(sock: socket.socket, told: Told, words: list[bytes], descriptors: list[int]) -> None:
    reader = FrameReader(sock)
    while told.status is None and told.code is None:
        frame = reader.receive()
        assert frame is not None
        frame.close()
        fields = frame.fields(16)
        if frame.kind == Kind.DECISION:
            told.leaf = fields[5].decode() if fields[0] == b"allow" else None
            told.code = fields[2].decode() or None
        elif frame.kind == Kind.READY:
            send_frame(sock, Kind.GO, encode_fields(words), descriptors)
        elif frame.kind == Kind.EXITED:
            told.status = int(fields[0])
        elif frame.kind == Kind.REFUSED:
            told.code = fields[1].decode()
