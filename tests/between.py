"""A network for tests: it stands between hosts and one controller, and loses, delays, holds back or changes what passes."""

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

CONNECT_S: Final = 10.0
# What tells connections that somebody must close them from those that are kept: nobody waits as long.
LONG_S: Final = 60.0


@dataclass(frozen=True)
class Passing:
    """A request, and what the controller answered to it."""

    method: str
    path: str
    body: bytes
    status: int
    content: str
    answer: bytes


Way = Callable[["_Handler"], None]
"""What becomes of one request."""


class Between(ThreadingHTTPServer):
    """Listens for one controller.

    Attributes:
        port: Where hosts reach it.
        target: The controller's port.
        way: What becomes of requests from now on.
        passed: What came through, newest last.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = int(self.server_address[1])
        self.target, self.way = target, through
        self.passed: list[Passing] = []
        self.ended = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def handle_error(self, *_: Any) -> None:
        """Whoever went away is no error here."""

    def end(self) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Between

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.way(self)

    do_POST = do_GET  # noqa: N815 - as above

    def ask(self) -> Passing:
        """Asks the controller.

        Raises:
            OSError, http.client.HTTPException: It is not there.
        """
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=CONNECT_S)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.getheader("Content-Type") or ""
            passing = Passing(self.command, self.path, body, response.status, content, response.read())
        finally:
            connection.close()
        self.server.passed.append(passing)
        return passing

    def give(self, status: int, content: str, answer: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def reset(self) -> None:
        """As a machine does that knows nothing of the connection."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def through(handler: _Handler) -> None:
    """As if nothing stood between."""
    try:
        passing = handler.ask()
    except (OSError, http.client.HTTPException):
        handler.reset()
        return
    handler.give(passing.status, passing.content, passing.answer)


def lost(handler: _Handler) -> None:
    """The connection breaks."""
    handler.reset()


def silent(handler: _Handler) -> None:
    """Nothing comes through, and nobody says so."""
    handler.server.ended.wait(LONG_S)
    handler.reset()


def half_open(handler: _Handler) -> None:
    """The controller does what it was asked, and its answer never arrives whole."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        passing = handler.ask()
        handler.wfile.write(
            f"HTTP/1.1 {passing.status} OK\r\nContent-Length: {len(passing.answer)}\r\n\r\n".encode()
        )
        handler.wfile.write(passing.answer[: len(passing.answer) // 2])
        handler.wfile.flush()
    handler.server.ended.wait(LONG_S)
    handler.reset()


def delayed(seconds: float) -> Way:
    """Everything takes its time."""

    def way(handler: _Handler) -> None:
        time.sleep(seconds)
        through(handler)

    return way


def changed(change: Callable[[Passing], tuple[int, bytes]], *, path: str) -> Way:
    """The controller lies: its answers for a path that ends so are what `change` makes of them."""

    def way(handler: _Handler) -> None:
        try:
            passing = handler.ask()
        except (OSError, http.client.HTTPException):
            handler.reset()
            return
        status, answer = passing.status, passing.answer
        if passing.path.endswith(path):
            status, answer = change(passing)
        handler.give(status, passing.content, answer)

    return way
