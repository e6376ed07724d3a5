"""A web server on 127.0.0.1 that serves files, and misbehaves where it is told to."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: "Web"

    def do_GET(self) -> None:
        name = self.path.removeprefix(self.server.prefix).removeprefix("/")
        self.server.asked.append(name)
        data = self.server.files.get(name, b"")
        behaviour = self.server.behaviours.get(name)
        with contextlib.suppress(OSError):  # the client has had enough
            if behaviour is not None:
                behaviour(self, data)
            elif name in self.server.files:
                self.answer(data)
            else:
                self.answer(b"not found", status=404)

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        self.do_GET()

    def answer(self, data: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Web(ThreadingHTTPServer):
    """The server; `asked` are the names that were asked for, `bodies` what came with them."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, files: Mapping[str, bytes], *, prefix: str = "", port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.files, self.prefix = files, prefix
        self.behaviours: dict[str, Behaviour] = {}
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}{prefix}"

    def handle_error(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(files: Mapping[str, bytes], *, prefix: str = "", port: int = 0) -> Iterator[Web]:
    """Serves until left."""
    web = Web(files, prefix=prefix, port=port)
    thread = threading.Thread(target=lambda: web.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


def endless(handler: Handler, _: bytes) -> None:
    """Never stops sending."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    while True:
        handler.wfile.write(bytes(65_536))


def dripping(handler: Handler, data: bytes) -> None:
    """A byte now and then: each read succeeds in time."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    for value in data:
        handler.wfile.write(bytes([value]))
        time.sleep(0.05)


def dripping_headers(handler: Handler, _: bytes) -> None:
    """The status line never ends."""
    handler.wfile.write(b"HTTP/1.1 200 ")
    while True:
        handler.wfile.write(b"O")
        time.sleep(0.05)


def truncated(handler: Handler, data: bytes) -> None:
    """Fewer bytes than were announced."""
    handler.close_connection = True
    handler.answer(data[: len(data) // 2], length=len(data))


def redirecting(handler: Handler, _: bytes) -> None:
    """Elsewhere."""
    handler.answer(b"", status=302, Location="http://127.0.0.1:1/elsewhere")


def failing(handler: Handler, _: bytes) -> None:
    """An error of the server."""
    handler.answer(b"oops", status=503)


def silent(_: Handler, __: bytes) -> None:
    """Says nothing for longer than anybody waits."""
    time.sleep(5)


def other(handler: Handler, data: bytes) -> None:
    """As many other bytes."""
    handler.answer(bytes(byte ^ 1 for byte in data))


def compressed(handler: Handler, data: bytes) -> None:
    """Something that would become large."""
    import gzip

    handler.answer(gzip.compress(data + bytes(10_000_000)), **{"Content-Encoding": "gzip"})
