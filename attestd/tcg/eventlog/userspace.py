"""What user space measured after the firmware's log ended: systemd's own log, or its phases, guessed by their digests.

Sources: TCG Canonical Event Log Format 1.0, 5.2 (CEL-JSON), as systemd writes it to `/run/log/systemd/tpm2-measure.log`
(254 and later); systemd-pcrphase.service(8).
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

import msgspec

from attestd.errors import MalformedError
from attestd.strict import convert, parse_json
from attestd.tcg.eventlog.parse import MAX_EVENTLOG_BYTES, PCR_COUNT, UntrustedEvent, UntrustedEventLog
from attestd.tcg.eventlog.reading import UKI_PCR
from attestd.tcg.eventlog.replay import initial_value, replay
from attestd.tcg.eventlog.types import BANKS, HASHES, EventType

__all__ = ["known_phases", "parse_userspace_log", "with_events", "with_phases"]

_WHAT: Final = "user space log"
_SIZES: Final = dict(BANKS.values())
_MAX_RECORD: Final = 64 * 1024
_RECORD: Final = re.compile(rb"\x1e([^\x1e\n]*)\n")
_INITRD: Final = ((), ("enter-initrd",), ("enter-initrd", "leave-initrd"))
_SYSTEM: Final = ("sysinit", "ready", "shutdown", "final")


class _Digest(msgspec.Struct, frozen=True):
    hash_alg: Annotated[str, msgspec.Meta(max_length=32)] = msgspec.field(name="hashAlg")
    digest: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{2}){1,128}\Z")]


class _Record(msgspec.Struct, frozen=True):
    """One record; members that say when and by whom are not looked at."""

    pcr: Annotated[int, msgspec.Meta(ge=0, lt=PCR_COUNT)]
    digests: Annotated[list[_Digest], msgspec.Meta(min_length=1, max_length=16)]
    content: Annotated[dict[str, Any], msgspec.Meta(max_length=64)]


def parse_userspace_log(data: bytes, *, first: int) -> tuple[UntrustedEvent, ...]:
    """Parses systemd's log: JSON records, each between a record separator and a newline (RFC 7464).

    Args:
        data: The whole log.
        first: The number of its first event: how many the firmware's log has.

    Returns:
        Events like the firmware's; the data is the text that systemd says it measured.

    Raises:
        MalformedError: Over 4 MiB; not such records; a known hash with a digest of another size, or twice.
    """
    if len(data) > MAX_EVENTLOG_BYTES:
        raise MalformedError(f"{_WHAT}: {len(data)} bytes, the limit is {MAX_EVENTLOG_BYTES}")
    records = [match[1] for match in _RECORD.finditer(data)]
    if sum(len(record) + 2 for record in records) != len(data):
        raise MalformedError(
            f"{_WHAT}: expected JSON records between a record separator (0x1e) and a newline"
        )
    return tuple(_event(first + number, record) for number, record in enumerate(records))


def _event(number: int, data: bytes) -> UntrustedEvent:
    what = f"{_WHAT}: event {number}"
    record = convert(parse_json(data, max_bytes=_MAX_RECORD, what=what), _Record, what=what)
    digests: dict[str, bytes] = {}
    for item in record.digests:
        digest = bytes.fromhex(item.digest)
        if item.hash_alg in digests or _SIZES.get(item.hash_alg, len(digest)) != len(digest):
            raise MalformedError(f"{what}: a {item.hash_alg} digest of {len(digest)} bytes, or two")
        digests[item.hash_alg] = digest
    text = record.content.get("string")
    measured = text.encode() if isinstance(text, str) else b""
    known = {bank: digest for bank, digest in digests.items() if bank in HASHES}
    return UntrustedEvent(number, record.pcr, EventType.IPL, known, measured)


def with_events(log: UntrustedEventLog, events: Sequence[UntrustedEvent]) -> UntrustedEventLog:
    """A firmware log that goes on with what user space measured."""
    return replace(log, events=(*log.events, *events))


def with_phases(log: UntrustedEventLog, phases: Sequence[str]) -> UntrustedEventLog:
    """A firmware log that goes on with boot phases, as systemd measures them into PCR 11.

    A guess is no claim that has to be believed: only the true phases replay to the PCR's value.
    """
    return with_events(
        log,
        [
            UntrustedEvent(
                len(log.events) + number,
                UKI_PCR,
                EventType.IPL,
                {bank: HASHES[bank](phase.encode()).digest() for bank in log.banks},
                phase.encode(),
            )
            for number, phase in enumerate(phases)
        ],
    )


def known_phases(log: UntrustedEventLog, *, bank: str, value: bytes) -> tuple[str, ...] | None:
    """The boot phases that a value of PCR 11 shows, for hosts whose systemd keeps no log of them.

    Args:
        log: The firmware's log.
        bank: The bank of the value.
        value: Of PCR 11.

    Returns:
        None: no usual sequence of phases leads there.

    Raises:
        UsageError, VerificationError: As `replay`.
    """
    start = replay(log, bank).get(UKI_PCR, initial_value(bank, UKI_PCR))
    hash_ = HASHES[bank]
    for initrd in _INITRD:
        for count in range(len(_SYSTEM) + 1):
            phases = (*initrd, *_SYSTEM[:count])
            current = start
            for phase in phases:
                current = hash_(current + hash_(phase.encode()).digest()).digest()
            if current == value:
                return phases
    return None
