"""A log entry: what one leaf of the audit log says.

The leaf is the entry's exact bytes: canonical JSON with the members v, type, time, seq, boot, body.
"""

from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, Literal

from attestd.errors import MalformedError, UsageError
from attestd.strict import MAX_SAFE_INTEGER, Strict, Utc, canonical, parse_canonical, parse_time

__all__ = [
    "MAX_ENTRY_BYTES",
    "Entry",
    "EntryType",
    "format_entry",
    "join_entry",
    "parse_entry",
    "parse_entry_name",
]

# C2SP tlog-tiles: the length prefix of an entry in a bundle is a uint16.
MAX_ENTRY_BYTES: Final = 65_535


class EntryType(StrEnum):
    """What happened."""

    LOG_START = "log.start"
    AGENT_START = "agent.start"
    AGENT_STOP = "agent.stop"
    DECISION_ALLOW = "decision.allow"
    DECISION_DENY = "decision.deny"
    DECISION_VOID = "decision.void"
    DENIALS_AGGREGATED = "denials.aggregated"
    EXECUTION_START = "execution.start"
    EXECUTION_EXIT = "execution.exit"
    EXECUTION_TERMINATED = "execution.terminated"
    ATTESTATION = "attestation"
    GOVERNANCE_UPDATE = "governance.update"
    REVOCATION = "revocation"
    HOST_REENROLL = "host.reenroll"


class Entry(Strict, frozen=True):
    """One entry of the log.

    Attributes:
        v: Format version, 1.
        type: What happened.
        time: RFC 3339 UTC with six fractional digits; never decreases along the log.
        seq: The leaf index.
        boot: The kernel's boot id, as /proc/sys/kernel/random/boot_id spells it.
        body: What the type defines.
    """

    v: Literal[1]
    type: EntryType
    time: Utc
    seq: int
    boot: str
    body: dict[str, Any]


def format_entry(*, type_: EntryType, time: str, seq: int, boot: str, body: dict[str, Any]) -> bytes:
    """The exact bytes of an entry.

    Raises:
        MalformedError: What `parse_entry` would refuse: time form, negative seq, too large for a leaf, or no
            canonical form.
    """
    return join_entry(type_=type_, time=time, seq=seq, boot=boot, body=canonical(body))


def join_entry(*, type_: EntryType, time: str, seq: int, boot: str, body: bytes) -> bytes:
    """`format_entry` for a body that has its canonical bytes already; that it has is the caller's word.

    Raises:
        MalformedError: As `format_entry`.
    """
    _require_position(time, seq)
    # Members in the order of RFC 8785. Encoding all of them anew would cost as much as hashing and storing the entry.
    data = b'{"body":%b,"boot":%b,"seq":%d,"time":"%b","type":"%b","v":1}' % (
        body, _quoted(boot), seq, time.encode(), type_.encode(),
    )  # fmt: skip
    if len(data) > MAX_ENTRY_BYTES:
        raise MalformedError(f"log entry: {len(data)} bytes, the limit is {MAX_ENTRY_BYTES}")
    return data


def parse_entry(data: bytes) -> Entry:
    """Parses one entry.

    Raises:
        MalformedError: Not canonical, unknown type or member, not the time form of entries, negative seq.
    """
    entry = parse_canonical(data, Entry, max_bytes=MAX_ENTRY_BYTES, what="log entry")
    _require_position(entry.time, entry.seq)
    return entry


def parse_entry_name(text: str) -> int | bytes:
    """What people name an entry by.

    Returns:
        Its seq; or its leaf hash, if its id (64 hex digits) was given.

    Raises:
        UsageError: Neither.
    """
    if text.isascii() and text.isdigit() and len(text) < 19:  # what SQLite can count
        return int(text)
    try:
        digest = bytes.fromhex(text) if len(text) == 64 else b""
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise UsageError(
            f"{text[:80]!r} is neither an entry's id (64 hex digits), nor its number, nor a receipt's file that is there"
        )
    return digest


def _require_position(time: str, seq: int) -> None:
    _require_time(time)
    if not 0 <= seq <= MAX_SAFE_INTEGER:
        raise MalformedError(f"log entry: seq {seq} is negative or too large")


# A batch has one time, and one boot id.
@lru_cache(maxsize=8)
def _require_time(time: str) -> None:
    if len(time) != len("2026-01-31T12:00:00.000000Z"):
        raise MalformedError(f"log entry: time {time[:40]!r} has no six fractional digits")
    parse_time(time)


@lru_cache(maxsize=8)
def _quoted(boot: str) -> bytes:
    return canonical(boot)
