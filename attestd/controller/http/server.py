"""Serves an application over HTTP/1.1: sockets, TLS, the orderly end."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from attestd.controller.http.application import Application
from attestd.controller.http.limits import Connections
from attestd.controller.http.metrics import Metrics
from attestd.controller.http.protocol import Bounds, Connection, Handshake, Shared
from attestd.controller.http.tls import Certificate
from attestd.errors import AttestdError, StoreError, UsageError
from attestd.journal import event

__all__ = ["bind", "serving"]

BACKLOG: Final = 1024
MAX_CONNECTIONS: Final = 4096
# How long requests that are being answered may still take once the service stops.
GRACE_S: Final = 20.0
RELOAD_S: Final = 5.0


def bind(address: str) -> socket.socket:
    """Opens `HOST:PORT`, `[IPV6]:PORT`.

    Raises:
        UsageError: Not such an address.
        StoreError: It cannot be listened on.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 65_536):
        raise UsageError(f"listen {address!r}: expected HOST:PORT or [IPV6]:PORT")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(where)
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise StoreError(f"listen {address}: {error.strerror}") from error
    return listener


@contextlib.asynccontextmanager
async def serving(
    application: Application,
    listener: socket.socket,
    *,
    certificate: Certificate | None,
    metrics: Metrics,
    log: logging.Logger,
    connections_of_a_peer: int,
    bounds: Bounds | None = None,
) -> AsyncIterator[None]:
    """Serves as long as the context lasts; then answers what was begun, and ends.

    Args:
        application: Answers.
        listener: Where; it is closed at the end.
        certificate: TLS; None: there is none.
        metrics: Where refused connections are counted.
        log: Where they are written.
        connections_of_a_peer: How many one address may have at a time.
        bounds: How long a peer may take.
    """
    # Its own words for what goes wrong in a connection: ours are written where it happens.
    uvicorn_log = logging.getLogger("uvicorn.error")
    uvicorn_log.propagate = False
    uvicorn_log.addHandler(logging.NullHandler())
    # No header names a client: who stands before us may be anybody, so a peer is who connects.
    config = Config(
        application,
        http=Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        log_config=None,
        access_log=False,
    )
    config.ws_protocol_class = None
    state = ServerState()
    connections = Connections(most=MAX_CONNECTIONS, most_of_a_peer=connections_of_a_peer)
    shared = Shared(config, state, connections, metrics, log, bounds or Bounds())
    metrics.add_source(
        lambda: [
            ("attestd_controller_connections", "Open connections.", {(): connections.count}),
        ]
    )

    def accept() -> asyncio.BaseProtocol:
        connection = Connection(shared)
        return connection if certificate is None else Handshake(connection, shared, certificate.context)

    server = await asyncio.get_running_loop().create_server(accept, sock=listener, backlog=BACKLOG)
    tasks = [asyncio.create_task(_dates(state))]
    if certificate is not None:
        tasks.append(asyncio.create_task(_reload(certificate, log)))
    try:
        yield
    finally:
        server.close()
        await _finish(state, log)
        for task in tasks:
            task.cancel()


async def _finish(state: ServerState, log: logging.Logger) -> None:
    """Idle connections end at once, others once they are answered; what takes longer than the grace is cut off."""
    for connection in list(state.connections):
        connection.shutdown()
    deadline = time.monotonic() + GRACE_S
    while (state.tasks or state.connections) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        if not state.tasks and time.monotonic() > deadline - GRACE_S + 1:
            break  # Answered; what is left are peers that do not read.
    if state.tasks:
        log.warning(event("requests.cut_off", count=len(state.tasks)))
    for task in list(state.tasks):
        task.cancel()
    for connection in list(state.connections):
        connection.transport.abort()
    await asyncio.sleep(0)


async def _dates(state: ServerState) -> None:
    while True:
        state.default_headers = [(b"date", formatdate(usegmt=True).encode())]  # RFC 9110 §6.6.1
        await asyncio.sleep(1)


async def _reload(certificate: Certificate, log: logging.Logger) -> None:
    problem = ""
    while True:
        await asyncio.sleep(RELOAD_S)
        before, problem = problem, ""
        try:
            if certificate.reload():
                log.info(event("tls.reloaded"))
        except AttestdError as error:
            problem = str(error)
        if problem not in ("", before):  # once, not every time
            log.error(event("tls.not_reloaded", error=problem))
