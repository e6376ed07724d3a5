"""A log entry: what one leaf of the audit log says.

The leaf is the entry's exact bytes: canonical JSON with the members v, type, time, seq, boot, body.
"""

from enum import StrEnum
from typing import Any, Final, Literal

from attestd.errors import MalformedError, UsageError
from attestd.strict import Strict, Utc, canonical, parse_canonical, parse_time

__all__ = ["MAX_ENTRY_BYTES", "Entry", "EntryType", "format_entry", "parse_entry", "parse_entry_name"]

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
    _require_position(time, seq)
    data = canonical({"v": 1, "type": type_.value, "time": time, "seq": seq, "boot": boot, "body": body})
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
        raise UsageError(f"{text[:80]!r} is neither an entry's id (64 hex digits) nor its number")
    return digest


def _require_position(time: str, seq: int) -> None:
    if len(time) != len("2026-01-31T12:00:00.000000Z"):
        raise MalformedError(f"log entry: time {time[:40]!r} has no six fractional digits")
    parse_time(time)
    if seq < 0:
        raise MalformedError(f"log entry: seq {seq} is negative")
