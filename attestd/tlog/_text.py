"""The two encodings that notes, checkpoints and proofs are made of; each value has exactly one spelling."""

import binascii
import re
from typing import Final

from attestd.errors import MalformedError

__all__ = ["DECIMAL", "MAX_SIZE", "format_base64", "parse_base64", "parse_decimal"]

MAX_SIZE: Final = 2**63 - 1  # of a tree: what SQLite and most other logs can count

DECIMAL: Final = rb"(0|[1-9][0-9]{0,18})"
_DECIMAL: Final = re.compile(DECIMAL + rb"\Z")


def parse_decimal(text: bytes, *, what: str) -> int:
    """An ASCII decimal without leading zeroes, at most 2^63 - 1.

    Raises:
        MalformedError: Anything else.
    """
    if not _DECIMAL.match(text) or (value := int(text)) > MAX_SIZE:
        shown = text[:40].decode("ascii", "backslashreplace")
        raise MalformedError(f"{what}: {shown!r} is not a decimal number from 0 to 2^63 - 1")
    return value


def parse_base64(text: bytes, *, what: str) -> bytes:
    """Standard padded Base 64 (RFC 4648 §4) in its one canonical spelling.

    Raises:
        MalformedError: Another alphabet, missing padding, or padding bits that are not zero (§3.5).
    """
    try:
        value = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise MalformedError(f"{what}: not base64: {error}") from error
    if binascii.b2a_base64(value, newline=False) != text:
        raise MalformedError(f"{what}: not canonical base64")
    return value


def format_base64(value: bytes) -> str:
    """Standard padded Base 64 (RFC 4648 §4)."""
    return binascii.b2a_base64(value, newline=False).decode("ascii")
