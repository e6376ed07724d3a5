"""Asks a web server, and is kept waiting by none: bounded answers, one deadline for all of an answer, no redirects."""

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from attestd.errors import MalformedError, StoreError, UsageError

__all__ = ["Answer", "ClientCertificate", "CutOffError", "Web"]

_CHUNK: Final = 64 * 1024
_GOOD: Final = range(200, 300)
# A name that is looked up, a connection that is made and TLS that begins have no socket that could be cut: what follows has.
_CUT_AGAIN_S: Final = 0.5
# What is read of an answer that says no: enough for its words.
_MAX_WORDS: Final = 16 * 1024
_CUT_OFF: Final = (ssl.SSLError, ConnectionResetError, BrokenPipeError, http.client.RemoteDisconnected)


class CutOffError(StoreError):
    """The server ended a connection that was there: without a word of TLS, or in the middle of an answer."""


@dataclass(frozen=True)
class Answer:
    """What a server answered, whatever its status.

    Attributes:
        location: Where it would have one look instead, shortened; empty: nowhere.
    """

    status: int
    data: bytes = field(repr=False)
    location: str


@dataclass(frozen=True)
class ClientCertificate:
    """What a server that asks for one is shown.

    Attributes:
        certificate: PEM file, with its intermediates.
        key: PEM file of its key.
        ask: Asks for the key's passphrase, where it has one; None: such a key is refused.
    """

    certificate: str
    key: str
    ask: Callable[[str], str] | None = None


class Web:
    """One server. Its connections are kept and used again; one request at a time.

    Attributes:
        url: Its address, without a slash at the end.
    """

    def __init__(
        self,
        url: str,
        *,
        ca: str,
        settings: tuple[str, str],
        connect_s: float,
        read_s: float,
        client: ClientCertificate | None = None,
        remedy: str = "",
    ) -> None:
        """Takes its address; nothing is connected yet.

        Args:
            url: `https://…` or `http://…`.
            ca: A PEM file of the certificate authorities that may vouch for it; empty: the system's.
            settings: What an error calls the address, and that file.
            connect_s: How long a connection may take.
            read_s: How long a server may be silent.
            client: Shown to a server that asks; None: nothing is.
            remedy: What names who may vouch for it, as an error says it; empty: that file, as it is called in `settings`.

        Raises:
            UsageError: It is no such address, a certificate that only TLS could show, or a file that cannot be read.
        """
        # Imported here: only who asks somebody needs it, and agents start without.
        import urllib3  # noqa: PLC0415

        self.url = url.rstrip("/")
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.hostname and not parts.query + parts.fragment
        except ValueError:
            usable = False
        if not usable:
            raise UsageError(f"{settings[0]} {url!r}: expected https://HOST/PATH or http://HOST/PATH")
        self._prefix, self._remedy = parts.path, remedy or settings[1]
        self._errors = (urllib3.exceptions.HTTPError, http.client.HTTPException)
        self._live: set[Any] = set()
        timeout = urllib3.Timeout(connect=connect_s, read=read_s)
        options: dict[str, Any] = {"timeout": timeout, "retries": False, "maxsize": 1}
        if parts.scheme == "https":
            options["ssl_context"] = _context(ca, settings[1], client)
        elif client is not None:
            raise UsageError(f"{settings[0]} {url!r}: expected https://: a certificate is shown in TLS alone")
        self._pool = urllib3.connection_from_url(self.url, **options)
        self._pool.ConnectionCls = _watched(self._pool.ConnectionCls, self._live)

    def ask(
        self,
        method: str,
        path: str,
        *,
        deadline_s: float,
        max_bytes: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Sends one request.

        Args:
            method: Of HTTP.
            path: Below the address, with a slash before it, quoted.
            deadline_s: For all of it, however slowly it comes.
            max_bytes: Of an answer that says yes; of another one the first 16 KiB are read.
            body: What is sent.
            headers: Besides those that are always sent.

        Raises:
            StoreError: No whole answer came; `CutOffError`, where there was a connection, and the server ended it.
            MalformedError: It is larger than `max_bytes`.
        """
        where = f"{self.url}{path}"
        try:
            with self._deadline(where, deadline_s):
                return self._ask(method, path, max_bytes=max_bytes, body=body, headers=headers or {})
        except self._errors as error:
            cause = _root(error)
            words = f"{where}: {str(cause) or type(cause).__name__}"
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise StoreError(f"{words}: {self._remedy} names who may vouch for it") from error
            raise (CutOffError if isinstance(cause, _CUT_OFF) else StoreError)(words) from error
        except (OSError, ValueError) as error:  # of a socket that was shut down meanwhile
            raise StoreError(f"{where}: {error}") from error

    def close(self) -> None:
        """Cuts what another thread is waiting for."""
        for connection in list(self._live):
            sock = connection.sock
            if sock is not None:
                with contextlib.suppress(OSError):
                    # Not an SSL socket's own shutdown: another thread is reading from it.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> Answer:
        response = self._pool.urlopen(
            method, self._prefix + path, body=body, redirect=False, preload_content=False, decode_content=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "attestd", **headers},
        )  # fmt: skip
        data = b""
        try:
            good = response.status in _GOOD
            most = max_bytes if good else _MAX_WORDS
            # Not read(): it would wait until all of a chunk is there, however long each byte takes.
            while len(data) <= most and (part := response.read1(_CHUNK)):
                data += part
            if good and len(data) > max_bytes:
                raise MalformedError(f"{self.url}{path}: larger than the {max_bytes} bytes that it may have")
            return Answer(response.status, data[:most], str(response.headers.get("Location") or "")[:200])
        finally:
            response.close()  # Read to its end, its connection was given back already and is used again.

    @contextlib.contextmanager
    def _deadline(self, where: str, deadline_s: float) -> Iterator[None]:
        """Timeouts are for each read: who sends a byte now and then would never meet one."""
        late, over = threading.Event(), threading.Event()

        def cut() -> None:
            late.set()
            self.close()
            while not over.wait(_CUT_AGAIN_S):
                self.close()

        timer = threading.Timer(deadline_s, cut)
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
            over.set()
        if late.is_set():  # also where what was cut off looked like an end
            raise StoreError(f"{where}: no whole answer came within {deadline_s:g} s") from cause


def _watched(base: type[Any], live: set[Any]) -> type[Any]:
    class Watched(base):  # type: ignore[misc]
        def connect(self) -> None:
            live.add(self)
            super().connect()

        def close(self) -> None:
            live.discard(self)
            super().close()

    return Watched


def _context(ca: str, setting: str, client: ClientCertificate | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{setting} {ca}: expected a PEM file of certificates: {error}") from error
    if client is not None:
        ask = client.ask

        def password() -> str:
            if ask is None:
                raise UsageError(f"{client.key}: expected a key without a passphrase: there is nobody to ask")
            return ask(f"passphrase of key {client.key}")

        try:
            context.load_cert_chain(client.certificate, client.key, password)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"{client.certificate}, {client.key}: expected a certificate and its key in PEM: {error}"
            ) from error
    return context


def _root(error: BaseException) -> BaseException:
    """What an error came from in the end; urllib3 has it as a cause, as its reason, or as what it is made of."""
    for found in (error.__cause__, getattr(error, "reason", None), *error.args):
        if isinstance(found, BaseException):
            return _root(found)
    return error
