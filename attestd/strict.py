"""Strict JSON from outside: bounded, no duplicate members, no floats, RFC 8785 where it is signed or hashed.

Types are msgspec structs: unknown members and wrong types are errors there. Everything raises `MalformedError`.
"""

import binascii
import json
import re
from base64 import b64decode, b64encode
from binascii import a2b_base64, b2a_base64
from collections import Counter
from collections.abc import Hashable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar, cast

import msgspec
import rfc8785

from attestd.errors import MalformedError, UsageError

__all__ = [
    "MAX_SAFE_INTEGER",
    "Base64Bytes",
    "Base64UrlBytes",
    "HostId",
    "PcrName",
    "Sha256Hex",
    "Strict",
    "Utc",
    "canonical",
    "convert",
    "decode_base64",
    "decode_base64url",
    "encode_base64url",
    "encode_own_form",
    "format_time",
    "format_time_us",
    "parse_canonical",
    "parse_json",
    "parse_own_form",
    "parse_time",
]

MAX_SAFE_INTEGER: Final = 2**53 - 1  # RFC 8785 is I-JSON: larger integers change their value elsewhere.
MAX_DEPTH: Final = 32
_MAX_MESSAGE: Final = 400

Sha256Hex = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
HostId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
# A PCR as a member of an object: 0 to 23.
PcrName = Annotated[str, msgspec.Meta(pattern=r"\A([0-9]|1[0-9]|2[0-3])\Z")]
# [0-9], for \d would let the digits of every script through.
_UTC_FORM: Final = r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?Z\Z"
Utc = Annotated[str, msgspec.Meta(pattern=_UTC_FORM)]
Base64Bytes = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9+/]*={0,2}\Z")]
Base64UrlBytes = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]*\Z")]

_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")
_UTC_PATTERN: Final = re.compile(_UTC_FORM)
_T = TypeVar("_T")
_encode: Final = msgspec.json.encode


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every JSON structure: immutable, unknown members are errors, absent members are errors."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"duplicate member {twice[:80]!r}")
    return members


def _no_float(text: str) -> Any:
    raise ValueError(f"number {text[:40]!r}: only integers are allowed")


def _safe_int(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_SAFE_INTEGER:
        raise ValueError(f"integer {text[:40]!r} is beyond 2^53 - 1")
    return int(text)


def _check_depth(value: Any, depth: int = 0) -> None:
    if not isinstance(value, dict | list):
        return
    if depth == MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    for member in value.values() if isinstance(value, dict) else value:
        _check_depth(member, depth + 1)


def _is_plain(value: Any) -> bool:
    """Whether it is of exactly the types that `_encode` writes as RFC 8785 does; no call for each of its members."""
    if type(value) is dict:
        for name in value:
            if type(name) is not str:
                return False
        members: Iterable[Any] = value.values()
    else:
        members = value if type(value) in (list, tuple) else (value,)
    for member in members:
        kind = type(member)
        if kind is str or kind is bool or member is None:
            continue
        if kind is int:
            if not -MAX_SAFE_INTEGER <= member <= MAX_SAFE_INTEGER:
                return False
        elif (kind is not dict and kind is not list and kind is not tuple) or not _is_plain(member):
            return False
    return True


def _plain(value: Any) -> Any:
    # Bytes and dates pass unchanged, to be refused: nobody chose a text form for them.
    plain = msgspec.to_builtins(value, builtin_types=(bytes, bytearray, datetime))
    if not _is_plain(plain):
        raise TypeError("only integers up to 2^53 - 1, strings, objects and arrays are allowed")
    return plain


def parse_json(data: bytes, *, max_bytes: int, what: str) -> Any:
    """Parses one JSON value and nothing after it.

    Args:
        data: UTF-8 bytes from outside.
        max_bytes: The limit for this kind of input.
        what: Names the input in errors, for example "artifact".

    Returns:
        dict, list, str, int, bool or None; never a float.

    Raises:
        MalformedError: Over the limit, not UTF-8, not JSON, duplicate members, floats, integers beyond
            2^53 - 1, lone surrogates, nested deeper than 32, trailing bytes.
    """
    if len(data) > max_bytes:
        raise MalformedError(f"{what}: {len(data)} bytes, the limit is {max_bytes}")
    try:
        text = data.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_no_duplicates,
            parse_float=_no_float,
            parse_constant=_no_float,
            parse_int=_safe_int,
        )
        _check_depth(value)
        if "\\u" in text:  # Only an escape can smuggle a lone surrogate in.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise MalformedError(f"{what}: not acceptable JSON: nested too deeply") from error
    except ValueError as error:
        raise MalformedError(f"{what}: not acceptable JSON: {error}") from error
    return value


@lru_cache(maxsize=32)
def _decoder(type_: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(cast("type[Any]", type_), strict=True)


def parse_own_form(data: bytes, type_: type[_T], *, max_bytes: int) -> _T | None:
    """Parses JSON that is in RFC 8785 form, many times faster than `parse_canonical`.

    For types without floats and `Any`, whose integers are all bounded: what such a type takes, and has these bytes again,
    is what `parse_canonical` accepts.

    Returns:
        None where it is anything else: `parse_json` and `convert` say what, or that it is only not in that form.
    """
    if len(data) > max_bytes or not data.isascii():
        return None
    try:
        value: _T = _decoder(cast("Hashable", type_)).decode(data)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return value if _encode(value, order="sorted") == data else None


def convert(value: Any, type_: type[_T], *, what: str) -> _T:
    """Gives parsed JSON its type.

    Raises:
        MalformedError: A member is missing, unknown, or of the wrong type; the message has its path.
    """
    try:
        return msgspec.convert(value, type_, strict=True)
    except msgspec.ValidationError as error:
        # msgspec quotes an unknown member's name in full, and that name comes from outside.
        raise MalformedError(f"{what}: {str(error)[:_MAX_MESSAGE]}") from error


def parse_canonical(data: bytes, type_: type[_T], *, max_bytes: int, what: str) -> _T:
    """Parses JSON that is signed or hashed: it must be in its RFC 8785 form, byte for byte.

    Raises:
        MalformedError: As `parse_json` and `convert`, or the bytes are not the RFC 8785 form of their value.
    """
    value = parse_json(data, max_bytes=max_bytes, what=what)
    if canonical(value) != data:
        raise MalformedError(f"{what}: not in RFC 8785 (canonical JSON) form")
    return convert(value, type_, what=what)


def canonical(value: Any) -> bytes:
    """The RFC 8785 bytes of a struct or of plain JSON values.

    Raises:
        MalformedError: The value has no such form here (a float, an integer beyond 2^53 - 1, a lone surrogate,
            bytes, a date, a member name that is no string).
    """
    try:
        value = value if _is_plain(value) else _plain(value)
        data = _encode(value, order="sorted")
        # RFC 8785 sorts names by UTF-16 units, msgspec by bytes: the same order below U+10000, whose UTF-8 begins with
        # 0xf0. Otherwise the two agree byte for byte (a property test holds them together), and msgspec is faster.
        return data if data.isascii() or max(data) < 0xF0 else rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, ValueError, TypeError, RecursionError) as error:
        raise MalformedError(f"no canonical JSON form: {error}") from error


def encode_own_form(value: Strict) -> bytes:
    """As `canonical`, many times faster, for a struct that was made of what its fields say, and has no floats, `Any` or bytes.

    Raises:
        MalformedError: As `canonical`, for names beyond U+FFFF.
    """
    data = _encode(value, order="sorted")
    return data if data.isascii() else canonical(value)


def decode_base64(text: str, *, what: str) -> bytes:
    """Decodes standard base64 in its one canonical spelling.

    Raises:
        MalformedError: Another alphabet, missing padding, or bits set behind the last byte.
    """
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"{what}: not base64: {error}") from error
    if b64encode(data).decode() != text:
        raise MalformedError(f"{what}: not the canonical base64 of its bytes")
    return data


def encode_base64url(data: bytes) -> str:
    """Base64 as URLs and JWTs have it (RFC 7515, section 2): without padding."""
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL).decode("ascii")


def decode_base64url(text: str, *, what: str) -> bytes:
    """Decodes base64url without padding in its one canonical spelling.

    Raises:
        MalformedError: Another alphabet, padding, an impossible length, or bits set behind the last byte.
    """
    try:
        padded = text.encode("ascii").translate(_FROM_URL) + b"=" * (-len(text) % 4)
        data = a2b_base64(padded, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"{what}: not base64url: {error}") from error
    if encode_base64url(data) != text:
        raise MalformedError(f"{what}: not the canonical base64url of its bytes")
    return data


def parse_time(text: str) -> datetime:
    """Parses an RFC 3339 UTC time with `Z` and either no or six fractional digits.

    Raises:
        MalformedError: Any other form, or not a date.
    """
    if not _UTC_PATTERN.match(text):
        raise MalformedError(f"time {text[:40]!r}: expected RFC 3339 UTC like 2026-01-31T12:00:00Z")
    try:
        return datetime.fromisoformat(text[:-1]).replace(tzinfo=UTC)
    except ValueError as error:
        raise MalformedError(f"time {text[:40]!r}: {error}") from error


def format_time(moment: datetime) -> str:
    """RFC 3339 UTC, whole seconds: `2026-01-31T12:00:00Z`.

    Raises:
        UsageError: The time is naive: it would silently be read in the zone of this machine.
    """
    return _utc(moment).isoformat(timespec="seconds") + "Z"


def format_time_us(moment: datetime) -> str:
    """RFC 3339 UTC with six fractional digits: the form of log entries.

    Raises:
        UsageError: The time is naive.
    """
    return _utc(moment).isoformat(timespec="microseconds") + "Z"


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise UsageError(f"time {moment.isoformat()}: expected an aware time")
    return moment.astimezone(UTC).replace(tzinfo=None)
