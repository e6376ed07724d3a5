"""Where published files are downloaded from: a web server, or a directory. Nothing that comes from there is believed."""

import os
import stat
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

from attestd.distribution.web import Web
from attestd.errors import MalformedError, StoreError, UsageError

__all__ = ["Remote", "open_remote"]

CONNECT_S: Final = 10.0
READ_S: Final = 10.0
# For one file, however slowly it comes.
FILE_S: Final = 60.0
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
    if not url.startswith(("https:", "http:")):
        raise UsageError(
            f"governance_url {url!r}: expected https://HOST/PATH, http://HOST/PATH or an absolute directory"
        )
    return _Web(url, ca=ca)


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
        self._web = Web(
            url,
            ca=ca,
            settings=("governance_url", "governance_ca"),
            connect_s=CONNECT_S,
            read_s=READ_S,
            remedy="governance_ca (for init: --governance-ca FILE)",
        )

    def get(self, path: str, max_bytes: int) -> bytes | None:
        found = self._web.ask(
            "GET", f"/{quote(path)}", deadline_s=FILE_S, max_bytes=max_bytes, headers={"Cache-Control": "no-cache"}
        )  # fmt: skip
        if found.status in _ABSENT:
            return None
        if found.status != _OK:
            to = found.location
            hint = f" to {to!r}: name that address in governance_url" if to else ""
            raise StoreError(f"{self._web.url}/{path}: expected status {_OK}, found {found.status}{hint}")
        return found.data

    def close(self) -> None:
        self._web.close()


def _bounded(data: bytes, where: str, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise MalformedError(f"{where}: larger than the {max_bytes} bytes that it may have")
    return data
