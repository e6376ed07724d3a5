"""Errors as RFC 9457 says: `application/problem+json`, a status, words; and the id under which the journal has it."""

import os
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

import msgspec

__all__ = ["MEDIA_TYPE", "Problem", "correlation_ids", "format_problem"]

MEDIA_TYPE: Final = "application/problem+json"
MAX_DETAIL: Final = 600
_ID_DIGITS: Final = 16
_IDS_AT_ONCE: Final = 256


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, detail: str, *, headers: dict[str, str] | None = None) -> None:
        """Says what is wrong.

        Args:
            status: The HTTP status.
            detail: What was expected, what was found, what to do; it goes to whoever asked.
            headers: Further headers of the answer.
        """
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}


class _Document(msgspec.Struct, frozen=True):
    """RFC 9457 §3.1; `type` is `about:blank`: the status says what kind it is (§4.2.1)."""

    type: str
    title: str
    status: int
    detail: str
    correlation_id: str


def correlation_ids() -> Iterator[str]:
    """Names for requests, without end: from none of them anybody can tell another, nor how many there are."""
    while True:
        digits = os.urandom(_IDS_AT_ONCE * _ID_DIGITS // 2).hex()
        for start in range(0, len(digits), _ID_DIGITS):
            yield digits[start : start + _ID_DIGITS]


def format_problem(status: int, detail: str, *, correlation_id: str) -> bytes:
    """The body of an error."""
    text = detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]}..."
    return msgspec.json.encode(
        _Document("about:blank", HTTPStatus(status).phrase, status, text, correlation_id)
    )
