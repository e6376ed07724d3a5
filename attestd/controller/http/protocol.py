"""One HTTP/1.1 connection: uvicorn's, with the deadlines and bounds that it leaves to a proxy.

A peer that connects and says nothing, sends its headers byte by byte, or does not read its answer is cut off; so nobody
holds more connections than the limit a peer, and none of them for longer than these times.
"""

import asyncio
import hashlib
import logging
import secrets
import ssl
from asyncio import TimerHandle
from asyncio.sslproto import SSLProtocol
from dataclasses import dataclass, field
from typing import Any, Final, cast

from cryptography import x509
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from attestd.controller.http.limits import Connections, RateLimit, lines_limit, peer_of
from attestd.controller.http.metrics import Metrics
from attestd.controller.http.operation import Operator
from attestd.controller.http.problem import MEDIA_TYPE, format_problem
from attestd.journal import event

__all__ = ["Bounds", "Connection", "Handshake", "Shared"]

MAX_HEADERS: Final = 64
SHUTDOWN_S: Final = 5
_STATUS: Final = b"HTTP/1.1 "
_CONTINUE: Final = b"HTTP/1.1 100 "


@dataclass(frozen=True)
class Bounds:
    """How long a peer may take.

    Attributes:
        handshake_s: For TLS, from the first byte.
        headers_s: From a connection's or request's first sign to the end of its headers.
        idle_s: Between two requests.
        write_s: Without reading anything of an answer.
        max_head_bytes: Of a request line and headers.
    """

    handshake_s: float = 10.0
    headers_s: float = 10.0
    idle_s: float = 15.0
    write_s: float = 20.0
    max_head_bytes: int = 16 * 1024


@dataclass(frozen=True)
class Shared:
    """What all connections share."""

    config: Config
    state: ServerState
    connections: Connections
    metrics: Metrics
    log: logging.Logger
    bounds: Bounds
    lines: RateLimit = field(default_factory=lines_limit)


class Handshake(SSLProtocol):
    """TLS before a connection: counted from when it is accepted, or handshakes that never end would cost nothing."""

    def __init__(self, connection: "Connection", shared: Shared, context: ssl.SSLContext) -> None:
        """Takes the connection that follows."""
        super().__init__(
            asyncio.get_running_loop(),
            connection,
            context,
            None,  # type: ignore[arg-type]  # nobody waits for the handshake
            server_side=True,
            ssl_handshake_timeout=shared.bounds.handshake_s,  # type: ignore[arg-type]  # a fraction is none the worse
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
        self._place = _Place(shared)

    def connection_made(self, transport: Any) -> None:
        """Begins, if the peer has not too many of them."""
        if self._place.take(transport):
            super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Ends."""
        self._place.leave()
        super().connection_lost(exc)


class _Place:
    """A connection's place among those that a peer may have."""

    def __init__(self, shared: Shared) -> None:
        self._shared, self._peer = shared, ""

    def take(self, transport: asyncio.Transport) -> bool:
        """Takes one; False: there is none, and the connection is ended without a word."""
        peer = _peer_of(transport)
        if not self._shared.connections.enter(peer):
            self._shared.metrics.refused("connections")
            transport.abort()
            return False
        self._peer = peer
        return True

    def leave(self) -> None:
        """Gives it back."""
        if self._peer:
            self._shared.connections.leave(self._peer)
            self._peer = ""


class _WholeAnswers:
    """A transport that sends the head of an answer together with what follows it: uvicorn writes each by itself.

    After a head there is another write, or the answer is over, as that to HEAD is (`flush`), or the connection ends.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_STATUS) and not data.startswith(_CONTINUE):
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()


class _Refused(Exception):
    """Raised within the parser's callbacks to end the request."""


class Connection(HttpToolsProtocol):
    """One connection."""

    def __init__(self, shared: Shared) -> None:
        """Takes what all share."""
        super().__init__(shared.config, shared.state, {})
        self.timeout_keep_alive = shared.bounds.idle_s  # type: ignore[assignment]  # seconds: a fraction is none the worse
        self._shared = shared
        self._due: float | None = None
        self._timer: TimerHandle | None = None
        self._stalled: TimerHandle | None = None
        self._place = _Place(shared)
        self._peer = ""
        self._head_bytes = 0
        self._refusal = 400, "not an HTTP/1.1 request"

    # -- the connection's life

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Counts it; one too many is ended without a word."""
        self._answers = _WholeAnswers(transport)
        super().connection_made(cast("asyncio.Transport", self._answers))
        operator = _operator(transport)
        if self.scheme == "http" and not self._place.take(transport):  # TLS has taken one already
            return
        self._peer = _peer_of(transport)
        self.app_state = {"peer": self._peer, "operator": operator, "is_whole": self._is_whole}
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts it no longer."""
        self._disarm()
        for timer in (self._timer, self._stalled):
            if timer is not None:
                timer.cancel()
        self._place.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses; what was sent after the end is not looked at."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_answered() and self.timeout_keep_alive_task is None and self._due is None:
            self._arm()  # Empty lines, which may stand before a request, are none.

    def pause_writing(self) -> None:
        """The peer does not read: it has so long to begin again."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self._shared.bounds.write_s, self._end, "reading")

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def on_response_complete(self) -> None:
        """The answer is over: that to HEAD was a head alone."""
        self._answers.flush()
        super().on_response_complete()

    # -- the parser's callbacks

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._head_bytes = 0
        self._arm()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value) + 4)
        if len(self.headers) >= MAX_HEADERS:
            self._refuse(431, f"more than {MAX_HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """From here on the application has the time in its hands."""
        self._disarm()
        names = [name for name, _ in self.headers]
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            self._refuse(505, "only HTTP/1.1 is spoken")
        # Whoever stands before us may have chosen another one of two: then requests could be smuggled.
        for name in (b"host", b"content-length", b"transfer-encoding", b"content-type"):
            if names.count(name) > 1:
                self._refuse(400, f"more than one {name.decode()} header")
        if b"transfer-encoding" in names and b"content-length" in names:
            self._refuse(400, "both content-length and transfer-encoding")
        if self.parser.should_upgrade():
            self._refuse(400, "there is no other protocol to upgrade to")
        super().on_headers_complete()

    # -- refusals

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words; ours are problem details
        """Answers what is no request, and ends the connection."""
        status, detail = self._refusal
        correlation_id = secrets.token_hex(8)
        self._shared.metrics.refused("malformed")
        level = logging.DEBUG if self._shared.lines.take("", now=self.loop.time()) else logging.INFO
        self._shared.log.log(
            level, event("request.refused", status=status, why=detail, peer=self._peer, id=correlation_id)
        )
        if self._is_answered():  # else it would be taken for the answer before it
            body = format_problem(status, detail, correlation_id=correlation_id)
            head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self._disarm()
        self.transport.close()

    def _is_whole(self) -> bool:
        """Whether nothing of a body is awaited; of a request before the last one nothing is."""
        return not self.cycle.more_body

    def _is_answered(self) -> bool:
        """Whether no answer is under way."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._shared.bounds.max_head_bytes:
            self._refuse(
                431, f"request line and headers have more than {self._shared.bounds.max_head_bytes} bytes"
            )

    def _refuse(self, status: int, detail: str) -> None:
        self._refusal = status, detail
        raise _Refused

    def _arm(self) -> None:
        """Headers are under way. One timer serves all requests: most of them are whole when their first byte is seen."""
        self._due = self.loop.time() + self._shared.bounds.headers_s
        if self._timer is None:
            self._timer = self.loop.call_at(self._due, self._look)

    def _disarm(self) -> None:
        self._due = None

    def _look(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._due > self.loop.time():
            self._timer = self.loop.call_at(self._due, self._look)
        else:
            self._end("headers")

    def _end(self, why: str) -> None:
        self._due = self._stalled = None
        self._shared.metrics.refused(f"slow {why}")
        self.transport.abort()


def _peer_of(transport: asyncio.Transport) -> str:
    address = transport.get_extra_info("peername")
    return peer_of(str(address[0])) if isinstance(address, tuple) else "local"


def _operator(transport: Any) -> Operator | None:
    """By the client certificate, which TLS has verified against the operators' authority; None: there is none."""
    tls = transport.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    if not certificate:
        return None
    try:
        subject = x509.load_der_x509_certificate(certificate).subject.rfc4514_string()
    except ValueError:  # what OpenSSL tolerates and this parser does not
        subject = "a subject that does not parse"
    return Operator(hashlib.sha256(certificate).hexdigest(), subject)
