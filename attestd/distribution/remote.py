"""Where published files are downloaded from: a web server, or a directory. Nothing that comes from there is believed."""

import contextlib
import http.client
import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote, urlsplit

from attestd.errors import MalformedError, StoreError, UsageError

__all__ = ["Remote", "open_remote"]

CONNECT_S: Final = 10.0
READ_S: Final = 10.0
# For one file, however slowly it comes.
FILE_S: Final = 60.0
_CHUNK: Final = 64 * 1024
_OK: Final = 200
_ABSENT: Final = frozenset({403, 404, 410})  # S3 says 403 for what is not there


class Remote(Protocol):
    """Published files."""

    def get(self, path: str, max_bytes: int) -> bytes | None:
        """The bytes of a file; None: it is not there.

        Raises:
            StoreError: It cannot be read.
            MalformedError: It is larger than `max_bytes`.
        """

    def close(self) -> None:
        """Ends it, also what another thread is reading."""


def open_remote(url: str, *, ca: str = "") -> Remote:
    """Opens the place that `governance_url` names.

    Args:
        url: `https://…`, `http://…`, or a directory's absolute path.
        ca: A PEM file of the certificate authorities that may vouch for the server; empty: the system's.

    Raises:
        UsageError: It is none of these, or `ca` cannot be read.
    """
    if url.startswith("/"):
        return _Directory(Path(url))
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
        )
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"governance_url {url!r}: expected https://HOST/PATH, http://HOST/PATH or an absolute directory"
        )
    return _Web(url.rstrip("/"), ca=ca)


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, path: str, max_bytes: int) -> bytes | None:
        full = self._path / path
        try:
            with open(os.open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise StoreError(f"{full}: expected a regular file")
                data = file.read(max_bytes + 1)
        except FileNotFoundError:
            if not self._path.is_dir():
                raise StoreError(f"governance_url {self._path}: no such directory") from None
            return None
        except OSError as error:
            raise StoreError(f"{full}: {error.strerror}") from error
        return _bounded(data, str(full), max_bytes)

    def close(self) -> None:
        pass


class _Web:
    def __init__(self, url: str, *, ca: str) -> None:
        # Imported here: only a host that downloads needs it, and the agent starts without.
        import urllib3  # noqa: PLC0415

        self._url, self._prefix = url, urlsplit(url).path
        self._errors = (urllib3.exceptions.HTTPError, http.client.HTTPException)
        self._live: set[Any] = set()
        timeout = urllib3.Timeout(connect=CONNECT_S, read=READ_S)
        settings: dict[str, Any] = {"timeout": timeout, "retries": False, "maxsize": 1}
        if url.startswith("https:"):
            settings["ssl_context"] = _context(ca)
        self._pool = urllib3.connection_from_url(url, **settings)
        self._pool.ConnectionCls = _watched(self._pool.ConnectionCls, self._live)

    def get(self, path: str, max_bytes: int) -> bytes | None:
        where = f"{self._url}/{path}"
        try:
            with self._deadline():
                return self._get(path, max_bytes)
        except self._errors as error:
            raise StoreError(f"{where}: {_words(error)}") from error
        except (OSError, ValueError) as error:  # of a socket that was shut down meanwhile
            raise StoreError(f"{where}: {error}") from error

    def _get(self, path: str, max_bytes: int) -> bytes | None:
        where = f"{self._url}/{path}"
        response = self._pool.urlopen(
            "GET", f"{self._prefix}/{quote(path)}", redirect=False, preload_content=False, decode_content=False,
            headers={"Accept-Encoding": "identity", "Cache-Control": "no-cache", "User-Agent": "attestd"},
        )  # fmt: skip
        data = b""
        try:
            if response.status in _ABSENT:
                return None
            if response.status != _OK:
                to = response.headers.get("Location")
                hint = f" to {to[:200]!r}: name that address in governance_url" if to else ""
                raise StoreError(f"{where}: expected status 200, found {response.status}{hint}")
            # Not read(): it would wait until all of a chunk is there, however long each byte takes.
            while len(data) <= max_bytes and (part := response.read1(_CHUNK)):
                data += part
            return _bounded(data, where, max_bytes)
        finally:
            response.close()  # Read to its end, its connection was given back already and is used again.

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """Timeouts are for each read: who sends a byte now and then would never meet one."""
        late = threading.Event()

        def cut() -> None:
            late.set()
            self.close()

        timer = threading.Timer(FILE_S, cut)
        timer.daemon = True
        timer.start()
        cause: BaseException | None = None
        try:
            yield
        except (*self._errors, OSError, StoreError, MalformedError) as error:
            if not late.is_set():
                raise
            cause = error
        finally:
            timer.cancel()
        if late.is_set():  # also where what was cut off looked like an end
            raise StoreError(f"{self._url}: a file did not come within {FILE_S:.0f} s") from cause

    def close(self) -> None:
        for connection in list(self._live):
            sock = connection.sock
            if sock is not None:
                with contextlib.suppress(OSError):
                    # Not an SSL socket's own shutdown: another thread is reading from it.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _watched(base: type[Any], live: set[Any]) -> type[Any]:
    class Watched(base):  # type: ignore[misc]
        def connect(self) -> None:
            live.add(self)
            super().connect()

        def close(self) -> None:
            live.discard(self)
            super().close()

    return Watched


def _context(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"governance_ca {ca}: expected a PEM file of certificates: {error}") from error


def _words(error: Exception) -> str:
    cause: Any = error
    while cause.__cause__ is not None or isinstance(getattr(cause, "reason", None), BaseException):
        cause = cause.__cause__ or getattr(cause, "reason", cause)
    return str(cause) or type(cause).__name__


def _bounded(data: bytes, where: str, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise MalformedError(f"{where}: larger than the {max_bytes} bytes that it may have")
    return data
