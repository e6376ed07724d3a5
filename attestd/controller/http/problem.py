"""Errors as RFC 9457 says: `application/problem+json`, a status, words; and the id under which the journal has it."""

from http import HTTPStatus
from typing import Final

import msgspec

__all__ = ["MEDIA_TYPE", "Problem", "format_problem"]

MEDIA_TYPE: Final = "application/problem+json"
MAX_DETAIL: Final = 600


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


def format_problem(status: int, detail: str, *, correlation_id: str) -> bytes:
    """The body of an error."""
    text = detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]}..."
    return msgspec.json.encode(
        _Document("about:blank", HTTPStatus(status).phrase, status, text, correlation_id)
    )
