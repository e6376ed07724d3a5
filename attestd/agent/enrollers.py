"""What a host asks enrollers over HTTP. Nothing that comes back is believed: `enrolling` verifies it."""

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from attestd.errors import MalformedError, StoreError, UsageError, VerificationError
from attestd.governance.enrolment import (
    MAX_ACTIVATION_BYTES,
    Activation,
    Challenge,
    EnrolmentRequest,
    Outcome,
    parse_challenge,
    parse_outcome,
)
from attestd.strict import canonical

__all__ = ["Enroller"]

CONNECT_S: Final = 10.0
READ_S: Final = 20.0
# For one answer, however slowly it comes.
ANSWER_S: Final = 60.0
_CHUNK: Final = 64 * 1024
_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
_ANSWERED: Final = frozenset({200, 202})
_MAX_WORDS: Final = 600


class Enroller:
    """One controller, as a host sees it.

    Attributes:
        url: Where it is.
    """

    def __init__(self, url: str, *, ca: str = "") -> None:
        """Takes its address.

        Args:
            url: `https://…` or `http://…`.
            ca: A PEM file of the certificate authorities that may vouch for it; empty: the system's.

        Raises:
            UsageError: It is no such address, or `ca` cannot be read.
        """
        # Imported here: a host enrols once in its life.
        import urllib3  # noqa: PLC0415

        self.url = url.rstrip("/")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and not parts.query + parts.fragment
        except ValueError:
            usable = False
        if not usable:
            raise UsageError(f"controller {url!r}: expected https://HOST:PORT or http://HOST:PORT")
        self._errors = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
        settings: dict[str, Any] = {
            "timeout": urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            "retries": False,
        }
        if parts.scheme == "https":
            settings["ssl_context"] = _context(ca)
        self._pool, self._prefix = urllib3.connection_from_url(self.url, **settings), parts.path.rstrip("/")

    def begin(self, request: EnrolmentRequest) -> Challenge:
        """Shows the host's keys.

        Raises:
            StoreError: It cannot answer now.
            VerificationError: It refuses.
            MalformedError: Its answer is none.
        """
        return parse_challenge(self._post("/v1/enrollments", canonical(request)))

    def activate(self, challenge: Challenge, activation: Activation) -> Outcome:
        """Shows the credential's secret.

        Raises:
            StoreError, VerificationError, MalformedError: As `begin`.
        """
        return parse_outcome(self._post(f"/v1/enrollments/{challenge.id}/activation", canonical(activation)))

    def _post(self, path: str, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "attestd"}
        try:
            response = self._pool.urlopen(
                "POST", self._prefix + path, body=body, headers=headers, redirect=False, preload_content=False,
                decode_content=False,
            )  # fmt: skip
            try:
                data = self._read(response)
            finally:
                response.close()
        except self._errors as error:
            raise StoreError(f"{self.url}: {error}") from error
        if response.status in _ANSWERED:
            return data
        words = f"{self.url}: {_detail(data) or 'no words'} (status {response.status})"
        if response.status in _AGAIN:
            raise StoreError(words)
        raise VerificationError(words)

    def _read(self, response: Any) -> bytes:
        data, late = b"", time.monotonic() + ANSWER_S
        while part := response.read1(_CHUNK):
            data += part
            if len(data) > MAX_ACTIVATION_BYTES:
                raise MalformedError(f"{self.url}: an answer of more than {MAX_ACTIVATION_BYTES} bytes")
            if time.monotonic() > late:
                raise StoreError(f"{self.url}: no whole answer within {ANSWER_S:.0f} s")
        return data


def _detail(data: bytes) -> str:
    """The words of a problem (RFC 9457), where it is one."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    detail = found.get("detail") if isinstance(found, Mapping) else None
    return detail[:_MAX_WORDS] if isinstance(detail, str) else ""


def _context(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{ca}: expected a PEM file of certificates: {error}") from error
